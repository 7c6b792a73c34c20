"""Exchanges with the server over HTTP, on the connections that one event loop keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from ssl import SSLContext
from typing import TypeAlias
from urllib.parse import urlsplit

import httpcore2

from durable_core.engines.remote import Answered
from durable_core.errors import (
    ConnectFailedError,
    ConnectionLostError,
    ProtocolError,
    RequestTimeoutError,
)
from durable_inngest._network import AsyncioBackend

__all__ = ["Call", "Connections", "Timeouts", "check_url"]

#: Seconds for which a connection is kept that nobody uses, and how many are.
_KEEP = 30.0
_MOST_KEPT = 100
_PORTS = {"http": 80, "https": 443}

#: Scheme, host and port.
_Address: TypeAlias = tuple[bytes, bytes, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long an exchange may take, in seconds; None for no limit.

    Attributes:
        connect: until there is a connection, TLS included.
        idle: without a byte sent or received.
        whole: from its start until the last byte of the answer.
    """

    connect: float
    idle: float | None
    whole: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request to the server.

    Attributes:
        body: bytes; an async iterable of bytes, which is sent as it comes; None for no body.
        repeatable: whether it may be sent again if a kept connection turns out to be closed, and
            nothing of an answer has come.
    """

    method: str = "GET"
    url: str = field(repr=False)  # it may have a token
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | AsyncIterable[bytes] | None = field(default=None, repr=False)
    timeouts: Timeouts
    repeatable: bool = True


class Connections:
    """Makes exchanges, and keeps connections for the next ones. Belongs to one event loop.

    As many connections are made as are needed. They are those of ``httpcore2``, without its pool
    and without a client of ``httpx2`` around them: that is half of the work, and the client would
    write each URL to the log, with its token or event key.
    """

    def __init__(self) -> None:
        self._network = AsyncioBackend()
        #: Those that nobody uses, by scheme, host and port; at the end the one used last.
        self._idle: dict[_Address, list[httpcore2.AsyncHTTPConnection]] = {}
        self._is_closed = False

    async def exchange(self, call: Call, max_bytes: int) -> Answered:
        """Send a request, and return the answer. Redirects are not followed.

        Raises:
            ClientError: no answer came, or it has over ``max_bytes`` bytes.
        """
        with _our_errors(call.timeouts):
            async with asyncio.timeout(call.timeouts.whole):
                address, request = _request(call)
                connection, response = await self._send(address, request, call.repeatable)
                try:
                    body = await _whole_body(response, max_bytes)
                finally:
                    await response.aclose()
                    await self._put_back(address, connection)
                return Answered(response.status, _fields(response.headers), body)

    async def close(self) -> None:
        """Close the connections, those in use when their exchanges end; keep none from now on."""
        self._is_closed = True
        for idle in self._idle.values():
            while idle:
                await idle.pop().aclose()

    async def _send(
        self, address: _Address, request: httpcore2.Request, repeatable: bool
    ) -> tuple[httpcore2.AsyncHTTPConnection, httpcore2.Response]:
        """Send a request; return the connection and the response whose body is to be read.

        A connection that fails closes itself.
        """
        kept = await self._take(address)
        if kept is not None:
            try:
                return kept, await kept.handle_async_request(request)
            except (httpcore2.ReadError, httpcore2.WriteError, httpcore2.RemoteProtocolError):
                if not repeatable:
                    raise
        scheme, host, port = address
        connection = httpcore2.AsyncHTTPConnection(
            httpcore2.Origin(scheme, host, port),
            ssl_context=_default_tls() if scheme == b"https" else None,
            keepalive_expiry=_KEEP,
            network_backend=self._network,
        )
        return connection, await connection.handle_async_request(request)

    async def _take(self, address: _Address) -> httpcore2.AsyncHTTPConnection | None:
        """Take the kept connection that was used last, if one is of use."""
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if not connection.has_expired():
                return connection
            await connection.aclose()
        return None

    async def _put_back(self, address: _Address, connection: httpcore2.AsyncHTTPConnection) -> None:
        """Keep a connection; close it, or the one that was not used for longest, if that is due."""
        idle = self._idle.setdefault(address, [])
        if self._is_closed or not connection.is_idle():
            await connection.aclose()
            return
        idle.append(connection)
        if len(idle) > _MOST_KEPT or (len(idle) > 1 and idle[0].has_expired()):
            await idle.pop(0).aclose()


@cache
def _default_tls() -> SSLContext:
    """Return how certificates are verified; reading them takes 20 ms, so it is done once."""
    return httpcore2.default_ssl_context()


def check_url(url: str) -> None:
    """Raise ``ValueError`` for what is no absolute ``http`` or ``https`` URL."""
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("it must have a host and a path of ASCII without spaces")
    try:
        parsed = urlsplit(url)
        port = parsed.port
    except ValueError as error:
        raise ValueError(f"it is malformed: {error}") from None
    if parsed.scheme not in _PORTS or not parsed.hostname or "%" in parsed.hostname:
        raise ValueError("it must begin with http:// or https:// and a host")
    if port == 0:
        raise ValueError("it is malformed: there is no port 0")
    if "@" in parsed.netloc:
        raise ValueError("it must hold no credentials")


def _request(call: Call) -> tuple[_Address, httpcore2.Request]:
    """Return where a request goes to, and the request."""
    scheme, _, rest = call.url.partition("://")
    authority, _, path = rest.partition("/")
    address = _address(scheme, authority)
    headers = [("host", authority), ("accept-encoding", "identity"), *call.headers.items()]
    if isinstance(call.body, bytes):
        headers.append(("content-length", str(len(call.body))))
    elif call.body is not None:
        headers.append(("transfer-encoding", "chunked"))
    idle = call.timeouts.idle
    request = httpcore2.Request(
        call.method,
        httpcore2.URL(scheme=address[0], host=address[1], port=address[2], target=f"/{path}"),
        headers=headers,
        content=call.body,
        extensions={"timeout": {"connect": call.timeouts.connect, "read": idle, "write": idle}},
    )
    return address, request


@lru_cache(maxsize=16)
def _address(scheme: str, authority: str) -> _Address:
    parsed = urlsplit(f"{scheme}://{authority}")
    host, port = parsed.hostname or "", parsed.port or _PORTS[scheme]
    return scheme.encode("ascii"), host.encode("ascii"), port


def _fields(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the fields of a head; one that comes more than once has all its values."""
    fields: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        fields[key] = f"{fields[key]}, {text}" if key in fields else text
    return fields


async def _whole_body(response: httpcore2.Response, max_bytes: int) -> bytes:
    body = bytearray()
    async for data in response.aiter_stream():
        body += data
        if len(body) > max_bytes:
            raise ProtocolError(f"the answer has over {max_bytes} bytes")
    return bytes(body)


@contextmanager
def _our_errors(timeouts: Timeouts) -> Iterator[None]:
    """Raise this library's errors in place of the HTTP library's."""
    try:
        yield
    except httpcore2.ConnectTimeout as error:
        raise RequestTimeoutError(f"no connection within {timeouts.connect} s") from error
    except httpcore2.TimeoutException as error:
        raise RequestTimeoutError(f"nothing moved for {timeouts.idle} s") from error
    except TimeoutError as error:
        raise RequestTimeoutError(f"the exchange took over {timeouts.whole} s") from error
    except httpcore2.ConnectError as error:
        raise ConnectFailedError(f"no connection to it: {error}") from error
    except (httpcore2.NetworkError, httpcore2.RemoteProtocolError) as error:
        raise ConnectionLostError(f"the connection broke before its answer: {error}") from error
