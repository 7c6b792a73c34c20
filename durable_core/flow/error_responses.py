"""What the client gets for an error, and what an error of a step comes to."""

from __future__ import annotations

from dataclasses import replace

from durable_core.errors import (
    EngineUnavailableError,
    HTTPError,
    LimitExceededError,
    StepError,
    StoreBusyError,
    StoreError,
)
from durable_core.flow.effects import Raised
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.step_options import StepOptions, UndoReport
from durable_core.http.problem import problem, problem_from_http_error
from durable_core.http.response import Response, with_headers
from durable_core.machine.advance import failure_of_handler, failure_of_step
from durable_core.model.decision import Fail, Failure
from durable_core.model.run import Run

__all__ = [
    "cancel_detail",
    "cancelled_response",
    "failure_response",
    "handler_failure",
    "response_for_exception",
    "response_of_step",
    "step_failure",
    "store_unavailable_response",
]

#: The response that is kept with a step's error has at most this many bytes.
_MAX_RESPONSE = 64 * 1024
#: Statuses of responses that say "try again" (RFC 9110, RFC 8470, RFC 6585); so does any 5xx.
_TRY_AGAIN = (408, 425, 429)


def response_for_exception(options: ResolvedOptions, error: Exception) -> Response | None:
    """Return the response for an exception of a handler, or None if it has none.

    A step's error has the response of the exception that the step's function raised.
    """
    error = _only_member(error)
    if isinstance(error, StepError):
        response = response_of_step(error)
        if response is not None:
            return response
        if isinstance(error.__cause__, HTTPError):
            return problem_from_http_error(error.__cause__)
    if isinstance(error, HTTPError):
        return problem_from_http_error(error)
    translate = options.exception_to_response
    return translate(error) if translate is not None else None


def response_of_step(error: StepError) -> Response | None:
    """Return what ``exception_to_response`` has made of a step's exception; None if nothing."""
    return error._response if isinstance(error._response, Response) else None


def handler_failure(raised: Raised, now: int) -> Failure:
    """Describe an error that a handler raised, at this time (epoch milliseconds)."""
    failure = failure_of_handler(raised.error, now)
    return replace(failure, retriable=False) if raised.is_mistake else failure


def step_failure(
    options: ResolvedOptions, raised: Raised, now: int, of_step: StepOptions | None = None
) -> Failure:
    """Describe an error that a step's function raised.

    ``retry_if`` of the step can only make an error final. An error that it raises itself is final.

    Args:
        options: of the endpoint.
        raised: the error.
        now: epoch milliseconds.
        of_step: the options of the step, if it has any.
    """
    failure = replace(_failure_with_response(options, raised.error, now), trace=raised.trace)
    if raised.is_mistake:
        return replace(failure, retriable=False)
    if of_step is None or of_step.retry_if is None or not failure.retriable:
        return failure
    try:
        is_retriable = of_step.retry_if(raised.error)
    except MemoryError:
        raise
    except Exception as broken:
        failure, is_retriable = failure_of_step(broken, now), False
    return failure if is_retriable else replace(failure, retriable=False)


def _failure_with_response(options: ResolvedOptions, error: Exception, now: int) -> Failure:
    """Describe an error with the response that ``exception_to_response`` makes of it.

    An error that ``exception_to_response`` makes a response of is the function's answer, and no
    reason to call it again, unless the response itself says that another attempt may succeed: with
    the status 408, 425, 429 or 5xx. The response is kept with the step, for replay.
    """
    error = _only_member(error)
    failure = failure_of_step(error, now)
    translate = options.exception_to_response
    if translate is None or failure.http is not None:
        return failure
    try:
        response = translate(error)
        if response is None:
            return failure
        kept = _parts_of_response(response, error)
    except MemoryError:
        raise
    except Exception as broken:
        return failure_of_step(broken, now)
    is_final = response.status < 500 and response.status not in _TRY_AGAIN
    retriable = failure.retriable and not (is_final and failure.retry_after is None)
    return replace(failure, retriable=retriable, response=kept)


def _parts_of_response(
    response: Response, error: Exception
) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
    """Return status, headers and body of the response to a step's error."""
    name = type(error).__name__
    if not isinstance(response.body, bytes):
        raise TypeError(f"exception_to_response made a streamed response of a step's {name}")
    if len(response.body) > _MAX_RESPONSE:
        raise LimitExceededError(
            f"exception_to_response made a response of {len(response.body)} bytes of a step's "
            f"{name}; at most {_MAX_RESPONSE} are kept"
        )
    return response.status, tuple(response.headers.raw), response.body


def _only_member(error: Exception) -> Exception:
    """Return the only member of an exception group, as task groups raise it; else the error."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        [error] = error.exceptions
    return error


def failure_response(fail: Fail, *, debug: bool, **extra: object) -> Response:
    """Return what the client of a failed run gets.

    The text of an error may hold what nobody else should see, such as a URL with a key. So the
    client gets it only with ``debug``, or where the error addresses it to the client.

    Args:
        fail: how the run failed.
        debug: show the error.
        **extra: further members of the problem document.
    """
    if debug:
        described = {"name": fail.name, "message": fail.message}
        if fail.reason:
            described["reason"] = fail.reason
        detail = f"{fail.name}: {fail.message}"
        return problem(500, fail.kind, detail=detail, error=described, **extra)
    detail = fail.public or _NEUTRAL.get(fail.kind, "the request failed; the server's log says why")
    return problem(500, fail.kind, detail=detail, **extra)


def cancelled_response(run: Run, undone: UndoReport | None = None) -> Response:
    """Return what the clients of a cancelled run get: why, and which of its steps were undone."""
    extra: dict[str, object] = {"run_id": run.id}
    if undone is not None:
        extra |= {"undone": list(undone.undone), "not_undone": list(undone.failed)}
    return problem(410, "run-cancelled", detail=cancel_detail(run), **extra)


def cancel_detail(run: Run) -> str:
    """Return what people read of a run that was cancelled."""
    if not run.cancel_reason:
        return "the run was cancelled"
    return f"the run was cancelled: {run.cancel_reason}"


#: Details of failures that are no errors of the application's code.
_NEUTRAL = {
    "crashed-repeatedly": "the process died several times while it worked on the request",
    "endpoint-missing": "no code of the application answers this request any more",
    "response-interrupted": "the response broke off, and is not made twice",
    "run-timed-out": "the request took longer than the application allows",
    "response-too-large": "the response is too large to be kept",
}


def store_unavailable_response(error: StoreError) -> Response:
    """Return the response for a client whose request could not be made durable.

    The error's own text is only logged, because it names a file of the server.
    """
    reason = "busy" if isinstance(error, StoreBusyError) else "not available"
    whose = "the engine's server" if isinstance(error, EngineUnavailableError) else "the store"
    detail = f"the request could not be made durable: {whose} is {reason}"
    return with_headers(problem(503, "store-unavailable", detail=detail), (("retry-after", "1"),))
