"""The body of a request, which Flask reads and a run, too."""

from __future__ import annotations

from io import RawIOBase
from typing import Any, Protocol

__all__ = ["KEY", "RequestBody"]

#: The key in the environ that has the body.
KEY = "durable_flask.body"


class _Input(Protocol):
    def read(self, size: int, /) -> bytes: ...


class RequestBody(RawIOBase):
    """The ``wsgi.input`` of a request, kept as far as it has been read.

    Args:
        source: the server's.
        most: bytes that are kept; of a longer body one byte more, by which it is known as too long.
    """

    def __init__(self, source: _Input, most: int) -> None:
        self._source = source
        self._most = most
        self._kept = bytearray()
        self._position = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Put the next part of the body into a buffer; return its length."""
        data = self.read_at(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def read_to_end(self, length: int) -> bytes | None:
        """Return the whole body, which others still read; None if it ends before ``length``."""
        while len(self._kept) < length:
            data = self._source.read(length - len(self._kept))
            if not data:
                return None
            self._kept += data
        return bytes(self._kept)

    def again(self) -> _Input:
        """Return the body from its beginning; what has not been read yet is kept, too."""
        return _Again(self)

    def read_at(self, position: int, size: int) -> bytes:
        """Return a part, without moving on for others."""
        if position >= len(self._kept):
            data = self._source.read(size)
            self._kept += data[: self._most + 1 - len(self._kept)]
            return data
        return bytes(self._kept[position : position + size])


class _Again:
    def __init__(self, body: RequestBody) -> None:
        self._body = body
        self._position = 0

    def read(self, size: int, /) -> bytes:
        data = self._body.read_at(self._position, size)
        self._position += len(data)
        return data
