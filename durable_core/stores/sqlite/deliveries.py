"""Addresses: ops that wait at them, and what is delivered there."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import replace

from durable_core.model.event import StoredEvent
from durable_core.model.step import Pending
from durable_core.ports import Deliver, Delivered, Delivery
from durable_core.stores.sqlite.reads import dump_match, load_match
from durable_core.stores.sqlite.sql import QUERIES

__all__ = ["address_op", "close_address", "deliver", "deliver_message"]


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
    elif db.execute(QUERIES["run-ended"], (run_id, app)).fetchone() != (0,):
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
