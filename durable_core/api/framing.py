"""What leaves a server for a response: its header fields, and whether there is a body."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

from durable_core.model.response import Response

__all__ = ["Framed", "checked_chunk", "chunked", "framed"]

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
class Framed:
    """A response as it is to be sent.

    Attributes:
        fields: the response's own, repeated ones apart, but for those that are the server's
            business, and with the length of a whole body.
        silent: no body is sent: to HEAD, and where the status has none. A streamed body is
            iterated all the same, so that what it does is done, and closed.
    """

    fields: tuple[tuple[str, str], ...]
    silent: bool


def framed(response: Response, *, head: bool) -> Framed:
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
    return Framed(fields=tuple(fields), silent=head or response.status in _WITHOUT_CONTENT)


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
