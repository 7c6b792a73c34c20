"""The wait URL: a handed-off client asks for the result, and waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from durable_core.errors import InvalidTokenError
from durable_core.flow.asks import Flow, hold, read_result
from durable_core.flow.env import Env
from durable_core.flow.handoff import PRIVATE_HEADERS, fresh_token, with_headers
from durable_core.model.response import Response
from durable_core.ports import StoredResult
from durable_core.wire.problem import problem
from durable_core.wire.requests import load_response
from durable_core.wire.tokens import verify_token

__all__ = ["WaitRequest", "not_yet", "refuse_incomplete", "refuse_token", "wait_for_result"]

#: How often a client is sent to the wait URL again before it is told to come back later.
_MOST_HOPS = 5
_RETRY_AFTER = "5"


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitRequest:
    """What a client asks of the wait URL.

    Attributes:
        run_id, token: as sent; "" if missing.
        hop: how often it has been sent on already.
        hold_ms: how long this server can hold it.
        again: the reference of the wait URL for a token and a hop.
        names: how the two parameters are called, for the error text.
    """

    run_id: str
    token: str
    hop: int
    hold_ms: int
    again: Callable[[str, int], str]
    names: tuple[str, str]


def wait_for_result(env: Env, wanted: WaitRequest) -> Flow[Response]:
    """Answer with the run's own response, or with where to ask again.

    The answer to a bad token is the same whether or not there is such a run.
    """
    missing = refuse_incomplete(wanted)
    if missing is not None:
        return missing
    try:
        now = env.clock.now()
        verify_token(env.secrets(), wanted.token, app=env.app, run_id=wanted.run_id, now=now)
    except InvalidTokenError as error:
        return refuse_token(str(error))
    result = yield from read_result(wanted.run_id)
    if result is not None and not isinstance(result, StoredResult):
        if not (yield from hold(wanted.run_id, wanted.hold_ms)):
            busy = problem(503, "too-many-waiting", detail="too many clients are waiting here")
            return with_headers(busy, (("retry-after", _RETRY_AFTER),))
        result = yield from read_result(wanted.run_id)
    if result is None:
        gone = problem(410, "run-gone", detail="the run is no longer kept")
        return with_headers(gone, PRIVATE_HEADERS)
    if isinstance(result, StoredResult):
        return _ended(result)
    return not_yet(wanted, fresh_token(env, wanted.run_id))


def refuse_incomplete(wanted: WaitRequest) -> Response | None:
    """Return the answer to a client that has left out the run or the token."""
    if wanted.run_id and wanted.token:
        return None
    detail = f"the query parameters {wanted.names[0]!r} and {wanted.names[1]!r} are required"
    return problem(400, "missing-parameter", detail=detail)


def refuse_token(detail: str) -> Response:
    """Return the answer to a client whose token opens nothing."""
    return with_headers(problem(403, "invalid-token", detail=detail), PRIVATE_HEADERS)


def _ended(result: StoredResult) -> Response:
    if result.body is None:
        detail = "the response was sent once and was too large to keep"
        return with_headers(problem(410, "response-not-kept", detail=detail), PRIVATE_HEADERS)
    return load_response(result.head, result.body)


def not_yet(wanted: WaitRequest, token: str) -> Response:
    """Send a client whose run has not ended to the wait URL again, with this token."""
    if wanted.hop < _MOST_HOPS:
        location = wanted.again(token, wanted.hop + 1)
        return Response(status=303, headers=(("location", location), *PRIVATE_HEADERS))
    location = wanted.again(token, 0)
    headers = (("location", location), ("retry-after", _RETRY_AFTER), *PRIVATE_HEADERS)
    return Response.json({"status": "running", "run_id": wanted.run_id}, 202, headers)
