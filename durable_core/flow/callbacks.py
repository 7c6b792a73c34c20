"""Callbacks: the URL at which one wait of a run is answered, and the flow of that wait."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from durable_core.codec.callbacks import load_callback
from durable_core.codec.tokens import sign_callback
from durable_core.errors import BadRequest, StepTypeError, StepUsageError
from durable_core.flow.effects import Flow
from durable_core.flow.execution import StoredExecution
from durable_core.flow.handoff import certain_base, with_params
from durable_core.flow.steps import AddressWait, wait_at_address
from durable_core.flow.wait_url import PROXY_PARAMS, RUN_PARAM, TOKEN_PARAM, query_reference
from durable_core.http.request import Request
from durable_core.machine.addresses import callback_address
from durable_core.machine.step_ids import op_named
from durable_core.model.event import Event, check_text
from durable_core.model.step import Op, OpKind

if TYPE_CHECKING:
    from durable_core.codec.typed import ValueType

__all__ = ["callback_url", "typed_callback", "wait_for_callback"]


def callback_url(ex: StoredExecution, step_id: str) -> str:
    """Return the URL at which the wait of a step is answered. The run leaves a record.

    Args:
        ex: the execution.
        step_id: the id of the step that waits, or will; with ``:1``, ``:2`` where it repeats.

    Raises:
        StepUsageError: nobody knows under which host clients reach the application.
        ValueError, TypeError: not a step id.
    """
    check_text("step id", step_id)
    env, options, run_id = ex.env, ex.options, ex.run.id
    base = certain_base(env, ex.request)
    if not base:
        raise StepUsageError(
            f"run.callback_url({step_id!r}) needs Durable(public_url=), such as "
            "'https://api.example.com': the host in a request can be forged, and whoever forged it "
            "would get the answer"
        )
    ex.keeps_record = True
    op = op_named(step_id, OpKind.CALLBACK)
    token = sign_callback(env.secrets()[0], app=env.app, run_id=run_id, op_id=op.id)
    if isinstance(options.async_redirect_url, str):
        params = ((PROXY_PARAMS.run, run_id), (PROXY_PARAMS.token, token))
        return urljoin(base, with_params(options.async_redirect_url, params))
    return base + query_reference(((RUN_PARAM, run_id), (TOKEN_PARAM, token)))


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
