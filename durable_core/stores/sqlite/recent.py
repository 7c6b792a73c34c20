"""The events that were stored last, and what became of the waits for them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from durable_core.model.event import Event, StoredEvent
from durable_core.platform import logger
from durable_core.ports import EndedWait, RecentEvent
from durable_core.stores.sqlite.sql import QUERIES

__all__ = ["recent_events"]

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
