"""``step.send_event`` under this engine, and events that are sent from anywhere."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence

from durable_core.flow.asks import Call, Flow
from durable_core.flow.execution import Execution
from durable_core.model.events import Event
from durable_core.model.ops import Op
from durable_core.wire.codec import JSONCodec
from durable_inngest import _ops
from durable_inngest._execution import remote
from durable_inngest._performing import perform
from durable_inngest._steps import recall

__all__ = ["Sender", "dump_events", "seed_of", "sending"]

_CODEC = JSONCodec()

#: Sends events, given as the server takes them, with a seed for their ids.
Sender = Callable[[Sequence[object], str], Awaitable[list[str]]]


def dump_events(events: Sequence[Event], now: int) -> list[object]:
    """Return events as the server takes them."""
    return [
        {
            "name": event.name,
            "data": dict(event.data),
            "ts": now if event.ts is None else event.ts,
            **({"id": event.id} if event.id is not None else {}),
        }
        for event in events
    ]


def seed_of(at: int, entropy: bytes) -> str:
    """Return the seed from which the server makes the ids of the events of one call.

    Args:
        at: epoch milliseconds.
        entropy: 10 bytes; the same ones make the same ids.
    """
    return f"{at},{b64encode(entropy).decode('ascii')}"


def sending(send: Sender) -> Callable[[Execution, Op, tuple[Event, ...]], Flow[list[str]]]:
    """Return the flow of ``step.send_event``.

    Args:
        send: sends the events.
    """

    def send_events(execution: Execution, op: Op, events: tuple[Event, ...]) -> Flow[list[str]]:
        """Send the events with ids made from run and step, so that a crash cannot send twice."""
        ex = remote(execution)
        known = yield from recall(ex, op)
        if known is not None:
            value = known.value
        else:
            call = Call(_send, (ex, op, events))
            value = yield from perform(ex, op, call, _finished, _CODEC, is_users=False)
        ids = value.get("ids") if isinstance(value, dict) else None
        return [str(each) for each in ids] if isinstance(ids, list) else []

    async def _send(ex: Execution, op: Op, events: tuple[Event, ...]) -> dict[str, object]:
        # The time is that of the run: the ids are the same in every attempt.
        at = ex.run.created_at
        named = [
            event if event.id is not None else Event(event.name, event.data, id, event.ts)
            for event, id in zip(events, _ids(ex, op, len(events)), strict=True)
        ]
        entropy = hashlib.sha256(f"{ex.run.id}:{op.id}".encode()).digest()[:10]
        ids = await send(dump_events(named, at), seed_of(at, entropy))
        return {"ids": ids}

    return send_events


def _ids(ex: Execution, op: Op, count: int) -> list[str]:
    return [f"{ex.run.id}:{op.id}:{index}" for index in range(count)]


def _finished(step: _ops.Step, value: str) -> str:
    document = json.loads(value)
    return _ops.send_finished(step, document["ids"])
