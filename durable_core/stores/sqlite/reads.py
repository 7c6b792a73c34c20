"""Everything that is only looked up. Each function sees one state of the database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from heapq import merge
from operator import attrgetter
from typing import Any

from durable_core.errors import StoreError
from durable_core.machine.matching import validate_rule
from durable_core.model.event import Event, StoredEvent
from durable_core.model.run import Phase, Run
from durable_core.model.step import FailedAttempt, Memo, Op, OpKind, Pending
from durable_core.model.stream import ChunkBatch, StoredStream, StreamPlace
from durable_core.platform import logger
from durable_core.ports import (
    Begun,
    ClaimedRun,
    EndedWait,
    IdempotencyKey,
    RecentEvent,
    RunFilter,
    RunProgress,
    RunRecord,
    Slots,
    StoredRequest,
    StoredResult,
    StoredSecret,
    Usage,
    WorkerRecord,
)
from durable_core.stores.sqlite.slots import next_in_line
from durable_core.stores.sqlite.sql import QUERIES

__all__ = [
    "KIND_TEXTS",
    "PHASE_TEXTS",
    "abandoned_children",
    "apps",
    "cancelled_runs",
    "chunk_batch_of",
    "chunk_batch_row",
    "dump_consumed",
    "dump_data",
    "dump_json",
    "dump_labels",
    "dump_match",
    "event_seq",
    "failed_attempt_of",
    "failed_attempt_row",
    "find_request",
    "find_run",
    "find_runs",
    "held",
    "keyed_run",
    "load_claimed",
    "load_consumed",
    "load_match",
    "load_memos",
    "load_pending",
    "matched_waits",
    "memo_of",
    "next_due",
    "pending_of",
    "progress",
    "read_stream",
    "recent_events",
    "record_of",
    "result",
    "run_of",
    "secrets",
    "stored_event_of",
    "stream_versions",
    "unclaimable",
    "usage",
    "which_ended",
    "worker_of",
    "workers",
]


# --- rows -----------------------------------------------------------------------------------------
#
# Rows of the tables as model objects, and back.

#: A row as sqlite3 returns it; the queries say what is in it.
_Row = tuple[Any, ...]

_PHASES = {phase.value: phase for phase in Phase}
#: The text of each kind and phase; ``kind.value`` calls two Python functions, at every step.
KIND_TEXTS = {kind: kind.value for kind in OpKind}
PHASE_TEXTS = {phase: phase.value for phase in Phase}
_KINDS = {kind.value: kind for kind in OpKind}


def run_of(row: _Row) -> Run:
    """Return the run of the first twenty-six columns."""
    return Run(
        id=row[0],
        app=row[1],
        endpoint_key=row[2],
        function_id=row[3],
        phase=_PHASES[row[4]],
        retries=row[5],
        created_at=row[6],
        event_seq=row[7],
        failures=row[8],
        crash_count=row[9],
        epoch=row[10],
        key=row[11],
        parent=row[12],
        traceparent=row[13],
        labels=_load_labels(row[14]),
        version=row[15],
        principal=row[16],
        undoable=bool(row[17]),
        cancel_reason=row[18],
        timeout=row[19],
        deadline=row[20],
        slot_key=row[21],
        singleton_key=row[22],
        client=row[23],
        depth=row[24],
        retry_count=row[25],
    )


def record_of(
    row: _Row,
    memos: tuple[Memo, ...] = (),
    pending: tuple[Pending, ...] = (),
    failed_attempts: tuple[FailedAttempt, ...] = (),
) -> RunRecord:
    """Return the record of a run: its columns, then owner, due_at and ended_at."""
    return RunRecord(
        run=run_of(row),
        owner=row[26],
        due_at=row[27],
        ended_at=row[28],
        memos=memos,
        pending=pending,
        failed_attempts=failed_attempts,
    )


def failed_attempt_of(row: _Row) -> FailedAttempt:
    """Return the attempt of a row of ``failed-attempts``."""
    return FailedAttempt(
        op_id=row[0],
        number=row[1],
        started_at=row[2],
        ended_at=row[3],
        error_name=row[4],
        error_message=row[5],
        retry_at=row[6],
        caused_by=tuple(json.loads(row[7])),
    )


def failed_attempt_row(run_id: str, attempt: FailedAttempt) -> _Row:
    """Return the row of ``failed_attempt`` for an attempt."""
    return (
        *(run_id, attempt.op_id, attempt.number, attempt.started_at, attempt.ended_at),
        *(attempt.error_name, attempt.error_message, attempt.retry_at),
        dump_json(attempt.caused_by) if attempt.caused_by else "[]",
    )


def dump_labels(labels: tuple[tuple[str, str], ...]) -> str | None:
    """Return labels as JSON text, None if there are none."""
    return dump_json(dict(labels)) if labels else None


def _load_labels(text: str | None) -> tuple[tuple[str, str], ...]:
    return () if text is None else tuple(json.loads(text).items())


def memo_of(row: _Row) -> Memo:
    """Return the memo of a row of ``steps``."""
    op_id, name, kind, number, ok, *rest = row
    return Memo(_op(op_id, name, kind), number, bool(ok), *rest)


@lru_cache(maxsize=4096)
def _op(op_id: str, name: str, kind: str) -> Op:
    """Return an op. Ops are cached, because most names repeat."""
    return Op(id=op_id, name=name, kind=_KINDS[kind])


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
        event_seq=row[10],
        consumed_seqs=load_consumed(row[11]),
        address=row[12],
        started_at=row[13],
        matched=None if row[14] is None else load_match(row[14]),
    )


def chunk_batch_row(run_id: str, batch: ChunkBatch) -> _Row:
    """Return the row of ``chunk_batch`` for chunks that were streamed."""
    epoch, attempt = batch.attempt or (None, None)
    texts = "\n".join(batch.texts)  # JSON text that the codec made has no line ends
    count = len(batch.texts)
    return run_id, *batch.place, epoch, attempt, batch.last, count, batch.size, texts


def chunk_batch_of(row: _Row) -> ChunkBatch:
    """Return the chunks of a row of ``batches-...``; none for a step that has pushed nothing."""
    number, _, start, op_id, epoch, attempt, last, texts = row
    return ChunkBatch(
        number=number,
        texts=() if texts is None else tuple(texts.split("\n")),
        op_id=op_id,
        attempt=None if epoch is None else (epoch, attempt),
        start=start,
        last=bool(last),
    )


def worker_of(row: _Row) -> WorkerRecord:
    """Return the process of a row of ``workers``."""
    return WorkerRecord(id=row[0], host=row[1], pid=row[2], expires_at=row[3], app=row[4])


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


def dump_consumed(consumed: tuple[int, ...]) -> str:
    """Return event numbers as JSON text."""
    return dump_json(consumed) if consumed else "[]"


def load_consumed(text: str) -> tuple[int, ...]:
    """Return the event numbers that ``dump_consumed`` was given."""
    return () if text == "[]" else tuple(json.loads(text))


def dump_json(value: object) -> str:
    """Return the value as it is stored: without spaces, non-ASCII text as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# --- reads ----------------------------------------------------------------------------------------

