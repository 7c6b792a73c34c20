"""Group commit: many writes, one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import Any

from durable_core.errors import LeaseLost, RunNotFoundError, StoreError
from durable_core.machine.addresses import child_address
from durable_core.machine.matching import with_event_seq
from durable_core.model.event import StoredEvent
from durable_core.model.run import Phase, Run
from durable_core.model.step import Memo, Pending
from durable_core.ports import (
    Begin,
    BeginRefused,
    Begun,
    Cancel,
    CancelOutcome,
    Checkpoint,
    CheckpointResult,
    Claim,
    Delete,
    Deliver,
    Fork,
    Heartbeat,
    LeaveQueue,
    Prune,
    ReapWorkers,
    Register,
    Release,
    Retry,
    RotateSecret,
    SendEvents,
    StoredRequest,
    StoredResult,
    Unregister,
    Write,
)
from durable_core.ports.limits import NO_KEY
from durable_core.stores.sqlite import slots
from durable_core.stores.sqlite.claims import (
    claim,
    heartbeat,
    leave_queue,
    reap,
    register,
    unregister,
)
from durable_core.stores.sqlite.cleanup import delete, prune, rotate_secret
from durable_core.stores.sqlite.events import (
    address_op,
    close_address,
    deliver,
    deliver_message,
    put_pending,
    send_events,
    store_events,
)
from durable_core.stores.sqlite.reads import (
    KIND_TEXTS,
    PHASE_TEXTS,
    chunk_batch_row,
    dump_labels,
    failed_attempt_row,
    keyed_run,
)
from durable_core.stores.sqlite.sql import QUERIES, store_error

__all__ = [
    "CHECKPOINTED",
    "Answer",
    "apply_batch",
    "begin",
    "cancel",
    "fork",
    "retry",
    "write_run",
]


# --- runs -----------------------------------------------------------------------------------------
#
# What happens to one run: checkpoints and its end.

# To bind None, a bool or bytes takes Python's sqlite3 0.3 us, so these rows have few of them.
_INSERT_RUN = QUERIES["insert-run"]
_INSERT_PLAIN_RUN = QUERIES["insert-plain-run"]
#: Besides the labels, what only ``insert-run`` has, and the values that nearly all runs have there.
_RARE = "key parent traceparent version principal timeout deadline slot_key singleton_key client"
_get_rare = attrgetter(*_RARE.split())
_NOTHING_RARE = (None,) * len(_RARE.split())
_INSERT_STEP = QUERIES["insert-step"]
_DELETE_PENDING = QUERIES["delete-pending"]
#: The answer to a write that nothing came of but that it is durable.
CHECKPOINTED = CheckpointResult()
#: Numbers of steps have 24 bits of their keys.
_MOST_NUMBERS = 0xFFFFFF


def write_run(db: sqlite3.Connection, write: Checkpoint) -> CheckpointResult | LeaseLost:
    """Take one checkpoint.

    Returns:
        Its answer. ``LeaseLost`` if it ends a run that was cancelled: all but that is stored.

    Raises:
        LeaseLost: the run is not held by that owner in that epoch.
    """
    if write.create is not None:
        if write.result is not None and _is_only_memos(write):
            _insert_ended_run(db, write, write.create, write.result)
            return CHECKPOINTED
        if write.release is not None and _is_asleep(write):
            _insert_released_run(db, write, write.create, write.release)
            return CHECKPOINTED
        _insert_run(db, write, write.create, owner=write.owner)
    if write.result is not None and write.deliveries and _is_to_be_undone(db, write):
        write = replace(write, deliveries=())
    refused: tuple[str, ...] = ()
    if write.children:
        write, refused = _insert_children(db, write)
    exchanges = write.events or write.pending or write.deliveries or write.closing
    answer = _exchange(db, write) if exchanges else CHECKPOINTED
    if refused:
        answer = replace(answer, refused=(*answer.refused, *refused))
    memos = with_event_seq(write.memos, answer.sent) if answer.sent else write.memos
    for memo in memos:
        _insert_memo(db, write, memo, write.owner)
    has_ended = True
    if write.result is not None:
        has_ended = _end_run(db, write, write.result)
    elif _changes_run(write):
        _update_run(db, write)
    elif write.create is None and not write.memos:
        _held_app(db, write)
    if write.chunks:
        db.executemany(
            QUERIES["insert-chunk-batch"], [chunk_batch_row(write.run_id, p) for p in write.chunks]
        )
    if write.failed_attempts:
        db.executemany(
            QUERIES["insert-failed-attempt"],
            [failed_attempt_row(write.run_id, each) for each in write.failed_attempts],
        )
    return answer if has_ended else _lease_lost(write)


def _insert_children(
    db: sqlite3.Connection, write: Checkpoint
) -> tuple[Checkpoint, tuple[str, ...]]:
    """Insert the children of a run that are within the limit.

    Returns:
        The write without the ops that wait for the others, and the ids of these ops.

    Raises:
        LeaseLost: the run is not held by that owner in that epoch, or a child exists.
    """
    _held_app(db, write)
    refused = set()
    for child in write.children:
        limit = {"parent": write.run_id, "most": write.child_limit}
        if write.child_limit is None or db.execute(QUERIES["count-descendant"], limit).rowcount:
            _insert_suspended(db, child.run, child.request, write.now)
        else:
            refused.add(child_address(child.run.id))
    if not refused:
        return write, ()
    stored = tuple(each for each in write.pending if each.address not in refused)
    left_out = tuple(each.op.id for each in write.pending if each.address in refused)
    return replace(write, pending=stored), left_out


def _is_to_be_undone(db: sqlite3.Connection, write: Checkpoint) -> bool:
    """Tell whether the run was cancelled, and whoever writes this does not know it."""
    if write.state is None or write.state.cancel_reason is not None:
        return False
    return db.execute(QUERIES["is-cancelled"], (write.run_id,)).fetchone() is not None


def _is_only_memos(write: Checkpoint) -> bool:
    """Tell whether nothing but finished ops comes with the run and its result."""
    return (
        write.release is None
        and not write.pending
        and not write.events
        and not write.chunks
        and not write.failed_attempts
        and write.handoff is None
        and not write.deliveries
        and not write.closing
        and not write.children
    )


def _is_asleep(write: Checkpoint) -> bool:
    """Tell whether nothing but ops, which no stored event can end, comes with a released run."""
    return (
        write.result is None
        and not any(each.event or each.address or each.matched for each in write.pending)
        and not write.events
        and not write.chunks
        and not write.failed_attempts
        and write.handoff is None
        and not write.deliveries
        and not write.closing
        and not write.children
    )


def _changes_run(write: Checkpoint) -> bool:
    return write.state is not None or write.release is not None or write.handoff is not None


def _insert_ended_run(
    db: sqlite3.Connection, write: Checkpoint, run: Run, result: StoredResult
) -> None:
    """Store a run that was never seen before it ended, without a state in between."""
    ended = write.state or run
    if ended.phase is not result.phase:
        ended = replace(ended, phase=result.phase)
    _insert_run(db, write, ended, ended_at=result.ended_at)
    for memo in write.memos:
        _insert_memo(db, write, memo, None)
    _insert_result(db, write.run_id, result, has_pending=False)


def _insert_released_run(
    db: sqlite3.Connection, write: Checkpoint, run: Run, release: Release
) -> None:
    """Store a run that was never seen before it was released, without a state in between."""
    released = write.state or run
    if release.endpoint_key is not None:
        released = replace(released, endpoint_key=release.endpoint_key)
    _insert_run(db, write, released, due_at=release.due_at)
    for pending in write.pending:
        put_pending(db, run.app, write.run_id, pending)
    for memo in write.memos:
        _insert_memo(db, write, memo, None)


def _insert_run(
    db: sqlite3.Connection,
    write: Checkpoint,
    run: Run,
    *,
    owner: str | None = None,
    due_at: int | None = None,
    ended_at: int | None = None,
) -> None:
    """Insert a run, with its request. It has an owner, or is due, or has ended."""
    request = write.request
    if request is None:
        raise ValueError("a Checkpoint that creates a run must bring its request")
    labels = dump_labels(run.labels) if run.labels else None
    size = len(request.head) + len(request.body)
    if ended_at is not None and write.result is not None:
        size += len(write.result.head) + len(write.result.body or b"")
    row = (
        run.id,
        run.app,
        run.endpoint_key,
        run.function_id,
        PHASE_TEXTS[run.phase],
        run.retries,
        run.created_at,
        run.event_seq,
        run.failures,
        run.crash_count,
        write.epoch,
        int(run.undoable),
        run.depth,
        size,
        owner,
        due_at,
        ended_at,
    )
    rare = _get_rare(run)
    if labels is None and rare == _NOTHING_RARE:
        stored = db.execute(_INSERT_PLAIN_RUN, row)
    else:
        stored = db.execute(_INSERT_RUN, (*row, labels, *rare))
    if stored.rowcount == 0:
        raise _lease_lost(write)
    db.execute(QUERIES["insert-request"], (write.run_id, request.head, request.body))
    if run.labels:
        db.execute(QUERIES["insert-labels"], (write.run_id,))


def _insert_memo(db: sqlite3.Connection, write: Checkpoint, memo: Memo, owner: str | None) -> None:
    """Store one memo of a write, for the run's owner; None if this very write ends it.

    The guard is part of the INSERT, so that it costs one statement, and a second one only for a
    memo whose op may have a pending row. The end of the run removes all of these.

    Raises:
        LeaseLost: the run is not held by that owner in that epoch.
        OverflowError: the run has too many numbers.
    """
    if db.execute(_INSERT_STEP, _step_row(write, memo, owner)).rowcount == 0:
        raise _lease_lost(write)
    if not write.no_pending_row and write.result is None:
        db.execute(_DELETE_PENDING, (write.run_id, memo.op.id))


def _insert_memos(db: sqlite3.Connection, writes: Sequence[Checkpoint]) -> None:
    """Store writes that are a single memo each, by one call of SQLite.

    It takes 2.5 us a memo where calls of :func:`_insert_memo` take 4 (Python 3.11). One statement
    for all of them, over ``json_each``, takes twice as long as these.

    Raises:
        LeaseLost: one of the runs is not held by its owner in its epoch; others may be stored.
        OverflowError: a run has too many numbers.
    """
    rows = [_step_row(write, write.memos[0], write.owner) for write in writes]
    if db.executemany(_INSERT_STEP, rows).rowcount != len(rows):
        raise LeaseLost("a run of the group is not held by its owner in its epoch")
    for write in writes:
        if not write.no_pending_row:
            db.execute(_DELETE_PENDING, (write.run_id, write.memos[0].op.id))


def _step_row(write: Checkpoint, memo: Memo, owner: str | None) -> tuple[object, ...]:
    op = memo.op
    if memo.completion_no > _MOST_NUMBERS:
        raise OverflowError(f"a run has at most {_MOST_NUMBERS} finished and failed steps")
    return (
        memo.completion_no,
        op.id,
        op.name,
        KIND_TEXTS[op.kind],
        int(memo.ok),
        memo.value,
        memo.event_seq,
        memo.attempts,
        memo.ended_at,
        memo.started_at,
        0 if memo.arguments is None else memo.arguments,  # the statement makes it NULL
        write.run_id,
        owner,
        write.epoch,
    )


def _exchange(db: sqlite3.Connection, write: Checkpoint) -> CheckpointResult:
    """Store what the run sends, then what it waits for, so that a wait sees those events."""
    app, is_cancelled = _held_app(db, write)
    sent, woken = store_events(db, app, "", write.events, write.now)
    for delivery in write.deliveries:
        woken.update(deliver(db, app, delivery, write.now).resumed_runs)
    matched: list[tuple[str, StoredEvent]] = []
    refused: list[str] = []
    for pending in write.pending:
        op: Pending | None = pending
        if is_cancelled:  # the owner may not know it
            op = pending = replace(pending, event="", address="")
        if pending.address and pending.matched is None:
            op = address_op(db, app, write.run_id, pending, write.replacing)
        if op is None:
            refused.append(pending.op.id)
            continue
        op = put_pending(db, app, write.run_id, op)
        if op.matched is not None:
            matched.append((op.op.id, op.matched))
    for op_id in write.closing:
        event = close_address(db, write.run_id, op_id)
        if event is not None:
            matched.append((op_id, event))
    return CheckpointResult(
        matched=tuple(matched),
        sent=sent,
        resumed_runs=tuple(woken.items()),
        refused=tuple(refused),
    )


def _held_app(db: sqlite3.Connection, write: Checkpoint) -> tuple[str, bool]:
    """Return the application of a run, and whether it was cancelled."""
    row = db.execute(QUERIES["held-app"], (write.run_id, write.owner, write.epoch)).fetchone()
    if row is None:
        raise _lease_lost(write)
    return row[0], bool(row[1])


def _update_run(db: sqlite3.Connection, write: Checkpoint) -> None:
    state, release = write.state, write.release
    awaited = None if release is None else release.awaited
    row = {
        "id": write.run_id,
        "owner": write.owner,
        "epoch": write.epoch,
        "phase": None if state is None else PHASE_TEXTS[state.phase],
        "failures": None if state is None else state.failures,
        "crash_count": None if state is None else state.crash_count,
        "holder": write.owner if release is None else None,
        "due_at": None if release is None else release.due_at,
        "now": write.now,
        "awaited": None if awaited is None else json.dumps(awaited),
        "endpoint_key": None if release is None else release.endpoint_key,
        "handoff": write.handoff,
        "undoable": state is not None and state.undoable,
        "is_undoing": state is not None and state.cancel_reason is not None,
    }
    if db.execute(QUERIES["update-run"], row).rowcount == 0:
        raise _lease_lost(write)


def _end_run(db: sqlite3.Connection, write: Checkpoint, result: StoredResult) -> bool:
    """End the run; False if it was cancelled and its owner does not know it: it is released."""
    state = write.state
    row = (
        PHASE_TEXTS[result.phase],
        None if state is None else state.failures,
        None if state is None else state.crash_count,
        int(state is not None and state.undoable),
        result.ended_at,
        write.handoff,
        len(result.head) + len(result.body or b""),
        *(write.run_id, write.owner, write.epoch),
        int(state is None or state.cancel_reason is not None),
    )
    if db.execute(QUERIES["end-run"], row).rowcount:
        _insert_result(db, write.run_id, result, has_pending=not write.no_pending_row)
        return True
    cancelled = write.now, write.run_id, write.owner, write.epoch
    if db.execute(QUERIES["release-cancelled"], cancelled).rowcount == 0:
        raise _lease_lost(write)
    ended = ((write.run_id, memo.op.id) for memo in write.memos)
    db.executemany(_DELETE_PENDING, ended)
    return False


def _insert_result(
    db: sqlite3.Connection, run_id: str, result: StoredResult, *, has_pending: bool = True
) -> None:
    db.execute(QUERIES["insert-result"], (run_id, result.head, result.body))
    if has_pending:
        db.execute(QUERIES["delete-all-pending"], (run_id,))
    if result.follow_up is not None:
        new = result.follow_up
        _insert_suspended(db, new.run, new.request, result.ended_at)


def _lease_lost(write: Checkpoint) -> LeaseLost:
    return LeaseLost(
        f"run {write.run_id} is not held by owner {write.owner} in epoch {write.epoch}"
    )


def begin(db: sqlite3.Connection, message: Begin) -> Begun | BeginRefused:
    """Create a run, or find the one that has its key, or say which limit refuses it.

    Raises:
        LeaseLost: there is a run of that id.
        ValueError: the checkpoint creates no run.
    """
    write, key = message.checkpoint, message.key
    run = write.create
    if run is None:
        raise ValueError("the checkpoint of a Begin must create a run")
    fingerprint = "" if key is None else key.fingerprint
    found = None if key is None else keyed_run(db, run.app, key, write.now)
    if found is not None and found.run_id != run.id:
        return found
    if key is None or found is not None:
        holder = db.execute(QUERIES["run-holder"], (run.id,)).fetchone()
        if holder is not None:  # the answer to this message was lost
            is_queued = holder != (write.owner, write.epoch)
            return Begun(run_id=run.id, fingerprint=fingerprint, is_new=True, is_queued=is_queued)
    refusal, is_queued, replaced = _pass_limits(db, message, run)
    if refusal is not None:
        return refusal
    write_run(db, replace(write, create=replace(run, phase=Phase.QUEUED)) if is_queued else write)
    if is_queued:
        db.execute(QUERIES["put-in-queue"], (write.now, run.id))
    elif message.slots is not None:
        slots.take_turn(db, run.app, message.slots, run.slot_key or NO_KEY)
    if key is not None:
        row = {
            "app": run.app,
            "scope": key.scope,
            "key": key.key,
            "run_id": run.id,
            "fingerprint": fingerprint,
            "expires_at": key.expires_at,
        }
        db.execute(QUERIES["put-idempotency-key"], row)
    return Begun(
        run_id=run.id,
        fingerprint=fingerprint,
        is_new=True,
        is_queued=is_queued,
        replaced=replaced,
    )


def _pass_limits(
    db: sqlite3.Connection, message: Begin, run: Run
) -> tuple[BeginRefused | None, bool, CancelOutcome]:
    """Return why a run may not begin, whether it is queued, and what came of ``replaces``."""
    taken, old = slots.singleton_of(db, run), message.replaces
    if taken is None:
        return *_find_place(db, message, run, begins=True), CancelOutcome.NOTHING
    if old is None or old.run_id != taken.run_id:
        return taken, False, CancelOutcome.NOTHING
    db.execute("SAVEPOINT replaced")  # a request that is refused cancels nothing
    replaced = cancel(db, old)
    begins = replaced is CancelOutcome.ENDED
    refusal, is_queued = _find_place(db, message, run, begins=begins)
    if refusal is not None:
        db.execute("ROLLBACK TO replaced")
    elif not begins:
        refusal = replace(taken, replaced=replaced)
    db.execute("RELEASE replaced")
    return refusal, is_queued, replaced


def _find_place(
    db: sqlite3.Connection, message: Begin, run: Run, *, begins: bool
) -> tuple[BeginRefused | None, bool]:
    """Return which limit but that of singletons refuses a run, and whether it is queued.

    The rate is looked at last, and used if the run then begins.
    """
    is_queued = message.slots is not None and not slots.has_slot(db, run, message.slots)
    if is_queued and slots.is_queue_full(db, run, message.queue_limit):
        return BeginRefused(reason="queue-full"), False
    if message.rate is not None:
        now = message.checkpoint.now
        retry_at = slots.use_rate(db, run, message.rate, now, begins=begins)
        if retry_at is not None:
            return BeginRefused(reason="rate-limited", retry_at=retry_at), False
    return None, is_queued


def cancel(db: sqlite3.Connection, message: Cancel) -> CancelOutcome:
    """End a run as cancelled, whoever holds it, or have it undone.

    Raises:
        RunNotFoundError: there is no such run.
    """
    result = message.result
    row = {
        "id": message.run_id,
        "app": message.app,
        "phase": PHASE_TEXTS[result.phase],
        "ended_at": result.ended_at,
        "reason": message.reason,
        "now": result.ended_at,
    }
    if db.execute(QUERIES["cancel-run"], row).rowcount:
        _insert_result(db, message.run_id, result)
        for delivery in message.deliveries:
            deliver(db, message.app, delivery, result.ended_at)
        return CancelOutcome.ENDED
    if db.execute(QUERIES["cancel-undoable-run"], row).rowcount:
        db.execute(QUERIES["close-waits"], (message.run_id,))
        return CancelOutcome.UNDOING
    _refuse_unknown(db, message.app, message.run_id)
    return CancelOutcome.NOTHING


def retry(db: sqlite3.Connection, message: Retry) -> bool:
    """Let a failed run go on; False if it has not failed.

    Raises:
        RunNotFoundError: there is no such run.
        SingletonError: another run has its singleton key.
    """
    row = {"id": message.run_id, "app": message.app, "now": message.now}
    if db.execute(QUERIES["retry-run"], row).rowcount:
        db.execute(QUERIES["delete-result"], (message.run_id,))
        _forget_steps(db, message)
        slots.refuse_second(db, message.run_id)
        return True
    _refuse_unknown(db, message.app, message.run_id)
    return False


def _forget_steps(db: sqlite3.Connection, message: Retry) -> None:
    asked = {"id": message.run_id, "steps": json.dumps(message.steps)}
    found = db.execute(QUERIES["steps-to-retry"], asked).fetchall()
    if not found:
        return
    db.executemany(QUERIES["delete-step"], [(key,) for key, _ in found])
    numbers = [number for _, number in found]
    gone = {"id": message.run_id, "first": numbers[0], "numbers": json.dumps(numbers)}
    db.execute(QUERIES["delete-chunks-of-retried"], gone)


def fork(db: sqlite3.Connection, message: Fork) -> bool:
    """Create a run that goes on from a step of another one; False if that has no such step.

    Raises:
        RunNotFoundError: there is no such run.
        LeaseLost: the new run exists.
        SingletonError: another run has its singleton key.
    """
    _refuse_unknown(db, message.app, message.run_id)
    row: dict[str, object] = {"id": message.run_id, "op_id": message.op_id, "copy": message.run.id}
    [number] = db.execute(QUERIES["number-of-step"], row).fetchone()
    if number is None:
        return False
    request = message.request
    if request is None:
        head, body = db.execute(QUERIES["request"], (message.run_id, message.app)).fetchone()
        request = StoredRequest(head=head, body=body)
    _insert_suspended(db, message.run, request, message.now)
    row["number"] = number
    db.execute(QUERIES["copy-steps"], row)
    db.execute(QUERIES["copy-chunk-batches"], row)
    slots.refuse_second(db, message.run.id)
    return True


def _insert_suspended(db: sqlite3.Connection, run: Run, request: StoredRequest, now: int) -> None:
    """Insert a run that is due at once, which nobody has executed.

    Raises:
        LeaseLost: there is a run of that id.
    """
    write = Checkpoint(
        run_id=run.id, owner="", epoch=run.epoch, now=now, create=run, request=request
    )
    _insert_run(db, write, replace(run, phase=Phase.SUSPENDED), due_at=now)


def _refuse_unknown(db: sqlite3.Connection, app: str, run_id: str) -> None:
    if db.execute(QUERIES["run-exists"], (run_id, app)).fetchone() is None:
        raise RunNotFoundError(f"no run {run_id!r} in app {app!r}")


# --- writes ---------------------------------------------------------------------------------------

#: What a write is answered with: its own answer, or the error that undid it alone.
Answer = object | BaseException

_is_one_memo = attrgetter("is_one_memo")

_APPLY: Mapping[type, Callable[[sqlite3.Connection, Any], object]] = {
    Checkpoint: write_run,
    Begin: begin,
    SendEvents: send_events,
    Deliver: deliver_message,
    Claim: claim,
    LeaveQueue: leave_queue,
    Cancel: cancel,
    Delete: delete,
    Retry: retry,
    Fork: fork,
    Register: register,
    Heartbeat: heartbeat,
    ReapWorkers: reap,
    Unregister: unregister,
    Prune: prune,
    RotateSecret: rotate_secret,
}


def apply_batch(
    db: sqlite3.Connection, writes: Sequence[Write[object]], path: str
) -> Sequence[Answer]:
    """Apply the writes in order in one transaction, each as a whole or not at all.

    Args:
        db: a connection without an open transaction.
        writes: at least one.
        path: the file, for messages.

    Raises:
        StoreError: nothing was done.
    """
    try:
        if len(writes) == 1:
            return (_apply_alone(db, writes[0], path),)
        db.execute("BEGIN IMMEDIATE")
        try:
            answers = _apply_together(db, writes)
        except (Exception, LeaseLost):
            # A full disk or an I/O error makes SQLite undo the transaction. Then nobody succeeded.
            if not db.in_transaction:
                raise
            # Savepoints cost a group a tenth of its time, and refusals are few: begin again.
            db.execute("ROLLBACK")
            db.execute("BEGIN IMMEDIATE")
            answers = [_apply_apart(db, write, path) for write in writes]
        db.execute("COMMIT")
        return answers
    except BaseException as error:
        # Also for what has nothing to do with the database, such as KeyboardInterrupt.
        if db.in_transaction:
            db.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error):
            raise store_error(error, path) from error
        raise


def _apply_alone(db: sqlite3.Connection, write: Write[object], path: str) -> Answer:
    """Apply the only write of a transaction; no savepoint is needed.

    One that is a single statement needs no BEGIN and COMMIT either: SQLite wraps it in a
    transaction of its own, as durable as any.
    """
    if isinstance(write, Checkpoint) and write.is_one_memo and write.no_pending_row:
        return _apply_one_memo(db, write, path)
    db.execute("BEGIN IMMEDIATE")
    try:
        answer = _APPLY[type(write)](db, write)
    except (Exception, LeaseLost) as error:
        if not db.in_transaction:
            raise
        db.execute("ROLLBACK")
        return _as_answer(error, path)
    db.execute("COMMIT")
    return answer


def _apply_together(db: sqlite3.Connection, writes: Sequence[Write[object]]) -> Sequence[Answer]:
    """Apply writes in order. What this raises, it may have raised half-way."""
    answers: list[Answer] = []
    for are_memos, several in groupby(writes, _is_one_memo):
        if are_memos:
            memos: list[Any] = list(several)
            _insert_memos(db, memos)
            answers += [CHECKPOINTED] * len(memos)
        else:
            answers += [_APPLY[type(write)](db, write) for write in several]
    return answers


def _apply_apart(db: sqlite3.Connection, write: Write[object], path: str) -> Answer:
    """Apply one write of several; if it fails, the others are not touched."""
    if isinstance(write, Checkpoint) and write.is_one_memo:
        return _apply_one_memo(db, write, path)
    db.execute("SAVEPOINT member")
    try:
        answer = _APPLY[type(write)](db, write)
    except (Exception, LeaseLost) as error:
        if not db.in_transaction:
            raise
        db.execute("ROLLBACK TO member")
        answer = _as_answer(error, path)
    db.execute("RELEASE member")
    return answer


def _apply_one_memo(db: sqlite3.Connection, write: Checkpoint, path: str) -> Answer:
    """Apply the write that needs no savepoint, which would cost half as much again.

    What is caught here has changed nothing: the lease is lost, the number is taken, or a value
    could not even be bound (OverflowError, ValueError). Any other fault fails the whole batch.
    """
    try:
        _insert_memo(db, write, write.memos[0], write.owner)
        return CHECKPOINTED
    except (LeaseLost, sqlite3.IntegrityError, OverflowError, ValueError) as error:
        return _as_answer(error, path)


def _as_answer(error: BaseException, path: str) -> Answer:
    """Return what a failed write is answered with."""
    if isinstance(error, sqlite3.Error):
        fault: StoreError = store_error(error, path)
        fault.__cause__ = error
        return fault
    return error
