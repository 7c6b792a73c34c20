"""From a ``Response`` to the bytes that are sent."""

from __future__ import annotations

import logging
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

import h11

from durable_asyncio._chunks import chunks_of
from durable_asyncio._outgoing import Outgoing
from durable_core import Response

__all__ = ["head_of", "send_response"]

_logger = logging.getLogger("durable.asyncio")
_PHRASES = {int(status): status.phrase.encode("ascii") for status in HTTPStatus}
#: Statuses of responses that have no content, and no length of it.
_WITHOUT_CONTENT = (204, 304)
#: Fields about the connection, which is the server's business (RFC 9110, section 7.6.1).
_SERVERS = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "proxy-authenticate"),
        *("proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"),
    }
)


async def send_response(
    response: Response, parser: h11.Connection, out: Outgoing, *, head: bool, close: bool
) -> None:
    """Send the response.

    A streamed body is sent as fast as the client takes it, and closed in the end, once, whatever
    happens. For HEAD, and for a status without content, it is iterated but not sent, so that what
    it does is done.

    Args:
        response: what to send.
        parser: has parsed the request.
        out: the way to the client.
        head: the request's method is HEAD: there is no body.
        close: the connection ends with this response.

    Raises:
        ClientGoneError: the client is gone, or too slow.
        Exception: what a streamed body raised; h11.LocalProtocolError for what cannot be sent.
            Nothing was sent if the parser's state is still SEND_RESPONSE.
    """
    body = response.body
    silent = head or response.status in _WITHOUT_CONTENT
    if isinstance(body, bytes):
        parts = [parser.send(head_of(response, head=head, close=close))]
        if body and not silent:
            parts.append(parser.send(h11.Data(data=body)))
        await out.write(b"".join((*parts, parser.send(h11.EndOfMessage()))))
        return
    chunks = chunks_of(body)
    try:
        await out.write(parser.send(head_of(response, head=head, close=close)))
        async for chunk in chunks:
            data = _checked(chunk)
            if data and not silent:
                await out.write(parser.send(h11.Data(data=data)))
        await out.write(parser.send(h11.EndOfMessage()))
    finally:
        await chunks.aclose()


def head_of(response: Response, *, head: bool, close: bool) -> h11.Response:
    """Return the status line and the header fields.

    The fields are the response's own, but for those that are the server's business, the length of
    a whole body, and the date, which is added.

    Raises:
        h11.LocalProtocolError: a length that is none.
    """
    body, length = response.body, None
    if response.status in _WITHOUT_CONTENT:
        own_length = False
    elif isinstance(body, bytes) and (body or not head or "content-length" not in response.headers):
        own_length, length = False, b"%d" % len(body)
    else:
        own_length = True
    fields = [
        (name.encode("ascii"), value.encode("latin-1"))
        for name, value in response.headers.raw
        if (own_length or name.lower() != "content-length") and not _is_servers(name)
    ]
    if length is not None:
        fields.append((b"Content-Length", length))
    if "date" not in response.headers:
        fields.append((b"Date", _date(int(time.time()))))
    if close:
        fields.append((b"Connection", b"close"))
    reason = _PHRASES.get(response.status, b"")
    return h11.Response(status_code=response.status, headers=fields, reason=reason)


def _is_servers(name: str) -> bool:
    if name.lower() not in _SERVERS:
        return False
    _logger.warning("the response header %r was dropped: only the server may set it", name)
    return True


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")


def _checked(chunk: object) -> bytes:
    if isinstance(chunk, (bytes, bytearray, memoryview)):
        return bytes(chunk)
    raise TypeError(f"a chunk of a response body must be bytes, not {type(chunk).__name__}")
