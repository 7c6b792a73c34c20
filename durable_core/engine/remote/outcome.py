"""What the handler of a run comes to under any server: a whole response, or a failure."""

from __future__ import annotations

from dataclasses import replace

from durable_core.engine.remote.execution import RemoteExecution
from durable_core.flow.effects import Flow, Outcome, Raised, Returned
from durable_core.flow.error_responses import handler_failure, response_for_exception
from durable_core.flow.handler import read_whole_body
from durable_core.flow.results import typed_response
from durable_core.http.response import Response
from durable_core.machine.advance import failure_of_handler
from durable_core.model.decision import Failure, HandlerRaised, ResponseTooLarge

__all__ = ["response_or_failure", "too_large"]


def response_or_failure(
    ex: RemoteExecution, outcome: Outcome
) -> Flow[tuple[Response, None, None] | tuple[None, Failure, Exception | None]]:
    """Return the response that an outcome stands for, or the failure and its error.

    A streamed body is read to its end: a server keeps whole responses.
    """
    now = ex.env.clock.now()
    if isinstance(outcome, Returned):
        try:
            response: Response | None = _response_of(ex, outcome.value)
        except (TypeError, ValueError) as wrong:
            return None, replace(failure_of_handler(wrong, now), retriable=False), wrong
    else:
        assert isinstance(outcome, Raised)
        try:
            response = response_for_exception(ex.options, outcome.error)
        except Exception as broken:
            response, outcome = None, Raised(broken)
        if response is None:
            return None, handler_failure(outcome, now), outcome.error
    assert response is not None
    if response.is_streaming:
        whole = yield from read_whole_body(ex, response)
        if isinstance(whole, HandlerRaised):
            return None, whole.failure, None
        if isinstance(whole, ResponseTooLarge):
            return None, too_large(whole.most, "Limits.response_stored"), None
        response = whole
    return response, None, None


def _response_of(ex: RemoteExecution, value: object) -> Response:
    if ex.options.result is None:
        return Response.from_value(value)
    return typed_response(ex.options.result, value)


def too_large(most: int, whose: str) -> Failure:
    """Return the failure of a run whose response has more bytes than ``whose`` limit."""
    text = f"the response has more than {most} bytes ({whose})"
    return Failure(name="ResponseTooLarge", message=text, retriable=False, public=text)
