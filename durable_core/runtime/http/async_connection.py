"""One connection to a server, used by one task at a time."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Any, TypeAlias

from durable_core.errors import ConnectionLostError, RequestTimeoutError
from durable_core.runtime.http.budget import Budget
from durable_core.runtime.http.connection import is_own_timeout, is_readable, not_connected
from durable_core.wire.urls import Origin

__all__ = ["AsyncConnection", "connect_async"]

_PIECE = 64 * 1024

#: Family, type, protocol, canonical name and address, as ``socket.getaddrinfo`` gives them.
_AddressInfo: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]


class AsyncConnection:
    """A pair of streams that tells its troubles in this library's errors."""

    __slots__ = ("_reader", "_writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes, budget: Budget) -> None:
        """Send all of the bytes, as fast as the server takes them.

        Raises:
            ConnectionLostError, RequestTimeoutError.
        """
        for start in range(0, len(data), _PIECE):
            try:
                self._writer.write(data[start : start + _PIECE])
                if not (
                    self._writer.transport.get_write_buffer_size() or self._writer.is_closing()
                ):
                    continue  # the system has taken it
                async with asyncio.timeout(budget.waiting()):
                    await self._writer.drain()
            except OSError as error:
                raise _explained(error, budget) from error

    async def receive(self, budget: Budget) -> bytes:
        """Return what comes next; empty when the server has closed the connection.

        Raises:
            ConnectionLostError, RequestTimeoutError.
        """
        try:
            async with asyncio.timeout(budget.waiting()):
                return await self._reader.read(_PIECE)
        except OSError as error:
            raise _explained(error, budget) from error

    def is_stale(self) -> bool:
        """Tell whether an idle connection is dead: its end, or what nobody asked for, has come."""
        if self._reader.at_eof() or self._writer.is_closing():
            return True
        if is_readable(self._writer.get_extra_info("socket").fileno()):
            return True  # and the loop has not yet taken it
        reading = self._reader.read(1)
        try:
            reading.send(None)  # it ends at once where the loop has taken something
        except (StopIteration, OSError):
            return True
        finally:
            reading.close()
        return False

    def abort(self) -> None:
        """Close it at once, and drop what was not sent."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close it, and return when it is closed."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass  # it was broken already


async def connect_async(
    origin: Origin, tls: ssl.SSLContext | None, budget: Budget
) -> AsyncConnection:
    """Connect to a server, trying its addresses one after the other.

    Args:
        origin: the server.
        tls: for ``https``; it says how the certificate is verified.
        budget: the time that it may take, in equal shares for each address that is left.

    Raises:
        ConnectFailedError, RequestTimeoutError.
    """
    reason: OSError = OSError("its name has no address")
    addresses = await _addresses(origin, budget)
    for tried, (family, _, protocol, _, address) in enumerate(addresses):
        try:
            async with asyncio.timeout(budget.connecting(len(addresses) - tried)):
                # Not with happy_eyeballs_delay: cancelled at the wrong moment, that leaks its
                # socket.
                reader, writer = await asyncio.open_connection(
                    address[0],
                    address[1],
                    family=family,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST,
                    ssl=tls if origin.is_secure else None,
                    server_hostname=origin.host if origin.is_secure else None,
                )
            return AsyncConnection(reader, writer)
        except RequestTimeoutError:
            raise
        except OSError as error:
            reason = error
    raise not_connected(origin, reason, budget) from reason


async def _addresses(origin: Origin, budget: Budget) -> Sequence[_AddressInfo]:
    host, port, stream = origin.host, origin.port, socket.SOCK_STREAM
    try:
        return socket.getaddrinfo(host, port, type=stream, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        pass  # it is a name, and looking it up takes a thread
    try:
        async with asyncio.timeout(budget.connecting()):
            return await asyncio.get_running_loop().getaddrinfo(host, port, type=stream)
    except RequestTimeoutError:
        raise
    except (OSError, UnicodeError) as error:
        raise not_connected(origin, error, budget) from error


def _explained(error: OSError, budget: Budget) -> Exception:
    if is_own_timeout(error):
        return budget.idle_error()
    return ConnectionLostError(f"the connection broke: {error}")
