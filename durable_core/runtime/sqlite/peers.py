"""Processes that share the store, their leases, and clearing up."""

from __future__ import annotations

import sqlite3

from durable_core.ports import Beat, Bury, Prune, Register, Unregister
from durable_core.runtime.sqlite.queries import QUERIES

__all__ = ["beat", "bury", "prune", "register", "unregister"]


def register(db: sqlite3.Connection, message: Register) -> None:
    """Add a process."""
    peer = message.peer
    db.execute(QUERIES["put-peer"], (peer.id, peer.host, peer.pid, peer.expires_at))


def beat(db: sqlite3.Connection, message: Beat) -> bool:
    """Prolong the lease of a process; False if there is no such process."""
    row = {"id": message.id, "expires_at": message.expires_at}
    return db.execute(QUERIES["beat"], row).rowcount == 1


def bury(db: sqlite3.Connection, message: Bury) -> tuple[str, ...]:
    """Remove dead processes; return the runs that this frees."""
    dead = [id_ for id_ in message.ids if _delete_peer(db, id_, message.unless_beat_after)]
    if message.orphans:
        dead += [id_ for (id_,) in db.execute(QUERIES["unknown-owners"]).fetchall()]
    freed = [_free_runs(db, id_, message.now, taken_over=True) for id_ in dict.fromkeys(dead)]
    return tuple(run_id for run_ids in freed for run_id in run_ids)


def unregister(db: sqlite3.Connection, message: Unregister) -> tuple[str, ...]:
    """Remove a process that stops in good order; return the runs that it still held."""
    _delete_peer(db, message.id, None)
    return _free_runs(db, message.id, message.now, taken_over=False)


def _delete_peer(db: sqlite3.Connection, id_: str, unless_beat_after: int | None) -> bool:
    """Remove a process unless it is spared; True if it is not there any more."""
    row = {"id": id_, "unless_beat_after": unless_beat_after}
    if db.execute(QUERIES["delete-peer"], row).rowcount:
        return True
    return db.execute(QUERIES["peer"], (id_,)).fetchone() is None


def _free_runs(
    db: sqlite3.Connection, owner: str, now: int, *, taken_over: bool
) -> tuple[str, ...]:
    row = {"owner": owner, "now": now, "takeovers": int(taken_over)}
    freed = db.execute(QUERIES["free-runs"], row).fetchall()
    return tuple(sorted(run_id for (run_id,) in freed))


def prune(db: sqlite3.Connection, message: Prune) -> int:
    """Delete old runs and events; return how many."""
    app, limit = message.app, message.limit
    ended = db.execute(QUERIES["ended-before"], (app, message.runs_before, limit)).fetchall()
    for name in ("delete-request", "delete-result", "delete-steps", "delete-pieces", "delete-run"):
        db.executemany(QUERIES[name], ended)
    events = db.execute(QUERIES["delete-events"], (app, message.events_before, limit)).rowcount
    return len(ended) + events
