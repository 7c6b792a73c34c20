"""The wait URL: a handed-off client asks for the result, and waits for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from durable_core.codec.records import load_response
from durable_core.codec.tokens import verify_token
from durable_core.errors import InvalidTokenError
from durable_core.flow.effects import Flow, await_end, read_result
from durable_core.flow.env import AppConfig
from durable_core.flow.handoff import (
    FROM_PARAM,
    HANDOFF,
    HOP_PARAM,
    PRIVATE_HEADERS,
    RUN_PARAM,
    TOKEN_PARAM,
    new_token,
    query_reference,
    with_headers,
)
from durable_core.http.headers import accepts_event_stream
from durable_core.http.problem import problem
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.stream_cursor import Cursor, EventId
from durable_core.ports import StoredResult

__all__ = [
    "OWN_PARAMS",
    "PROXY_PARAMS",
    "RESPONSE_NOT_KEPT",
    "StreamWanted",
    "WaitParams",
    "WaitRequest",
    "expiry_of",
    "gone",
    "not_ended_yet",
    "refuse_incomplete",
    "refuse_token",
    "too_many_clients",
    "wait_for_result",
    "wanted_cursor",
]

#: The text for a result without a stored body.
RESPONSE_NOT_KEPT = "the response was sent once and was too large to keep"

#: How often a client is redirected to the wait URL before it gets 202 and a Retry-After.
_MOST_HOPS = 5
_RETRY_AFTER = "5"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamWanted:
    """A client's request for an event stream at the wait URL.

    Attributes:
        last_event_id: the client's position when its last connection broke; "" if there was none.
            It has precedence over ``from_handoff``.
        from_handoff: it has read the stream of its own request up to the handoff.
    """

    last_event_id: str
    from_handoff: bool


@dataclass(frozen=True, slots=True)
class WaitParams:
    """The names of the query parameters of a wait URL: run, token, hop, and start position."""

    run: str
    token: str
    hop: str
    begin: str


#: The names on an endpoint's own URL, and on the application's wait route.
OWN_PARAMS = WaitParams(RUN_PARAM, TOKEN_PARAM, HOP_PARAM, FROM_PARAM)
PROXY_PARAMS = WaitParams("runId", "token", "hop", "from")


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitRequest:
    """A client's request to the wait URL.

    Attributes:
        run_id, token: as sent; "" if missing.
        hop: how often the client was redirected already.
        max_wait_ms: how long this server can hold the request.
        again: the reference of the wait URL for a token and a hop.
        names: the names of the two parameters, for the error text.
        stream: set if the client wants an event stream.
    """

    run_id: str
    token: str
    hop: int
    max_wait_ms: int
    again: Callable[[str, int], str]
    names: tuple[str, str]
    stream: StreamWanted | None = None

    @classmethod
    def from_request(
        cls,
        request: Request,
        params: WaitParams,
        max_wait: float,
        kept: Sequence[tuple[str, str]] = (),
    ) -> WaitRequest:
        """Read a GET or HEAD request.

        Args:
            request: the request.
            params: the names of its parameters.
            max_wait: how long this server can hold it, seconds.
            kept: other parameters of the wait URL.
        """
        query = request.query
        run_id = query.get(params.run) or ""

        def again(token: str, hop: int) -> str:
            hops = ((params.hop, str(hop)),) if hop else ()
            return query_reference(((params.run, run_id), (params.token, token), *hops, *kept))

        return cls(
            run_id=run_id,
            token=query.get(params.token) or "",
            hop=_hop(query.get(params.hop)),
            max_wait_ms=int(max_wait * 1000),
            again=again,
            names=(params.run, params.token),
            stream=_stream_wanted(request, params.begin),
        )

    @classmethod
    def from_last_event(cls, request: Request, max_wait: float) -> WaitRequest | None:
        """Read the request of a client that reconnects to the URL at which it began a run.

        Browsers do this when a stream ends, with the id of the last event. Returns None if the id
        does not name the run, or if there is nothing more to read.

        Args:
            request: has a ``Last-Event-ID``.
            max_wait: how long this server can hold it, seconds.
        """
        stream = _stream_wanted(request, FROM_PARAM)
        if stream is None:
            return None
        try:
            event_id = EventId.load(stream.last_event_id)
        except ValueError:
            return None
        if event_id.cursor is None or not event_id.run_id:
            return None
        wanted = cls.from_request(request, OWN_PARAMS, max_wait)
        return replace(wanted, run_id=event_id.run_id, token=event_id.token)


def _hop(text: str | None) -> int:
    """Return the number of hops that a client sent; 0 if it is malformed."""
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 4):
        return 0
    return int(text)


def _stream_wanted(request: Request, begin_param: str) -> StreamWanted | None:
    """Return the request for an event stream; None if the client wants none."""
    if request.method == "HEAD" or not accepts_event_stream(request.headers):
        return None
    return StreamWanted(
        last_event_id=request.headers.get("last-event-id") or "",
        from_handoff=request.query.get(begin_param) == HANDOFF,
    )


def wait_for_result(env: AppConfig, wanted: WaitRequest) -> Flow[Response]:
    """Answer with the run's own response, or with the URL for the next request.

    The response to a bad token is the same whether or not the run exists.
    """
    expiry = expiry_of(env, wanted)
    if isinstance(expiry, Response):
        return expiry
    result = yield from read_result(wanted.run_id)
    if result is not None and not isinstance(result, StoredResult):
        if not (yield from await_end(wanted.run_id, wanted.max_wait_ms)):
            return too_many_clients()
        result = yield from read_result(wanted.run_id)
    if result is None:
        return gone()
    if isinstance(result, StoredResult):
        return _ended(result)
    return not_ended_yet(wanted, new_token(env, wanted.run_id))


def expiry_of(env: AppConfig, wanted: WaitRequest) -> int | Response:
    """Return until when the client may read the run, or the answer to one that may not."""
    missing = refuse_incomplete(wanted)
    if missing is not None:
        return missing
    try:
        now = env.clock.now()
        return verify_token(env.secrets(), wanted.token, app=env.app, run_id=wanted.run_id, now=now)
    except InvalidTokenError as error:
        return refuse_token(str(error))


def wanted_cursor(wanted: WaitRequest, stream: StreamWanted) -> Cursor | Response | None:
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


def gone() -> Response:
    """Return the answer to who asks for a run that has been pruned."""
    pruned = problem(410, "run-gone", detail="the run is no longer kept")
    return with_headers(pruned, PRIVATE_HEADERS)


def too_many_clients() -> Response:
    """Return the answer to who comes when too many clients wait already."""
    busy = problem(503, "too-many-waiting", detail="too many clients are waiting here")
    return with_headers(busy, (("retry-after", _RETRY_AFTER),))


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
        kept = problem(410, "response-not-kept", detail=RESPONSE_NOT_KEPT)
        return with_headers(kept, PRIVATE_HEADERS)
    response = load_response(result.head, result.body)
    missing = (field for field in PRIVATE_HEADERS if field[0] not in response.headers)
    return with_headers(response, tuple(missing))


def not_ended_yet(wanted: WaitRequest, token: str) -> Response:
    """Send a client whose run has not ended to the wait URL again, with this token."""
    if wanted.hop < _MOST_HOPS:
        location = wanted.again(token, wanted.hop + 1)
        return Response(status=303, headers=(("location", location), *PRIVATE_HEADERS))
    location = wanted.again(token, 0)
    headers = (("location", location), ("retry-after", _RETRY_AFTER), *PRIVATE_HEADERS)
    return Response.json({"status": "running", "run_id": wanted.run_id}, 202, headers)
