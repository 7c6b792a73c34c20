"""Callbacks: a wait that one POST to its URL ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from durable_core.codec.records import load_callback
from durable_core.errors import BadRequest, StepTypeError
from durable_core.flow.effects import Flow
from durable_core.flow.execution import StoredExecution
from durable_core.flow.steps import AddressWait, wait_at_address
from durable_core.http.request import Request
from durable_core.machine.addresses import callback_address
from durable_core.model.event import Event
from durable_core.model.step import Op

if TYPE_CHECKING:
    from durable_core.codec.typed import ValueType

__all__ = ["typed_callback", "wait_for_callback"]


def wait_for_callback(ex: StoredExecution, op: Op, timeout: int) -> Flow[Request | None]:
    """``step.wait_for_callback``: the request that answered, or None when the time is over."""
    wait = AddressWait(
        address=callback_address(ex.run.id, op.id), timeout=timeout, dump=_dump_answer
    )
    value = json.loads((yield from wait_at_address(ex, op, wait)))
    return None if value is None else load_callback(value)


def _dump_answer(event: Event) -> str:
    return json.dumps(dict(event.data), ensure_ascii=False, separators=(",", ":"))


def typed_callback(flow: Flow[Request | None], op: Op, kind: ValueType) -> Flow[object]:
    """Return the JSON body of the answer to a wait as a type; None when the time is over.

    Raises:
        StepTypeError: it is no JSON, or not of the type; the message has step, path and remedy.
    """
    answer = yield from flow
    if answer is None:
        return None
    try:
        return kind.load(answer.json())
    except (TypeError, BadRequest) as error:
        raise StepTypeError(
            f"the answer to step {op.name!r} does not fit {kind.name}: {error}; let the type take "
            "what is sent, or mend its sender"
        ) from error
