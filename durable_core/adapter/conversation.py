"""The conversation about one request, from its head to the end of its response.

It is written once, as a generator. Each ``yield`` hands a call's value to a driver, which gives it
back: as it is in a thread, awaited on an event loop. So ``data = yield link.read(size)`` works on
both.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from contextlib import suppress
from typing import Any, Protocol, TypeAlias, TypeVar

from durable_core.adapter.bodies import END, AsyncChunks, Chunks, aiter_body, iter_body
from durable_core.adapter.exchange import (
    AsyncExchange,
    ClientDisconnectedError,
    DisconnectWatcher,
    Exchange,
    Fields,
)
from durable_core.adapter.messages import (
    OutgoingHead,
    check_chunk,
    complete_request,
    loggable_path,
    parse_head,
    prepare_response,
)
from durable_core.engine.stream_bodies import AsyncBody
from durable_core.errors import BadRequest, HTTPError
from durable_core.flow.env import Limits
from durable_core.http.problem import problem, problem_from_http_error
from durable_core.http.request import Request
from durable_core.http.response import Response

__all__ = [
    "App",
    "PulledBody",
    "PulledExchange",
    "converse",
    "converse_async",
    "pull",
    "pull_response",
    "refuse",
    "refuse_async",
    "send_async",
]

T = TypeVar("T")
#: A part of a conversation. What it yields is a value, or an awaitable of one.
_Part: TypeAlias = Generator[Any, Any, T]

_PIECE = 65536
_LAST_CHUNK = b"0\r\n\r\n"


class App(Protocol):
    """What answers requests; ``AdapterApp`` makes one of any handler of the core."""

    @property
    def logger(self) -> logging.Logger:
        """Where failures are logged."""
        ...

    @property
    def limits(self) -> Limits:
        """``head`` and ``body`` bound requests."""
        ...

    def respond(self, request: Request, *, max_wait: float, route: str | None) -> Response:
        """Answer in this thread, whatever happens."""
        ...

    async def respond_async(
        self, request: Request, *, max_wait: float, route: str | None
    ) -> Response:
        """Answer in this task, whatever happens."""
        ...

    def run_on_background_loop(self, awaitable: Awaitable[T]) -> T:
        """Await something on an event loop beside this thread, and block until it is there."""
        ...


# The conversation


def _conversation(link: _Link) -> _Part[None]:
    """Read the request, have it answered, send the response."""
    try:
        request = yield from _read_request(link)
    except HTTPError as error:
        yield from _refuse(link, error)
        return
    response = yield link.respond(request)
    yield from _send_response(link, response)


def _refuse(link: _Link, error: HTTPError) -> _Part[None]:
    link.app.logger.info("a request was refused: %s", error)
    link.exchange.refused = True
    yield from _send_response(link, problem_from_http_error(error))


def _read_request(link: _Link) -> _Part[Request]:
    limits = link.app.limits
    head = parse_head(link.exchange, limits)
    body = bytearray()
    left = limits.body + 1 if head.length is None else head.length
    if head.expects_continue:
        yield link.exchange.send_continue()
    try:
        while left > 0 and (data := (yield link.exchange.read(min(left, _PIECE)))):
            body += data
            left -= len(data)
    except TimeoutError as error:
        raise HTTPError(408, "the body did not come in time") from error
    except ClientDisconnectedError:
        raise
    except OSError as error:
        raise BadRequest("the body could not be read to its end") from error
    return complete_request(head, limits, bytes(body))


def _send_response(link: _Link, response: Response, *, is_last: bool = False) -> _Part[None]:
    """Send a response; one that cannot be begun is replaced, one that breaks is cut off.

    Args:
        link: where to.
        response: what to send.
        is_last: whether it is in place of another; it is not replaced itself.
    """
    head = prepare_response(response, head=link.exchange.method == "HEAD")
    body = response.body
    chunks = None if isinstance(body, bytes) else link.open(body, head)
    begun = False
    try:
        yield link.begin(response.status, head)
        begun = True
        if chunks is not None:
            yield from _send_stream(link, head, chunks)
        elif isinstance(body, bytes) and body and not head.omit_body:
            yield link.write(body)
        yield link.end()
    except ClientDisconnectedError:
        raise
    except Exception as error:
        if begun or is_last:
            yield link.exchange.abort(error)  # which may raise it, for its server to log
        link.log_broken(error)
        if not (begun or is_last):
            yield from _send_response(link, problem(500, "internal-error"), is_last=True)
    finally:
        if chunks is not None:
            yield from _close(link, chunks)


def _close(link: _Link, chunks: Chunks | AsyncChunks) -> _Part[None]:
    try:
        yield chunks.close()
    except Exception:
        link.app.logger.exception("a response body could not be closed")


def _send_stream(link: _Link, head: OutgoingHead, chunks: Chunks | AsyncChunks) -> _Part[None]:
    """Send a streamed body as fast as the client takes it, and hold it to its declared length.

    A chunk that completes the declared length is kept back until the body has ended, for after it
    the client would take the response for whole.

    Raises:
        ValueError: the body is shorter or longer than declared.
    """
    left = head.length
    held = b""
    while (chunk := (yield link.next_chunk(chunks))) is not END:
        data = check_chunk(chunk)
        if not data or head.omit_body:
            continue
        if left is not None:
            left -= len(data)
            if left < 0:
                raise ValueError(f"the body is longer than its content-length, {head.length}")
            if left == 0:
                held = data
                continue
        yield link.write(data)
    if left and not head.omit_body:
        raise ValueError(f"the body is {left} bytes short of its content-length, {head.length}")
    if held:
        yield link.write(held)


# The two kinds of links


class _Link(ABC):
    """An exchange and its application. What the methods return, a driver gives back."""

    exchange: Exchange | AsyncExchange

    def __init__(self, app: App) -> None:
        self.app = app
        self._coded = False

    @abstractmethod
    def respond(self, request: Request) -> Any:
        """Return the response."""

    @abstractmethod
    def open(
        self, body: Iterable[bytes] | AsyncIterable[bytes], head: OutgoingHead
    ) -> Chunks | AsyncChunks:
        """Return the chunks of a body, which :meth:`next_chunk` is called for."""

    @abstractmethod
    def next_chunk(self, chunks: Any) -> Any:
        """Return the next chunk, unless the client is gone."""

    @abstractmethod
    def begin(self, status: int, head: OutgoingHead) -> Any:
        """Send the head."""

    @abstractmethod
    def write(self, data: bytes) -> Any:
        """Send a part of the body."""

    @abstractmethod
    def end(self) -> Any:
        """Mark the end of the body."""

    def log_broken(self, error: Exception) -> None:
        """Log why a response broke."""
        path = loggable_path(self.exchange.target)
        self.app.logger.error(
            "the response to %s %s broke", self.exchange.method, path, exc_info=error
        )

    def _fields_to_send(self, head: OutgoingHead) -> Fields:
        """Return the fields to send; where the kit frames the body, with its transfer coding."""
        self._coded = self.exchange.chunked and head.length is None and not head.omit_body
        return (*head.fields, ("transfer-encoding", "chunked")) if self._coded else head.fields

    def _code(self, data: bytes) -> bytes:
        """Return a part of the body as it is sent (RFC 9112, section 7.1)."""
        return b"%x\r\n%b\r\n" % (len(data), data) if self._coded else data


class _ClientErrors:
    """``with`` it, errors of the connection are told from those of the application.

    A class of its own takes two calls for each part of a body; ``@contextmanager`` takes six.
    """

    def __enter__(self) -> None:
        """Nothing is kept: one object serves all."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, ClientDisconnectedError):
            raise ClientDisconnectedError("the client is gone, or too slow") from error


