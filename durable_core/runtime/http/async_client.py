"""A client of HTTP/1.1 for the tasks of one event loop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Self

from durable_core.errors import ConfigurationError, ConnectionLostError
from durable_core.model.headers import Headers
from durable_core.model.outgoing import OutgoingRequest, ResponseHead
from durable_core.ports.http import AsyncFetched
from durable_core.runtime.http.async_connection import AsyncConnection, connect_async
from durable_core.runtime.http.budget import Budget
from durable_core.runtime.http.idle import IdleConnections, PoolLimits
from durable_core.wire.http_request import LAST_CHUNK, encode_chunk, encode_request_head
from durable_core.wire.http_response import ResponseParser, check_body_size
from durable_core.wire.urls import Origin, parse_url

__all__ = ["AsyncHTTPClient", "AsyncHTTPResponse"]


class AsyncHTTPResponse:
    """A response whose body is still coming; an async context that closes it.

    Attributes:
        status: the status.
        headers: the header fields.
    """

    __slots__ = ("_budget", "_connection", "_done", "_parser", "headers", "status")

    def __init__(
        self,
        connection: AsyncConnection,
        parser: ResponseParser,
        head: ResponseHead,
        budget: Budget,
        done: Callable[[bool], None],
    ) -> None:
        self.status = head.status
        self.headers: Headers = head.headers
        self._connection = connection
        self._parser = parser
        self._budget = budget
        self._done: Callable[[bool], None] | None = done

    @property
    def is_delimited(self) -> bool:
        """Whether the body has an end of its own, other than that of the connection."""
        return self._parser.is_delimited

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; it can be gone through once.

        Raises:
            ConnectionLostError, ProtocolError, RequestTimeoutError: the response is closed.
        """
        parser = self._parser
        try:
            while True:
                data = parser.take()
                if data:
                    yield data
                elif parser.is_complete:
                    return
                elif self._done is None:
                    raise ConnectionLostError("the response was closed before its body was read")
                else:
                    parser.feed(await self._connection.receive(self._budget))
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

    def close(self) -> None:
        """Let the connection serve another request, if the body was read; close it otherwise."""
        done, self._done = self._done, None
        if done is not None:
            done(self._parser.is_reusable)

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

    __slots__ = ("_idle", "_loop", "_tls")

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, limits: PoolLimits | None = None
    ) -> None:
        self._tls = tls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: IdleConnections[AsyncConnection] = IdleConnections(limits or PoolLimits())

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
        exchange = _Exchange(request, head, Budget(request.timeouts), self._done)
        kept = self._take(target.origin)
        if kept is not None:
            try:
                return await exchange.on(kept, target.origin)
            except ConnectionLostError:
                if exchange.was_answered or not request.idempotent:
                    raise
        context = self._context(target.origin)
        fresh = await connect_async(target.origin, context, exchange.budget)
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
        await asyncio.gather(*(connection.close() for connection in self._idle.clear()))

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

    def _context(self, origin: Origin) -> ssl.SSLContext | None:
        if not origin.is_secure:
            return None
        if self._tls is None:  # made late, for it reads the system's certificates
            self._tls = ssl.create_default_context()
        return self._tls

    def _take(self, origin: Origin) -> AsyncConnection | None:
        """Return a kept connection that is alive, as far as can be seen."""
        for connection in self._idle.expire(asyncio.get_running_loop().time()):
            connection.abort()
        while True:
            candidate = self._idle.take(origin)
            if candidate is None:
                return None
            if not candidate.is_stale():
                return candidate
            candidate.abort()

    def _done(self, connection: AsyncConnection, origin: Origin, is_reusable: bool) -> None:
        surplus = [connection]
        if is_reusable:
            now = asyncio.get_running_loop().time()
            surplus = self._idle.put(origin, connection, now)
        for each in surplus:
            each.abort()


class _Exchange:
    """One request, on one connection or, should that prove dead, on another."""

    __slots__ = ("_done", "_head", "_request", "budget", "was_answered")

    def __init__(
        self,
        request: OutgoingRequest,
        head: bytes,
        budget: Budget,
        done: Callable[[AsyncConnection, Origin, bool], None],
    ) -> None:
        self._request = request
        self._head = head
        self._done = done
        self.budget = budget
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
        is_whole = broken is None
        return AsyncHTTPResponse(
            connection,
            parser,
            head,
            self.budget,
            lambda is_reusable: self._done(connection, origin, is_reusable and is_whole),
        )

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
