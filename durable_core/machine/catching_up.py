"""What a reader of a run's stream has missed, from what is stored and what is live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from durable_core.machine.cursor import Cursor
from durable_core.model.stream import (
    Attempt,
    Committed,
    LiveStream,
    OpenAttempt,
    Piece,
    Pushed,
    RolledBack,
    StoredStream,
    Streamed,
)

__all__ = ["catch_up", "is_behind"]


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
        stored, live = _up_to(until, stored, live)
    committed = set()
    for piece in () if stored is None else stored.pieces:
        committed.add(piece.op_id)
        yield from _stored(cursor, piece)
    if stored is not None and stored.more:
        return
    for op_id, (attempt, _) in list(cursor.open.items()):
        if _is_over(attempt, stored, live):
            yield from cursor.see(RolledBack(op_id=op_id, attempt=attempt))
    if live is None:
        return
    for chunk in live.outside:
        if chunk.index >= cursor.outside:
            yield from cursor.see(chunk)
    for attempt, opened in live.attempts.items():
        if opened.op_id not in committed:
            yield from _chunks(cursor, opened.op_id, attempt, opened.texts, opened.number)


def is_behind(live: LiveStream, cursor: Cursor, stored: StoredStream | None) -> bool:
    """Tell whether what another process has told is older than what a reader has, or gets, stored.

    What is open in it may have been committed since then, and may be void; so none of it is to be
    told before more of it has come.
    """
    if not live.is_copy:
        return False
    if stored is None or not stored.held or stored.epoch != live.epoch:
        return True
    numbers = (piece.number for piece in stored.pieces if piece.op_id is not None)
    return live.done < max(numbers, default=cursor.done) or live.done < cursor.done


def _up_to(
    until: Cursor, stored: StoredStream | None, live: LiveStream | None
) -> tuple[StoredStream | None, LiveStream]:
    """Return what there was when the cursor was there, as far as it has not come to nothing."""
    pieces: list[Piece] = []
    attempts = {} if live is None else dict(live.attempts)
    for piece in () if stored is None else stored.pieces:
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
    outside = () if live is None else live.outside
    then = LiveStream(
        epoch=0 if live is None else live.epoch,
        attempts=opened,
        outside=tuple(chunk for chunk in outside if chunk.index < until.outside),
    )
    return None if stored is None else replace(stored, pieces=tuple(pieces)), then


def _is_over(attempt: Attempt, stored: StoredStream | None, live: LiveStream | None) -> bool:
    """Tell whether an attempt that is not among the stored ones can never be."""
    if live is not None:
        return attempt not in live.attempts
    if stored is None:
        return True
    return not stored.held or attempt[0] != stored.epoch


def _stored(cursor: Cursor, piece: Piece) -> Iterator[Streamed]:
    op_id, attempt = piece.op_id, piece.attempt
    if op_id is None:
        for index, text in enumerate(piece.texts, piece.start):
            yield from cursor.see(Pushed(text=text, index=index))
        return
    seen = cursor.open.get(op_id)
    if seen is not None and seen[0] != attempt:
        yield from cursor.see(RolledBack(op_id=op_id, attempt=seen[0]))
    if attempt is not None:
        yield from _chunks(cursor, op_id, attempt, piece.texts, None)
    yield from cursor.see(Committed(op_id=op_id, number=piece.number))


def _chunks(
    cursor: Cursor, op_id: str, attempt: Attempt, texts: Sequence[str], number: int | None
) -> Iterator[Streamed]:
    seen = cursor.open.get(op_id)
    start = seen[1] if seen is not None and seen[0] == attempt else 0
    for index in range(start, len(texts)):
        yield from cursor.see(
            Pushed(text=texts[index], index=index, op_id=op_id, attempt=attempt, number=number)
        )
