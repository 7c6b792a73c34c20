"""Exchanges with the server over HTTP, on the connections that one event loop keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from durable_core.errors import (
    ConnectFailedError,
    ConnectionLostError,
    ProtocolError,
    RequestTimeoutError,
)

__all__ = ["Answered", "Call", "Connections", "Timeouts", "check_url"]

#: Connections that nobody uses are kept for 30 s. As many are made as are needed.
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=30.0)


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


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole answer; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connections:
    """Makes exchanges, and keeps connections for the next ones. Belongs to one event loop.

    The transport is used without a client of ``httpx2`` around it, which would write each URL to
    the log, with its token or event key.
    """

    def __init__(self) -> None:
        self._transport = httpx2.AsyncHTTPTransport(limits=_LIMITS)
        self._in_use = 0
        self._is_closed = False

    async def exchange(self, call: Call, max_bytes: int) -> Answered:
        """Send a request, and return the answer. Redirects are not followed.

        Raises:
            ClientError: no answer came, or it has over ``max_bytes`` bytes.
        """
        self._in_use += 1
        try:
            with _our_errors(call.timeouts):
                async with asyncio.timeout(call.timeouts.whole):
                    return await self._exchange(call, max_bytes)
        finally:
            self._in_use -= 1
            if self._is_closed:
                await self._close_unused()

    async def close(self) -> None:
        """Close the connections, those in use when their exchanges end; keep none from now on."""
        self._is_closed = True
        await self._close_unused()

    async def _close_unused(self) -> None:
        if not self._in_use:
            await self._transport.aclose()

    async def _exchange(self, call: Call, max_bytes: int) -> Answered:
        response = await self._send(call)
        try:
            body = bytearray()
            async for data in response.aiter_bytes():
                body += data
                if len(body) > max_bytes:
                    raise ProtocolError(f"the answer has over {max_bytes} bytes")
        finally:
            await response.aclose()
        return Answered(response.status_code, dict(response.headers), bytes(body))

    async def _send(self, call: Call) -> httpx2.Response:
        if not call.repeatable:
            return await self._transport.handle_async_request(_request(call, {}))
        is_fresh = False

        async def trace(event: str, info: object) -> None:
            nonlocal is_fresh
            is_fresh = is_fresh or event == "connection.connect_tcp.started"

        try:
            return await self._transport.handle_async_request(_request(call, {"trace": trace}))
        except (httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError):
            if is_fresh:
                raise
        return await self._transport.handle_async_request(_request(call, {}))


def check_url(url: str) -> None:
    """Raise ``ValueError`` for what is no absolute ``http`` or ``https`` URL."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ValueError(f"it is malformed: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or "%" in parsed.host:
        raise ValueError(f"it must begin with http:// or https:// and a host, unlike {url!r}")
    if not 0 < (parsed.port or 1) < 65536:
        raise ValueError(f"it is malformed: there is no port {parsed.port}")
    if parsed.userinfo:
        raise ValueError("it must hold no credentials")


def _request(call: Call, extensions: Mapping[str, Any]) -> httpx2.Request:
    timeouts = call.timeouts
    limits = httpx2.Timeout(timeouts.idle, connect=timeouts.connect)
    return httpx2.Request(
        call.method,
        call.url,
        headers=call.headers,
        content=call.body,
        extensions={**extensions, "timeout": limits.as_dict()},
    )


@contextmanager
def _our_errors(timeouts: Timeouts) -> Iterator[None]:
    """Raise this library's errors in place of the HTTP library's."""
    try:
        yield
    except httpx2.ConnectTimeout as error:
        raise RequestTimeoutError(f"no connection within {timeouts.connect} s") from error
    except httpx2.TimeoutException as error:
        raise RequestTimeoutError(f"nothing moved for {timeouts.idle} s") from error
    except TimeoutError as error:
        raise RequestTimeoutError(f"the exchange took over {timeouts.whole} s") from error
    except httpx2.ConnectError as error:
        raise ConnectFailedError(f"no connection to it: {error}") from error
    except (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.DecodingError) as error:
        raise ConnectionLostError(f"the connection broke before its answer: {error}") from error
