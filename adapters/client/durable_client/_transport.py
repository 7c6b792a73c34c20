"""The HTTP client underneath: what is used of it, the requests, and the errors.

The Protocols name what the clients of ``httpx2`` and ``httpx`` have in common, so that a client
object of either library can be used.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from ssl import SSLContext
from typing import Any, Protocol, TypeAlias

import httpx2

from durable_client._follow import Open
from durable_core.clients import Headers, is_client_of_kind
from durable_core.errors import (
    ConnectFailedError,
    ConnectionLostError,
    ProtocolError,
    RequestTimeoutError,
)

__all__ = [
    "AsyncHTTPClient",
    "AsyncHTTPResponse",
    "AsyncTransportClient",
    "Body",
    "ConnectionUse",
    "HTTPClient",
    "HTTPResponse",
    "RequestFactory",
    "TransportClient",
    "check_client",
    "checked_headers",
    "is_delimited",
    "response_headers",
    "translated",
]

#: Nothing, a whole body, or the chunks of a body that is sent as it comes.
Body: TypeAlias = bytes | Iterable[bytes] | AsyncIterable[bytes] | None

_Fields: TypeAlias = list[tuple[bytes, bytes]]
#: Seconds for connecting, reading, writing, and for a free connection of the pool.
_Timeouts: TypeAlias = tuple[float | None, float | None, float | None, float | None]

_CONNECT_TIMEOUT = 10.0
_USER_AGENT = (b"user-agent", b"durable-client")
#: How events of the ``trace`` extension end: there is a new connection, or a request is sent.
_CONNECTED = (".connect_tcp.complete", ".connect_unix_socket.complete")
_SENDING = ".send_request_headers.started"
#: Fields that the HTTP client sets itself.
_TRANSPORT_FIELDS = frozenset(
    {
        *("connection", "content-length", "expect", "keep-alive", "proxy-connection", "te"),
        *("trailer", "transfer-encoding", "upgrade"),
    }
)
#: Fields that an origin other than that of the first request gets.
_FOREIGN_FIELDS = frozenset(
    {"accept", "accept-encoding", "connection", "host", "last-event-id", "user-agent"}
)


# --- a client object of either library ------------------------------------------------------------


class HTTPResponse(Protocol):
    """A response whose body is not yet read."""

    @property
    def status_code(self) -> int: ...

    @property
    def http_version(self) -> str: ...

    @property
    def headers(self) -> Any: ...

    @property
    def extensions(self) -> Any: ...

    def iter_bytes(self) -> Iterator[bytes]:
        """Yield the body as it comes, with its content coding undone."""
        ...

    def close(self) -> None: ...


class HTTPClient(Protocol):
    """A ``Client`` of ``httpx2`` or ``httpx``, or another object with these two methods."""

    def build_request(
        self,
        method: str,
        url: str,
        *,
        content: Body = ...,
        headers: _Fields | None = ...,
        timeout: _Timeouts = ...,
        extensions: dict[str, Any] | None = ...,
    ) -> Any:
        """Return a request with what the client adds to each."""
        ...

    def send(
        self, request: Any, *, stream: bool = ..., auth: None = ..., follow_redirects: bool = ...
    ) -> HTTPResponse:
        """Send a request, and return the response when its head has come."""
        ...


class AsyncHTTPResponse(Protocol):
    """A response whose body is not yet read."""

    @property
    def status_code(self) -> int: ...

    @property
    def http_version(self) -> str: ...

    @property
    def headers(self) -> Any: ...

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, with its content coding undone."""
        ...

    async def aclose(self) -> None: ...


class AsyncHTTPClient(Protocol):
    """An ``AsyncClient`` of ``httpx2`` or ``httpx``, or another object with these two methods."""

    def build_request(
        self,
        method: str,
        url: str,
        *,
        content: Body = ...,
        headers: _Fields | None = ...,
        timeout: _Timeouts = ...,
        extensions: dict[str, Any] | None = ...,
    ) -> Any:
        """Return a request with what the client adds to each."""
        ...

    async def send(
        self, request: Any, *, stream: bool = ..., auth: None = ..., follow_redirects: bool = ...
    ) -> AsyncHTTPResponse:
        """Send a request, and return the response when its head has come."""
        ...


# --- our own client -------------------------------------------------------------------------------


class _Requests:
    """Builds requests for a transport of ``httpx2``."""

    def build_request(
        self,
        method: str,
        url: str,
        *,
        content: Body = None,
        headers: _Fields | None = None,
        timeout: _Timeouts = (None, None, None, None),
        extensions: Mapping[str, Any] | None = None,
    ) -> httpx2.Request:
        fields = list(headers or ())
        if all(name.lower() != b"user-agent" for name, _ in fields):
            fields.append(_USER_AGENT)
        return httpx2.Request(
            method,
            url,
            headers=fields,
            content=content,
            extensions={**(extensions or {}), "timeout": httpx2.Timeout(timeout).as_dict()},
        )


class TransportClient(_Requests):
    """Sends requests from any number of threads; a context.

    It is less than ``httpx2.Client``: no cookies, no proxies of the environment, and no log line
    with the URL, which may have a token.
    """

    def __init__(self) -> None:
        self._transport = httpx2.HTTPTransport(verify=_default_tls())

    def send(
        self,
        request: httpx2.Request,
        *,
        stream: bool = True,
        auth: None = None,
        follow_redirects: bool = False,
    ) -> httpx2.Response:
        return self._transport.handle_request(request)

    def __enter__(self) -> TransportClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()


