"""From what a server has read to a ``Request``; what could be understood in two ways is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

from durable_core.errors import BadRequest, HTTPError
from durable_core.http.response import Response

__all__ = [
    "OutgoingHead",
    "Readable",
    "bad_request_on_error",
    "checked_chunk",
    "chunked",
    "parse_content_length",
    "prepare_response",
    "read_sized",
]


# --- framing --------------------------------------------------------------------------------------
#
# What leaves a server for a response: its header fields, and whether there is a body.

_logger = logging.getLogger("durable.adapter")
#: Statuses of responses that have no content, and no length of it (RFC 9110, section 8.6).
_WITHOUT_CONTENT = (204, 304)
#: Fields about the connection, which is the server's business (RFC 9110, section 7.6.1).
_SERVERS_OWN = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "proxy-authenticate"),
        *("proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingHead:
    """A response as it is to be sent.

    Attributes:
        fields: the response's own, repeated ones apart, but for those that are the server's
            business, and with the length of a whole body.
        silent: no body is sent: to HEAD, and where the status has none. A streamed body is
            iterated all the same, so that what it does is done, and closed.
    """

    fields: tuple[tuple[str, str], ...]
    omit_body: bool


def prepare_response(response: Response, *, head: bool) -> OutgoingHead:
    """Return what is to be sent.

    The length of a streamed body is kept if the response says it. A field that is the server's
    business is dropped with a warning.

    Args:
        response: what a handler of the core answered.
        head: whether the request's method is HEAD. The length that a response without a body
            says is kept then.
    """
    body, length = response.body, None
    if response.status in _WITHOUT_CONTENT:
        own_length = False
    elif isinstance(body, bytes) and (body or not head or "content-length" not in response.headers):
        own_length, length = False, str(len(body))
    else:
        own_length = True
    fields = []
    for field in response.headers.raw:
        name = field[0].lower()
        if name in _SERVERS_OWN:
            _logger.warning(
                "the response header %r was dropped: only the server may set it", field[0]
            )
        elif own_length or name != "content-length":
            fields.append(field)
    if length is not None:
        fields.append(("content-length", length))
    return OutgoingHead(fields=tuple(fields), omit_body=head or response.status in _WITHOUT_CONTENT)


def checked_chunk(chunk: object) -> bytes:
    """Return a chunk of a body as ``bytes`` themselves, which is all that servers take.

    Raises:
        TypeError: it is no bytes.
    """
    if type(chunk) is bytes:
        return chunk
    if isinstance(chunk, (bytes, bytearray, memoryview)):
        return bytes(chunk)
    raise TypeError(f"a chunk of a response body must be bytes, not {type(chunk).__name__}")


def chunked(response: Response) -> Iterator[bytes]:
    """Yield a streamed body in the chunked transfer coding (RFC 9112, section 7.1), and close it.

    Args:
        response: what a sync handler answered; its body is an iterable.

    Raises:
        Exception: what the body raised. The coding has no end then, so that nobody takes the body
            for a whole one.
    """
    body = cast("Iterable[bytes]", response.body)
    try:
        for chunk in body:
            data = checked_chunk(chunk)
            if data:
                yield b"%x\r\n%b\r\n" % (len(data), data)
        yield b"0\r\n\r\n"
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()


# --- messages -------------------------------------------------------------------------------------


class Readable(Protocol):
    """Where a body is read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes; none at the end."""
        ...


@contextmanager
def bad_request_on_error() -> Iterator[None]:
    """Turn a ``ValueError`` of the block, as ``Request`` raises, into a ``BadRequest``."""
    try:
        yield
    except ValueError as error:
        raise BadRequest(str(error)) from error


def parse_content_length(text: str) -> int | None:
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
