"""Group commit: many writes, one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from durable_core.errors import LeaseLost, StoreError
from durable_core.ports import (
    Beat,
    Bury,
    Cancel,
    Claim,
    Prune,
    Register,
    RunWrite,
    SendEvents,
    Unregister,
    Write,
)
from durable_core.runtime.sqlite.faults import store_error
from durable_core.runtime.sqlite.peers import beat, bury, prune, register, unregister
from durable_core.runtime.sqlite.runs import (
    CHECKPOINTED,
    cancel,
    claim,
    insert_memo,
    is_one_memo,
    write_run,
)
from durable_core.runtime.sqlite.signals import send_events

__all__ = ["Answer", "apply_batch"]

#: What a write is answered with: its own answer, or the error that undid it alone.
Answer = object | BaseException

_APPLY: Mapping[type, Callable[[sqlite3.Connection, Any], object]] = {
    RunWrite: write_run,
    SendEvents: send_events,
    Claim: claim,
    Cancel: cancel,
    Register: register,
    Beat: beat,
    Bury: bury,
    Unregister: unregister,
    Prune: prune,
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
        answers = [_apply_member(db, write, path) for write in writes]
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
    if isinstance(write, RunWrite) and write.direct and is_one_memo(write):
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


def _apply_member(db: sqlite3.Connection, write: Write[object], path: str) -> Answer:
    """Apply one write of several; if it fails, the others are not touched."""
    if isinstance(write, RunWrite) and is_one_memo(write):
        return _apply_one_memo(db, write, path)
    db.execute("SAVEPOINT member")
    try:
        answer = _APPLY[type(write)](db, write)
    except (Exception, LeaseLost) as error:
        # A full disk or an I/O error makes SQLite undo the transaction. Then nobody succeeded.
        if not db.in_transaction:
            raise
        db.execute("ROLLBACK TO member")
        answer = _as_answer(error, path)
    db.execute("RELEASE member")
    return answer


def _apply_one_memo(db: sqlite3.Connection, write: RunWrite, path: str) -> Answer:
    """Apply the write that needs no savepoint, which would cost half as much again.

    What is caught here has changed nothing: the lease is lost, the number is taken, or a value
    could not even be bound (OverflowError, ValueError). Any other fault fails the whole batch.
    """
    try:
        insert_memo(db, write, write.memos[0], write.owner)
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
