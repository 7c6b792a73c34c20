"""``step.invoke``: what may be invoked, and what it is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from durable_core.api.endpoint import Endpoint
from durable_core.api.function_steps import parsed
from durable_core.codec.json import JSONCodec
from durable_core.duration import Duration, parse_duration
from durable_core.engine.embedded import embedded
from durable_core.engine.invocation import invocation
from durable_core.errors import StepArgumentError, StepTypeError, StepUsageError
from durable_core.flow.scope import CHILDREN_OF_BRANCHES, RunScope
from durable_core.flow.server_calls import FunctionCall, ServerFunction
from durable_core.flow.step_options import parse_type
from durable_core.http.request import Request
from durable_core.model.step import Op, OpKind

if TYPE_CHECKING:
    from durable_core.codec.typed import ValueType
    from durable_core.flow.effects import Flow

__all__ = ["invoke"]

#: A child may take this long unless ``timeout=`` says otherwise: the longest of all waits.
_LONGEST = "366 days"


def invoke(
    scope: RunScope,
    step_id: str,
    endpoint: object,
    request: object,
    timeout: Duration | None,
    result: object,
) -> Any:
    """Drive the flow of ``step.invoke``; see ``AsyncSteps.invoke``."""
    kind = None if result is None else parse_type(result, "result")
    if isinstance(endpoint, ServerFunction):
        return _invoke_function(scope, step_id, endpoint, request, timeout, kind)
    if scope.flows.invoke is None:
        raise StepUsageError(
            f"step {step_id!r}: {scope.flows.engine_name} begins no runs of its own; "
            "step.invoke of an endpoint needs the embedded engine"
        )
    child = _endpoint_of(step_id, endpoint, scope)
    asked = _request_of(step_id, child, request, scope.ex.env.limits.body)
    length = parsed(
        step_id, parse_duration, _LONGEST if timeout is None else timeout, what="timeout"
    )
    if length < 1:
        raise StepArgumentError(f"step {step_id!r}: timeout must be 1 ms or more")
    op = scope.ex.next_op(step_id, OpKind.INVOKE, scope.current_task())
    for begun in CHILDREN_OF_BRANCHES.get():
        begun.append(op)
    call = invocation(embedded(child.engine), scope.ex, child.key, asked, op.name, length)
    flow: Any = scope.flows.invoke(scope.ex, op, call)
    if kind is not None:
        from durable_core.flow.child_runs import typed_child

        flow = typed_child(flow, op, kind)
    return scope.drive(flow)


def _invoke_function(
    scope: RunScope,
    step_id: str,
    function: ServerFunction,
    data: object,
    timeout: Duration | None,
    kind: ValueType | None,
) -> Any:
    """Drive the flow of ``step.invoke`` for a function of the engine's server."""
    if scope.flows.invoke_function is None:
        raise StepUsageError(
            f"step {step_id!r}: {function!r} is a function of a server, and "
            f"{scope.flows.engine_name} has none; give it an endpoint of this application"
        )
    given = {} if data is None else data
    try:
        if not isinstance(given, Mapping):
            raise TypeError(f"not {type(data).__name__}")
        text = JSONCodec().encode(dict(given))
    except (TypeError, ValueError) as error:
        raise StepArgumentError(
            f"step {step_id!r} gives a function of a server a JSON object: {error}"
        ) from error
    most = scope.ex.env.limits.event
    if len(text.encode("utf-8", "surrogatepass")) > most:
        raise StepArgumentError(
            f"step {step_id!r} gives a function of a server more than {most} bytes of JSON "
            "(Limits.event)"
        )
    length = None
    if timeout is not None:
        length = parsed(step_id, parse_duration, timeout, what="timeout")
        if length < 1:
            raise StepArgumentError(f"step {step_id!r}: timeout must be 1 ms or more")
    op = scope.ex.next_op(step_id, OpKind.INVOKE, scope.current_task())
    call = FunctionCall(function_id=function.function_id, data=json.loads(text), timeout=length)
    flow: Any = scope.flows.invoke_function(scope.ex, op, call)
    return scope.drive(flow if kind is None else _typed_value(flow, op, kind))


def _typed_value(flow: Flow[object], op: Op, kind: ValueType) -> Flow[object]:
    value = yield from flow
    try:
        return kind.load(value)
    except (TypeError, ValueError) as error:
        raise StepTypeError(
            f"the result of step {op.name!r} does not fit {kind.name}: {error}; let the type take "
            "what the function returns, or leave result= out"
        ) from error


def _endpoint_of(step_id: str, endpoint: object, scope: RunScope) -> Endpoint:
    """Return the endpoint that an argument stands for."""
    found = getattr(endpoint, "endpoint", endpoint)
    if not isinstance(found, Endpoint):
        raise StepArgumentError(
            f"step {step_id!r} invokes what @durable.endpoint returns, not {endpoint!r:.100}"
        )
    if found.engine.env is not scope.ex.env:
        raise StepArgumentError(
            f"step {step_id!r} invokes an endpoint of another application, "
            f"{found.engine.env.app!r}; call that by HTTP, in a step.run"
        )
    if found.options.omit_request_body:
        raise StepArgumentError(
            f"step {step_id!r}: {found.key} has omit_request_body=True, and the request of a child "
            "must be stored"
        )
    limits = found.options.limits
    if limits is not None and limits.singleton is not None:
        raise StepArgumentError(
            f"step {step_id!r}: {found.key} has singleton=, which says what becomes of a client; a "
            "child run has none"
        )
    return found


def _request_of(step_id: str, child: Endpoint, request: object, most: int) -> Request:
    """Return the request of a child: the one that is given, or a POST of a value as JSON."""
    if not isinstance(request, Request):
        if child.engine.native_hosts:
            raise StepArgumentError(
                f"step {step_id!r}: the application of {child.key} finds it by its route, and a "
                "value has none; give it a Request with the method and URL of that route"
            )
        try:
            body = json.dumps(request, ensure_ascii=False, allow_nan=False).encode("utf-8")
        except (TypeError, ValueError) as error:
            raise StepArgumentError(
                f"step {step_id!r} takes a Request, or a value that is JSON: {error}"
            ) from error
        request = Request(
            method="POST",
            url=f"http://localhost/{quote(child.key)}",
            headers=(("content-type", "application/json"),),
            body=body,
        )
    asked: Request = request
    if asked.method not in child.options.methods:
        raise StepArgumentError(
            f"step {step_id!r}: {child.key} serves {', '.join(child.options.methods)}, not "
            f"{asked.method}; give it a Request of another method"
        )
    if len(asked.body) > most:
        raise StepArgumentError(
            f"step {step_id!r}: the request has a body of {len(asked.body)} bytes; at most {most} "
            "are allowed (Limits.body)"
        )
    return asked
