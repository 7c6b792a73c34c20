"""A client of HTTP/1.1 for threads."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

from durable_core.errors import ConnectionLostError
from durable_core.model.outgoing import OutgoingRequest, ResponseHead
from durable_core.ports.http import Fetched
from durable_core.runtime.http.abort import Abort
from durable_core.runtime.http.budget import Budget
from durable_core.runtime.http.connection import Connection, connect
from durable_core.runtime.http.idle import PoolLimits
from durable_core.runtime.http.pool import Pool
from durable_core.runtime.http.response import IncomingResponse
from durable_core.wire.http_request import LAST_CHUNK, encode_chunk, encode_request_head
from durable_core.wire.http_response import ResponseParser, check_body_size
from durable_core.wire.urls import Origin, parse_url

__all__ = ["HTTPClient", "HTTPResponse"]


class HTTPResponse(IncomingResponse[bytes]):
    """A response whose body is still coming; a context that closes it.

    Attributes:
        status: the status.
        headers: the header fields.
    """

    __slots__ = ()

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body as it comes; it can be gone through once.

        Raises:
            ConnectionLostError, ProtocolError, RequestTimeoutError, RequestAbortedError: the
                response is closed.
        """
        try:
            while (data := self._take()) is not None:
                if data:
                    yield data
                else:
                    self._parser.feed(self._receive())
        finally:
            self.close()

    def read(self, limit: int | None = None) -> bytes:
        """Return the rest of the body, at most ``limit`` bytes.

        Raises:
            ProtocolError: the body is larger.
            ConnectionLostError, RequestTimeoutError, RequestAbortedError: as in iteration.
        """
        body = bytearray()
        with self:
            for data in self:
                body += data
                check_body_size(len(body), limit)
        return bytes(body)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


class HTTPClient:
    """Sends requests from any number of threads, and keeps connections for the next ones.

    It follows no redirects, keeps no cookies and decodes no content codings.

    Args:
        tls: for ``https``; by default what ``ssl.create_default_context()`` gives.
        limits: how many connections are kept, and how long.
    """

    __slots__ = ("_pool",)

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, limits: PoolLimits | None = None
    ) -> None:
        self._pool = Pool(limits or PoolLimits(), tls, Connection.close)

    def send(self, request: OutgoingRequest, *, abort: Abort | None = None) -> HTTPResponse:
        """Send a request, and return the response when its head is there; close it, or read it.

        A kept connection that proves dead is replaced by a fresh one, where the request may be
        sent twice (``OutgoingRequest.idempotent``) and nothing of a response was seen.

        Args:
            request: its body may be an iterable, which is sent as it comes, but not an async one.
            abort: what makes this, and reading the response, end with ``RequestAbortedError``.

        Raises:
            ConnectFailedError, ConnectionLostError, ProtocolError, RequestTimeoutError,
            RequestAbortedError: see there.
            ValueError: the URL or a header cannot be sent.
            TypeError: the body is an async iterable.
        """
        target = parse_url(request.url)
        head = encode_request_head(request, target)
        exchange = _Exchange(request, head, abort or Abort(), self._pool)
        kept = self._pool.take(target.origin)
        if kept is not None:
            try:
                return exchange.on(kept, target.origin)
            except ConnectionLostError:
                if exchange.was_answered or not request.idempotent:
                    raise
        tls = self._pool.tls_for(target.origin)
        fresh = connect(target.origin, tls, exchange.budget, exchange.abort)
        return exchange.on(fresh, target.origin)

    @contextmanager
    def fetch(self, request: OutgoingRequest, abort: Abort | None = None) -> Iterator[Fetched]:
        """Send a request as ``ports.http.Fetch`` asks for."""
        with self.send(request, abort=abort) as response:
            yield Fetched(
                response.status, response.headers, response, is_delimited=response.is_delimited
            )

    def close(self) -> None:
        """Close the kept connections; responses that are being read go on."""
        for connection in self._pool.clear():
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


class _Exchange:
    """One request, on one connection or, should that prove dead, on another."""

    __slots__ = ("_head", "_pool", "_request", "abort", "budget", "was_answered")

    def __init__(
        self, request: OutgoingRequest, head: bytes, abort: Abort, pool: Pool[Connection]
    ) -> None:
        self._request = request
        self._head = head
        self._pool = pool
        self.budget = Budget(request.timeouts)
        self.abort = abort
        self.was_answered = False

    def on(self, connection: Connection, origin: Origin) -> HTTPResponse:
        """Send the request on this connection, and return the response."""
        parser = ResponseParser(self._request.method)
        with ExitStack() as stack:
            stack.callback(connection.close)
            with self.abort.calling(connection.abort):
                broken = self._send(connection)
                try:
                    head = self._receive_head(connection, parser)
                except ConnectionLostError as error:
                    raise error from broken
            stack.pop_all()
        aborting = ExitStack()
        aborting.enter_context(self.abort.calling(connection.abort))

        def done(is_reusable: bool) -> None:
            aborting.close()
            self._pool.give_back(connection, origin, is_reusable and broken is None)

        return HTTPResponse(parser, head, lambda: connection.receive(self.budget), done)

    def _send(self, connection: Connection) -> ConnectionLostError | None:
        """Send the request; return what kept it from being sent whole.

        A server may refuse a request before it has read it, and close: the answer is there then.
        """
        body = self._request.body
        try:
            if body is None or isinstance(body, bytes):
                connection.send(self._head + (body or b""), self.budget)
                return None
            connection.send(self._head, self.budget)
            for data in _checked(body):
                connection.send(encode_chunk(data), self.budget)
            connection.send(LAST_CHUNK, self.budget)
        except ConnectionLostError as error:
            return error
        return None

    def _receive_head(self, connection: Connection, parser: ResponseParser) -> ResponseHead:
        while parser.head is None:
            data = connection.receive(self.budget)
            self.was_answered = self.was_answered or bool(data)
            parser.feed(data)
        return parser.head


def _checked(body: object) -> Iterable[bytes]:
    if not isinstance(body, Iterable):
        raise TypeError("the body is an async iterable; only a client for tasks can send it")
    return body
