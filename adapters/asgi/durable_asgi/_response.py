"""From a ``Response`` to the messages that an ASGI server takes."""

from __future__ import annotations

import asyncio

from durable_asgi._types import Message, Send
from durable_core import Response
from durable_core.adapter.asynchronous import ClientDisconnectedError, aiter_body
from durable_core.adapter.messages import OutgoingHead, checked_chunk, prepare_response

__all__ = ["send_response"]


async def send_response(response: Response, send: Send, *, head: bool = False) -> None:
    """Send the response.

    A streamed body is sent as fast as the server takes it, and closed in the end, once, whatever
    happens. For HEAD, and for a status without content, it is iterated but not sent, so that what
    it does is done.

    Args:
        response: what to send. Its header fields are sent as they are, but for those that are the
            server's business, and the length of a whole body.
        send: of the ASGI application.
        head: the request's method is HEAD: there is no body.

    Raises:
        ClientDisconnectedError: the server says that the client is gone.
        Exception: what a streamed body raised, or what no server can send.
    """
    body = response.body
    message = prepare_response(response, head=head)
    silent, headers = message.omit_body, _encoded(message)
    start = {"type": "http.response.start", "status": response.status, "headers": headers}
    if isinstance(body, bytes):
        await _send(send, start)
        await _send(send, {"type": "http.response.body", "body": b"" if silent else body})
        return
    chunks = aiter_body(body)
    try:
        await _send(send, start)
        async for chunk in chunks:
            if not silent and chunk:
                part = {
                    "type": "http.response.body",
                    "body": checked_chunk(chunk),
                    "more_body": True,
                }
                await _send(send, part)
            # Neither the body nor the server need ever wait, once the client is gone: the loop has
            # to get its turn, if only to find that out.
            await asyncio.sleep(0)
        await _send(send, {"type": "http.response.body", "body": b""})
    finally:
        await chunks.aclose()


def _encoded(message: OutgoingHead) -> list[tuple[bytes, bytes]]:
    """Return the header fields as ASGI has them: names in lower case, all in bytes."""
    return [
        (name.lower().encode("ascii"), value.encode("latin-1")) for name, value in message.fields
    ]


async def _send(send: Send, message: Message) -> None:
    try:
        await send(message)
    except OSError as error:  # what the specification lets servers raise for a client that is gone
        raise ClientDisconnectedError(str(error)) from error
