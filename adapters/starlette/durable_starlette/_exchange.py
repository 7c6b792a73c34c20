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

    Attributes:
        kept: what has been read of it.
        is_whole: nothing more will come.
    """

    is_whole = False
    _read = 0  # of what is kept, by the application
    _is_read = _is_held = _is_over = False
    _news: asyncio.Event | None = None  # of a request that is a run's

    def __init__(self, receive: Receive, most: int) -> None:
        self.kept = bytearray()
        self._receive = receive
        self._most = most

    async def receive(self) -> Message:
        """Return the next message for the application.

        Once the request is held, that is the rest of the body, and at the end of the client's
        conversation the disconnect.
        """
        while self._is_held and not (self.is_whole or self._is_over):
            await self._next_news()
        if self.is_whole and not self._is_read:
            self._is_read = True
            rest = bytes(self.kept[self._read :])
            return {"type": "http.request", "body": rest, "more_body": False}
        while self._is_held:
            if self._is_over:
                return {"type": "http.disconnect"}
            await self._next_news()
        message = await self._receive_next()
        self._read = len(self.kept)
        self._is_read = self.is_whole
        return message

    async def read_to_end(self) -> bool:
        """Read what the application has not read; tell whether the body is whole, and not too long.

        The application still gets what is read here.
        """
        while not self.is_whole and len(self.kept) <= self._most:
            message = await self._receive_next()
            if message["type"] != "http.request":
                return False
        return len(self.kept) <= self._most

    def hold(self) -> Receive:
        """Keep the server's messages from the application, which may ask for them; return them.

        The body is whole.
        """
        self._is_held = self.is_whole = True
        return self._receive_next

    def release(self) -> None:
        """Let the application have what comes from the server, after what is kept."""
        self._is_held = False
        if self._news is not None:
            self._news.set()

    def take(self) -> Receive:
        """Return what gives the whole request again, and then what the server has to say."""
        self._is_held = True
        kept: Message | None = {
            "type": "http.request",
            "body": bytes(self.kept),
            "more_body": not self.is_whole,
        }

        async def receive() -> Message:
            nonlocal kept
            message, kept = kept, None
            return message or await self._receive_next()

        return receive

    def complete(self) -> None:
        """Note that the conversation has read the whole request."""
        self.is_whole = True
        self._tell()

    def conversation_ended(self) -> None:
        """Tell the application that the client is gone, if it asks."""
        self._is_over = True
        self._tell()

    async def _next_news(self) -> None:
        if self._news is None:
            self._news = asyncio.Event()
        await self._news.wait()
        self._news.clear()

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()

    async def _receive_next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            room = self._most + 1 - len(self.kept)
            if room > 0:
                self.kept += message.get("body", b"")[:room]
            if not message.get("more_body", False):
                self.complete()
        return message
