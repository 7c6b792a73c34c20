"""From a ``Response`` to the bytes that are sent."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

import h11

from durable_asyncio._outgoing import Outgoing
from durable_core import Response
from durable_core.adapter.asynchronous import aiter_body
from durable_core.adapter.messages import OutgoingHead, checked_chunk, prepare_response

__all__ = ["send_response"]

_PHRASES = {int(status): status.phrase.encode("ascii") for status in HTTPStatus}


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
        ClientDisconnectedError: the client is gone, or too slow.
        Exception: what a streamed body raised; h11.LocalProtocolError for what cannot be sent.
            Nothing was sent if the parser's state is still SEND_RESPONSE.
    """
    body = response.body
    message = prepare_response(response, head=head)
    silent = message.omit_body
    if isinstance(body, bytes):
        parts = [parser.send(_head(response, message, close=close))]
        if body and not silent:
            parts.append(parser.send(h11.Data(data=body)))
        await out.write(b"".join((*parts, parser.send(h11.EndOfMessage()))))
        return
    chunks = aiter_body(body)
    try:
        await out.write(parser.send(_head(response, message, close=close)))
        async for chunk in chunks:
            data = checked_chunk(chunk)
            if data and not silent:
                await out.write(parser.send(h11.Data(data=data)))
        await out.write(parser.send(h11.EndOfMessage()))
    finally:
        await chunks.aclose()


def _head(response: Response, message: OutgoingHead, *, close: bool) -> h11.Response:
    """Return the status line and the header fields.

    The fields are the response's own, but for those that are the server's business, the length of
    a whole body, and the date, which is added.

    Raises:
        h11.LocalProtocolError: a length that is none.
    """
    fields = [(name.encode("ascii"), value.encode("latin-1")) for name, value in message.fields]
    if "date" not in response.headers:
        fields.append((b"Date", _date(int(time.time()))))
    if close:
        fields.append((b"Connection", b"close"))
    reason = _PHRASES.get(response.status, b"")
    return h11.Response(status_code=response.status, headers=fields, reason=reason)


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")
