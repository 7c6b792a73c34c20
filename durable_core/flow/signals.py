"""Signals: the flows of ``step.wait_for_signal`` and ``step.send_signal``."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from durable_core.flow.effects import Flow
from durable_core.flow.execution import StoredExecution
from durable_core.flow.steps import AddressWait, commit_step, own_event_id, wait_at_address
from durable_core.machine.addresses import signal_address
from durable_core.model.event import Event, Signal, SignalWait
from durable_core.model.step import Op
from durable_core.ports import Deliver, Delivery

__all__ = ["deliver_signal", "send_signal", "wait_for_signal"]


def wait_for_signal(ex: StoredExecution, op: Op, wait: SignalWait) -> Flow[Signal[Any] | None]:
    """``step.wait_for_signal``: the signal, or None when the time is over."""
    text = f"another run waits for the signal {wait.name!r} already; "
    remedy = 'give each run a name of its own, or replace it by on_conflict="replace"'
    at_address = AddressWait(
        address=signal_address(wait.name),
        timeout=wait.timeout,
        dump=_dump_signal,
        replaces=wait.replaces,
        conflict=f"step {op.name!r}: {text}{remedy}",
    )
    value = json.loads((yield from wait_at_address(ex, op, at_address)))
    return None if value is None else Signal(value["signal"], value["data"])


def _dump_signal(event: Event) -> str:
    fields = {"signal": event.name, "data": event.data["data"]}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def send_signal(ex: StoredExecution, op: Op, signal: Signal[object]) -> Flow[str | None]:
    """``step.send_signal``: the id of the run that waited for it, or None.

    The id of the delivery is made from run and step, so that a crash cannot deliver twice.
    """
    make_write = partial(deliver_signal, ex.env.app, signal, own_event_id(ex, op))
    sent: Any = yield from commit_step(ex, op, make_write, lambda delivered: delivered.run_id)
    run_id: str | None = sent
    return run_id


def deliver_signal(app: str, signal: Signal[object], id_: str, now: int) -> Deliver:
    """Return the write that delivers a signal.

    Args:
        app: the application.
        signal: the signal.
        id_: identifies the delivery; see ``Delivery``.
        now: epoch milliseconds.
    """
    event = Event(signal.name, {"data": signal.data}, id=id_, ts=now)
    return Deliver(
        app=app, delivery=Delivery(address=signal_address(signal.name), event=event), now=now
    )
