"""The processes that share a store, their leases, and the runs that they take."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import TypeAlias

from durable_core.errors import LeaseLost
from durable_core.ports import (
    Claim,
    ClaimedRun,
    CorruptRun,
    Heartbeat,
    LeaveQueue,
    ReapWorkers,
    Register,
    Unregister,
)
from durable_core.stores.sqlite import slots
from durable_core.stores.sqlite.reads import (
    load_claimed,
)
from durable_core.stores.sqlite.sql import QUERIES

__all__ = ["claim", "heartbeat", "leave_queue", "reap", "register", "unregister"]


def claim(db: sqlite3.Connection, message: Claim) -> tuple[ClaimedRun | CorruptRun, ...]:
    """Take due runs for an owner, and read all that replaying them needs.

    Raises:
        LeaseLost: the owner is not registered (any more).
    """
    if db.execute(QUERIES["worker"], (message.owner,)).fetchone() is None:
        raise LeaseLost(f"the process {message.owner} is not registered: it cannot claim runs")
    limited = {each.endpoint_key for each in message.slots}
    wanted = {
        "app": message.app,
        "keys": json.dumps([key for key in message.keys if key not in limited]),
        "now": message.now,
        "limit": message.limit,
    }
    if message.run_ids is not None:
        due = db.execute(QUERIES["due-of"], {**wanted, "run_ids": json.dumps(message.run_ids)})
        ids = [run_id for _, run_id in due.fetchall()]
        return _take(db, message.owner, ids, len(ids))
    found = db.execute(QUERIES["due-runs"], wanted).fetchall()
    if message.slots:
        return _claim_with_slots(db, message, found)
    ids = [each[1] for each in _claimable(message, found)]
    return _take(db, message.owner, ids, message.limit - message.ahead)


#: A due run: when it is due, its id, and whether it may have died with a process.
_Due: TypeAlias = tuple[int, str, int]


def _claimable(
    message: Claim, line: Iterable[_Due | slots.Queued]
) -> Iterator[_Due | slots.Queued]:
    """Yield the runs of a line that a message claims; see :class:`Claim` for those ahead."""
    at_once = message.limit - message.ahead
    for place, found in enumerate(islice(line, message.limit)):
        if place >= at_once and (isinstance(found, slots.Queued) or found[2]):
            return
        yield found


def _take(
    db: sqlite3.Connection, owner: str, ids: Sequence[str], at_once: int
) -> tuple[ClaimedRun | CorruptRun, ...]:
    """Give runs to an owner, and return all that replaying them needs.

    The first ``at_once`` of them begin at once.
    """
    if not ids:
        return ()
    row = {"owner": owner, "ids": json.dumps(ids), "at_once": at_once}
    db.execute(QUERIES["claim-runs"], row)
    return _load_claimed(db, ids)


def _claim_with_slots(
    db: sqlite3.Connection, message: Claim, due: list[_Due]
) -> tuple[ClaimedRun | CorruptRun, ...]:
    """Claim due runs and the first ones in line, whoever has waited longest before the others."""
    for each in message.slots:
        place = {"app": message.app, "endpoint_key": each.endpoint_key, "now": message.now}
        db.execute(QUERIES["enqueue"], place)
        due += db.execute(QUERIES["due-broken"], {**place, "limit": message.limit}).fetchall()
    lines: list[Iterable[_Due | slots.Queued]] = [sorted(due)]
    lines += [slots.in_line(db, message, each) for each in message.slots]
    ids: list[str] = []
    # A line is asked for its next run only when the one before has its slot.
    for found in _claimable(message, merge(*lines)):
        at_once = int(len(ids) < message.limit - message.ahead)
        ids.append(found[1])
        row = {"owner": message.owner, "ids": json.dumps([found[1]]), "at_once": at_once}
        db.execute(QUERIES["claim-runs"], row)
        if isinstance(found, slots.Queued):
            slots.take_turn(db, message.app, found.slots, found.slot_key)
    return _load_claimed(db, ids) if ids else ()


def leave_queue(db: sqlite3.Connection, message: LeaveQueue) -> int:
    """Take runs of endpoints without slots out of the queue."""
    row = {
        "app": message.app,
        "unlimited": json.dumps(message.unlimited),
        "limited": json.dumps(message.limited),
        "before": message.before,
        "limit": message.limit,
    }
    return db.execute(QUERIES["leave-queue"], row).rowcount


def _load_claimed(
    db: sqlite3.Connection, ids: Sequence[str]
) -> tuple[ClaimedRun | CorruptRun, ...]:
    """Return what replaying these runs needs; one that cannot be read does not affect the others.

    They are read together, because SQLite releases the interpreter lock for each statement and row:
    while handlers run in other threads, getting it back takes longer than the reading.
    """
    try:
        return load_claimed(db, ids)
    except MemoryError:
        raise  # the process's fault, not that of what is stored
    except Exception as error:
        if getattr(error, "sqlite_errorcode", None) is not None:
            raise  # the database's fault, not that of a run; text that is no UTF-8 has no code
        if len(ids) > 1:
            return tuple(each for run_id in ids for each in _load_claimed(db, (run_id,)))
        epoch, parent = db.execute(QUERIES["epoch"], tuple(ids)).fetchone()
        reason = f"{type(error).__name__}: {error}"
        return (CorruptRun(run_id=ids[0], epoch=epoch, reason=reason, parent=parent),)


def register(db: sqlite3.Connection, message: Register) -> None:
    """Add a process."""
    worker = message.worker
    db.execute(
        QUERIES["put-worker"], (worker.id, worker.host, worker.pid, worker.expires_at, worker.app)
    )


def heartbeat(db: sqlite3.Connection, message: Heartbeat) -> bool:
    """Prolong the lease of a process; False if there is no such process."""
    row = {"id": message.id, "expires_at": message.expires_at}
    return db.execute(QUERIES["heartbeat"], row).rowcount == 1


def reap(db: sqlite3.Connection, message: ReapWorkers) -> tuple[str, ...]:
    """Remove dead processes; return the runs that this frees."""
    dead = [id_ for id_ in message.ids if _delete_worker(db, id_, message.skip_if_renewed_after)]
    if message.orphans:
        dead += [id_ for (id_,) in db.execute(QUERIES["unknown-owners"]).fetchall()]
    freed = [_free_runs(db, id_, message.now, crashed=True) for id_ in dict.fromkeys(dead)]
    return tuple(run_id for run_ids in freed for run_id in run_ids)


def unregister(db: sqlite3.Connection, message: Unregister) -> tuple[str, ...]:
    """Remove a process that stops in good order; return the runs that it still held."""
    _delete_worker(db, message.id, None)
    return _free_runs(db, message.id, message.now, crashed=False)


def _delete_worker(db: sqlite3.Connection, id_: str, skip_if_renewed_after: int | None) -> bool:
    """Remove a process unless it is spared; True if it is not there any more."""
    row = {"id": id_, "skip_if_renewed_after": skip_if_renewed_after}
    if db.execute(QUERIES["delete-worker"], row).rowcount:
        return True
    return db.execute(QUERIES["worker"], (id_,)).fetchone() is None


def _free_runs(db: sqlite3.Connection, owner: str, now: int, *, crashed: bool) -> tuple[str, ...]:
    row = {"owner": owner, "now": now, "crashed": int(crashed)}
    freed = db.execute(QUERIES["free-runs"], row).fetchall()
    return tuple(sorted(run_id for (run_id,) in freed))
