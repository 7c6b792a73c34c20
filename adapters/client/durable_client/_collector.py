"""What stays of a run's stream after all rollbacks."""

from __future__ import annotations

from durable_client._follow import DeliveredEvent
from durable_core.clients import Chunk, Commit, Metadata, Rollback

__all__ = ["Collector"]


class Collector:
    """Keeps what a run streams: a step's chunks count when it is committed, and go at a rollback.

    Chunks outside steps count at once. Give it as ``collect=`` to ``fetch_with_stream``; it may be
    read at any time, also in callbacks, which are called after it was updated.
    """

    __slots__ = ("_items", "_pending", "_run_id")

    def __init__(self) -> None:
        self._items: list[object] = []
        self._pending: dict[str, list[object]] = {}
        self._run_id: str | None = None

    @property
    def run_id(self) -> str | None:
        """The id of the run, None until it is known."""
        return self._run_id

    @property
    def items(self) -> tuple[object, ...]:
        """The data of the chunks that count, in the order in which they were committed."""
        return tuple(self._items)

    @property
    def pending(self) -> tuple[object, ...]:
        """The data of the chunks whose step is under way, step by step."""
        return tuple(item for items in self._pending.values() for item in items)

    @property
    def text(self) -> str:
        """The items that are strings, joined."""
        return _joined(self.items)

    @property
    def pending_text(self) -> str:
        """The pending items that are strings, joined; what follows ``text`` on a screen."""
        return _joined(self.pending)

    def take(self, event: DeliveredEvent) -> None:
        """Take the next event of the stream."""
        match event:
            case Metadata(run_id=run_id):
                self._run_id = run_id
            case Chunk(data=data, step_id=None):
                self._items.append(data)
            case Chunk(data=data, step_id=str(step_id)):
                self._pending.setdefault(step_id, []).append(data)
            case Commit(step_id=str(step_id)):
                self._items += self._pending.pop(step_id, [])
            case Rollback(step_id=str(step_id)):
                self._pending.pop(step_id, None)
            case Commit() | Rollback():
                pass  # of no step: no chunks are pending


def _joined(items: tuple[object, ...]) -> str:
    return "".join(item for item in items if isinstance(item, str))
