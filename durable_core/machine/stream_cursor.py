"""How far somebody has read the stream of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from durable_core.model.stream import (
    Attempt,
    ChunkBatch,
    Committed,
    LiveStream,
    OpenAttempt,
    Pushed,
    RolledBack,
    StoredStream,
    Streamed,
)

__all__ = [
    "Cursor",
    "catch_up",
    "is_stale",
]


# --- stream cursor --------------------------------------------------------------------------------

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
        is_truncated: it may have seen chunks of steps that are not in ``open``. Before it is told
            anything of such a step, that step is rolled back.
    """

    __slots__ = ("_clear", "_open", "done", "outside")

    def __init__(
        self,
        done: int = 0,
        outside: int = 0,
        open: Mapping[str, tuple[Attempt, int]] | None = None,
        *,
        is_truncated: bool = False,
    ) -> None:
        self.done = done
        self.outside = outside
        self._open = dict(open or {})
        #: If it is truncated: the steps of which it is known what the reader has seen.
        self._clear = set(self._open) if is_truncated else None

    @property
    def open(self) -> Mapping[str, tuple[Attempt, int]]:
        """The attempt whose chunks are neither committed nor rolled back, by op id."""
        return self._open

    @property
    def is_truncated(self) -> bool:
        """Whether the reader may have seen more than is in ``open``."""
        return self._clear is not None

    def advance(self, event: Streamed) -> tuple[Streamed, ...]:
        """Return what the reader must be told because of this event, and count it as told."""
        if isinstance(event, Pushed):
            return self._advance_chunk(event)
        if isinstance(event, Committed):
            return self._advance_commit(event)
        return self._advance_rollback(event)

    def _advance_chunk(self, chunk: Pushed) -> tuple[Streamed, ...]:
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

    def _advance_commit(self, commit: Committed) -> tuple[Streamed, ...]:
        if commit.number <= self.done:
            return ()
        self.done = commit.number
        self._open.pop(commit.op_id, None)
        return *self._cleared(commit.op_id), commit

    def _advance_rollback(self, rollback: RolledBack) -> tuple[Streamed, ...]:
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
            most_open: if more steps than this are open, or it is truncated, it becomes a short text
                that is truncated; None for all of them.
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
            return cls(int(found[1]), int(found[2]), is_truncated=True)
        opened = [_OPEN.fullmatch(each) for each in rest]
        if found is None or not all(opened):
            raise ValueError("not a position in an event stream")
        return cls(
            int(found[1]),
            int(found[2]),
            {each[1]: ((int(each[2]), int(each[3])), int(each[4])) for each in opened if each},
        )


# --- catching up ----------------------------------------------------------------------------------
#
# What a reader of a run's stream has missed, from what is stored and what is live.


def catch_up(
    cursor: Cursor,
    stored: StoredStream | None,
    live: LiveStream | None,
    until: Cursor | None = None,
) -> Iterator[Streamed]:
    """Yield what the reader must be told, moving its cursor along.

    Afterwards it has been told all that is in ``stored`` (of which it has yet to ask for more, if
    there is more) and, after the last of that, all that is in ``live``.

    Args:
        cursor: of the reader.
        stored: what is stored past the cursor, read after ``live`` was taken; None if the run is
            not stored.
        live: what this process knows, if it executes the run; else None.
        until: tell the reader nothing beyond this; ``stored`` must have all there is, then.
    """
    if stored is not None and live is not None and live.epoch != stored.epoch:
        live = None  # somebody else has taken the run over
    if until is not None:
        stored, live = _as_of(until, stored, live)
    committed = set()
    for piece in () if stored is None else stored.chunks:
        committed.add(piece.op_id)
        yield from _stored(cursor, piece)
    if stored is not None and stored.more:
        return
    for op_id, (attempt, _) in list(cursor.open.items()):
        if _is_over(attempt, stored, live):
            yield from cursor.advance(RolledBack(op_id=op_id, attempt=attempt))
    if live is None:
        return
    for chunk in live.handler_chunks:
        if chunk.index >= cursor.outside:
            yield from cursor.advance(chunk)
    for attempt, opened in live.attempts.items():
        if opened.op_id not in committed:
            yield from _chunks(cursor, opened.op_id, attempt, opened.texts, opened.number)


def is_stale(live: LiveStream, cursor: Cursor, stored: StoredStream | None) -> bool:
    """Tell whether what another process has told is older than what a reader has, or gets, stored.

    What is open in it may have been committed since then, and may be void; so none of it is to be
    told before more of it has come.
    """
    if not live.is_remote:
        return False
    if stored is None or not stored.is_running or stored.epoch != live.epoch:
        return True
    numbers = (piece.number for piece in stored.chunks if piece.op_id is not None)
    return live.done < max(numbers, default=cursor.done) or live.done < cursor.done


def _as_of(
    until: Cursor, stored: StoredStream | None, live: LiveStream | None
) -> tuple[StoredStream | None, LiveStream]:
    """Return what there was when the cursor was there, as far as it has not come to nothing."""
    pieces: list[ChunkBatch] = []
    attempts = {} if live is None else dict(live.attempts)
    for piece in () if stored is None else stored.chunks:
        if piece.op_id is None:
            kept = piece.texts[: max(0, until.outside - piece.start)]
            pieces.append(replace(piece, texts=kept))
        elif piece.number <= until.done:
            pieces.append(piece)
        elif piece.attempt is not None:
            attempts[piece.attempt] = OpenAttempt(op_id=piece.op_id, texts=piece.texts)
    counts = dict(until.open.values())
    opened = {
        attempt: replace(each, texts=each.texts[: counts[attempt]])
        for attempt, each in attempts.items()
        if attempt in counts
    }
    outside = () if live is None else live.handler_chunks
    then = LiveStream(
        epoch=0 if live is None else live.epoch,
        attempts=opened,
        handler_chunks=tuple(chunk for chunk in outside if chunk.index < until.outside),
    )
    return None if stored is None else replace(stored, chunks=tuple(pieces)), then


def _is_over(attempt: Attempt, stored: StoredStream | None, live: LiveStream | None) -> bool:
    """Tell whether an attempt that is not among the stored ones can never be."""
    if live is not None:
        return attempt not in live.attempts
    if stored is None:
        return True
    return not stored.is_running or attempt[0] != stored.epoch


def _stored(cursor: Cursor, piece: ChunkBatch) -> Iterator[Streamed]:
    op_id, attempt = piece.op_id, piece.attempt
    if op_id is None:
        for index, text in enumerate(piece.texts, piece.start):
            yield from cursor.advance(Pushed(text=text, index=index))
        return
    seen = cursor.open.get(op_id)
    if seen is not None and seen[0] != attempt:
        yield from cursor.advance(RolledBack(op_id=op_id, attempt=seen[0]))
    if attempt is not None:
        yield from _chunks(cursor, op_id, attempt, piece.texts, None)
    yield from cursor.advance(Committed(op_id=op_id, number=piece.number))


def _chunks(
    cursor: Cursor, op_id: str, attempt: Attempt, texts: Sequence[str], number: int | None
) -> Iterator[Streamed]:
    seen = cursor.open.get(op_id)
    start = seen[1] if seen is not None and seen[0] == attempt else 0
    for index in range(start, len(texts)):
        yield from cursor.advance(
            Pushed(text=texts[index], index=index, op_id=op_id, attempt=attempt, number=number)
        )
