"""TCP and TLS connections of asyncio, for the HTTP client underneath.

``httpcore2`` brings connections of its own, by way of anyio, for any kind of event loop. These are
for asyncio alone: a request whose body is at hand leaves in one piece, and a call takes a quarter
less time.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ssl import SSLContext
from typing import Any, cast

import httpcore2

__all__ = ["AsyncioBackend"]

#: How many bytes are read ahead of who takes them, and gathered before they are sent.
_READ_AHEAD = 256 * 1024
_WRITE_AHEAD = 64 * 1024


class AsyncioBackend(httpcore2.AsyncNetworkBackend):
    """Makes TCP connections on the running loop."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> _Stream:
        """Connect to a host; see ``httpcore2.AsyncNetworkBackend``.

        Args:
            local_address, socket_options: not used here.

        Raises:
            httpcore2.ConnectError, httpcore2.ConnectTimeout: there is no connection.
        """
        loop = asyncio.get_running_loop()
        with _connect_errors():
            async with asyncio.timeout(timeout):
                # One address after the other: a race of them ("happy eyeballs") that is cancelled
                # leaves a socket open, and uvloop has none.
                _, stream = await loop.create_connection(lambda: _Stream(loop), host, port)
        return stream


class _Stream(httpcore2.AsyncNetworkStream, asyncio.Protocol):
    """One connection. One task reads at a time, and one writes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport
        self._unread = bytearray()
        self._unsent = bytearray()
        self._flushing: asyncio.Handle | None = None
        self._has_ended = False
        self._error: Exception | None = None
        self._is_reading_paused = False
        #: Set while the other side takes no more.
        self._room: asyncio.Future[None] | None = None
        self._arrival: asyncio.Future[None] | None = None

    # --- for httpcore2 ---

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what has come, once something has; nothing at the end of the stream.

        Raises:
            httpcore2.ReadTimeout: nothing came in time.
            httpcore2.ReadError: the connection broke.
        """
        self._flush()
        if not self._unread and not self._has_ended:
            self._arrival = self._loop.create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._arrival
            except TimeoutError:
                raise httpcore2.ReadTimeout from None
        if not self._unread and self._error is not None:
            raise httpcore2.ReadError(str(self._error)) from self._error
        data = bytes(self._unread[:max_bytes])
        del self._unread[:max_bytes]
        if self._is_reading_paused and len(self._unread) < _READ_AHEAD:
            self._is_reading_paused = False
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send bytes: together with those that follow, before anybody waits for something.

        Raises:
            httpcore2.WriteTimeout: the other side takes nothing.
            httpcore2.WriteError: the connection is closed.
        """
        if self._room is not None:
            try:
                async with asyncio.timeout(timeout):
                    await self._room
            except TimeoutError:
                raise httpcore2.WriteTimeout from None
        if self._transport.is_closing():
            raise httpcore2.WriteError("the connection is closed")
        self._unsent += buffer
        if len(self._unsent) >= _WRITE_AHEAD:
            self._flush()
        elif self._flushing is None:
            self._flushing = self._loop.call_soon(self._flush)

    async def aclose(self) -> None:
        """Close the connection, at once."""
        if self._flushing is not None:
            self._flushing.cancel()
        self._transport.abort()
        await asyncio.sleep(0)  # the socket is closed in the next turn, if there is one

    async def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> _Stream:
        """Encrypt from now on.

        Raises:
            httpcore2.ConnectError, httpcore2.ConnectTimeout: there is no agreement on that.
        """
        try:
            with _connect_errors():
                async with asyncio.timeout(timeout):
                    transport = await self._loop.start_tls(
                        self._transport, self, ssl_context, server_hostname=server_hostname
                    )
        except BaseException:
            self._transport.abort()
            raise
        assert transport is not None
        self._transport = transport
        return self

    def get_extra_info(self, info: str) -> Any:
        """Return what ``httpcore2`` asks for: whether there is something to read, or TLS."""
        if info == "is_readable":
            return bool(self._unread) or self._has_ended or self._has_arrivals()
        return self._transport.get_extra_info(info)

    def _has_arrivals(self) -> bool:
        """Tell whether the system has something that the loop has not come round to read."""
        socket = self._transport.get_extra_info("socket")
        poll = select.poll()
        poll.register(socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if self._unsent:
            data, self._unsent = self._unsent, bytearray()
            self._transport.write(data)

    # --- for the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if len(self._unread) >= _READ_AHEAD and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()
        _wake(self._arrival)

    def eof_received(self) -> None:
        self._has_ended = True
        _wake(self._arrival)

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_ended = True
        self._error = exc
        _wake(self._arrival)
        self.resume_writing()

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        _wake(self._room)
        self._room = None


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


@contextmanager
def _connect_errors() -> Iterator[None]:
    """Raise the errors of ``httpcore2``."""
    try:
        yield
    except TimeoutError as error:
        raise httpcore2.ConnectTimeout(str(error)) from error
    except OSError as error:  # those of TLS are such
        raise httpcore2.ConnectError(str(error)) from error
