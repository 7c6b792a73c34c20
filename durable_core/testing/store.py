"""The store of a harness: in memory, with a list of the events."""

from __future__ import annotations

from collections.abc import Sequence

from durable_core.model.events import Event
from durable_core.ports import RunWrite, SendEvents, Write
from durable_core.runtime.memory_store import MemoryStore

__all__ = ["NotingStore"]


class NotingStore(MemoryStore):
    """A store in memory that notes the events it takes.

    Attributes:
        events: each event by its id, in the order in which they came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: dict[str, Event] = {}

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Apply the writes in order; see ``ports.Store``."""
        answers = super().commit(writes, wait=wait)
        for write, answer in zip(writes, answers, strict=True):
            if not isinstance(answer, BaseException):
                for event in _events_of(write):
                    assert event.id is not None
                    self.events.setdefault(event.id, event)
        return answers


def _events_of(write: Write[object]) -> tuple[Event, ...]:
    if isinstance(write, RunWrite):
        return write.sends
    return write.events if isinstance(write, SendEvents) else ()
