"""A request before there is a run for it: what its head tells, and its body."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from durable_asgi import Message, Receive, Scope
from durable_core import Limits
from durable_core.adapters import RUN_PARAM, TOKEN_PARAM

__all__ = ["RequestBody", "names_run", "plain_body"]

#: Fields by which a request may be more than one for a new run, or be refused.
_SPECIAL = frozenset({b"prefer", b"idempotency-key", b"last-event-id"})
#: Fields whose value says more, and which a request has once.
_TELLING = frozenset({b"host", b"accept", b"content-length", b"transfer-encoding"})
_HOST = re.compile(rb"[A-Za-z0-9._-]+(?::(?:[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}))?")
_LENGTH = re.compile(rb"[0-9]{1,19}")
_HTTP_1 = ("1.1", "1.0")
_RUN, _TOKEN = RUN_PARAM.encode(), TOKEN_PARAM.encode()


def plain_body(scope: Scope, limits: Limits) -> bool | None:
    """Tell whether a request may have a body, if it is no more than one for a new run, by its head.

    It is not to be refused, asks neither for a stream nor for a run that there is already, does
    not say how long the client waits, and is no HEAD. It is None where that cannot be told at a
    glance.
    """
    query = scope["query_string"]
    if scope["method"] == "HEAD":
        return None
    if query:
        plain_query = unquote_to_bytes(query) if b"%" in query else query
        if _RUN in plain_query or _TOKEN in plain_query:
            return None
    headers = scope["headers"]
    fields = dict(headers)
    size = len(scope.get("raw_path") or scope["path"].encode()) + len(query)
    for name, value in headers:
        size += len(name) + len(value) + 4
    if 3 * size >= limits.head:  # the path may be decoded
        return None
    if not (
        _SPECIAL.isdisjoint(fields)
        and (len(fields) == len(headers) or not _has_twice(headers, _TELLING))
        and _is_plain(fields.get(b"host"), fields.get(b"accept"))
    ):
        return None
    length = fields.get(b"content-length")
    if length is not None:
        is_plain = (
            b"transfer-encoding" not in fields
            and _LENGTH.fullmatch(length) is not None
            and int(length) <= limits.body
        )
        return True if is_plain else None
    # Without both there is none in HTTP/1 (RFC 9112, section 6.3).
    return b"transfer-encoding" in fields or scope.get("http_version") not in _HTTP_1


@lru_cache(64)  # of what the clients of one server say
def _is_plain(host: bytes | None, accept: bytes | None) -> bool:
    """Tell whether a host is well-formed, and no event stream is asked for."""
    is_host = host is None or _HOST.fullmatch(host) is not None
    return is_host and (accept is None or b"event-stream" not in accept.lower())


def _has_twice(headers: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]) -> bool:
    """Tell whether one of these names is there more than once."""
    telling = [name for name, _ in headers if name in names]
    return len(set(telling)) < len(telling)


def names_run(scope: Scope) -> bool:
    """Tell whether a request is for the wait URL of a run."""
    query = scope["query_string"]
    return _RUN in query and _TOKEN in query and scope["method"] != "OPTIONS"


class RequestBody:
    """The body of a request that an application reads, and the run that it may become, too.

    Args:
        receive: of the server.
        most: bytes that are kept; of a longer body one byte more, by which it is known as too long.

    Attributes:
        kept: what has been read of it.
        is_whole: nothing more will come.
    """

    kept: bytes | bytearray = b""  # most requests have no body
    is_whole = False
    _read = 0  # of what is kept, by the application
    _is_read = _is_held = _is_over = False

    def __init__(self, receive: Receive, most: int) -> None:
        self._news: asyncio.Event | None = None  # of a request that is a run's
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
        message = await self.receive_next()
        self._read = len(self.kept)
        self._is_read = self.is_whole
        return message

    @property
    def is_read(self) -> bool:
        """Whether :meth:`read_to_end` has nothing to do, and would say yes."""
        return self.is_whole and len(self.kept) <= self._most

    async def read_to_end(self) -> bool:
        """Read what the application has not read; tell whether the body is whole, and not too long.

        The application still gets what is read here.
        """
        while not self.is_whole and len(self.kept) <= self._most:
            message = await self.receive_next()
            if message["type"] != "http.request":
                return False
        return len(self.kept) <= self._most

    def hold(self) -> None:
        """Keep the server's messages from the application, which may ask for them.

        The body is whole.
        """
        self._is_held = self.is_whole = True

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
            return message or await self.receive_next()

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

    async def receive_next(self) -> Message:
        """Return the next message of the server, and keep what it has of the body."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._keep(message.get("body", b""))
            if not message.get("more_body", False):
                self.complete()
        return message

    def _keep(self, data: bytes) -> None:
        room = self._most + 1 - len(self.kept)
        if data and room > 0:
            if type(self.kept) is not bytearray:
                self.kept = bytearray()
            self.kept += data[:room]