_client_errors = _ClientErrors()


class _ThreadLink(_Link):
    def __init__(self, app: App, exchange: Exchange) -> None:
        super().__init__(app)
        self.exchange: Exchange = exchange

    def respond(self, request: Request) -> Response:
        exchange = self.exchange
        return self.app.respond(request, max_wait=exchange.max_wait, route=exchange.route)

    def open(self, body: Iterable[bytes] | AsyncIterable[bytes], head: OutgoingHead) -> Chunks:
        return iter_body(body, self.app.run_on_background_loop)

    def next_chunk(self, chunks: Chunks) -> Any:
        if self.exchange.is_gone():
            raise ClientDisconnectedError("the client has closed the connection")
        return chunks.next()

    def begin(self, status: int, head: OutgoingHead) -> None:
        with _client_errors:
            self.exchange.begin(status, self._fields_to_send(head))

    def write(self, data: bytes) -> None:
        with _client_errors:
            self.exchange.write(self._code(data))

    def end(self) -> None:
        with _client_errors:
            if self._coded:
                self.exchange.write(_LAST_CHUNK)
            self.exchange.end()


class _TaskLink(_Link):
    def __init__(self, app: App, exchange: AsyncExchange, watch: DisconnectWatcher) -> None:
        super().__init__(app)
        self.exchange: AsyncExchange = exchange
        self._watch = watch

    async def respond(self, request: Request) -> Response:
        exchange = self.exchange
        self._watch.start()
        response = await self.app.respond_async(
            request, max_wait=exchange.max_wait, route=exchange.route
        )
        if response.is_streaming:
            self._watch.listen()
        return response

    def open(self, body: Iterable[bytes] | AsyncIterable[bytes], head: OutgoingHead) -> AsyncChunks:
        is_sent_as_it_is = head.length is None and not (head.omit_body or self.exchange.chunked)
        if isinstance(body, AsyncBody) and is_sent_as_it_is:
            body.write_through(self.exchange)
        return aiter_body(body)

    async def next_chunk(self, chunks: AsyncChunks) -> Any:
        # Neither the body nor the server need ever wait, once the client is gone: the loop has to
        # get its turn, if only to find that out.
        await asyncio.sleep(0)
        return await chunks.next()

    async def begin(self, status: int, head: OutgoingHead) -> None:
        with _client_errors:
            await self.exchange.begin(status, self._fields_to_send(head))

    async def write(self, data: bytes) -> None:
        with _client_errors:
            await self.exchange.write(self._code(data))

    async def end(self) -> None:
        with _client_errors:
            if self._coded:
                await self.exchange.write(_LAST_CHUNK)
            await self.exchange.end()


