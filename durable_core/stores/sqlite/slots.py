"""Slots and the queue of runs that wait for them, rate limits, and singleton runs.

All functions that write run inside the transaction of a message.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from durable_core.errors import SingletonError
from durable_core.machine.rate import next_start, spend
from durable_core.model.run import Run
from durable_core.ports import BeginRefused, Claim, RateRule, Slots
from durable_core.ports.limits import NO_KEY
from durable_core.stores.sqlite.sql import QUERIES

__all__ = [
    "Queued",
    "has_slot",
    "in_line",
    "is_queue_full",
    "next_in_line",
    "refuse_second",
    "singleton_of",
    "take_turn",
    "use_rate",
]


class Queued(NamedTuple):
    """A queued run that is next in line, and has a slot."""

    due_at: int
    run_id: str
    slots: Slots
    slot_key: str


def in_line(db: sqlite3.Connection, message: Claim, slots: Slots) -> Iterator[Queued]:
    """Yield the queued runs of an endpoint in their order, each after the one before is claimed."""
    while (queued := next_in_line(db, message.app, slots)) is not None:
        yield queued


def next_in_line(db: sqlite3.Connection, app: str, slots: Slots) -> Queued | None:
    """Return the queued run that is to have the next free slot; None if there is none.

    The keys take turns, in their order as texts. A key is passed over only while its runs have all
    of its slots, so there are no more of these than there are runs being executed.
    """
    place = {"app": app, "endpoint_key": slots.endpoint_key}
    if not _is_free(db, "slots-in-use", place, slots.most):
        return None
    if slots.most_of_key is None and (first := _first(db, place, slots, NO_KEY)) is not None:
        return first
    turn = db.execute(QUERIES["slot-turn"], place).fetchone()
    last: str = NO_KEY if turn is None else turn[0]
    key = _free_key(db, place, slots, after=last, last=None)
    if key is None and _first_row(db, place, NO_KEY) is not None:
        # Of runs that began before the endpoint had a key.
        key = NO_KEY if _is_free_for(db, place, slots, NO_KEY) else None
    if key is None and last != NO_KEY:
        key = _free_key(db, place, slots, after=NO_KEY, last=last)
    return None if key is None else _first(db, place, slots, key)


def take_turn(db: sqlite3.Connection, app: str, slots: Slots, key: str) -> None:
    """Note which slot key has had its turn; nothing where slots have no keys."""
    if slots.most_of_key is not None:
        row = {"app": app, "endpoint_key": slots.endpoint_key, "slot_key": key}
        db.execute(QUERIES["put-slot-turn"], row)


def has_slot(db: sqlite3.Connection, run: Run, slots: Slots) -> bool:
    """Tell whether there is a slot for a run that begins, and no queued run comes before it.

    Where slots are counted by key alone, runs of other keys do not compete with it.
    """
    place = {"app": run.app, "endpoint_key": run.endpoint_key}
    key = run.slot_key or NO_KEY
    if slots.most is None:
        return _is_free_for(db, place, slots, key) and _first_row(db, place, key) is None
    return (
        _is_free(db, "slots-in-use", place, slots.most)
        and _is_free_for(db, place, slots, key)
        and next_in_line(db, run.app, slots) is None
    )


def _is_free_for(db: sqlite3.Connection, place: dict[str, str], slots: Slots, key: str) -> bool:
    of_key = {**place, "slot_key": key}
    return _is_free(db, "slots-in-use-of-key", of_key, slots.most_of_key)


def is_queue_full(db: sqlite3.Connection, run: Run, most: int | None) -> bool:
    """Tell whether so many runs of a run's endpoint are queued."""
    place = {"app": run.app, "endpoint_key": run.endpoint_key}
    return not _is_free(db, "count-queued", place, most)


def use_rate(
    db: sqlite3.Connection, run: Run, rule: RateRule, now: int, *, begins: bool
) -> int | None:
    """Use a rate limit for a run if it begins; return when one may, epoch milliseconds, if not now.

    None if it may begin now.
    """
    row = {"app": run.app, "endpoint_key": run.endpoint_key, "key": rule.key}
    found = db.execute(QUERIES["rate"], row).fetchone()
    full_at: float | None = None if found is None else found[0]
    retry_at = next_start(full_at, now, limit=rule.limit, period=rule.period)
    if retry_at > now:
        return retry_at
    if not begins:
        return None
    spent = spend(full_at, now, limit=rule.limit, period=rule.period)
    db.execute(QUERIES["put-rate"], {**row, "full_at": spent})
    return None


def singleton_of(db: sqlite3.Connection, run: Run) -> BeginRefused | None:
    """Return the refusal of a run whose singleton key another one has; None if it is free."""
    if run.singleton_key is None:
        return None
    row = {"app": run.app, "endpoint_key": run.endpoint_key, "singleton_key": run.singleton_key}
    found = db.execute(QUERIES["singleton-run"], row).fetchone()
    if found is None:
        return None
    return BeginRefused(reason="singleton", run_id=found[0], client=found[1])


def refuse_second(db: sqlite3.Connection, run_id: str) -> None:
    """See that no other run has the singleton key of an ended run that is to go on.

    Raises:
        SingletonError: one has.
    """
    found = db.execute(QUERIES["singleton-of"], (run_id,)).fetchone()
    if found is not None:
        raise SingletonError(f"run {found[0]}, which has not ended, has its singleton key")


def _free_key(
    db: sqlite3.Connection, place: dict[str, str], slots: Slots, *, after: str, last: str | None
) -> str | None:
    """Return the first slot key of queued runs, after one and up to one, that has a free slot.

    One statement looks at all of them: whoever calls this holds the write lock of the store.
    """
    wanted = {**place, "after": after, "last": last, "most": slots.most_of_key}
    row = db.execute(QUERIES["next-free-key"], wanted).fetchone()
    return None if row is None else row[0]


def _first(db: sqlite3.Connection, place: dict[str, str], slots: Slots, key: str) -> Queued | None:
    row = _first_row(db, place, key)
    return None if row is None else Queued(row[0], row[1], slots, key)


def _first_row(db: sqlite3.Connection, place: dict[str, str], key: str) -> tuple[int, str] | None:
    row: tuple[int, str] | None
    row = db.execute(QUERIES["first-of-key"], {**place, "slot_key": key}).fetchone()
    return row


def _is_free(db: sqlite3.Connection, query: str, place: dict[str, str], most: int | None) -> bool:
    if most is None:
        return True
    [in_use] = db.execute(QUERIES[query], {**place, "most": most}).fetchone()
    return bool(in_use < most)