#: No id of a run comes after this.
_ABOVE_ALL = "\U0010ffff"
_EVENT_SEQ = QUERIES["event-seq"]


def load_memos(db: sqlite3.Connection, run_id: str) -> tuple[Memo, ...]:
    """Return the finished ops of a run, in the order in which they finished."""
    return tuple(map(memo_of, db.execute(QUERIES["steps"], (run_id,))))


def load_pending(db: sqlite3.Connection, run_id: str) -> tuple[Pending, ...]:
    """Return the unfinished ops of a run."""
    return tuple(map(pending_of, db.execute(QUERIES["pending"], (run_id,))))


_completion_no = attrgetter("completion_no")
_op_id = attrgetter("op.id")


def load_claimed(db: sqlite3.Connection, ids: Sequence[str]) -> tuple[ClaimedRun, ...]:
    """Return all that replaying these runs needs, in this order.

    Raises:
        Exception: something of one of them is missing or cannot be read.
    """
    wanted = {"ids": json.dumps(ids)}
    memos: dict[str, list[Memo]] = {run_id: [] for run_id in ids}
    for run_id, *row in db.execute(QUERIES["claimed-steps"], wanted):
        memos[run_id].append(memo_of(row))
    unfinished: dict[str, list[Pending]] = {run_id: [] for run_id in ids}
    for run_id, *row in db.execute(QUERIES["claimed-pending"], wanted):
        pending = pending_of(row)
        validate_rule(pending)
        unfinished[run_id].append(pending)
    claimed = {}
    for *row, head, body, streamed, outside in db.execute(QUERIES["claimed-runs"], wanted):
        run = run_of(row)
        claimed[run.id] = ClaimedRun(
            run=run,
            request=StoredRequest(head=head, body=body),
            memos=tuple(sorted(memos[run.id], key=_completion_no)),
            pending=tuple(sorted(unfinished[run.id], key=_op_id)),
            streamed=streamed,
            handler_chunks=outside,
        )
    return tuple(claimed[run_id] for run_id in ids)


