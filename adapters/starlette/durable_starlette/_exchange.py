"""The body of a request, which an application reads and a run, too."""

from __future__ import annotations

import asyncio

from durable_asgi import Message, Receive

__all__ = ["RequestBody"]


class RequestBody:
    """The body of a request that an application reads, and the run that it may become, too.

    Args:
        receive: of the server.
        most: bytes that are kept; of a longer body one byte more, by which it is known as too long.
    """

    def __init__(self, receive: Receive, most: int) -> None:
        loop = asyncio.get_running_loop()
        self._receive = receive
        self._most = most
        self._kept = bytearray()
        self._read = 0  # of what is kept, by the application
        self._is_read = False
        self._is_taken = False
        self._is_whole = loop.create_future()
        self._is_over = loop.create_future()

    async def receive(self) -> Message:
        """Return the next message for the application.

        Once the request is a run's, that is the rest of the body, and at the end of the client's
        conversation the disconnect.
        """
        if not self._is_taken:
            message = await self._receive_next()
            self._read = len(self._kept)
            self._is_read = self._is_whole.done()
            return message
        if not self._is_read:
            both = (self._is_whole, self._is_over)
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if self._is_read or not self._is_whole.done():
            await asyncio.wait((self._is_over,))
            return {"type": "http.disconnect"}
        self._is_read = True
        rest = bytes(self._kept[self._read :])
        return {"type": "http.request", "body": rest, "more_body": False}

    def take(self) -> Receive:
        """Return what gives the whole request again, and then what the server has to say."""
        self._is_taken = True
        body = bytes(self._kept)
        kept: Message | None = {
            "type": "http.request",
            "body": body,
            "more_body": not self._is_whole.done(),
        }

        async def receive() -> Message:
            nonlocal kept
            message, kept = kept, None
            return message or await self._receive_next()

        return receive

    def complete(self) -> None:
        """Note that the conversation has read the whole request."""
        if not self._is_whole.done():
            self._is_whole.set_result(None)

    def conversation_ended(self) -> None:
        """Tell the application that the client is gone, if it asks."""
        if not self._is_over.done():
            self._is_over.set_result(None)

    async def _receive_next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._kept += message.get("body", b"")[: self._most + 1 - len(self._kept)]
            if not message.get("more_body", False):
                self.complete()
        return message
