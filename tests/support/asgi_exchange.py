"""The server's side of the ASGI interface, played by a test."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from durable_asgi._types import ASGIApplication, Message, Scope

__all__ = ["Exchange", "http_scope"]


def http_scope(path: str = "/x", method: str = "GET", **changes: Any) -> Scope:
    """Return an ``http`` scope; a key set to None is left out."""
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": None,
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"test")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        **changes,
    }
    return {key: value for key, value in scope.items() if value is not None}


class Exchange:
    """One request, and what the application makes of it.

    Args:
        scope: of the request.
        body: its pieces.

    Attributes:
        sent: the messages that the application has sent.
        received: how many messages it has taken.
        flowing: cleared, it holds back whoever sends a part of a body.
    """

    def __init__(self, scope: Scope | None = None, body: Sequence[bytes] = (b"",)) -> None:
        self.scope = scope if scope is not None else http_scope()
        self.sent: list[Message] = []
        self.received = 0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._gone = asyncio.Event()
        self._pieces = [
            {"type": "http.request", "body": piece, "more_body": number < len(body)}
            for number, piece in enumerate(body, start=1)
        ]

    async def run(self, application: ASGIApplication) -> Exchange:
        """Have the application serve it."""
        await application(self.scope, self.receive, self.send)
        return self

    def leave(self) -> None:
        """Let the client go away."""
        self._gone.set()

    async def receive(self) -> Message:
        """Give the application the next message; when there is none, wait for the disconnect."""
        if self._pieces:
            self.received += 1
            return self._pieces.pop(0)
        await self._gone.wait()
        self.received += 1
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a message."""
        if message["type"] == "http.response.body":
            await self.flowing.wait()
        self.sent.append(message)

    @property
    def status(self) -> int:
        """The status that was sent."""
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The header fields that were sent."""
        return list(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        """The body that was sent; it must be complete."""
        assert not self.sent[-1].get("more_body", False)
        return b"".join(message["body"] for message in self.sent[1:])
