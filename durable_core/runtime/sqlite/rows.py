"""Rows of the tables as model objects, and back."""

from __future__ import annotations

import json
from typing import Any

from durable_core.model.events import Event, StoredEvent
from durable_core.model.ops import Memo, Op, OpKind, Pending
from durable_core.model.run import Phase, Run
from durable_core.model.stream import Piece
from durable_core.ports import Peer, RunRecord

__all__ = [
    "KIND_TEXTS",
    "dump_data",
    "dump_json",
    "dump_match",
    "dump_seen",
    "load_match",
    "load_seen",
    "memo_of",
    "peer_of",
    "pending_of",
    "piece_of",
    "piece_row",
    "record_of",
    "run_of",
    "stored_event_of",
]

#: A row as sqlite3 returns it; the queries say what is in it.
_Row = tuple[Any, ...]

_PHASES = {phase.value: phase for phase in Phase}
#: The text of each kind; ``kind.value`` is a Python function that is called at every step.
KIND_TEXTS = {kind: kind.value for kind in OpKind}
_KINDS = {kind.value: kind for kind in OpKind}


def run_of(row: _Row) -> Run:
    """Return the run of the first eleven columns."""
    return Run(
        id=row[0],
        app=row[1],
        endpoint_key=row[2],
        function_id=row[3],
        phase=_PHASES[row[4]],
        retries=row[5],
        created_at=row[6],
        mark=row[7],
        failures=row[8],
        takeovers=row[9],
        epoch=row[10],
    )


def record_of(
    row: _Row, memos: tuple[Memo, ...] = (), pending: tuple[Pending, ...] = ()
) -> RunRecord:
    """Return the record of a run: its columns, then owner, due_at and ended_at."""
    return RunRecord(
        run=run_of(row),
        owner=row[11],
        due_at=row[12],
        ended_at=row[13],
        memos=memos,
        pending=pending,
    )


def memo_of(row: _Row) -> Memo:
    """Return the memo of a row of ``steps``."""
    return Memo(
        op=Op(id=row[0], name=row[1], kind=_KINDS[row[2]]),
        number=row[3],
        ok=bool(row[4]),
        value=row[5],
        mark=row[6],
        attempts=row[7],
        ended_at=row[8],
    )


def pending_of(row: _Row) -> Pending:
    """Return the unfinished op of a row of ``pending``."""
    return Pending(
        op=Op(id=row[0], name=row[1], kind=_KINDS[row[2]]),
        due_at=row[3],
        failures=row[4],
        error=row[5],
        rule=row[6],
        event=row[7],
        match_path=row[8],
        match_key=row[9],
        mark=row[10],
        seen=load_seen(row[11]),
        matched=None if row[12] is None else load_match(row[12]),
    )


def piece_row(run_id: str, piece: Piece) -> _Row:
    """Return the row of ``piece`` for chunks that were streamed."""
    epoch, attempt = piece.attempt or (None, None)
    start = piece.start if piece.op_id is None else -1
    texts = "\n".join(piece.texts)  # JSON text that the codec made has no line ends
    count = len(piece.texts)
    return run_id, piece.number, start, epoch, attempt, count, piece.size, texts


def piece_of(row: _Row) -> Piece:
    """Return the chunks of a row of ``stream``; none for a step that has pushed nothing."""
    number, start, op_id, epoch, attempt, _, texts = row
    return Piece(
        number=number,
        texts=() if texts is None else tuple(texts.split("\n")),
        op_id=op_id,
        attempt=None if epoch is None else (epoch, attempt),
        start=max(start, 0),
    )


def peer_of(row: _Row) -> Peer:
    """Return the process of a row of ``peers``."""
    return Peer(id=row[0], host=row[1], pid=row[2], expires_at=row[3])


def stored_event_of(name: str, row: _Row) -> StoredEvent:
    """Return the event of a row of ``events-after``, whose texts come as bytes."""
    event = Event(name=name, data=json.loads(row[2].decode()), id=row[1].decode(), ts=row[3])
    return StoredEvent(seq=row[0], event=event, received_at=row[4])


def dump_data(event: Event) -> str:
    """Return the data of an event as JSON text."""
    return dump_json(dict(event.data))


def dump_match(stored: StoredEvent) -> str:
    """Return a whole event as JSON text."""
    event = stored.event
    return dump_json(
        [stored.seq, event.name, dict(event.data), event.id, event.ts, stored.received_at]
    )


def load_match(text: str) -> StoredEvent:
    """Return the event that ``dump_match`` was given."""
    seq, name, data, key, ts, received_at = json.loads(text)
    event = Event(name=name, data=data, id=key, ts=ts)
    return StoredEvent(seq=seq, event=event, received_at=received_at)


def dump_seen(seen: tuple[int, ...]) -> str:
    """Return event numbers as JSON text."""
    return dump_json(seen) if seen else "[]"


def load_seen(text: str) -> tuple[int, ...]:
    """Return the event numbers that ``dump_seen`` was given."""
    return () if text == "[]" else tuple(json.loads(text))


def dump_json(value: object) -> str:
    """Return the value as it is stored: without spaces, non-ASCII text as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
