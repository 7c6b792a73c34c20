"""From what a server has read to a ``Request``; what could be understood in two ways is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from durable_core.errors import BadRequest, HTTPError

__all__ = ["Readable", "announced_length", "read_sized", "refusing"]


class Readable(Protocol):
    """Where a body is read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes; none at the end."""
        ...


@contextmanager
def refusing() -> Iterator[None]:
    """Turn a ``ValueError`` of the block, as ``Request`` raises, into a ``BadRequest``."""
    try:
        yield
    except ValueError as error:
        raise BadRequest(str(error)) from error


def announced_length(text: str) -> int | None:
    """Return the length that a client announced for its body, None if it did not.

    Args:
        text: the value of Content-Length, of several all, joined by commas; empty without one.

    Raises:
        BadRequest: it is not one number (RFC 9112, section 6.3).
    """
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise BadRequest("content-length must be one number of bytes, in decimal digits")
    return int(text.lstrip("0")[:20] or "0")  # however long, so many bytes are too many


def read_sized(stream: Readable, length: int | None, limit: int, *, ends: bool = False) -> bytes:
    """Read a body; what is over the limit is not read to its end.

    Args:
        stream: where it comes from.
        length: as announced, in bytes; without one there is a body only where the stream ends.
        limit: the most bytes that it may have.
        ends: whether the stream has an end of its own, where the body does.

    Raises:
        BadRequest: fewer bytes than were announced.
        HTTPError: 413, over the limit; 408, not in time.
    """
    if length is None:
        body = _read(stream, limit + 1) if ends else b""
        _check_size(len(body), limit)
        return body
    _check_size(length, limit)
    body = _read(stream, length)
    if len(body) < length:
        raise BadRequest(f"the body ended after {len(body)} of {length} bytes")
    return body


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise HTTPError(413, f"at most {limit} bytes are accepted")


def _read(stream: Readable, size: int) -> bytes:
    chunks = []
    try:
        while size > 0 and (chunk := stream.read(size)):
            chunks.append(chunk)
            size -= len(chunk)
    except TimeoutError as error:
        raise HTTPError(408, "the body did not come in time") from error
    except OSError as error:
        raise BadRequest("the body could not be read to its end") from error
    return b"".join(chunks)
