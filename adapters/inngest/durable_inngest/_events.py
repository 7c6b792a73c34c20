"""``step.send_event`` under this engine, and events that are sent from anywhere."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence

from durable_core import Event
from durable_core.engines.remote import Call, Flow, Op, ReportedStep, asks, perform, recall
from durable_inngest._execution import InngestExecution
from durable_inngest._protocol import dump_event, send_finished

__all__ = ["dump_events", "seed_of", "sending"]

#: Sends events, given as the server takes them, with a seed for their ids.
_Sender = Callable[[Sequence[object], str], Awaitable[list[str]]]


def dump_events(events: Sequence[Event], now: int) -> list[object]:
    """Return events as the server takes them."""
    return [dump_event(event, now) for event in events]


def seed_of(at: int, entropy: bytes) -> str:
    """Return the seed from which the server makes the ids of the events of one call.

    Args:
        at: epoch milliseconds.
        entropy: 10 bytes; the same ones make the same ids.
    """
    return f"{at},{b64encode(entropy).decode('ascii')}"


def sending(send: _Sender) -> Callable[[InngestExecution, Op, tuple[Event, ...]], Flow[list[str]]]:
    """Return the flow of ``step.send_event``.

    The events have ids made from run and step, so that a crash cannot send them twice.

    Args:
        send: sends the events.
    """

    async def send_all(ex: InngestExecution, op: Op, events: tuple[Event, ...]) -> object:
        # The time is that of the run: the ids are the same in every attempt.
        at = ex.run.created_at
        named = [
            event
            if event.id is not None
            else Event(event.name, event.data, f"{ex.run.id}:{op.id}:{index}", event.ts)
            for index, event in enumerate(events)
        ]
        entropy = hashlib.sha256(f"{ex.run.id}:{op.id}".encode()).digest()[:10]
        return {"ids": await send(dump_events(named, at), seed_of(at, entropy))}

    @asks
    def send_events(ex: InngestExecution, op: Op, events: tuple[Event, ...]) -> Flow[list[str]]:
        known = yield from recall(ex, op)
        if known is not None:
            value = known.value
        else:
            call = Call(send_all, (ex, op, events))
            value = yield from perform(ex, op, call, _finished, is_users=False)
        ids = value.get("ids") if isinstance(value, dict) else None
        return [str(each) for each in ids] if isinstance(ids, list) else []

    return send_events


def _finished(step: ReportedStep, value: str) -> str:
    return send_finished(step, json.loads(value)["ids"])
