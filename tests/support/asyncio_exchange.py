"""A connection of the asyncio HTTP server without a network."""

from __future__ import annotations

import asyncio
import io
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from http.client import HTTPResponse
from typing import Any, TypeAlias

from durable_asyncio._connection import Connection
from durable_asyncio._incoming import Incoming
from durable_asyncio._outgoing import Outgoing
from durable_asyncio._timeouts import Timeouts
from durable_core import Limits, Request, Response
from durable_core.adapters import AdapterApp
from support.raw_http import Reply

__all__ = ["Application", "Pieces", "Sink", "conversation", "converse", "replies_in"]

#: What a test answers by.
Application: TypeAlias = Callable[[Request], Awaitable[Response]]

_TIMEOUTS = Timeouts(head=5, body=5, keep_alive=5, write=5)


class Pieces:
    """A client's side: it sends these pieces one by one, and then closes.

    Args:
        pieces: what is sent. A number stands for a pause of so many seconds, None for a client
            that waits for the end of its answers.
        sink: what it gets.
    """

    def __init__(self, pieces: Iterable[bytes | float | None], sink: Sink) -> None:
        self._sink = sink
        self._pieces = deque(piece for piece in pieces if piece != b"")

    async def read(self, most: int) -> bytes:
        """Return the next piece."""
        await asyncio.sleep(0)
        if not self._pieces:
            return b""
        piece = self._pieces[0]
        if piece is None:
            self._sink.waited_for.set()
            await self._sink.answered.wait()
            return b""
        del self._pieces[0]
        if isinstance(piece, float):
            await asyncio.sleep(piece)
            return await self.read(most)
        if len(piece) > most:
            self._pieces.appendleft(piece[most:])
        return piece[:most]


class Sink:
    """The server's side: it keeps what is sent.

    Attributes:
        data: all of it.
        cut: whether the connection was reset.
        closed: whether it was closed in good order.
        patience: how often the client takes something, before it does no more.
        slow: for so many time-outs the client then takes a little each, and then all again.
        broken: what the server gets then; None if the client just stops.
        waited_for: set when the client has sent all, and waits for the end.
        answered: set when nothing more will be sent to it.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.cut = self.closed = False
        self.patience = 1_000_000
        self.slow = 0
        self._left = 1_000_000
        self.broken: OSError | None = None
        self.waited_for = asyncio.Event()
        self.answered = asyncio.Event()
        self.transport = self

    def write(self, data: bytes) -> None:
        """Take it."""
        self.data += data

    async def drain(self) -> None:
        """Wait for the client, or fail."""
        await asyncio.sleep(0)
        self.patience -= 1
        if self.patience < 0:
            if self.slow:
                self.slow, self._left = self.slow - 1, self._left - 1
                self.patience = 0 if self.slow else 1_000_000
            if self.broken is not None:
                raise self.broken
            await asyncio.get_running_loop().create_future()

    def get_write_buffer_size(self) -> int:
        """Return a number that is lower once the client has taken something."""
        return self._left

    def set_write_buffer_limits(self, high: int) -> None:
        """Keep none."""

    def can_write_eof(self) -> bool:
        """As TCP."""
        return True

    def write_eof(self) -> None:
        """Nothing more is sent."""
        self.answered.set()

    def close(self) -> None:
        """End it."""
        self.closed = not self.cut
        self.answered.set()

    async def wait_closed(self) -> None:
        """Wait for the end."""

    def abort(self) -> None:
        """Cut it."""
        self.cut = True
        self.answered.set()

    def get_extra_info(self, name: str) -> Any:
        """Return a socket that takes all options."""
        return self

    def setsockopt(self, *option: object) -> None:
        """Take it."""


def converse(application: Application, *pieces: bytes | float | None, **options: Any) -> Sink:
    """Serve one connection to its end, on a loop of its own; see :func:`conversation`."""
    return asyncio.run(conversation(application, *pieces, **options))


async def conversation(
    application: Application,
    *pieces: bytes | float | None,
    limits: Limits | None = None,
    timeouts: Timeouts = _TIMEOUTS,
    before: Callable[[Connection, Sink], object] = lambda connection, sink: None,
) -> Sink:
    """Serve one connection to its end; return what came out of it.

    Args:
        application: what answers.
        pieces: what the client sends; see :class:`Pieces`.
        limits, timeouts: of the server.
        before: called before the connection is served.
    """
    sink = Sink()
    source = Pieces(pieces, sink)
    connection = Connection(
        _App(application, limits or Limits()),
        Incoming(
            source,  # type: ignore[arg-type] # all that is used of a StreamReader
            lambda: False,
        ),
        Outgoing(sink, timeouts.write),  # type: ignore[arg-type] # all that is used of a StreamWriter
        timeouts=timeouts,
        scheme="http",
        server=("127.0.0.1", 8000),
    )
    before(connection, sink)
    await connection.serve()
    return sink


class _App(AdapterApp):
    """An application that answers by a function of a test."""

    logger = logging.getLogger("durable.asyncio")

    def __init__(self, application: Application, limits: Limits) -> None:
        self._application = application
        self._limits = limits

    @property
    def limits(self) -> Limits:
        return self._limits

    async def respond_async(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        return await self._application(request)


class _Socket:
    def __init__(self, file: io.BytesIO) -> None:
        self._file = file

    def makefile(self, *_: object) -> _Unclosed:
        return _Unclosed(self._file)


class _Unclosed(io.RawIOBase):
    """Closing a response must not close what the next one is read from."""

    def __init__(self, file: io.BytesIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)

    def readline(self, size: int | None = -1) -> bytes:
        return self._file.readline(size)


def replies_in(data: bytes | bytearray, *methods: str) -> list[Reply]:
    """Return the responses to requests with these methods, all that there are in the bytes."""
    file, replies = io.BytesIO(data), []
    for method in methods:
        response = HTTPResponse(_Socket(file), method=method)  # type: ignore[arg-type]
        response.begin()
        headers = tuple((name.lower(), value) for name, value in response.getheaders())
        replies.append(Reply(response.status, response.reason, headers, response.read()))
    rest = file.read()
    assert b"" == rest, rest
    return replies