class AsyncTransportClient(_Requests):
    """Sends requests from the tasks of one event loop; otherwise as ``TransportClient``."""

    def __init__(self) -> None:
        self._transport = httpx2.AsyncHTTPTransport(verify=_default_tls())

    async def send(
        self,
        request: httpx2.Request,
        *,
        stream: bool = True,
        auth: None = None,
        follow_redirects: bool = False,
    ) -> httpx2.Response:
        return await self._transport.handle_async_request(request)

    async def __aenter__(self) -> AsyncTransportClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.aclose()


@cache
def _default_tls() -> SSLContext:
    """Return how certificates are verified; reading them takes 20 ms, so it is done once."""
    return httpx2.create_ssl_context()


# --- requests, responses, errors ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFactory:
    """Builds the requests of one call.

    Attributes:
        body: of the first request.
        idle_timeout: seconds without a byte after which a connection counts as broken.
        keeps_connections: whether a connection may serve another request afterwards.
    """

    body: Body
    idle_timeout: float | None
    keeps_connections: bool = True

    def build(
        self,
        client: HTTPClient | AsyncHTTPClient,
        command: Open,
        extensions: dict[str, Any] | None = None,
    ) -> Any:
        """Return the request that the machine asks for.

        Another origin than that of the first request gets nothing that identifies the caller:
        none of the headers, cookies and query parameters that the client adds to each request.
        """
        idle = self.idle_timeout
        fields = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in command.headers.raw
        ]
        if not self.keeps_connections:
            fields.append((b"connection", b"close"))
        request = client.build_request(
            command.method,
            command.url,
            content=self.body if command.sends_body else None,
            headers=fields,
            timeout=(_CONNECT_TIMEOUT, idle, idle, idle),
            extensions=extensions,
        )
        if command.number > 1:
            request.url = type(request.url)(command.url)  # a redirect's URL is complete
        if not command.is_same_origin:
            for name in set(request.headers) - _FOREIGN_FIELDS:
                del request.headers[name]
        return request


def check_client(client: object, *, is_async: bool) -> None:
    """See that a client can send the requests of a call, before anything is sent.

    Raises:
        TypeError: it is none, or not one for this kind of call.
    """
    build, send = getattr(client, "build_request", None), getattr(client, "send", None)
    if isinstance(client, type) or not callable(build) or not callable(send):
        raise TypeError(f"client must be a client of httpx2 or httpx, not {client!r}")
    if not is_client_of_kind(client, is_async=is_async):
        kind, name = ("an AsyncClient", "_async") if is_async else ("a Client", "")
        raise TypeError(f"fetch_with_stream{name} needs {kind}, not {type(client).__name__}")


def checked_headers(fields: Any) -> Headers:
    """Return the headers of a request.

    Raises:
        ValueError: a field is malformed, or is one that the HTTP client sets itself.
    """
    headers = fields if isinstance(fields, Headers) else Headers(fields)
    for name in headers:
        if name in _TRANSPORT_FIELDS:
            raise ValueError(f"the header {name!r} must be left to the HTTP client")
    return headers


def response_headers(response: HTTPResponse | AsyncHTTPResponse) -> Headers:
    """Return the header fields of a response; ``ValueError`` if one is malformed."""
    return Headers(
        [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw]
    )


class ConnectionUse:
    """Whether a request is sent on a new connection, as events of the ``trace`` extension tell.

    Attributes:
        was_reused: it was sent on one that had served other requests before. False if that is not
            known: a transport without sockets has no such events.
    """

    def __init__(self) -> None:
        self.was_reused = False
        self._is_new = False

    def note(self, event: str) -> None:
        """Take note of an event."""
        if event.endswith(_CONNECTED):
            self._is_new, self.was_reused = True, False
        elif event.endswith(_SENDING) and not self._is_new:
            self.was_reused = True


def is_delimited(response: HTTPResponse | AsyncHTTPResponse) -> bool:
    """Tell whether the body has an end of its own, other than that of the connection."""
    if not response.http_version.startswith("HTTP/1"):
        return True
    return "content-length" in response.headers or "transfer-encoding" in response.headers


def translated(error: Exception, idle_timeout: float | None) -> Exception:
    """Return this library's error for one of ``httpx2`` or ``httpx``; others as they are.

    Args:
        error: what the HTTP client raised. It becomes the cause.
        idle_timeout: seconds, for the message.
    """
    for name in ("httpx2", "httpx"):
        library = sys.modules.get(name)  # it is loaded if a client of it is used
        found = None if library is None else _our_error(library, error, idle_timeout)
        if found is not None:
            found.__cause__ = error
            return found
    return error


def _our_error(library: Any, error: Exception, idle_timeout: float | None) -> Exception | None:
    if isinstance(error, library.ConnectTimeout):
        return RequestTimeoutError(f"no connection to the server within {_CONNECT_TIMEOUT:g} s")
    if isinstance(error, library.TimeoutException):
        limit = "too long" if idle_timeout is None else f"{idle_timeout:g} s (idle_timeout=)"
        return RequestTimeoutError(f"nothing moved on the connection for {limit}")
    if isinstance(error, library.ConnectError | library.ProxyError):
        return ConnectFailedError(f"no connection to the server: {error}")
    if isinstance(error, library.NetworkError | library.RemoteProtocolError):
        return ConnectionLostError(f"the connection broke before the response was whole: {error}")
    if isinstance(error, library.DecodingError):
        return ProtocolError(f"the body of the response cannot be decoded: {error}")
    return None
