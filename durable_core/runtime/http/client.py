"""A client of HTTP/1.1 for threads."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

from durable_core.errors import ConnectionLostError
from durable_core.model.headers import Headers
from durable_core.model.outgoing import OutgoingRequest, ResponseHead
from durable_core.ports.http import Fetched
from durable_core.runtime.http.abort import Abort
from durable_core.runtime.http.budget import Budget
from durable_core.runtime.http.connection import Connection, connect
from durable_core.runtime.http.idle import IdleConnections, PoolLimits
from durable_core.wire.http_request import LAST_CHUNK, encode_chunk, encode_request_head
from durable_core.wire.http_response import ResponseParser, check_body_size
from durable_core.wire.urls import Origin, parse_url

__all__ = ["HTTPClient", "HTTPResponse"]


class HTTPResponse:
    """A response whose body is still coming; a context that closes it.

    Attributes:
        status: the status.
        headers: the header fields.
    """

    __slots__ = ("_aborting", "_budget", "_connection", "_done", "_parser", "headers", "status")

    def __init__(
        self,
        connection: Connection,
        parser: ResponseParser,
        head: ResponseHead,
        budget: Budget,
        abort: Abort,
        done: Callable[[bool], None],
    ) -> None:
        self.status = head.status
        self.headers: Headers = head.headers
        self._connection = connection
        self._parser = parser
        self._budget = budget
        self._done: Callable[[bool], None] | None = done
        self._aborting = ExitStack()
        self._aborting.enter_context(abort.calling(connection.abort))

    @property
    def is_delimited(self) -> bool:
        """Whether the body has an end of its own, other than that of the connection."""
        return self._parser.is_delimited

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body as it comes; it can be gone through once.

        Raises:
            ConnectionLostError, ProtocolError, RequestTimeoutError, RequestAbortedError: the
                response is closed.
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
                    parser.feed(self._connection.receive(self._budget))
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

    def close(self) -> None:
        """Let the connection serve another request, if the body was read; close it otherwise."""
        done, self._done = self._done, None
        if done is not None:
            self._aborting.close()
            done(self._parser.is_reusable)

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

    __slots__ = ("_idle", "_lock", "_tls")

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, limits: PoolLimits | None = None
    ) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self._idle: IdleConnections[Connection] = IdleConnections(limits or PoolLimits())

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
        exchange = _Exchange(request, head, Budget(request.timeouts), abort or Abort(), self._done)
        kept = self._take(target.origin)
        if kept is not None:
            try:
                return exchange.on(kept, target.origin)
            except ConnectionLostError:
                if exchange.was_answered or not request.idempotent:
                    raise
        fresh = connect(
            target.origin, self._context(target.origin), exchange.budget, exchange.abort
        )
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
        with self._lock:
            connections = self._idle.clear()
        _close(connections)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def _context(self, origin: Origin) -> ssl.SSLContext | None:
        if not origin.is_secure:
            return None
        with self._lock:
            if self._tls is None:  # made late, for it reads the system's certificates
                self._tls = ssl.create_default_context()
            return self._tls

    def _take(self, origin: Origin) -> Connection | None:
        """Return a kept connection that is alive, as far as can be seen."""
        while True:
            with self._lock:
                expired = self._idle.expire(time.monotonic())
                connection = self._idle.take(origin)
            _close(expired)
            if connection is None or not connection.is_stale():
                return connection
            connection.close()

    def _done(self, connection: Connection, origin: Origin, is_reusable: bool) -> None:
        surplus = [connection]
        if is_reusable:
            with self._lock:
                surplus = self._idle.put(origin, connection, time.monotonic())
        _close(surplus)


class _Exchange:
    """One request, on one connection or, should that prove dead, on another."""

    __slots__ = ("_done", "_head", "_request", "abort", "budget", "was_answered")

    def __init__(
        self,
        request: OutgoingRequest,
        head: bytes,
        budget: Budget,
        abort: Abort,
        done: Callable[[Connection, Origin, bool], None],
    ) -> None:
        self._request = request
        self._head = head
        self._done = done
        self.budget = budget
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
        is_whole = broken is None
        return HTTPResponse(
            connection,
            parser,
            head,
            self.budget,
            self.abort,
            lambda is_reusable: self._done(connection, origin, is_reusable and is_whole),
        )

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


def _close(connections: Iterable[Connection]) -> None:
    for connection in connections:
        connection.close()
