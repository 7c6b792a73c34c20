"""How far somebody has read the stream of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping

from durable_core.model.stream import Attempt, Committed, Pushed, RolledBack, Streamed

__all__ = ["Cursor"]

_HEAD = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})")
_OPEN = re.compile(r"([0-9a-f]{40}):([0-9]{1,9})\.([0-9]{1,9}):([0-9]{1,9})")


class Cursor:
    """What a reader has been told of a run's stream, and so what it must be told next.

    Each event is shown to :meth:`see`, which says what of it is new to the reader. The events may
    come from the store, from the log of the process that executes the run, or from both, with
    overlaps; attempts of one step must come in order, and their chunks without gaps.

    Args:
        done: the highest completion number whose commit the reader has seen. Commits go out in
            the order of these numbers.
        outside: how many chunks from outside steps it has seen.
        open: by op id, the attempt of which it has seen chunks, and how many; only those with
            neither commit nor rollback.
        is_vague: it may have seen chunks of steps that are not in ``open``. Before it is told
            anything of such a step, that step is rolled back.
    """

    __slots__ = ("_clear", "_open", "done", "outside")

    def __init__(
        self,
        done: int = 0,
        outside: int = 0,
        open: Mapping[str, tuple[Attempt, int]] | None = None,
        *,
        is_vague: bool = False,
    ) -> None:
        self.done = done
        self.outside = outside
        self._open = dict(open or {})
        #: If it is vague: the steps of which it is known what the reader has seen.
        self._clear = set(self._open) if is_vague else None

    @property
    def open(self) -> Mapping[str, tuple[Attempt, int]]:
        """The attempt whose chunks are neither committed nor rolled back, by op id."""
        return self._open

    @property
    def is_vague(self) -> bool:
        """Whether the reader may have seen more than is in ``open``."""
        return self._clear is not None

    def see(self, event: Streamed) -> tuple[Streamed, ...]:
        """Return what the reader must be told because of this event, and count it as told."""
        if isinstance(event, Pushed):
            return self._see_chunk(event)
        if isinstance(event, Committed):
            return self._see_commit(event)
        return self._see_rollback(event)

    def _see_chunk(self, chunk: Pushed) -> tuple[Streamed, ...]:
        op_id, attempt = chunk.op_id, chunk.attempt
        if op_id is None or attempt is None:
            if chunk.index < self.outside:
                return ()
            self.outside = chunk.index + 1
            return (chunk,)
        if chunk.number is not None and chunk.number <= self.done:
            return ()
        seen = self._open.get(op_id)
        if seen is None:
            self._open[op_id] = attempt, chunk.index + 1
            return *self._cleared(op_id), chunk
        if attempt == seen[0]:
            if chunk.index < seen[1]:
                return ()
            self._open[op_id] = attempt, chunk.index + 1
            return (chunk,)
        if attempt < seen[0]:
            return ()
        self._open[op_id] = attempt, chunk.index + 1
        return RolledBack(op_id=op_id, attempt=seen[0]), chunk

    def _see_commit(self, commit: Committed) -> tuple[Streamed, ...]:
        if commit.number <= self.done:
            return ()
        self.done = commit.number
        self._open.pop(commit.op_id, None)
        return *self._cleared(commit.op_id), commit

    def _see_rollback(self, rollback: RolledBack) -> tuple[Streamed, ...]:
        seen = self._open.get(rollback.op_id)
        if seen is not None:
            if seen[0] > rollback.attempt:
                return ()
            del self._open[rollback.op_id]
        if self._clear is not None:
            self._clear.add(rollback.op_id)
        return (rollback,)

    def _cleared(self, op_id: str) -> tuple[Streamed, ...]:
        """Return what makes void that the reader may have seen of a step; nothing as a rule."""
        if self._clear is None or op_id in self._clear:
            return ()
        self._clear.add(op_id)
        return (RolledBack(op_id=op_id, attempt=(0, 0)),)

    def dump(self, most_open: int | None = None) -> str:
        """Return it as one line of ASCII, which :meth:`load` reads.

        Args:
            most_open: if more steps than this are open, or it is vague, it becomes a short text
                that is vague; None for all of them.
        """
        head = f"{self.done}.{self.outside}"
        if self._clear is not None or (most_open is not None and len(self._open) > most_open):
            return f"{head};*"
        if not self._open:
            return head
        return ";".join(
            (
                head,
                *(
                    f"{op_id}:{epoch}.{number}:{count}"
                    for op_id, ((epoch, number), count) in self._open.items()
                ),
            )
        )

    @classmethod
    def load(cls, text: str) -> Cursor:
        """Return the cursor that was dumped.

        Raises:
            ValueError: the text is none.
        """
        head, *rest = text.split(";")
        found = _HEAD.fullmatch(head)
        if found is not None and rest == ["*"]:
            return cls(int(found[1]), int(found[2]), is_vague=True)
        opened = [_OPEN.fullmatch(each) for each in rest]
        if found is None or not all(opened):
            raise ValueError("not a position in an event stream")
        return cls(
            int(found[1]),
            int(found[2]),
            {each[1]: ((int(each[2]), int(each[3])), int(each[4])) for each in opened if each},
        )