def event_seq(db: sqlite3.Connection) -> int:
    """Return the highest event number there is."""
    seq: int = db.execute(_EVENT_SEQ).fetchone()[0]
    return seq


def result(db: sqlite3.Connection, app: str, run_id: str) -> StoredResult | Phase | None:
    """Return how a run ended, or its phase, or None."""
    row = db.execute(QUERIES["result"], (run_id, app)).fetchone()
    if row is None:
        return None
    phase, ended_at, head, body = row
    if ended_at is None:
        return Phase(phase)
    return StoredResult(phase=Phase(phase), head=head, body=body, ended_at=ended_at)


def keyed_run(db: sqlite3.Connection, app: str, key: IdempotencyKey, now: int) -> Begun | None:
    """Return the run that has a key, or None; see ``ports.Store``."""
    wanted = {"app": app, "scope": key.scope, "key": key.key, "now": now}
    row = db.execute(QUERIES["idempotency-key"], wanted).fetchone()
    if row is None:
        return None
    run_id, fingerprint = row
    return Begun(run_id=run_id, fingerprint=fingerprint, is_new=False)


def read_stream(
    db: sqlite3.Connection,
    app: str,
    run_id: str,
    done: int,
    outside: int,
    most: int,
    begin: StreamPlace | None,
) -> StoredStream | None:
    """Return a part of a run's stored stream, or None; see ``ports.Store``."""
    number, is_outside, start = begin or (0, 0, 0)
    wanted = {"id": run_id, "done": done, "outside": outside}
    wanted |= {"number": number, "is_outside": is_outside, "start": start}
    db.execute("BEGIN")
    try:
        row = db.execute(QUERIES["stream-run"], (run_id, app)).fetchone()
        if row is None:
            return None
        phase, epoch, held, handoff = row
        batches, following = _batches(db, wanted, most)
    finally:
        db.execute("ROLLBACK")
    return StoredStream(
        chunks=batches,
        next=following,
        handoff=handoff,
        phase=Phase(phase),
        epoch=epoch,
        is_running=bool(held),
    )


def _batches(
    db: sqlite3.Connection, wanted: Mapping[str, object], most: int
) -> tuple[tuple[ChunkBatch, ...], StreamPlace | None]:
    """Return batches until they cost as much as wanted, and the place of the next one."""
    batches: list[ChunkBatch] = []
    cost = 0
    of_steps = db.execute(QUERIES["batches-of-steps"], wanted)
    outside = db.execute(QUERIES["batches-outside-steps"], wanted)
    for row in merge(of_steps, outside, key=_place_of_row):
        if cost >= most:
            of_steps.close()
            outside.close()
            return tuple(batches), _place_of_row(row)
        batches.append(chunk_batch_of(row))
        cost += batches[-1].cost
    return tuple(batches), None


def _place_of_row(row: _Row) -> StreamPlace:
    return row[0], row[1], row[2]


def stream_versions(
    db: sqlite3.Connection, app: str, run_ids: Sequence[str]
) -> Mapping[str, tuple[int, ...]]:
    """Return numbers that tell whether the streams of the runs have changed."""
    rows = db.execute(QUERIES["stream-versions"], {"app": app, "ids": json.dumps(list(run_ids))})
    return {row[0]: tuple(row[1:]) for row in rows}


def which_ended(db: sqlite3.Connection, app: str, run_ids: Sequence[str]) -> Sequence[str]:
    """Return those of the runs that have ended."""
    rows = db.execute(QUERIES["which-ended"], {"app": app, "ids": json.dumps(list(run_ids))})
    return [run_id for (run_id,) in rows]


def next_due(
    db: sqlite3.Connection, app: str, keys: Sequence[str], slots: Sequence[Slots]
) -> int | None:
    """Return when the first run of these handlers is due, or became due if it is queued."""
    wanted = {"app": app, "keys": json.dumps(list(keys))}
    due_at: int | None = db.execute(QUERIES["next-due"], wanted).fetchone()[0]
    for each in slots:
        queued = next_in_line(db, app, each)
        if queued is not None:
            due_at = queued.due_at if due_at is None else min(due_at, queued.due_at)
    return due_at


def unclaimable(
    db: sqlite3.Connection, app: str, keys: Sequence[str], now: int
) -> Sequence[RunRecord]:
    """Return due runs of other handlers than these."""
    wanted = {"app": app, "keys": json.dumps(list(keys)), "now": now}
    rows = db.execute(QUERIES["unclaimable"], wanted)
    return [record_of(row) for row in rows]


