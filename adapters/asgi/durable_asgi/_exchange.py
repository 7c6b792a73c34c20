"""One ``http`` scope of ASGI as an ``AsyncExchange``."""

from __future__ import annotations

import logging
from contextlib import suppress
from urllib.parse import quote, unquote_to_bytes

from durable_asgi._types import Receive, Scope, Send
from durable_core.adapters import (
    AsyncExchange,
    ClientDisconnectedError,
    Fields,
    authority_of,
    split_target,
)

__all__ = ["ASGIExchange"]

_logger = logging.getLogger("durable.asgi")
#: What middleware is given that needs a response although the client is gone; as nginx names it.
_CLIENT_CLOSED_REQUEST = 499


class ASGIExchange(AsyncExchange):
    """What an ASGI server says about a request, and the messages that it takes in return.

    Args:
        scope, receive, send: of the ASGI application.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method = scope["method"]
        self.scheme = scope.get("scheme") or "http"
        self.authority = authority_of(self.scheme, *(scope.get("server") or ("localhost", None)))
        self.root_path = (scope.get("root_path") or "").rstrip("/")
        self.target = _target_of(scope, self.root_path)
        self.fields = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        params = scope.get("path_params") or {}
        self.path_params = {str(name): str(value) for name, value in params.items()}
        self.route = _route_of(scope)
        self._receive = receive
        self._send = send
        self._more = True
        self._pieces = b""
        self._begun = self._ended = False
        self._left: int | None = None

    async def read(self, size: int) -> bytes:
        """Return what the server has of the body."""
        while self._more and not self._pieces:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnectedError("the client went away before the end of the request")
            self._pieces = message.get("body", b"")
            self._more = message.get("more_body", False)
        data, self._pieces = self._pieces[:size], self._pieces[size:]
        return data

    async def is_gone(self) -> bool:
        """Wait for what the server says next: whether that the client is gone."""
        try:
            message = await self._receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                message = await self._receive()  # that was an empty body, which nobody had to read
        except Exception:
            _logger.warning("it cannot be told whether the client is gone", exc_info=True)
            return False
        return bool(message["type"] == "http.disconnect")

    async def begin(self, status: int, fields: Fields) -> None:
        """Give the server the head: names in lower case, all in octets."""
        self._left = next((int(v) for name, v in fields if name.lower() == "content-length"), None)
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in fields]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        self._begun = True

    async def write(self, data: bytes) -> None:
        """Give the server a part of the body; the one that completes its length is the last."""
        if self._left is not None:
            self._left -= len(data)
        await self._send_body(data, is_last=self._left == 0)

    async def end(self) -> None:
        """Tell the server that this is all, unless it knows."""
        if not self._ended:
            await self._send_body(b"", is_last=True)

    async def abort(self, error: BaseException) -> None:
        """Raise the error: servers cut the connection when an application fails.

        If the client is gone there is nothing to cut; but middleware such as Starlette's
        ``BaseHTTPMiddleware`` takes an application without a response for broken.
        """
        if not isinstance(error, ClientDisconnectedError):
            raise error
        if not self._begun:
            with suppress(OSError):
                await self.begin(_CLIENT_CLOSED_REQUEST, [("content-length", "0")])
                await self.end()

    async def _send_body(self, data: bytes, *, is_last: bool) -> None:
        self._ended = is_last
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})


def _target_of(scope: Scope, root: str) -> str:
    """Return the target of the request, ``root_path`` included.

    Servers and frameworks differ in whether ``path`` holds the prefix ``root_path``; the
    specification says that it does. ``raw_path`` is optional, and whoever rewrites ``path`` may
    have forgotten it: it counts only where it is the same path.
    """
    _, path = split_target(scope["path"])
    whole = path if path == root or path.startswith(f"{root}/") else root + path
    target = _quoted(whole)
    raw = scope.get("raw_path")
    if raw is not None:
        _, sent = split_target(raw.partition(b"?")[0].decode("latin-1"))
        decoded = unquote_to_bytes(sent.encode("latin-1")).decode("utf-8", "replace")
        if decoded == whole:
            target = sent
        elif decoded == path:
            target = _quoted(root) + sent
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{target}?{query}"


def _quoted(path: str) -> str:
    try:
        return quote(path, safe="/:@!$&'()*+,;=-._~")
    except UnicodeEncodeError:
        return path  # a lone surrogate: a bad request


def _route_of(scope: Scope) -> str | None:
    """Return the template that a framework's router found the path by, where it tells (FastAPI)."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else None
