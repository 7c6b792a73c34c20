"""The position of a reader in the stream of a run, and the events that it has missed since."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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

__all__ = ["FINISHED", "Cursor", "EventId", "catch_up", "is_stale"]

_HEAD = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})")
_OPEN = re.compile(r"([0-9a-f]{40}):([0-9]{1,9})\.([0-9]{1,9}):([0-9]{1,9})")


class Cursor:
    """The position of a reader in a run's stream.

    :meth:`advance` takes each event and returns the part that is new to the reader. The events may
    come from the store, from the log of the process that executes the run, or from both, with
    overlaps. Attempts of one step must come in order, and their chunks without gaps.

    Args:
        done: the highest completion number whose commit the reader has seen. Commits go out in
            the order of these numbers.
        outside: the number of chunks from outside steps that it has seen.
        open: by op id, the attempt that the reader has chunks of, and their number; only attempts
            with neither commit nor rollback.
    """

    __slots__ = ("_open", "done", "outside")

    def __init__(
        self,
        done: int = 0,
        outside: int = 0,
        open: Mapping[str, tuple[Attempt, int]] | None = None,
    ) -> None:
        self.done = done
        self.outside = outside
        self._open = dict(open or {})

    @property
    def open(self) -> Mapping[str, tuple[Attempt, int]]:
        """The attempt whose chunks are neither committed nor rolled back, by op id."""
        return self._open

    def advance(self, event: Streamed) -> tuple[Streamed, ...]:
        """Return the events that the reader must now get, and count them as sent."""
        if isinstance(event, Committed):
            return self._advance_commit(event)
        if isinstance(event, RolledBack):
            return self._advance_rollback(event)
        op_id, attempt = event.op_id, event.attempt
        if op_id is None or attempt is None:
            if event.index < self.outside:
                return ()
            self.outside = event.index + 1
            return (event,)
        if event.number is not None and event.number <= self.done:
            return ()
        seen = self._open.get(op_id)
        if seen is not None and (attempt < seen[0] or (attempt, event.index + 1) <= seen):
            return ()
        self._open[op_id] = attempt, event.index + 1
        if seen is not None and attempt != seen[0]:
            return RolledBack(op_id=op_id, attempt=seen[0]), event
        return (event,)

    def _advance_commit(self, commit: Committed) -> tuple[Streamed, ...]:
        if commit.number <= self.done:
            return ()
        self.done = commit.number
        self._open.pop(commit.op_id, None)
        return (commit,)

    def _advance_rollback(self, rollback: RolledBack) -> tuple[Streamed, ...]:
        seen = self._open.get(rollback.op_id)
        if seen is not None:
            if seen[0] > rollback.attempt:
                return ()
            del self._open[rollback.op_id]
        return (rollback,)

    def dump(self) -> str:
        """Return the cursor as one line of ASCII, which :meth:`load` reads."""
        head = f"{self.done}.{self.outside}"
        for op_id, ((epoch, number), count) in self._open.items():  # nearly always one or none
            head = f"{head};{op_id}:{epoch}.{number}:{count}"
        return head

    @classmethod
    def load(cls, text: str) -> Cursor:
        """Return the cursor that was dumped.

        Raises:
            ValueError: the text is not a cursor.
        """
        head, *rest = text.split(";")
        found = _HEAD.fullmatch(head)
        opened = [_OPEN.fullmatch(each) for each in rest]
        if found is None or not all(opened):
            raise ValueError("not a position in an event stream")
        return cls(
            int(found[1]),
            int(found[2]),
            {each[1]: ((int(each[2]), int(each[3])), int(each[4])) for each in opened if each},
        )


#: Stands for a cursor at the end: the reader has the response, which is the last event.
FINISHED = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventId:
    """The id of an event, as clients send it when they reconnect.

    It is the text of a cursor, or ``end``. On the connection of the request that began the run it
    also names the run, because the URL does not: ``<run>!<token>!<cursor>``.

    Attributes:
        cursor: the client's position; None if it has read everything.
        run_id, token: the run and its token; "" if the URL has them.
    """

    cursor: Cursor | None
    run_id: str = ""
    token: str = ""

    @staticmethod
    def prefix(run_id: str, token: str) -> str:
        """Return the part before the cursor, for ids on a URL that does not name the run."""
        return f"{run_id}!{token}!"

    @classmethod
    def load(cls, text: str) -> EventId:
        """Read the id that a client has sent.

        Raises:
            ValueError: it is not the id of an event.
        """
        *run, place = text.split("!")
        if len(run) not in (0, 2):
            raise ValueError("not the id of an event")
        run_id, token = run or ("", "")
        cursor = None if place == FINISHED else Cursor.load(place)
        return cls(cursor=cursor, run_id=run_id, token=token)


def catch_up(
    cursor: Cursor,
    stored: StoredStream | None,
    live: LiveStream | None,
    until: Cursor | None = None,
) -> Iterator[Streamed]:
    """Yield the events that the reader has not got yet, and advance its cursor.

    These are the events of ``stored``. If that has no further part, the events of ``live`` follow.

    Args:
        cursor: the position of the reader.
        stored: the part of the stored stream after the cursor, read after ``live`` was taken; None
            if the run is not stored.
        live: what this process knows of the stream, if it executes the run; else None.
        until: yield no event after this position.
    """
    if stored is not None and live is not None and live.epoch != stored.epoch:
        live = None  # another process has taken the run over
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
            yield from _chunks(cursor, opened.op_id, attempt, opened.texts, number=opened.number)


def is_stale(live: LiveStream, cursor: Cursor, stored: StoredStream | None) -> bool:
    """Return whether ``live`` is older than ``stored``, or than what the reader has.

    Attempts that are open in ``live`` may have been committed or rolled back since then. So the
    reader must not get them, nor what the log has of them, before a newer state has come.
    """
    if not live.is_remote:
        return bool(live.attempts) and stored is not None and live.epoch < stored.epoch
    if stored is None or not stored.is_running or stored.epoch != live.epoch:
        return True
    numbers = (piece.number for piece in stored.chunks if piece.op_id is not None)
    return live.done < max(numbers, default=cursor.done) or live.done < cursor.done


def _as_of(
    until: Cursor, stored: StoredStream | None, live: LiveStream | None
) -> tuple[StoredStream | None, LiveStream]:
    """Return a part of the stream as it was at this cursor.

    Attempts that were open then are open, also those that are stored by now; of one that is void
    by now only the chunks that the reader has are left.
    """
    counts = dict(until.open.values())
    pieces: list[ChunkBatch] = []
    for piece in () if stored is None else stored.chunks:
        if piece.op_id is not None and piece.number <= until.done:
            pieces.append(piece)
            continue
        most = until.outside if piece.op_id is None else counts.get(piece.attempt or (0, 0), 0)
        texts = piece.texts[: max(0, most - piece.start)]
        if texts:
            pieces.append(replace(piece, texts=texts, last=False))  # no commit: that came later
    opened = {
        attempt: OpenAttempt(op_id=op_id, texts=()) for op_id, (attempt, _) in until.open.items()
    }
    for attempt, each in ({} if live is None else live.attempts).items():
        if attempt in counts:
            opened[attempt] = replace(each, texts=each.texts[: counts[attempt]])
    outside = () if live is None else live.handler_chunks
    then = LiveStream(
        epoch=0 if live is None else live.epoch,
        attempts=opened,
        handler_chunks=tuple(chunk for chunk in outside if chunk.index < until.outside),
    )
    return None if stored is None else replace(stored, chunks=tuple(pieces)), then


def _is_over(attempt: Attempt, stored: StoredStream | None, live: LiveStream | None) -> bool:
    """Return whether an attempt that is not stored can never be stored any more."""
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
        yield from _chunks(cursor, op_id, attempt, piece.texts, first=piece.start)
    if piece.last:
        yield from cursor.advance(Committed(op_id=op_id, number=piece.number))


def _chunks(
    cursor: Cursor,
    op_id: str,
    attempt: Attempt,
    texts: Sequence[str],
    *,
    first: int = 0,
    number: int | None = None,
) -> Iterator[Streamed]:
    """Yield those of the chunks, of which the first has this index, that the reader lacks."""
    seen = cursor.open.get(op_id)
    start = seen[1] if seen is not None and seen[0] == attempt else 0
    for index in range(max(start, first), first + len(texts)):
        text = texts[index - first]
        yield from cursor.advance(
            Pushed(text=text, index=index, op_id=op_id, attempt=attempt, number=number)
        )
