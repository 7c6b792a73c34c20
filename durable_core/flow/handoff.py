"""The handoff: the client stops waiting on its own connection, and learns where to wait."""

from __future__ import annotations

from typing import TypeGuard
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from durable_core.codec.tokens import sign_token
from durable_core.duration import time_of
from durable_core.flow.attempt import Call
from durable_core.flow.effects import (
    Flow,
    Returned,
    call_user,
    log_warning,
    notify,
    send_response,
)
from durable_core.flow.env import AppConfig
from durable_core.flow.execution import Execution, StoredExecution, checkpoint, settle
from durable_core.flow.facts import observed_run
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.urls import base_url, quote_url, with_params
from durable_core.flow.wait_url import (
    FROM_PARAM,
    HANDOFF,
    PRIVATE_HEADERS,
    PROXY_PARAMS,
    RETRY_AFTER,
    RUN_PARAM,
    TOKEN_PARAM,
    query_reference,
)
from durable_core.http.headers import Headers
from durable_core.http.request import Request
from durable_core.http.response import Response, with_headers
from durable_core.model.decision import HandoffReason
from durable_core.model.fact import RunHandedOff

__all__ = [
    "begin_handoff",
    "custom_redirect_url",
    "hand_off",
    "hand_off_queued",
    "hand_off_with",
    "handoff_response",
    "new_token",
    "notify_handed_off",
    "send_handoff",
    "stream_redirect_url",
]


# --- handoff --------------------------------------------------------------------------------------

#: Reasons that come from outside the handler: nothing else stores that the client is gone.
_OUTSIDE = frozenset({HandoffReason.DISCONNECT, HandoffReason.DRAIN, HandoffReason.TIME_LIMIT})


def hand_off(ex: StoredExecution, reason: HandoffReason) -> Flow[None]:
    """Send the attached client to the wait URL, once everything so far is durable."""
    has_position = yield from begin_handoff(ex)
    if has_position or reason in _OUTSIDE or not ex.stored:
        ex.add_ticket((yield checkpoint(ex, state=True)))
    yield from settle(ex)
    yield from notify_handed_off(ex, reason)
    if reason is not HandoffReason.DISCONNECT or ex.followed:
        yield from send_handoff(ex)


def notify_handed_off(ex: StoredExecution, reason: HandoffReason) -> Flow[None]:
    """Tell observers, the log among them, that the client was handed off."""
    yield from notify(
        lambda: RunHandedOff(
            run=observed_run(ex),
            at=time_of(ex.env.clock.now()),
            reason=reason.value,
            message=f"handed off: {reason.value}",
        )
    )


def hand_off_queued(ex: StoredExecution) -> Flow[None]:
    """Answer the client of a run that waits for a slot; whoever claims the run executes it."""
    try:
        yield from notify_handed_off(ex, HandoffReason.QUEUED)
        yield from send_handoff(ex)
    finally:
        ex.close()


def begin_handoff(ex: Execution) -> Flow[bool]:
    """End the stream of the attached client, if it has one, after the last durable event.

    Returns True if the next checkpoint must store this position.
    """
    if not ex.followed or ex.stream is None:
        return False
    yield from settle(ex)
    return ex.stream.begin_handoff()


def send_handoff(ex: Execution, token: str | None = None) -> Flow[None]:
    """Answer the attached client with what its endpoint says; detach one that reads the stream.

    Args:
        ex: the execution.
        token: the token of the run's result; by default a new one.
    """
    if ex.followed:
        if ex.stream is not None:
            ex.stream.detach()
        return
    token = token or new_token(ex.env, ex.run.id)
    response = yield from hand_off_with(ex.env, ex.options, ex.request, ex.run.id, token)
    yield from send_response(response)


def hand_off_with(
    env: AppConfig, options: ResolvedOptions, request: Request, run_id: str, token: str
) -> Flow[Response]:
    """Return the response that hands a client off, made by the application where it does that.

    Args:
        env: the application.
        options: of the endpoint.
        request: the client's.
        run_id: the run.
        token: the token of its result.
    """
    if callable(options.async_response):
        url, _ = yield from _wait_url(env, options, request, run_id, token)
        call = Call(options.async_response, (run_id, token, url))
        outcome = yield from call_user(call)
        if isinstance(outcome, Returned) and _is_whole_response(outcome.value):
            return _with_private_headers(outcome.value, options)
        error = None if isinstance(outcome, Returned) else outcome.error
        text = "async_response returned no Response with a body of bytes; a redirect is sent"
        yield from log_warning(text, error)
    custom_url = yield from custom_redirect_url(options, run_id, token)
    return handoff_response(options, request.method, run_id, token, custom_url)


