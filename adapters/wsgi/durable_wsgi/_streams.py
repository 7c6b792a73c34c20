"""What our own server reads: a request's head, up to a limit, and its body, up to its end."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from durable_core import BadRequest
from durable_core.adapter.asynchronous import ClientDisconnectedError

__all__ = ["HeadReader", "HeadTooLargeError", "RequestBody"]


class HeadTooLargeError(Exception):
    """The request line and the header fields are over their limit."""


class HeadReader(io.BufferedIOBase):
    """The lines of a request's head.

    Args:
        file: where they come from.
        limit: the most bytes of all lines together.
    """

    def __init__(self, file: io.BufferedIOBase, limit: int) -> None:
        self._file = file
        self._left = limit

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the next line.

        Raises:
            HeadTooLargeError: that would be more than the limit.
            ClientDisconnectedError: the stream ends within the head. A request that is cut off
                must not be taken for a whole one.
            BadRequest: a carriage return that does not end a line.
        """
        line = self._file.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise HeadTooLargeError
        if not line.endswith(b"\n"):
            raise ClientDisconnectedError("the connection ended within the head of a request")
        if b"\r" in line.removesuffix(b"\r\n"):
            # The library would take what comes after it for another field (RFC 9112, section 2.2).
            raise BadRequest("a line of the head has a bare CR")
        return line


class RequestBody(io.RawIOBase):
    """The body of a request; it ends where the request does.

    Args:
        file: where it comes from.
        length: its size in bytes.
        before_read: called once, when somebody first wants to read it.
    """

    def __init__(
        self,
        file: io.BufferedIOBase,
        length: int,
        before_read: Callable[[], None] | None = None,
    ) -> None:
        self._file = file
        self._before_read = before_read
        #: Bytes that nobody has read yet.
        self.left = length

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read what is there, at most what is left; 0 at the end."""
        if not self.left:
            return 0
        before_read, self._before_read = self._before_read, None
        if before_read is not None:
            before_read()
        chunk = self._file.read(min(len(buffer), self.left))
        self.left = self.left - len(chunk) if chunk else 0
        buffer[: len(chunk)] = chunk
        return len(chunk)
