"""``step.fetch`` and ``step.ai.infer`` with ``client=`` a gateway: the server makes the call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from durable_core.api.models import AIModel, Inference
from durable_core.api.outgoing import OutgoingCall, with_idempotency_key
from durable_core.errors import StepArgumentError, StepError, StepUsageError
from durable_core.flow.effects import Flow
from durable_core.flow.scope import RunScope
from durable_core.flow.server_calls import GatewayCall
from durable_core.http.headers import Headers
from durable_core.http.response import FetchedResponse
from durable_core.model.step import Op, OpKind

__all__ = ["call_through_server"]


def call_through_server(
    scope: RunScope,
    step_id: str,
    outgoing: OutgoingCall,
    options: Sequence[str],
    model: AIModel | None = None,
) -> Any:
    """Let the server make a call; return a ``FetchedResponse`` or an ``Inference``, or a coroutine.

    Args:
        scope: the run.
        step_id: the step.
        outgoing: the call.
        options: the names of the options that are given; a gateway has no form for any.
        model: which is asked; None for another call.

    Raises:
        StepUsageError: the engine has no server that makes calls.
        StepArgumentError: the call is none for a gateway.
    """
    through_server = scope.flows.call_through_server
    if through_server is None:
        raise StepUsageError(
            f"step {step_id!r}: client= is the gateway of a server, and {scope.flows.engine_name} "
            "has none; leave client= out, or give an HTTP client"
        )
    if options:
        raise StepArgumentError(
            f"step {step_id!r}: {options[0]}= has no form in a gateway; the server waits as long "
            "as it does, and tries as often as endpoint(retries=) says"
        )
    body = _json_body(step_id, outgoing)
    op = scope.ex.next_op(step_id, OpKind.RUN, scope.current_task())
    call = GatewayCall(
        method=outgoing.method,
        url=outgoing.url,
        headers=_single_headers(with_idempotency_key(outgoing, scope.ex.run, op).headers),
        body=body,
        model_format=None if model is None else model.api_format,
        key=_no_key if model is None else model.key,
    )
    flow = through_server(scope.ex, op, call)
    return scope.drive(_fetched(flow, op, outgoing) if model is None else _inferred(flow, model))


def _no_key() -> None:
    return None


def _json_body(step_id: str, outgoing: OutgoingCall) -> str:
    """Return the body as text; "" without one.

    Raises:
        StepArgumentError: it is no JSON.
    """
    if outgoing.body is None:
        return ""
    try:
        text = outgoing.body.decode("utf-8")
        json.loads(text)
    except ValueError:
        raise StepArgumentError(
            f"step {step_id!r}: a gateway sends JSON only; give json=, or no gateway"
        ) from None
    return text


def _single_headers(headers: Headers) -> dict[str, str]:
    single: dict[str, str] = {}
    for name, value in headers.raw:
        single[name] = f"{single[name]}, {value}" if name in single else value
    return single


def _fetched(flow: Flow[object], op: Op, outgoing: OutgoingCall) -> Flow[FetchedResponse]:
    answer: Any = yield from flow
    host, status = urlsplit(outgoing.url).netloc, int(answer["status_code"])
    if status == 429 or status >= 500:
        text = f"{host} answered {status}"
        raise StepError(op.name, "ServerStatusError", text, {"status": status})
    body = answer["body"].encode("utf-8", "surrogatepass")
    if len(body) > outgoing.max_bytes:
        text = f"the answer of {host} has more than {outgoing.max_bytes} bytes (max_bytes=)"
        raise StepError(op.name, "LimitExceededError", text)
    fields = [(name.lower(), value) for name, value in (answer.get("headers") or {}).items()]
    kept = FetchedResponse.load({"status": status, "headers": fields, "text": answer["body"]})
    return FetchedResponse.load(kept.dump())  # without the headers that are not kept


def _inferred(flow: Flow[object], model: AIModel) -> Flow[Inference]:
    answer = yield from flow
    return Inference.of_answer(model.name, answer if isinstance(answer, dict) else {})
