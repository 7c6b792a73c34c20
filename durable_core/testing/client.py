"""Clients in the test's own process: no server, no socket."""

from __future__ import annotations

import json
import json as jsonlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, TypedDict, TypeVar, Unpack, cast
from urllib.parse import urlencode, urljoin, urlsplit

from durable_core.api.adapter import HTTPHandler
from durable_core.api.endpoint import is_wait
from durable_core.flow.handoff import new_token
from durable_core.flow.wait_url import PROXY_PARAMS, WaitRequest, query_reference
from durable_core.http.headers import HeaderFields, Headers
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import Phase
from durable_core.routing import Application
from durable_core.testing.simulation import Bench, Steering
from durable_core.testing.worker import ASKING, Exchange

__all__ = [
    "AsyncClient",
    "Client",
    "Reply",
    "RequestOptions",
    "concluded",
    "handler_of",
]


# --- reply ----------------------------------------------------------------------------------------
#
# What a client of a test gets.


class Reply:
    """A response as a client sees it, its body read to the end.

    Attributes:
        request: what it answers.
        status: the status code.
        headers: the header fields.
        body: the content, as bytes.
        run_id: the run that was begun for the request, or that it asked for; None if there is
            none.
        is_handoff: the client is sent to wait elsewhere, by a redirect or a token.
    """

    def __init__(
        self,
        request: Request,
        response: Response,
        body: bytes,
        run_id: str | None,
        final: Callable[[Reply], Reply],
    ) -> None:
        self.request = request
        self.status = response.status
        self.headers: Headers = response.headers
        self.body = body
        known = run_id or _run_of(request)
        self.is_handoff = known is not None and _refers_to(known, self)
        self.run_id = known
        self._final = final

    @property
    def text(self) -> str:
        """The body as text in UTF-8."""
        return self.body.decode("utf-8")

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            ValueError: it is none.
        """
        return json.loads(self.body)

    def result(self) -> Reply:
        """Return the final response: this one, or that of the run it is a handoff of.

        The clock does not move for that.

        Raises:
            NotFinishedError: the run has no result yet; the message says what it waits for.
        """
        return self._final(self) if self.is_handoff else self

    def __repr__(self) -> str:
        """Show the status, and where a handoff leads to."""
        what = f"handoff of run {self.run_id}" if self.is_handoff else f"{len(self.body)} bytes"
        return f"<Reply {self.status}, {what}>"


def _run_of(request: Request) -> str | None:
    """Return the run that a request to a wait URL asks for."""
    return request.query.get("durable-run") or request.query.get("runId")


def _refers_to(run_id: str, reply: Reply) -> bool:
    if reply.status in (302, 303):
        return run_id in (reply.headers.get("location") or "")
    return reply.status == 200 and _is_token(reply)


def _is_token(reply: Reply) -> bool:
    """Tell whether the body is that of ``async_response="token"``."""
    try:
        value = reply.json()
    except ValueError:
        return False
    return isinstance(value, dict) and value.keys() == {"run_id", "token"}


# --- following ------------------------------------------------------------------------------------
#
# From the first response to the last one, as a client goes that is sent to wait.


def concluded(bench: Bench, exchange: Exchange, response: Response, body: bytes) -> Steering[Reply]:
    """Let happen what a request has brought about, and return what its client gets.

    Raises:
        ConnectionResetError: the process died before the run had a checkpoint.
        NotDeterministicError: see ``BaseHarness.replay_everything``.
    """

    def final(reply: Reply) -> Reply:
        return _final(bench, exchange, reply)

    yield from bench.settle()
    if exchange.run_id in bench.worker.gone:
        raise ConnectionResetError(
            "the process died before it answered, and before the run had a step to go on from"
        )
    reply = Reply(exchange.request, response, body, exchange.run_id, final)
    if not (exchange.follow and reply.is_handoff):
        return reply
    assert reply.run_id is not None
    yield from bench.finish(reply.run_id)
    return reply.result()


def _final(bench: Bench, exchange: Exchange, reply: Reply) -> Reply:
    """Ask the wait URL for the final response."""
    run_id = reply.run_id
    assert run_id is not None
    if isinstance(bench.store.result(bench.engine.env.app, run_id), Phase):
        raise bench.unfinished(run_id)
    location = reply.headers.get("location") or ""
    request = Request(method="GET", url=urljoin(exchange.request.url, location))
    if location and _leads_to(exchange, request):
        response = exchange.handler.handle(request, max_wait=0.0)
    else:
        response = bench.engine.wait(_wait_request(bench, run_id))
    assert isinstance(response.body, bytes)
    return Reply(request, response, response.body, run_id, lambda same: same)


def _leads_to(exchange: Exchange, request: Request) -> bool:
    """Tell whether what the client talks to has the wait URL, too."""
    if urlsplit(request.url).netloc != urlsplit(exchange.request.url).netloc:
        return False
    return is_wait(request) or isinstance(exchange.handler, Application)


def _wait_request(bench: Bench, run_id: str) -> WaitRequest:
    """Return what a wait route elsewhere would ask for; and with a token, where no URL says."""
    params = (PROXY_PARAMS.run, run_id), (PROXY_PARAMS.token, new_token(bench.engine.env, run_id))
    request = Request(method="GET", url=_BASE + query_reference(params))
    return WaitRequest.from_request(request, PROXY_PARAMS, 0.0)


# --- client ---------------------------------------------------------------------------------------

AnswerT = TypeVar("AnswerT")

#: Where the applications of tests seem to be.
_BASE = "http://testserver/"


class RequestOptions(TypedDict, total=False):
    """What a request may have beside method and URL.

    Attributes:
        headers: header fields, a mapping or pairs.
        json: sent as JSON, with its content type.
        data: sent as it is (bytes, or text in UTF-8), or as a form (a mapping).
        path_params: what a route would have found in the path, for an endpoint without one.
        follow: return the final response, as ``curl -L`` does: the clock moves as far as it must.
    """

    headers: HeaderFields
    json: object
    data: bytes | str | Mapping[str, str]
    path_params: Mapping[str, str]
    follow: bool


class _Methods(Generic[AnswerT]):
    """One method for each method of HTTP."""

    def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        raise NotImplementedError

    def get(self, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        """Send GET; see :meth:`request`."""
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        """Send HEAD; see :meth:`request`."""
        return self.request("HEAD", url, **options)

    def options(self, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        """Send OPTIONS; see :meth:`request`."""
        return self.request("OPTIONS", url, **options)

    def post(self, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        """Send POST; see :meth:`request`."""
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        """Send PUT; see :meth:`request`."""
        return self.request("PUT", url, **options)

    def patch(self, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        """Send PATCH; see :meth:`request`."""
        return self.request("PATCH", url, **options)

    def delete(self, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        """Send DELETE; see :meth:`request`."""
        return self.request("DELETE", url, **options)


class Client(_Methods[Reply]):
    """Sends requests to one application. Made by ``Harness.client``."""

    def __init__(
        self,
        handler: HTTPHandler,
        conclude: Callable[[Exchange, Response], Reply],
    ) -> None:
        self._handler = handler
        self._conclude = conclude

    def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> Reply:
        """Send a request; return when no handler is live and nothing is due any more.

        Args:
            method: such as ``"GET"``.
            url: a path with its query, or a whole URL.
            **options: see :class:`RequestOptions`.

        Raises:
            ConnectionResetError: the process died before the run had anything to go on from.
            NotDeterministicError: see ``replay_everything``.
            NotFinishedError: a handler did not come to an end in some real time.
        """
        exchange = _exchange(self._handler, method, url, options)
        token = ASKING.set(exchange)
        try:
            response = self._handler.handle(exchange.request, max_wait=0.0)
        finally:
            ASKING.reset(token)
        return self._conclude(exchange, response)


class AsyncClient(_Methods[Coroutine[Any, Any, Reply]]):
    """Sends requests to one application, on an event loop. Made by ``AsyncHarness.client``."""

    def __init__(
        self,
        handler: HTTPHandler,
        conclude: Callable[[Exchange, Response], Coroutine[Any, Any, Reply]],
    ) -> None:
        self._handler = handler
        self._conclude = conclude

    async def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> Reply:
        """Send a request; see :meth:`Client.request`."""
        exchange = _exchange(self._handler, method, url, options)
        token = ASKING.set(exchange)
        try:
            response = await self._handler.handle_async(exchange.request, max_wait=0.0)
        finally:
            ASKING.reset(token)
        return await self._conclude(exchange, response)


def handler_of(app: object) -> HTTPHandler:
    """Return what answers the requests of an application: itself, or its ``.endpoint``.

    Raises:
        TypeError: it is neither.
    """
    inner = getattr(app, "endpoint", app)
    if isinstance(inner, type) or not (hasattr(inner, "handle") and hasattr(inner, "engine")):
        raise TypeError(
            "a client needs an endpoint, or an application made by app(durable, routes), "
            f"not {app!r}"
        )
    return cast(HTTPHandler, inner)


def _exchange(handler: HTTPHandler, method: str, url: str, options: RequestOptions) -> Exchange:
    headers = Headers(options.get("headers", ()))
    body, content_type = _body(options)
    if content_type and "content-type" not in headers:
        headers = headers.with_set("content-type", content_type)
    request = Request(method=method, url=urljoin(_BASE, url), headers=headers, body=body)
    if "path_params" in options:
        request = request.with_path_params(options["path_params"])
    return Exchange(handler=handler, request=request, follow=options.get("follow", False))


def _body(options: RequestOptions) -> tuple[bytes, str]:
    """Return the body and its content type, "" if none is known."""
    if "json" in options:
        if "data" in options:
            raise TypeError("a request has json= or data=, not both")
        text = jsonlib.dumps(options["json"], ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8"), "application/json"
    data = options.get("data", b"")
    if isinstance(data, Mapping):
        return urlencode(data).encode("ascii"), "application/x-www-form-urlencoded"
    return (data.encode("utf-8"), "") if isinstance(data, str) else (data, "")
