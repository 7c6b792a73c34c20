"""Events and deliveries, and the ops that wait for them."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from durable_core.machine.matching import load_rule, match_keys, wait_matches
from durable_core.model.event import Event, StoredEvent
from durable_core.model.step import Pending
from durable_core.platform import logger
from durable_core.ports import Deliver, Delivered, Delivery, SendEvents, Sent
from durable_core.stores.sqlite.reads import (
    dump_consumed,
    dump_data,
    dump_json,
    dump_match,
    load_consumed,
    load_match,
    stored_event_of,
)
from durable_core.stores.sqlite.sql import QUERIES

__all__ = [
    "EventPrefilter",
    "Unscanned",
    "address_op",
    "close_address",
    "deliver",
    "deliver_message",
    "event_prefilter",
    "finish_part",
    "is_spreading",
    "put_pending",
    "scan_part",
    "send_events",
    "spread_part",
    "store_events",
]


# --- needles --------------------------------------------------------------------------------------
#
# Which stored events cannot end a wait, told from the JSON text of their data alone.
#
# Registering a wait looks at every event of that name above its watermark, while it holds the write
# lock. Most are ruled out by a search for text in SQLite, many times faster than reading their JSON
# here.

#: Texts one of which is in the data of every event that may match.
EventPrefilter = tuple[str, str, str]

_INTEGER = re.compile(r"-?[0-9]+")
#: What a URL may have in place of a number.
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def event_prefilter(rule: str) -> EventPrefilter:
    """Return three texts one of which is in the stored data of every event that the rule matches.

    Args:
        rule: as in ``Pending``.

    Returns:
        All ``""``, which is in every text, if the rule requires no value.
    """
    loaded = load_rule(rule)
    required = [(path[-1], f"j:{value}") for path, value in loaded.conditions]
    if loaded.match is not None:
        required.append((loaded.match.path[-1], loaded.match.key))
    found = [_of_field(name, key) for name, key in required]
    one, *others = max(found, key=_rarity, default=("",))
    last = others[-1] if others else one
    return one, others[0] if others else one, last


def _rarity(texts: tuple[str, ...]) -> int:
    """Return how much the texts promise to rule out: the longer, the more."""
    return min(map(len, texts))


def _of_field(name: str, key: str) -> tuple[str, ...]:
    """Return up to three texts one of which stands where a field has a value with this key."""
    kind, _, text = key.partition(":")
    field = f"{dump_json(name)}:"
    if kind == "j":
        return _of_value(field, json.loads(text))
    texts = [field + dump_json(text)]
    if text in ("true", "false"):
        texts.append(field + text)
    elif _NUMBER.fullmatch(text) is not None:
        texts += _of_number(field, text)
    return tuple(texts)


def _of_value(before: str, value: object) -> tuple[str, ...]:
    """Return texts one of which is there where this value comes after the text ``before``.

    The members of an object may stand in any order, so of what has parts the part is chosen that
    rules out the most.
    """
    if isinstance(value, (dict, list)) and value:
        return max(_of_parts(before, value), key=_rarity)
    text = dump_json(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _of_number(before, text)
    return (before + text,)


def _of_parts(before: str, value: dict[str, object] | list[object]) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield _of_value(f"{dump_json(name)}:", part)
    else:
        for index, part in enumerate(value):
            yield _of_value("," if index else f"{before}[", part)


def _of_number(before: str, text: str) -> tuple[str, ...]:
    """Return how what is stored of a number begins: it may have been an int, a float, or both."""
    if text == "0":
        return before + text, f"{before}-0"
    texts = [before + text] if _INTEGER.fullmatch(text) is not None else []
    number = float(text)
    if math.isfinite(number):
        as_float = before + dump_json(number)
        texts += [as_float] if not texts or not as_float.startswith(texts[0]) else []
    return tuple(texts)


# --- events ---------------------------------------------------------------------------------------


def send_events(db: sqlite3.Connection, message: SendEvents) -> Sent:
    """Store events and match them to waits."""
    sent, woken = store_events(db, message.app, message.source, message.events, message.now)
    return Sent(ids=tuple(id_ for id_, _ in sent), resumed_runs=tuple(woken.items()))


def store_events(
    db: sqlite3.Connection, app: str, source: str, events: Sequence[Event], now: int
) -> tuple[tuple[tuple[str, int], ...], dict[str, str | None]]:
    """Store events and match them to waits.

    Returns:
        Id and number of each, and the runs that this wakes, with their owners.
    """
    sent: list[tuple[str, int]] = []
    woken: dict[str, str | None] = {}
    for event in events:
        if event.id is None:
            raise ValueError("an event must have an id before it is stored")
        row = db.execute(QUERIES["seq-of-event"], (app, source, event.id)).fetchone()
        if row is not None:
            sent.append((event.id, row[0]))
            continue
        stored = _insert_event(db, app, source, event, now)
        sent.append((event.id, stored.seq))
        woken.update(_wake(db, app, stored, now))
    return tuple(sent), woken


def _insert_event(
    db: sqlite3.Connection, app: str, source: str, event: Event, now: int
) -> StoredEvent:
    row = (app, source, event.id, event.name, dump_data(event), event.ts, now)
    seq = db.execute(QUERIES["insert-event"], row).lastrowid
    assert seq is not None
    return StoredEvent(seq=seq, event=event, received_at=now)


#: Where the waits for an event are begun with: match path, match key, run id and op id.
_FIRST = ("", "", "", "")
_Place: TypeAlias = tuple[str, str, str, str]
#: An event reaches so many waits in one transaction; the next parts reach the others. Clients
#: decide how many runs wait for one event.
_WAITS = 1_000


def _wake(db: sqlite3.Connection, app: str, stored: StoredEvent, now: int) -> dict[str, str | None]:
    """Give the event to the waits that it answers; return the runs and their owners.

    The event waits for its turn while another one of its name has not reached all waits: the
    first event that answers a wait ends it. Waits beyond :data:`_WAITS` are for
    :func:`spread_part`. A wait that begins meanwhile looks at the stored events itself.
    """
    name = stored.event.name
    if db.execute(QUERIES["is-spreading"], (app, name)).fetchone() is not None:
        db.execute(QUERIES["put-spread"], (stored.seq, app, name, *_FIRST))
        return {}
    woken, reached = _reach(db, app, stored, now, _FIRST)
    if reached is not None:
        db.execute(QUERIES["put-spread"], (stored.seq, app, name, *reached))
    return woken


def _reach(
    db: sqlite3.Connection, app: str, stored: StoredEvent, now: int, after: _Place
) -> tuple[dict[str, str | None], _Place | None]:
    """Give the event to the waits that follow on a place.

    Returns:
        The runs that this wakes and their owners; and the place of the last wait, None if no wait
        is left.
    """
    woken: dict[str, str | None] = {}
    text, left = "", _WAITS
    name = stored.event.name
    paths = db.execute(QUERIES["wait-paths"], {"app": app, "event": name}).fetchall()
    keys = sorted((path, key) for (path,) in paths for key in match_keys(stored.event, path))
    for path, key in keys:
        if (path, key) < after[:2]:
            continue
        begin = after[2:] if (path, key) == after[:2] else _FIRST[2:]
        waits = db.execute(QUERIES["waits"], (app, name, path, key, *begin, left)).fetchall()
        for run_id, op_id, rule, event_seq, consumed, owner in waits:
            answer = _is_answered(stored, rule, event_seq, consumed)
            if answer is False:
                continue
            if answer:
                text = text or dump_match(stored)
                db.execute(QUERIES["match-wait"], (text, run_id, op_id))
            db.execute(QUERIES["wake-run"], {"id": run_id, "now": now})
            woken[run_id] = owner
        left -= len(waits)
        if not left:
            return woken, (path, key, *waits[-1][:2])
    return woken, None


def is_spreading(db: sqlite3.Connection) -> bool:
    """Tell whether an event has not reached all waits for it."""
    return db.execute(QUERIES["has-spread"]).fetchone() is not None


def spread_part(db: sqlite3.Connection) -> None:
    """Let the oldest such event reach further waits, in a transaction that the caller has begun.

    It ends waits whose runs are due or held: their owners, and whoever claims due runs, find out.
    """
    row = db.execute(QUERIES["next-spread"]).fetchone()
    if row is None:
        return
    app, name, *place = row[:6]
    seq = row[6]
    reached: _Place | None = None
    try:
        stored = None if row[7] is None else stored_event_of(name, row[6:])
    except MemoryError:
        raise  # the process's fault, not that of what is stored
    except Exception as error:
        stored = None  # it can end no wait
        logger.error("event %d of %r is left out, it cannot be read: %r", seq, name, error)
    if stored is not None:
        _, reached = _reach(db, app, stored, stored.received_at, tuple(place))
    if reached is None:
        db.execute(QUERIES["delete-spread"], (seq,))
    else:
        db.execute(QUERIES["put-spread"], (seq, app, name, *reached))


def _is_answered(stored: StoredEvent, rule: bytes, event_seq: int, consumed: bytes) -> bool | None:
    """Tell whether the event ends a wait; None if what is stored of the wait cannot be read.

    The run of such a wait is woken: whoever claims it finds out and fails it. The event is not to
    be refused for that, since others may wait for it.
    """
    try:
        numbers = load_consumed(consumed.decode())
        return wait_matches(stored, rule=rule.decode(), mark=event_seq, seen=numbers)
    except MemoryError:
        raise  # the process's fault, not that of what is stored
    except Exception:
        return None


def put_pending(db: sqlite3.Connection, app: str, run_id: str, pending: Pending) -> Pending:
    """Store an unfinished op; return it with the stored event that ends it already, if any.

    A wait that none of the first :data:`_IN_COMMIT` stored events ends is compared with the rest
    later, by :func:`scan_part`.
    """
    scanned: int | None = None
    if pending.event and pending.matched is None:
        wait = _Wait(
            app, pending.event, pending.rule, pending.event_seq, frozenset(pending.consumed_seqs)
        )
        found, scanned = _scan(db, wait, pending.event_seq, *_IN_COMMIT)
        pending = replace(pending, matched=found)
    op, matched = pending.op, pending.matched
    row = (
        *(run_id, op.id, op.name, op.kind.value, pending.due_at, pending.failures),
        *(pending.error, pending.rule, app, pending.event, pending.match_path),
        *(pending.match_key, pending.event_seq, dump_consumed(pending.consumed_seqs)),
        *(pending.address, pending.started_at),
        *(None if matched is None else dump_match(matched), scanned),
    )
    db.execute(QUERIES["put-pending"], row)
    return pending


@dataclass(frozen=True, slots=True)
class _Wait:
    """What a wait is compared with; see ``Pending``."""

    app: str
    event: str
    rule: str
    event_seq: int
    consumed: Collection[int]


#: After this many events, and bytes of their data, a scan ends that holds the write lock. Whoever
#: sends events decides how many there are, and what is in them.
_IN_COMMIT = 200, 1024 * 1024
#: The same for a scan that holds no lock, between other work of one thread.
_IN_PART = 2_000, 4 * 1024 * 1024


def _scan(
    db: sqlite3.Connection, wait: _Wait, after: int, most_rows: int, most_bytes: int
) -> tuple[StoredEvent | None, int | None]:
    """Return the first event with a higher number that ends a wait, if there is one.

    Returns:
        The event or None; and the number of the last event that was looked at if there are more,
        None if the scan is complete.
    """
    rows = size = 0
    last = after
    wanted = (*event_prefilter(wait.rule), wait.app, wait.event, after)
    with closing(db.execute(QUERIES["events-after"], wanted)) as events:
        for row in events:
            if rows >= most_rows or size >= most_bytes:
                return None, last
            if row[2] is not None and (stored := _readable(wait, row)) is not None:
                return stored, None
            rows, size, last = rows + 1, size + row[5], row[0]
    return None, None


def _readable(wait: _Wait, row: tuple[Any, ...]) -> StoredEvent | None:
    """Return the event of a row if it ends the wait; None also if it cannot be read."""
    try:
        stored = stored_event_of(wait.event, row)
        ends = wait_matches(stored, rule=wait.rule, mark=wait.event_seq, seen=wait.consumed)
        return stored if ends else None
    except MemoryError:
        raise  # the process's fault, not that of what is stored
    except Exception as error:
        # It can end no wait; others of its name can.
        logger.error("event %d of %r is left out, it cannot be read: %r", row[0], wait.event, error)
        return None


@dataclass(frozen=True, slots=True)
class Unscanned:
    """A wait, and what a further part of the events before it means to it.

    Attributes:
        run_id, op_id, wait: the wait.
        scanned: the number of the last event that it was compared with before.
        found: the event that ends it, if one of this part does.
        reached: the number of the last event of this part.
        readable: what is stored of the wait can be read.
    """

    run_id: str
    op_id: str
    wait: _Wait
    scanned: int
    found: StoredEvent | None = None
    reached: int = 0
    readable: bool = True


def scan_part(db: sqlite3.Connection) -> Unscanned | None:
    """Compare a wait with the next part of the events before it, on a reading connection.

    Returns None if no wait is left. The result is written by :func:`finish_part`.
    """
    row = db.execute(QUERIES["unscanned-wait"]).fetchone()
    if row is None:
        return None
    run_id, op_id, app, event, rule, event_seq, consumed, scanned = row
    try:
        wait = _Wait(app, event, rule.decode(), event_seq, load_consumed(consumed.decode()))
        found, more = _scan(db, wait, scanned, *_IN_PART)
    except (MemoryError, sqlite3.Error):
        raise  # the process's fault, or the database's, not that of what is stored
    except Exception:
        # The run is made due: whoever claims it finds this out, too, and fails it.
        wait = _Wait(app, event, "", event_seq, ())
        return Unscanned(run_id, op_id, wait, scanned, readable=False)
    return Unscanned(run_id, op_id, wait, scanned, found, scanned if more is None else more)


def finish_part(db: sqlite3.Connection, part: Unscanned) -> None:
    """Store how far a wait has been compared, in a transaction that the caller has begun.

    When this reaches the last event, no event can have come in between.
    """
    row = (part.run_id, part.op_id, part.scanned)
    if db.execute(QUERIES["is-unscanned"], row).fetchone() is None:
        return  # the run has ended, or does not wait any more
    found, scanned = part.found, None
    if found is None and part.readable:
        found, scanned = _scan(db, part.wait, part.reached, *_IN_COMMIT)
    text = None if found is None else dump_match(found)
    db.execute(QUERIES["set-scanned"], (text, scanned, part.run_id, part.op_id))
    if found is not None or not part.readable:
        due_at = 0 if found is None else found.received_at
        db.execute(QUERIES["wake-run"], {"id": part.run_id, "now": due_at})


# --- deliveries -----------------------------------------------------------------------------------
#
# Addresses: ops that wait at them, and what is delivered there.


def deliver_message(db: sqlite3.Connection, message: Deliver) -> Delivered:
    """Make the delivery of a message."""
    return deliver(db, message.app, message.delivery, message.now)


def deliver(db: sqlite3.Connection, app: str, delivery: Delivery, now: int) -> Delivered:
    """Give a delivery to the op that waits for it, or keep it for the run that it belongs to."""
    address, event = delivery.address, delivery.event
    known = db.execute(QUERIES["delivery"], (app, address, event.id)).fetchone()
    if known is not None:
        return Delivered(run_id=known[0])
    waiter = db.execute(QUERIES["waiter"], (app, address)).fetchone()
    text = dump_match(StoredEvent(seq=0, event=event, received_at=now))
    run_id = delivery.run_id
    if run_id is None:
        if waiter is None:
            return Delivered(run_id=None)
        run_id = waiter[0]
    elif db.execute(QUERIES["is-used"], (app, address)).fetchone() is not None:
        return Delivered(run_id=None, is_used=True)
    elif db.execute(QUERIES["takes-deliveries"], (run_id, app)).fetchone() is None:
        return Delivered(run_id=None)
    kept = None if delivery.run_id is None else text
    db.execute(QUERIES["insert-delivery"], (app, address, event.id, run_id, kept))
    if waiter is None or waiter[0] != run_id:
        return Delivered(run_id=run_id)
    _, op_id, owner = waiter
    db.execute(QUERIES["match-wait"], (text, run_id, op_id))
    db.execute(QUERIES["wake-run"], {"id": run_id, "now": now})
    return Delivered(run_id=run_id, resumed_runs=((run_id, owner),))


def address_op(
    db: sqlite3.Connection, app: str, run_id: str, pending: Pending, replacing: Collection[str]
) -> Pending | None:
    """Return an op that is to wait at its address, with what was delivered there already.

    Returns None if another op waits there, and this one is not to replace it.
    """
    op_id, address = pending.op.id, pending.address
    wanted = {"app": app, "run_id": run_id, "op_id": op_id, "address": address}
    [text] = db.execute(QUERIES["delivered-to"], wanted).fetchone()
    if text is not None:
        return replace(pending, matched=load_match(text))
    waiter = db.execute(QUERIES["waiter"], (app, address)).fetchone()
    if waiter is not None and waiter[:2] != (run_id, op_id):
        if op_id not in replacing:
            return None
        db.execute(QUERIES["take-address"], waiter[:2])
    return pending


def close_address(db: sqlite3.Connection, run_id: str, op_id: str) -> StoredEvent | None:
    """Let nothing more be delivered to an op; return what was delivered before, if anything."""
    if db.execute(QUERIES["close-address"], (run_id, op_id)).rowcount:
        return None
    row = db.execute(QUERIES["match-of"], (run_id, op_id)).fetchone()
    return None if row is None or row[0] is None else load_match(row[0])
