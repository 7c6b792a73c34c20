"""What our own server reads and writes: all of it within its time."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable
from typing import Any

from durable_core import BadRequest, HTTPError
from durable_core.adapters import ClientDisconnectedError

__all__ = ["RequestBody", "SocketReader", "SocketWriter", "read_head"]

_PIECE = 65536
#: Each so many bytes of a body give the client a second more.
_BYTES_PER_SECOND = 1000


class SocketReader(io.RawIOBase):
    """The bytes that a client sends, up to a deadline.

    Args:
        connection: where they come from.
        seconds: from now to the deadline; each 1,000 bytes that come move it by one.

    Attributes:
        came: the number of bytes so far.
    """

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._until = time.monotonic() + seconds
        self.came = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read what is there, or wait for it.

        Raises:
            TimeoutError: nothing came before the deadline.
            OSError: the connection broke.
        """
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request did not come in time")
        self._connection.settimeout(left)
        size = self._connection.recv_into(buffer)
        self.came += size
        self._until += size / _BYTES_PER_SECOND
        return size


class SocketWriter(io.RawIOBase):
    """The way to a client that takes in what is sent.

    Args:
        connection: where it goes.
        timeout: seconds for taking in 64 KiB.
    """

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self._error: OSError | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any, /) -> int:
        """Send all of it.

        Raises:
            OSError: the client is gone, or too slow. It will not be tried again.
        """
        if self._error is not None:
            raise self._error
        self._connection.settimeout(self._timeout)
        with memoryview(data) as view:
            try:
                for start in range(0, view.nbytes, _PIECE):
                    self._connection.sendall(view[start : start + _PIECE])
            except OSError as error:
                self._error = error
                raise
            return view.nbytes


def read_head(file: io.BufferedIOBase, limit: int) -> bytes:
    """Return the head of a request, with the empty line that ends it; nothing if none comes.

    One empty line before it is skipped (RFC 9112, section 2.2).

    Args:
        file: where it comes from.
        limit: the most bytes that it may have.

    Raises:
        HTTPError: 431, over the limit.
        BadRequest: a line that does not end as it should: other parsers would read it in other
            ways.
        ClientDisconnectedError: the stream ends within the head. A request that is cut off must
            not be taken for a whole one.
    """
    lines: list[bytes] = []
    size = 0
    while True:
        line = file.readline(limit - size + 1)
        size += len(line)
        if size > limit:
            raise HTTPError(431, f"at most {limit} bytes are accepted")
        if not line and not lines:
            return b""
        if not line.endswith(b"\n"):
            raise ClientDisconnectedError("the connection ended within the head of a request")
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            raise BadRequest("each line of the head must end with CRLF")
        if line != b"\r\n":
            lines.append(line)
        elif lines:
            return b"".join((*lines, line))
        elif size > 2:
            raise BadRequest("a request must begin with its method")


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
        chunk = self._file.read1(min(len(buffer), self.left))
        self.left = self.left - len(chunk) if chunk else 0
        buffer[: len(chunk)] = chunk
        return len(chunk)
