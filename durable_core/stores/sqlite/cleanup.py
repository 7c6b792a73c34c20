"""What is deleted: runs and events that are old, runs one by one, secrets that were replaced."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from durable_core.errors import RunNotFoundError
from durable_core.ports import Delete, Prune, RotateSecret
from durable_core.stores.sqlite.sql import QUERIES

__all__ = ["delete", "prune", "rotate_secret"]


def rotate_secret(db: sqlite3.Connection, message: RotateSecret) -> None:
    """Add a secret that signs from now on; remove those that were replaced long ago."""
    db.execute(QUERIES["insert-secret"], (message.secret, message.now))
    db.execute(QUERIES["delete-secrets"], (message.replaced_before,))


def delete(db: sqlite3.Connection, message: Delete) -> bool:
    """Delete a run that has ended; False if it has not.

    Raises:
        RunNotFoundError: there is no such run.
    """
    found = db.execute(QUERIES["run-ended"], (message.run_id, message.app)).fetchone()
    if found is None:
        raise RunNotFoundError(f"no run {message.run_id!r} in app {message.app!r}")
    if not found[0]:
        return False
    _delete_runs(db, [(message.run_id,)])
    return True


def _delete_runs(db: sqlite3.Connection, ids: Sequence[tuple[str]]) -> None:
    """Delete runs with all that belongs to them."""
    for name in (
        "delete-request",
        "delete-result",
        "delete-steps",
        "delete-chunk-batches",
        "delete-failed-attempts",
        "delete-labels",
        "delete-idempotency-keys",
        "delete-deliveries",
        "delete-run",
    ):
        db.executemany(QUERIES[name], ids)


def prune(db: sqlite3.Connection, message: Prune) -> int:
    """Delete old runs and events; return how many."""
    app, limit = message.app, message.limit
    ended = db.execute(QUERIES["ended-before"], (app, message.runs_before, limit)).fetchall()
    _delete_runs(db, ended)
    events = db.execute(QUERIES["delete-events"], (app, message.events_before, limit)).rowcount
    # A bucket that was full then is as good as one that was never used.
    db.execute(QUERIES["delete-rates"], (app, message.events_before, limit))
    return len(ended) + events
