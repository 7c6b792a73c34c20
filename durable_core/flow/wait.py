"""The wait URL: a handed-off client asks for the result, and waits for it."""

from __future__ import annotations

from durable_core.codec.records import load_response
from durable_core.codec.tokens import verify_token
from durable_core.errors import InvalidTokenError
from durable_core.flow.effects import Flow, await_end, read_result
from durable_core.flow.env import AppConfig
from durable_core.flow.handoff import hand_off_with, new_token
from durable_core.flow.wait_url import PRIVATE_HEADERS, RETRY_AFTER, StreamWanted, WaitRequest
from durable_core.http.headers import http_date
from durable_core.http.problem import problem
from durable_core.http.response import Response, with_headers
from durable_core.machine.stream_cursor import Cursor, EventId
from durable_core.model.run import Phase
from durable_core.ports import StoredResult

__all__ = [
    "RESPONSE_NOT_KEPT",
    "expiry_of",
    "gone_response",
    "refuse_incomplete",
    "refuse_token",
    "start_cursor",
    "too_many_clients_response",
    "wait_again_response",
    "wait_for_result",
]

#: The text for a result without a stored body.
RESPONSE_NOT_KEPT = (
    "the body of the response is not kept: it was too large, or its endpoint stores none"
)

#: How often a client is redirected to the wait URL before it gets 202 and a Retry-After.
_MOST_HOPS = 5


def wait_for_result(env: AppConfig, wanted: WaitRequest, keep: int) -> Flow[Response]:
    """Answer with the run's own response, or with the URL for the next request.

    The response to a bad token is the same whether or not the run exists. ``keep`` is for how long
    runs are kept that have ended, milliseconds.
    """
    expiry = expiry_of(env, wanted)
    if isinstance(expiry, Response):
        return expiry
    result = yield from read_result(wanted.run_id)
    if _may_wait(wanted, result):
        if not (yield from await_end(wanted.run_id, wanted.max_wait_ms)):
            return too_many_clients_response()
        result = yield from read_result(wanted.run_id)
    if result is None:
        return gone_response()
    if isinstance(result, StoredResult):
        response = _final_response(result)
        return response if wanted.joined else _with_sunset(response, result.ended_at + keep, expiry)
    if wanted.joined is not None:
        options, request = wanted.joined.options, wanted.joined.request
        return (yield from hand_off_with(env, options, request, wanted.run_id, wanted.token))
    return wait_again_response(wanted, new_token(env, wanted.run_id))


def _may_wait(wanted: WaitRequest, result: object) -> bool:
    """Tell whether a client is held. One that came by its key waits as the first client does."""
    if not isinstance(result, Phase) or not wanted.max_wait_ms:
        return False
    return wanted.joined is None or result in (Phase.SYNC, Phase.RESPONDING)


def expiry_of(env: AppConfig, wanted: WaitRequest) -> int | Response:
    """Return when the token expires (epoch milliseconds), or the response that refuses it."""
    missing = refuse_incomplete(wanted)
    if missing is not None:
        return missing
    try:
        now = env.clock.now()
        return verify_token(env.secrets(), wanted.token, app=env.app, run_id=wanted.run_id, now=now)
    except InvalidTokenError as error:
        return refuse_token(str(error))


def start_cursor(wanted: WaitRequest, stream: StreamWanted) -> Cursor | Response | None:
    """Return where the client goes on, None for the beginning, or the answer to its id.

    A client that has read the response is answered 204, after which browsers do not come again.
    """
    if not stream.last_event_id:
        return None
    try:
        event_id = EventId.load(stream.last_event_id)
        if event_id.run_id not in ("", wanted.run_id):
            raise ValueError("of another run")
    except ValueError:
        detail = "the header Last-Event-ID is not the id of an event of this stream"
        return with_headers(problem(400, "invalid-event-id", detail=detail), PRIVATE_HEADERS)
    if event_id.cursor is None:
        return Response(status=204, headers=PRIVATE_HEADERS)
    return event_id.cursor


def gone_response() -> Response:
    """Return the response to a client that asks for a pruned run."""
    pruned = problem(410, "run-gone", detail="the run is no longer kept")
    return with_headers(pruned, PRIVATE_HEADERS)


def too_many_clients_response() -> Response:
    """Return the response to a client that comes when too many wait already."""
    busy = problem(503, "too-many-waiting", detail="too many clients are waiting here")
    return with_headers(busy, (RETRY_AFTER,))


def refuse_incomplete(wanted: WaitRequest) -> Response | None:
    """Return the response to a client that left out the run or the token; else None."""
    if wanted.run_id and wanted.token:
        return None
    detail = f"the query parameters {wanted.names[0]!r} and {wanted.names[1]!r} are required"
    return problem(400, "missing-parameter", detail=detail)


def refuse_token(detail: str) -> Response:
    """Return the response to a client whose token is not valid for the run."""
    return with_headers(problem(403, "invalid-token", detail=detail), PRIVATE_HEADERS)


def _final_response(result: StoredResult) -> Response:
    if result.body is None:
        kept = problem(410, "response-not-kept", detail=RESPONSE_NOT_KEPT)
        return with_headers(kept, PRIVATE_HEADERS)
    response = load_response(result.head, result.body)
    missing = (field for field in PRIVATE_HEADERS if field[0] not in response.headers)
    return with_headers(response, tuple(missing))


def _with_sunset(response: Response, kept_until: int, expiry: int) -> Response:
    """Say until when the response can be asked for again (RFC 8594), unless it says so itself."""
    if "sunset" in response.headers:
        return response
    return with_headers(response, (("sunset", http_date(min(kept_until, expiry))),))


def wait_again_response(wanted: WaitRequest, token: str) -> Response:
    """Send a client whose run has not ended to the wait URL again, with this token.

    One that prefers to wait for a time of its own is told to come back.
    """
    if wanted.hop < _MOST_HOPS and not wanted.applied:
        location = wanted.again(token, wanted.hop + 1)
        return Response(status=303, headers=(("location", location), *PRIVATE_HEADERS))
    location = wanted.again(token, 0)
    headers = (("location", location), RETRY_AFTER, *PRIVATE_HEADERS, *wanted.applied)
    return Response.json({"status": "running", "run_id": wanted.run_id}, 202, headers)
