"""A client of HTTP/1.1 for the tasks of one event loop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Self

from durable_core.errors import ConfigurationError, ConnectionLostError
from durable_core.model.outgoing import OutgoingRequest, ResponseHead
from durable_core.ports.http import AsyncFetched
from durable_core.runtime.http.async_connection import AsyncConnection, connect_async
from durable_core.runtime.http.budget import Budget
from durable_core.runtime.http.idle import PoolLimits
from durable_core.runtime.http.pool import Pool
from durable_core.runtime.http.response import IncomingResponse
from durable_core.wire.http_request import LAST_CHUNK, encode_chunk, encode_request_head
from durable_core.wire.http_response import ResponseParser, check_body_size
from durable_core.wire.urls import Origin, parse_url

__all__ = ["AsyncHTTPClient", "AsyncHTTPResponse"]


class AsyncHTTPResponse(IncomingResponse[Awaitable[bytes]]):
    """A response whose body is still coming; an async context that closes it.

    Attributes:
        status: the status.
        headers: the header fields.
    """

    __slots__ = ()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; it can be gone through once.

        Raises:
            ConnectionLostError, ProtocolError, RequestTimeoutError: the response is closed.
        """
        try:
            while (data := self._take()) is not None:
                if data:
                    yield data
                else:
                    self._parser.feed(await self._receive())
        finally:
            self.close()

    async def read(self, limit: int | None = None) -> bytes:
        """Return the rest of the body, at most ``limit`` bytes.

        Raises:
            ProtocolError: the body is larger.
            ConnectionLostError, RequestTimeoutError: as in iteration.
        """
        body = bytearray()
        try:
            async for data in self:
                body += data
                check_body_size(len(body), limit)
        finally:
            self.close()
        return bytes(body)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *args: object) -> None:
        self.close()


class AsyncHTTPClient:
    """Sends requests from the tasks of one loop, and keeps connections for the next ones.

    It follows no redirects, keeps no cookies and decodes no content codings. A task that is
    cancelled closes its connection.

    Args:
        tls: for ``https``; by default what ``ssl.create_default_context()`` gives.
        limits: how many connections are kept, and how long.
    """

    __slots__ = ("_loop", "_pool")

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, limits: PoolLimits | None = None
    ) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool = Pool(limits or PoolLimits(), tls, AsyncConnection.abort)

    async def send(self, request: OutgoingRequest) -> AsyncHTTPResponse:
        """Send a request, and return the response when its head is there; close it, or read it.

        A kept connection that proves dead is replaced by a fresh one, where the request may be
        sent twice (``OutgoingRequest.idempotent``) and nothing of a response was seen.

        Args:
            request: its body may be an iterable or an async iterable, which is sent as it comes.

        Raises:
            ConnectFailedError, ConnectionLostError, ProtocolError, RequestTimeoutError: see there.
            ConfigurationError: the client was used in another event loop before.
            ValueError: the URL or a header cannot be sent.
        """
        self._check_loop()
        target = parse_url(request.url)
        head = encode_request_head(request, target)
        exchange = _Exchange(request, head, self._pool)
        kept = self._pool.take(target.origin)
        if kept is not None:
            try:
                return await exchange.on(kept, target.origin)
            except ConnectionLostError:
                if exchange.was_answered or not request.idempotent:
                    raise
        tls = self._pool.tls_for(target.origin)
        fresh = await connect_async(target.origin, tls, exchange.budget)
        return await exchange.on(fresh, target.origin)

    @asynccontextmanager
    async def fetch(self, request: OutgoingRequest, /) -> AsyncIterator[AsyncFetched]:
        """Send a request as ``ports.http.AsyncFetch`` asks for."""
        async with await self.send(request) as response:
            yield AsyncFetched(
                response.status, response.headers, response, is_delimited=response.is_delimited
            )

    async def close(self) -> None:
        """Close the kept connections; responses that are being read go on."""
        await asyncio.gather(*(connection.close() for connection in self._pool.clear()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.close()

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise ConfigurationError(
                "this client belongs to another event loop; make one for each loop"
            )
        self._loop = loop


class _Exchange:
    """One request, on one connection or, should that prove dead, on another."""

    __slots__ = ("_head", "_pool", "_request", "budget", "was_answered")

    def __init__(self, request: OutgoingRequest, head: bytes, pool: Pool[AsyncConnection]) -> None:
        self._request = request
        self._head = head
        self._pool = pool
        self.budget = Budget(request.timeouts)
        self.was_answered = False

    async def on(self, connection: AsyncConnection, origin: Origin) -> AsyncHTTPResponse:
        """Send the request on this connection, and return the response."""
        parser = ResponseParser(self._request.method)
        try:
            broken = await self._send(connection)
            try:
                head = await self._receive_head(connection, parser)
            except ConnectionLostError as error:
                raise error from broken
        except BaseException:
            connection.abort()
            raise

        def done(is_reusable: bool) -> None:
            self._pool.give_back(connection, origin, is_reusable and broken is None)

        return AsyncHTTPResponse(parser, head, lambda: connection.receive(self.budget), done)

    async def _send(self, connection: AsyncConnection) -> ConnectionLostError | None:
        """Send the request; return what kept it from being sent whole.

        A server may refuse a request before it has read it, and close: the answer is there then.
        """
        body = self._request.body
        try:
            if body is None or isinstance(body, bytes):
                await connection.send(self._head + (body or b""), self.budget)
                return None
            await connection.send(self._head, self.budget)
            async with aclosing(_chunks(body)) as chunks:
                async for data in chunks:
                    await connection.send(encode_chunk(data), self.budget)
            await connection.send(LAST_CHUNK, self.budget)
        except ConnectionLostError as error:
            return error
        return None

    async def _receive_head(
        self, connection: AsyncConnection, parser: ResponseParser
    ) -> ResponseHead:
        while parser.head is None:
            data = await connection.receive(self.budget)
            self.was_answered = self.was_answered or bool(data)
            parser.feed(data)
        return parser.head


async def _chunks(
    body: Iterable[bytes] | AsyncIterable[bytes],
) -> AsyncGenerator[bytes, None]:
    if isinstance(body, AsyncIterable):
        async for data in body:
            yield data
    else:
        for data in body:
            yield data
