"""What is sent to a client on one connection, and how the connection ends."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from durable_asyncio._incoming import Incoming
from durable_core.adapters import ClientDisconnectedError, reset_on_close

__all__ = ["Outgoing"]

_PIECE = 65536
_LINGER_BYTES, _LINGER_SECONDS = 8 * 1024 * 1024, 2.0


class Outgoing:
    """The way to the client.

    Args:
        writer: of the connection.
        timeout: seconds in which the client must take in a further part of what is sent.
    """

    def __init__(self, writer: asyncio.StreamWriter, timeout: float) -> None:
        self._writer = writer
        self._timeout = timeout
        # Later there may be none to get: of a TLS connection, once that is lost.
        self._socket = writer.get_extra_info("socket")

    @property
    def peer(self) -> str:
        """The address of the client; "" where it has none, as at a Unix socket."""
        address = self._writer.get_extra_info("peername")
        return str(address[0]) if isinstance(address, tuple) else ""

    async def write(self, data: bytes) -> None:
        """Send; wait while the client is behind.

        Raises:
            ClientDisconnectedError: it is gone, or too slow.
        """
        view = memoryview(data)
        try:
            for start in range(0, len(data), _PIECE):
                self._writer.write(view[start : start + _PIECE])
                await self._drain()
        except OSError as error:  # TimeoutError is one
            raise ClientDisconnectedError("the client is gone, or too slow") from error

    async def _drain(self) -> None:
        """Wait until the client has caught up.

        Raises:
            OSError: it is gone; TimeoutError, which is one: it has taken nothing for too long.
        """
        transport = self._writer.transport
        while True:
            left = transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(self._timeout):
                    await self._writer.drain()
                return
            except TimeoutError:
                if transport.get_write_buffer_size() >= left:
                    raise

    def is_ready(self) -> bool:
        """Tell whether the system has taken all that was written, and the connection is open."""
        transport = self._writer.transport
        return not (transport.is_closing() or transport.get_write_buffer_size())

    def write_now(self, data: bytes) -> None:
        """Send; only if it is ready."""
        self._writer.write(data)

    def abort(self) -> None:
        """Reset the connection: the client sees that what it got is not all there is."""
        if self._socket is not None:
            with suppress(OSError):
                reset_on_close(self._socket)
        self._writer.transport.abort()

    async def close(self, unwanted: Incoming | None = None) -> None:
        """Close the connection, after all has been sent.

        Args:
            unwanted: what the client may still be sending; it is read for a while. Closing a
                connection with unread data resets it, and the client may lose its answer
                (RFC 9112, section 9.6).
        """
        try:
            if unwanted is not None:
                await self._linger(unwanted)
            if self._writer.transport.get_write_buffer_size():
                self._writer.transport.set_write_buffer_limits(0)  # wait until all has been taken
                await self._drain()
            self._writer.close()
            async with asyncio.timeout(self._timeout):
                await self._writer.wait_closed()
        except OSError:
            self.abort()

    async def _linger(self, unwanted: Incoming) -> None:
        if self._writer.can_write_eof():  # not in TLS
            self._writer.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                await unwanted.discard(_LINGER_BYTES)
