"""Clients in the test's own process: no server, no socket."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, TypedDict, TypeVar, Unpack, cast
from urllib.parse import urlencode, urljoin

from durable_core.api.adapter import HTTPHandler
from durable_core.model.headers import HeaderFields, Headers
from durable_core.model.request import Request
from durable_core.model.response import Response
from durable_core.testing.reply import Reply
from durable_core.testing.steered import ASKING, Exchange

__all__ = ["AsyncClient", "Client", "RequestOptions", "handler_of"]

AnswerT = TypeVar("AnswerT")

#: Where the applications of tests seem to be.
_BASE = "http://testserver/"


class RequestOptions(TypedDict, total=False):
    """What a request may have beside method and URL.

    Attributes:
        headers: header fields, a mapping or pairs.
        json: sent as JSON, with its content type.
        data: sent as it is (bytes, or text in UTF-8), or as a form (a mapping).
        follow: return the final response, as ``curl -L`` does: the clock moves as far as it must.
    """

    headers: HeaderFields
    json: object
    data: bytes | str | Mapping[str, str]
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
            response = self._handler.handle(exchange.request, hold=0.0)
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
            response = await self._handler.handle_async(exchange.request, hold=0.0)
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