def _is_whole_response(value: object) -> TypeGuard[Response]:
    return isinstance(value, Response) and not value.is_streaming


def _with_private_headers(response: Response, options: ResolvedOptions) -> Response:
    """Add what keeps the token from caches and other sites, where the response does not say it."""
    missing = [field for field in PRIVATE_HEADERS if field[0] not in response.headers]
    return with_headers(response, (*missing, *options.handoff_headers))


def custom_redirect_url(options: ResolvedOptions, run_id: str, token: str) -> Flow[str | None]:
    """Return the URL of the application's ``async_redirect_url`` function; None without one."""
    target = options.async_redirect_url
    if not callable(target) or options.async_response == "token":
        return None
    outcome = yield from call_user(Call(target, (run_id, token)))
    if isinstance(outcome, Returned) and isinstance(outcome.value, str) and outcome.value:
        return quote_url(outcome.value)
    error = None if isinstance(outcome, Returned) else outcome.error
    text = "async_redirect_url returned no URL; the endpoint's own is used"
    yield from log_warning(text, error)
    return None


def handoff_response(
    options: ResolvedOptions, method: str, run_id: str, token: str, url: str | None = None
) -> Response:
    """Return the response of a handoff: a redirect to the wait URL, a token, or 202 with both.

    Args:
        options: the options of the run's endpoint.
        method: the method of the run's request: 302 or 303 (RFC 9110 section 15.4).
        run_id: the run.
        token: the token of its result.
        url: the URL of the application's function, if it has one. Otherwise the location is
            ``async_redirect_url`` as a string, or the endpoint's own URL.
    """
    if options.async_response == "token":
        return Response.json({"run_id": run_id, "token": token}, headers=PRIVATE_HEADERS)
    if url is None and isinstance(options.async_redirect_url, str):
        url = with_params(options.async_redirect_url, (("runId", run_id), ("token", token)))
    if url is None:
        url = query_reference(((RUN_PARAM, run_id), (TOKEN_PARAM, token)))
    location = ("location", url)
    if options.async_response == "accepted":
        fields = (location, RETRY_AFTER, *PRIVATE_HEADERS, *options.handoff_headers)
        state = {"status": "running", "run_id": run_id, "token": token}
        return Response.json(state, 202, fields)
    headers = Headers((location, *PRIVATE_HEADERS))
    return Response(status=302 if method in ("GET", "HEAD") else 303, headers=headers)


def new_token(env: AppConfig, run_id: str) -> str:
    """Return a token for the run's result that is valid for the configured time."""
    expires_at = env.clock.now() + env.token_ttl
    return sign_token(env.secrets()[0], app=env.app, run_id=run_id, expires_at=expires_at)


# --- onward ---------------------------------------------------------------------------------------
#
# The URL of ``inngest.redirect_info``, where a stream continues after the handoff.


def stream_redirect_url(
    env: AppConfig, options: ResolvedOptions, request: Request, run_id: str
) -> Flow[str]:
    """Return the URL at which the stream of a run continues after the handoff.

    It is absolute if its origin is certain: by ``env.public_url``, or because the request went to a
    loopback address. Otherwise it is a path, which clients resolve against the URL of their
    request: the host in a request can be forged, and a forged host would get the token.

    Args:
        env: the application.
        options: of the run's endpoint.
        request: the request that began the run.
        run_id: the run.
    """
    token = new_token(env, run_id)
    url, begin_param = yield from _wait_url(env, options, request, run_id, token)
    parts = urlsplit(url)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), (begin_param, HANDOFF)])
    return urlunsplit((*parts[:3], query, parts.fragment))


def _wait_url(
    env: AppConfig, options: ResolvedOptions, request: Request, run_id: str, token: str
) -> Flow[tuple[str, str]]:
    """Return the wait URL, and the name of its parameter for the start position.

    Its origin is that of :func:`stream_redirect_url`.
    """
    base = base_url(env, request)
    chosen = yield from custom_redirect_url(options, run_id, token)
    if chosen is not None:
        return urljoin(base, chosen), PROXY_PARAMS.begin
    if isinstance(options.async_redirect_url, str) and options.async_response != "token":
        params = (("runId", run_id), ("token", token))
        url = quote_url(with_params(options.async_redirect_url, params))
        return urljoin(base, url), PROXY_PARAMS.begin
    own_params = ((RUN_PARAM, run_id), (TOKEN_PARAM, token))
    return base + query_reference(own_params), FROM_PARAM
