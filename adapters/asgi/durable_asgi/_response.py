"""From a ``Response`` to the messages that an ASGI server takes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, cast

from durable_asgi._request import ClientGoneError
from durable_asgi._types import Message, Send
from durable_core import Response
from durable_core.api.framing import Framed, checked_chunk, framed

__all__ = ["headers_of", "send_response"]

_END = object()


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
        ClientGoneError: the server says that the client is gone.
        Exception: what a streamed body raised, or what no server can send.
    """
    body = response.body
    message = framed(response, head=head)
    silent, headers = message.silent, _encoded(message)
    start = {"type": "http.response.start", "status": response.status, "headers": headers}
    if isinstance(body, bytes):
        await _send(send, start)
        await _send(send, {"type": "http.response.body", "body": b"" if silent else body})
        return
    chunks = _AsyncChunks(body) if isinstance(body, AsyncIterable) else _ThreadChunks(body)
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


def headers_of(response: Response, *, head: bool = False) -> list[tuple[bytes, bytes]]:
    """Return the header fields as ASGI has them: names in lower case, all in bytes."""
    return _encoded(framed(response, head=head))


def _encoded(message: Framed) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("ascii"), value.encode("latin-1")) for name, value in message.fields
    ]


async def _send(send: Send, message: Message) -> None:
    try:
        await send(message)
    except OSError as error:  # what the specification lets servers raise for a client that is gone
        raise ClientGoneError(str(error)) from error


class _AsyncChunks:
    """The chunks of a body that is an async iterable."""

    def __init__(self, body: AsyncIterable[bytes]) -> None:
        self._body = body
        self._chunks: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = aiter(self._body)
        return self._chunks

    async def aclose(self) -> None:
        """Close it, if it can be closed."""
        close = getattr(self._chunks, "aclose", None) or getattr(self._body, "aclose", None)
        if close is not None:
            await close()


class _ThreadChunks:
    """The chunks of a body that is a plain iterable: each is made, and it is closed, in a thread.

    What the body does may block, which the event loop must not. The calls never overlap.
    """

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body
        self._chunks: Iterator[bytes] | None = None
        self._lock = threading.Lock()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await asyncio.to_thread(self._next)
        if chunk is _END:
            raise StopAsyncIteration
        return cast(bytes, chunk)

    async def aclose(self) -> None:
        """Close it after the chunk that is being made, even if this task is cancelled again."""
        await asyncio.shield(asyncio.to_thread(self._close))

    def _next(self) -> Any:
        with self._lock:
            if self._chunks is None:
                self._chunks = iter(self._body)
            return next(self._chunks, _END)

    def _close(self) -> None:
        with self._lock:
            close = getattr(self._chunks, "close", None) or getattr(self._body, "close", None)
            if close is not None:
                close()
