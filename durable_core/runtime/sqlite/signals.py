"""Events, and the waits that they answer."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

from durable_core.model.events import Event, StoredEvent
from durable_core.model.ops import Pending
from durable_core.ports import SendEvents, Sent
from durable_core.runtime.logs import logger
from durable_core.runtime.sqlite.needles import needles
from durable_core.runtime.sqlite.queries import QUERIES
from durable_core.runtime.sqlite.rows import (
    dump_data,
    dump_match,
    dump_seen,
    load_seen,
    stored_event_of,
)
from durable_core.runtime.waits import answers, match_keys

__all__ = ["put_pending", "send_events", "store_events"]

#: Run id and owner (or None) of each run that an event has woken.
_Woken = tuple[tuple[str, str | None], ...]


def send_events(db: sqlite3.Connection, message: SendEvents) -> Sent:
    """Store events and match them to waits."""
    sent, woken = store_events(db, message.app, message.events, message.now)
    return Sent(ids=tuple(id_ for id_, _ in sent), woken=woken)


def store_events(
    db: sqlite3.Connection, app: str, events: Sequence[Event], now: int
) -> tuple[tuple[tuple[str, int], ...], _Woken]:
    """Store events and match them to waits; return id and number of each, and who is woken."""
    sent: list[tuple[str, int]] = []
    woken: dict[str, str | None] = {}
    for event in events:
        if event.id is None:
            raise ValueError("an event must have an id before it is stored")
        row = db.execute(QUERIES["event-seq"], (app, event.id)).fetchone()
        if row is not None:
            sent.append((event.id, row[0]))
            continue
        stored = _insert_event(db, app, event, now)
        sent.append((event.id, stored.seq))
        woken.update(_wake(db, app, stored, now))
    return tuple(sent), tuple(woken.items())


def _insert_event(db: sqlite3.Connection, app: str, event: Event, now: int) -> StoredEvent:
    row = (app, event.id, event.name, dump_data(event), event.ts, now)
    seq = db.execute(QUERIES["insert-event"], row).lastrowid
    assert seq is not None
    return StoredEvent(seq=seq, event=event, received_at=now)


def _wake(db: sqlite3.Connection, app: str, stored: StoredEvent, now: int) -> dict[str, str | None]:
    """Give the event to every wait that it answers; return the runs and their owners."""
    woken: dict[str, str | None] = {}
    text = ""
    name = stored.event.name
    paths = db.execute(QUERIES["wait-paths"], {"app": app, "event": name}).fetchall()
    keys = [(path, key) for (path,) in paths for key in match_keys(stored.event, path)]
    for path, key in keys:
        for run_id, op_id, rule, mark, seen, owner in db.execute(
            QUERIES["waits"], (app, name, path, key)
        ).fetchall():
            answer = _is_answered(stored, rule, mark, seen)
            if answer is False:
                continue
            if answer:
                text = text or dump_match(stored)
                db.execute(QUERIES["match-wait"], (text, run_id, op_id))
            db.execute(QUERIES["wake-run"], {"id": run_id, "now": now})
            woken[run_id] = owner
    return woken


def _is_answered(stored: StoredEvent, rule: bytes, mark: int, seen: bytes) -> bool | None:
    """Tell whether the event ends a wait; None if what is stored of the wait cannot be read.

    The run of such a wait is woken: whoever claims it finds out and fails it. The event is not to
    be refused for that, since others may wait for it.
    """
    try:
        numbers = load_seen(seen.decode())
        return answers(stored, rule=rule.decode(), mark=mark, seen=numbers)
    except Exception:
        return None


def put_pending(db: sqlite3.Connection, app: str, run_id: str, pending: Pending) -> Pending:
    """Store an unfinished op; return it with the stored event that answers it already, if any."""
    if pending.event and pending.matched is None:
        pending = replace(pending, matched=_earliest_answer(db, app, pending))
    op, matched = pending.op, pending.matched
    row = (
        *(run_id, op.id, op.name, op.kind.value, pending.due_at, pending.failures),
        *(pending.error, pending.rule, app, pending.event, pending.match_path),
        *(pending.match_key, pending.mark, dump_seen(pending.seen)),
        None if matched is None else dump_match(matched),
    )
    db.execute(QUERIES["put-pending"], row)
    return pending


def _earliest_answer(db: sqlite3.Connection, app: str, pending: Pending) -> StoredEvent | None:
    name, mark, seen = pending.event, pending.mark, frozenset(pending.seen)
    wanted = (app, name, mark, *needles(pending.rule))
    for row in db.execute(QUERIES["events-after"], wanted):
        try:
            stored = stored_event_of(name, row)
            if answers(stored, rule=pending.rule, mark=mark, seen=seen):
                return stored
        except Exception as error:
            # It can answer nobody; others of its name can.
            logger.error("event %d of %r is left out, it cannot be read: %r", row[0], name, error)
    return None
