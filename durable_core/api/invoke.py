"""``step.invoke``: what may be invoked, and what it is asked."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from durable_core.api.endpoint import Endpoint
from durable_core.api.function_steps import parsed
from durable_core.duration import Duration, parse_duration
from durable_core.engine.embedded import embedded
from durable_core.engine.invocation import invocation
from durable_core.errors import StepArgumentError, StepUsageError
from durable_core.flow.scope import RunScope
from durable_core.flow.step_options import parse_type
from durable_core.http.request import Request
from durable_core.model.step import OpKind

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
    if scope.flows.invoke is None:
        raise StepUsageError(
            f"step {step_id!r}: this engine begins no runs of its own; step.invoke needs the "
            "embedded engine"
        )
    kind = None if result is None else parse_type(result, "result")
    child = _endpoint_of(step_id, endpoint, scope)
    asked = _request_of(step_id, child, request, scope.ex.env.limits.body)
    length = parsed(
        step_id, parse_duration, _LONGEST if timeout is None else timeout, what="timeout"
    )
    if length < 1:
        raise StepArgumentError(f"step {step_id!r}: timeout must be 1 ms or more")
    op = scope.ex.next_op(step_id, OpKind.INVOKE, scope.current_task())
    call = invocation(embedded(child.engine), scope.ex, child.key, asked, op.name, length)
    flow: Any = scope.flows.invoke(scope.ex, op, call)
    if kind is not None:
        from durable_core.flow.child_runs import typed_child

        flow = typed_child(flow, op, kind)
    return scope.drive(flow)


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