# The drivers


def converse(app: App, exchange: Exchange) -> None:
    """Read a request, have it answered, and send the response, in this thread.

    Whatever happens, the exchange ends: with ``end``, or with ``abort``.

    Args:
        app: what answers.
        exchange: one request, and the way to answer it.

    Raises:
        Exception: what ``exchange.abort`` raises.
    """
    for _ in _steps(_conversation(_ThreadLink(app, exchange)), exchange):
        pass


def refuse(app: App, exchange: Exchange, error: HTTPError) -> None:
    """Refuse a request that the server itself finds fault with; as :func:`converse`.

    Args:
        app: whose log says so.
        exchange: what is known of the request, and the way to answer it.
        error: becomes the response.
    """
    for _ in _steps(_refuse(_ThreadLink(app, exchange), error), exchange):
        pass


def pull(app: App, exchange: PulledExchange) -> PulledBody:
    """Read a request and have it answered; return the body to a server that pulls it.

    The exchange has begun its response by then. The server must close the body in the end.

    Args:
        app: what answers.
        exchange: one request, and the way to answer it.
    """
    return PulledBody(_conversation(_ThreadLink(app, exchange)), exchange)


def pull_response(app: App, exchange: PulledExchange, response: Response) -> PulledBody:
    """Send a response that there is already; return its body as :func:`pull` does.

    Args:
        app: whose log says if the response breaks.
        exchange: the request, and the way to answer it.
        response: what to send.
    """
    return PulledBody(_send_response(_ThreadLink(app, exchange), response), exchange)