def abandoned_children(
    db: sqlite3.Connection, app: str, parents: Sequence[str] | None
) -> Sequence[RunRecord]:
    """Return runs whose parent, or one of these parents, has ended or was cancelled."""
    name = "abandoned-children" if parents is None else "abandoned-children-of"
    wanted = {"app": app, "parents": json.dumps(parents)}
    return [record_of(row) for row in db.execute(QUERIES[name], wanted)]


def cancelled_runs(db: sqlite3.Connection, owner: str) -> Sequence[str]:
    """Return the ids of the runs that this owner holds and that were cancelled."""
    return [run_id for (run_id,) in db.execute(QUERIES["cancelled-runs"], (owner,))]


def matched_waits(db: sqlite3.Connection, owner: str) -> Sequence[tuple[str, str, StoredEvent]]:
    """Return the answered waits of the runs that the owner holds."""
    found: list[tuple[str, str, StoredEvent]] = []
    for run_id, op_id, match in db.execute(QUERIES["matched-waits"], (owner,)):
        try:
            found.append((run_id, op_id, load_match(match.decode())))
        except MemoryError:
            raise  # the process's fault, not that of what is stored
        except Exception as error:
            # Whoever claims that run fails it; the others are to be told of their events.
            logger.error("an event that run %s waits for cannot be read: %r", run_id, error)
    return found


def held(db: sqlite3.Connection, owner: str) -> Mapping[str, int]:
    """Return the runs that the owner holds, and their epochs."""
    return dict(db.execute(QUERIES["held"], (owner,)).fetchall())


def workers(db: sqlite3.Connection) -> Sequence[WorkerRecord]:
    """Return the registered processes."""
    return [worker_of(row) for row in db.execute(QUERIES["workers"])]


@contextmanager
def _one_state(db: sqlite3.Connection, run_id: str) -> Iterator[None]:
    """Read one state of the database in a block that is about a run.

    Raises:
        StoreError: what is stored of it cannot be read.
    """
    db.execute("BEGIN")
    try:
        yield
    except sqlite3.Error:
        raise
    except Exception as error:
        raise StoreError(f"what is stored of run {run_id} cannot be read: {error!r}") from error
    finally:
        db.execute("ROLLBACK")


def find_run(db: sqlite3.Connection, app: str, run_id: str) -> RunRecord | None:
    """Return all about one run, or None."""
    with _one_state(db, run_id):
        row = db.execute(QUERIES["run"], (run_id, app)).fetchone()
        if row is None:
            return None
        failed = map(failed_attempt_of, db.execute(QUERIES["failed-attempts"], (run_id,)))
        return record_of(row, load_memos(db, run_id), load_pending(db, run_id), tuple(failed))


def find_request(db: sqlite3.Connection, app: str, run_id: str) -> StoredRequest | None:
    """Return the request that began a run, or None."""
    row = db.execute(QUERIES["request"], (run_id, app)).fetchone()
    return None if row is None else StoredRequest(head=row[0], body=row[1])


def apps(db: sqlite3.Connection) -> Sequence[str]:
    """Return the ids of the applications that have runs."""
    return [app for (app,) in db.execute(QUERIES["apps"])]


def progress(db: sqlite3.Connection, app: str, run_id: str) -> RunProgress | None:
    """Return how far a run is, or None; see ``ports.Store``."""
    with _one_state(db, run_id):
        row = db.execute(QUERIES["run"], (run_id, app)).fetchone()
        if row is None:
            return None
        [steps_done] = db.execute(QUERIES["count-steps"], (run_id,)).fetchone()
        pending = db.execute(QUERIES["pending"], (run_id,))
        record = record_of(row, pending=tuple(map(pending_of, pending.fetchmany(100))))
        pending.close()
        return RunProgress(record=record, steps_done=steps_done)


