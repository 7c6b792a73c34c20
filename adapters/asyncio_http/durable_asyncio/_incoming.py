"""What a client sends on one connection, request after request."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from durable_core import BadRequest, HTTPError
from durable_core.adapters import ClientDisconnectedError

__all__ = ["Incoming"]

_READ = 65536
#: So much of further requests is taken in while one is being answered.
_AHEAD = 65536
#: Seconds between two looks at a client that has sent so much.
_LOOK = 0.5
#: A client that closes its side may still want its answer, if it comes within so many seconds.
_MERCY = 0.25
#: The empty line, also with the bare line feeds that are to be refused.
_HEAD_END = re.compile(rb"\n\r?\n")


class Incoming:
    """The bytes of a connection. One task at a time may wait for them.

    All methods that wait raise ClientDisconnectedError if the connection broke.

    Args:
        reader: where they come from.
        has_hung_up: tells whether the client has closed its side, although not all was read.

    Attributes:
        expired: whether nobody waits any longer for what the client sends.
    """

    def __init__(self, reader: asyncio.StreamReader, has_hung_up: Callable[[], bool]) -> None:
        self._reader = reader
        self._has_hung_up = has_hung_up
        self._buffer = bytearray()
        self._deadline: asyncio.Timeout | None = None
        self.expired = False

    def __bool__(self) -> bool:
        """Tell whether something has come that nobody has taken."""
        return bool(self._buffer)

    def within(self, seconds: float) -> asyncio.Timeout:
        """Return a context for waiting: it raises TimeoutError after so many seconds."""
        self._deadline = asyncio.timeout(0 if self.expired else seconds)
        return self._deadline

    def expire_now(self) -> None:
        """Wait no longer, now and later: what has not come in by now is too late."""
        self.expired = True
        if self._deadline is not None:
            try:
                self._deadline.reschedule(asyncio.get_running_loop().time())
            except RuntimeError:
                pass  # nobody waits at present

    async def wait_for_data(self) -> bool:
        """Wait for a request to begin; False if the client closes the connection instead."""
        return bool(self._buffer) or await self._more()

    async def head(self, limit: int) -> bytes:
        """Return the head of a request, with the empty line that ends it.

        One empty line before it is skipped (RFC 9112, section 2.2).

        Raises:
            BadRequest: what comes is no HTTP.
            HTTPError: 431, more bytes than the limit.
            ClientDisconnectedError: the connection ended before it.
        """
        buffer, searched, skipped = self._buffer, 0, False
        while True:
            if buffer.startswith(b"\r\n") and not skipped:
                del buffer[:2]
                skipped = True
            if buffer and buffer[0] <= 0x20 and buffer != b"\r":
                raise BadRequest("a request must begin with its method")
            found = _HEAD_END.search(buffer, searched)
            if found is not None or len(buffer) > limit:
                break
            searched = max(0, len(buffer) - 2)
            if not await self._more():
                raise ClientDisconnectedError("the connection ended within the head of a request")
        if found is None or found.end() > limit:
            raise HTTPError(431, f"at most {limit} bytes are accepted")
        head = bytes(buffer[: found.end()])
        del buffer[: found.end()]
        return head

    async def read_some(self) -> bytes:
        """Return what has come, or the next that comes; never nothing.

        Raises:
            ClientDisconnectedError: the connection ended.
        """
        if not self._buffer and not await self._more():
            raise ClientDisconnectedError("the connection ended within the body of a request")
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def pushback(self, data: bytes) -> None:
        """Give back what belongs to the next request."""
        self._buffer[:0] = data

    async def is_gone(self) -> bool:
        """Return True when the client goes away. What it sends before that is kept.

        One that closes only its side, as some do that still want their answer, is given a moment.
        """
        try:
            await self._until_closed()
            await asyncio.sleep(_MERCY)
        except ClientDisconnectedError:
            pass
        return True

    async def _until_closed(self) -> None:
        """Return when the client closes its side.

        Of a client that sends very much ahead no more is read; from time to time it is seen whether
        it is there.
        """
        while len(self._buffer) < _AHEAD:
            if not await self._more():
                return
        while not self._has_hung_up():
            await asyncio.sleep(_LOOK)

    async def discard(self, most: int) -> None:
        """Read what nobody wants, at most so many bytes, until the client closes."""
        while most > 0 and await self._more():
            most -= len(self._buffer)
            self._buffer.clear()

    async def _more(self) -> bool:
        try:
            data = await self._reader.read(_READ)
        except OSError as error:
            raise ClientDisconnectedError(str(error)) from error
        self._buffer += data
        return bool(data)
