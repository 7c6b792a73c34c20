"""The wait URL of a run: its parameters, and what a client asks there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlencode

from durable_core.flow.options import ResolvedOptions
from durable_core.http.headers import APPLIED, accepts_event_stream, parse_prefer
from durable_core.http.request import Request

if TYPE_CHECKING:
    from durable_core.codec.ui_stream import UIMode

__all__ = [
    "FROM_PARAM",
    "HANDOFF",
    "HOP_PARAM",
    "OWN_PARAMS",
    "PRIVATE_HEADERS",
    "PROXY_PARAMS",
    "RETRY_AFTER",
    "RUN_PARAM",
    "STATUS_PARAM",
    "TOKEN_PARAM",
    "Joined",
    "StreamWanted",
    "WaitParams",
    "WaitRequest",
    "applied_fields",
    "is_callback_token",
    "query_reference",
]

_Fields: TypeAlias = tuple[tuple[str, str], ...]

#: Query parameters by which an endpoint's own URL is the wait URL of a run.
RUN_PARAM = "durable-run"
TOKEN_PARAM = "durable-token"
HOP_PARAM = "durable-hop"
FROM_PARAM = "durable-from"
#: Asks, on either wait URL, how far the run is.
STATUS_PARAM = "durable-status"

#: Headers of every response with a token, so that caches and other sites do not get the token.
PRIVATE_HEADERS = (("cache-control", "no-store"), ("referrer-policy", "no-referrer"))

#: When a client that does not wait should ask again.
RETRY_AFTER = ("retry-after", "5")

#: The value of the parameter that asks for the events after the handoff.
HANDOFF = "handoff"


def is_callback_token(token: str) -> bool:
    """Tell whether a token answers a callback, and does not open a run; see ``codec/tokens.py``."""
    return token.startswith("c1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamWanted:
    """A client's request for an event stream at the wait URL.

    Attributes:
        last_event_id: the client's position when its last connection broke; "" if there was none.
            It has precedence over ``from_handoff``.
        from_handoff: it has read the stream of its own request up to the handoff.
        ui_messages: it wants a UI message stream, in this mode; None for the events.
    """

    last_event_id: str = ""
    from_handoff: bool = False
    ui_messages: UIMode | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """A request whose key another run has already, and the options of its endpoint."""

    options: ResolvedOptions
    request: Request


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
        joined: set if the client came by the key of its request; once it has waited, it is handed
            off as the client of the run's own request is.
        is_at_endpoint: the URL does not name the run. A browser that reads a stream comes back to
            that URL, so the ids of its events name the run.
        applied: header fields that say which of the client's preferences was followed. A client
            that has some is not redirected: it gets 202.
    """

    run_id: str
    token: str
    hop: int
    max_wait_ms: int
    again: Callable[[str, int], str]
    names: tuple[str, str]
    stream: StreamWanted | None = None
    applied: _Fields = ()
    joined: Joined | None = None
    is_at_endpoint: bool = False

    @classmethod
    def from_request(
        cls,
        request: Request,
        params: WaitParams,
        max_wait: float,
        kept: Sequence[tuple[str, str]] = (),
        run: tuple[str, str] | None = None,
    ) -> WaitRequest:
        """Read a GET or HEAD request.

        Args:
            request: the request.
            params: the names of its parameters.
            max_wait: how long this server can hold it, seconds.
            kept: other parameters of the wait URL.
            run: the id of the run and a token, where they are not in the URL.
        """
        query = request.query
        run_id, token = run or (query.get(params.run) or "", query.get(params.token) or "")

        def again(token: str, hop: int) -> str:
            hops = ((params.hop, str(hop)),) if hop else ()
            return query_reference(((params.run, run_id), (params.token, token), *hops, *kept))

        applied: _Fields = ()
        if "prefer" in request.headers:
            max_wait, applied = _preferred_wait(request, max_wait)
        return cls(
            run_id=run_id,
            token=token,
            hop=_hop(query.get(params.hop)),
            max_wait_ms=int(max_wait * 1000),
            again=again,
            names=(params.run, params.token),
            stream=_stream_wanted(request, params.begin),
            applied=applied,
            is_at_endpoint=run is not None,
        )

    @classmethod
    def from_joined(cls, joined: Joined, run_id: str, token: str, max_wait: float) -> WaitRequest:
        """Read the request of a client whose key another run has already.

        Args:
            joined: the request, and the endpoint's options.
            run_id, token: the run, and a new token of it.
            max_wait: how long this server can hold the client, seconds.
        """
        limit = joined.options.max_sync_runtime
        if limit is not None:
            max_wait = min(max_wait, limit / 1000)
        wanted = cls.from_request(joined.request, OWN_PARAMS, max_wait, run=(run_id, token))
        if wanted.stream is None and joined.options.ui_messages is not None:
            wanted = wanted.reading(StreamWanted(ui_messages=joined.options.ui_messages))
        return replace(wanted, joined=joined)

    def reading(self, stream: StreamWanted) -> WaitRequest:
        """Return the same request of a client that reads this stream."""
        return replace(self, stream=stream)

    @classmethod
    def from_last_event(cls, request: Request, max_wait: float) -> WaitRequest | None:
        """Read the request of a client that reconnects to the URL at which it began a run.

        Browsers do this when a stream ends, with the id of the last event. Returns None if the id
        does not name the run, or if there is nothing more to read.

        Args:
            request: has a ``Last-Event-ID``.
            max_wait: how long this server can hold it, seconds.
        """
        from durable_core.machine.stream_cursor import EventId

        stream = _stream_wanted(request, FROM_PARAM)
        if stream is None:
            return None
        try:
            event_id = EventId.load(stream.last_event_id)
        except ValueError:
            return None
        if event_id.cursor is None or not event_id.run_id:
            return None
        run = (event_id.run_id, event_id.token)
        return cls.from_request(request, OWN_PARAMS, max_wait, run=run)


def _preferred_wait(request: Request, max_wait: float) -> tuple[float, _Fields]:
    """Return for how long a client waits, seconds, and the fields that say which wish is followed.

    There are none if it has no preference that is known. It cannot wait for longer than the server
    holds it (``max_wait``).
    """
    prefers = parse_prefer(request.headers)
    if prefers.wait is not None:
        wait = min(prefers.wait, int(max_wait))
        return min(prefers.wait, max_wait), applied_fields(f"wait={wait}")
    if prefers.respond_async:
        return 0, applied_fields("respond-async")
    return max_wait, ()


def applied_fields(preference: str) -> _Fields:
    """Return the header fields of a response for which a client's preference was followed."""
    return (APPLIED, preference), ("vary", "Prefer")


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


def query_reference(params: Sequence[tuple[str, str]]) -> str:
    """Return a relative reference with only a query (RFC 3986 section 4.2).

    It is correct under any prefix.
    """
    return "?" + urlencode(params)