def find_runs(
    db: sqlite3.Connection, app: str, where: RunFilter, limit: int
) -> Sequence[RunRecord]:
    """Return runs without their ops, newest first; those that cannot be read are left out."""
    # Text that is no UTF-8 would fail the whole query.
    db.text_factory = _decode
    try:
        rows = _run_rows(db, app, where, limit).fetchall()
    finally:
        db.text_factory = str
    found: list[RunRecord] = []
    for row in rows:
        try:
            found.append(record_of(row))
        except MemoryError:
            raise  # the process's fault, not that of what is stored
        except Exception as error:
            logger.error("run %s is not listed, it cannot be read: %r", row[0], error)
    return found


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _run_rows(db: sqlite3.Connection, app: str, where: RunFilter, limit: int) -> sqlite3.Cursor:
    label, label_value = where.label or (None, None)
    wanted = {
        "app": app,
        "phases": json.dumps([phase.value for phase in where.phases or Phase]),
        "endpoint_key": where.endpoint_key,
        "key": where.key,
        "label": label,
        "label_value": label_value,
        "principal": where.principal,
        "since": where.since or "",
        "before": _ABOVE_ALL if where.before is None else where.before,
        "cancelled": where.cancelled,
        "limit": limit,
    }
    return db.execute(QUERIES[_narrowest(db, where, wanted)], wanted)


#: So many runs are looked at one by one in a few milliseconds.
_FEW = 2_000


def _narrowest(db: sqlite3.Connection, where: RunFilter, wanted: Mapping[str, object]) -> str:
    """Return the query that begins with the condition that should leave the fewest runs.

    Nearly all runs have completed: where those are not wanted, the phase leaves few, unless the
    label leaves fewer.
    """
    if where.held:
        return "list-held"
    if where.cancelled:
        return "list-cancelled"
    if where.key is not None:
        return "list-by-key"
    if where.label is not None:
        if not where.phases or Phase.COMPLETED in where.phases:
            return "list-by-label"
        row = db.execute(QUERIES["count-labelled"], {**wanted, "most": _FEW}).fetchone()
        if row[0] < _FEW:
            return "list-by-label-and-phase"
    if where.endpoint_key is not None:
        return "list-by-endpoint"
    return "list-by-phase"


#: No more runs of a principal are looked at to tell how much they use.
_MOST_OF_PRINCIPAL = 100_000


def usage(db: sqlite3.Connection, app: str, principal: str | None, most: int) -> Usage:
    """Return how much an application, or one of its principals, has in the store."""
    if principal is None:
        [live] = db.execute(QUERIES["count-live"], {"app": app, "most": most}).fetchone()
        [size] = db.execute(QUERIES["used-bytes"]).fetchone()
    else:
        wanted = {"app": app, "principal": principal, "most": _MOST_OF_PRINCIPAL}
        live, size = db.execute(QUERIES["usage-of-principal"], wanted).fetchone()
    return Usage(live_runs=min(live, most), stored_bytes=size)


def secrets(db: sqlite3.Connection) -> Sequence[StoredSecret]:
    """Return the keys that sign tokens, the newest first."""
    rows = db.execute(QUERIES["secrets"])
    return [StoredSecret(value=value, created_at=created_at) for value, created_at in rows]


# --- events ---------------------------------------------------------------------------------------
#
# The events that were stored last, and what became of the waits for them.

#: How many of the waits that ended last are looked at, and are shown of one event.
_MOST_WAITS, _MOST_OF_EVENT = 1_000, 100
#: How far the clocks of processes may differ, milliseconds.
_SKEW = 60_000
#: The longest value of a wait that is read, characters.
_LONGEST = 512


def recent_events(db: sqlite3.Connection, app: str, limit: int) -> Sequence[RecentEvent]:
    """Return the newest events and the waits that they have ended; see ``ports.Store``."""
    db.execute("BEGIN")
    try:
        rows = db.execute(QUERIES["recent-events"], (app, limit)).fetchall()
        if not rows:
            return ()
        waits: dict[int, list[EndedWait]] = {row[0]: [] for row in rows}
        wanted = {"app": app, "first": min(waits), "most": _MOST_WAITS, "longest": _LONGEST}
        wanted["since"] = rows[-1][5] - _SKEW
        for seq, run_id, value in db.execute(QUERIES["ended-waits"], wanted):
            of_event = waits.get(seq)
            if of_event is not None and len(of_event) < _MOST_OF_EVENT:
                text = None if value is None else value.decode("utf-8", "replace")
                of_event.append(EndedWait(run_id, text))
    finally:
        db.execute("ROLLBACK")
    found = []
    for seq, id_, name, data, ts, received_at in rows:
        try:
            event = Event(name=name.decode(), data=json.loads(data), id=id_.decode(), ts=ts)
        except ValueError as error:
            logger.error("event %d is not shown, it cannot be read: %r", seq, error)
            continue
        stored = StoredEvent(seq=seq, event=event, received_at=received_at)
        found.append(RecentEvent(stored=stored, waits=tuple(waits[seq])))
    return found