class PulledExchange(Exchange):
    """An exchange on a server that pulls the body, as WSGI does, in place of being written to."""

    begun = False
    pending: bytes | None = None

    def write(self, data: bytes) -> None:
        """Keep the bytes for the server, which asks for them next."""
        self.pending = data


class PulledBody(Iterator[bytes]):
    """What is left of a conversation: the body of its response."""

    def __init__(self, part: _Part[None], exchange: PulledExchange) -> None:
        self._exchange = exchange
        self._part = part
        self._steps = _steps(part, exchange)
        while not exchange.begun and next(self._steps, END) is not END:
            pass

    def __next__(self) -> bytes:
        exchange = self._exchange
        while exchange.pending is None:
            next(self._steps)
        data, exchange.pending = exchange.pending, None
        return data

    def close(self) -> None:
        """End the conversation. If the body has not ended, its client is gone."""
        with suppress(StopIteration, ClientDisconnectedError):  # the latter where it has ended
            # No name here refers to the error, whose traceback refers to this frame.
            self._steps.throw(ClientDisconnectedError("the server wants no more of the response"))
        for _ in self._steps:
            pass


def _steps(part: _Part[None], exchange: Exchange) -> Generator[None]:
    """Run a conversation in this thread; each step ends after one call."""
    resume: Callable[[Any], Any] = part.send
    value: Any = None
    try:
        while True:
            value = resume(value)
            try:
                yield
                resume = part.send
            except ClientDisconnectedError as gone:
                resume, value = part.throw, gone
    except StopIteration:
        return
    except ClientDisconnectedError as gone:
        exchange.abort(gone)


async def converse_async(app: App, exchange: AsyncExchange) -> None:
    """Read a request, have it answered, and send the response, in this task.

    Whatever happens, the exchange ends: with ``end``, or with ``abort``. When the client goes away,
    what is being done for it is cancelled.

    Args:
        app: what answers.
        exchange: one request, and the way to answer it.

    Raises:
        Exception: what ``exchange.abort`` raises.
    """
    try:
        async with DisconnectWatcher(exchange.is_gone) as watch:
            await _drive(_conversation(_TaskLink(app, exchange, watch)))
    except ClientDisconnectedError as gone:
        await exchange.abort(gone)


async def send_async(
    app: App,
    exchange: AsyncExchange,
    answer: Callable[[], Awaitable[Response]],
    *,
    has_waited: bool = False,
) -> None:
    """Await the response to a request that has been read, and send it; as :func:`converse_async`.

    Args:
        app: whose log says if the response breaks.
        exchange: the request, and the way to answer it.
        answer: awaited for the response. It is cancelled when the client goes away.
        has_waited: the client has waited for :data:`LISTEN_AFTER`, and is listened to at once.
    """
    try:
        async with DisconnectWatcher(exchange.is_gone) as watch:
            if has_waited:
                watch.listen()
            else:
                watch.start()
            response = await answer()
            if response.is_streaming:
                watch.listen()
            await _drive(_send_response(_TaskLink(app, exchange, watch), response))
    except ClientDisconnectedError as gone:
        await exchange.abort(gone)


async def refuse_async(app: App, exchange: AsyncExchange, error: HTTPError) -> None:
    """Refuse a request in this task; see :func:`refuse`."""
    try:
        async with DisconnectWatcher(exchange.is_gone) as watch:
            await _drive(_refuse(_TaskLink(app, exchange, watch), error))
    except ClientDisconnectedError as gone:
        await exchange.abort(gone)


async def _drive(part: _Part[None]) -> None:
    """Run a part of a conversation in this task."""
    resume: Callable[[Any], Any] = part.send
    value: Any = None
    while True:
        try:
            asked = resume(value)
        except StopIteration:
            return
        try:
            value = await asked
            resume = part.send
        except BaseException as error:
            value = error
            resume = part.throw
