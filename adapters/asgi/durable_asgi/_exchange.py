"""One ``http`` scope of ASGI as an ``AsyncExchange``."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any
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
#: A path that is the same percent-encoded and decoded. Nearly all paths are.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/:@!$&'()*+,;=\-._~]*")
_authority_of = lru_cache(16)(authority_of)  # of the few sockets that a server listens on


class ASGIExchange(AsyncExchange):
    """What an ASGI server says about a request, and the messages that it takes in return.

    Args:
        scope, receive, send: of the ASGI application.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method = scope["method"]
        self.scheme = scope.get("scheme") or "http"
        self.authority = _authority_of(self.scheme, *(scope.get("server") or ("localhost", None)))
        self.client = (scope.get("client") or ("",))[0]
        self.root_path = (scope.get("root_path") or "").rstrip("/")
        self.target = _target_of(scope, self.root_path)
        self.fields = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        params = scope.get("path_params")
        self.path_params = (
            {str(name): str(value) for name, value in params.items()} if params else {}
        )
        if "router" in scope:
            self.route = _template_of(scope, self.path_params)
        self._receive = receive
        self._send = send
        self._more = True
        self._pieces = b""
        self._begun = self._ended = False
        self._left: int | None = None
        self._flow: Any = None

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
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in fields]
        length = dict(headers).get(b"content-length")
        self._left = None if length is None else int(length)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        self._begun = True
        if self._left is None:
            self._flow = _uvicorn_flow(self._send)

    async def write(self, data: bytes) -> None:
        """Give the server a part of the body; the one that completes its length is the last."""
        if self._left is not None:
            self._left -= len(data)
        await self._send_body(data, is_last=self._left == 0)

    def is_ready(self) -> bool:
        """Tell whether the server takes a part of the body without waiting, where it is uvicorn."""
        return self._flow is not None and not self._flow.write_paused

    def write_now(self, data: bytes) -> None:
        """Give uvicorn a part of the body: its ``send`` waits only while writing is paused."""
        sending: Any = self._send({"type": "http.response.body", "body": data, "more_body": True})
        try:
            sending.send(None)
        except StopIteration:
            return
        sending.close()
        raise RuntimeError("uvicorn has not taken a part of a response at once")

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


def _uvicorn_flow(send: Send) -> Any:
    """Return what uvicorn knows of the connection's flow; None if ``send`` is not uvicorn's own.

    The specification of ASGI has no way to tell whether ``send`` would wait. That of middleware may
    wait for anything.
    """
    cycle = getattr(send, "__self__", None)
    is_uvicorn = type(cycle).__module__.startswith("uvicorn.protocols.http.")
    return getattr(cycle, "flow", None) if is_uvicorn else None


def _target_of(scope: Scope, root: str) -> str:
    """Return the target of the request, ``root_path`` included.

    Servers and frameworks differ in whether ``path`` holds the prefix ``root_path``; the
    specification says that it does.
    """
    path, raw, query = scope["path"], scope.get("raw_path"), scope.get("query_string")
    if not path.startswith("/"):
        _, path = split_target(path)
    whole = path if path == root or path.startswith(f"{root}/") else root + path
    target = whole
    if _PLAIN_PATH.fullmatch(whole) is None or (raw is not None and raw != whole.encode()):
        target = _encoded_path(whole, path, root, raw)
    return f"{target}?{query.decode('latin-1')}" if query else target


def _encoded_path(whole: str, path: str, root: str, raw: bytes | None) -> str:
    """Return the path of the request as the client has sent it, or as it may have.

    ``raw_path`` is optional, and whoever rewrites ``path`` may have forgotten it: it counts only
    where it is the same path.
    """
    if raw is not None:
        _, sent = split_target(raw.partition(b"?")[0].decode("latin-1"))
        decoded = unquote_to_bytes(sent.encode("latin-1")).decode("utf-8", "replace")
        if decoded == whole:
            return sent
        if decoded == path:
            return _quote_path(root) + sent
    return _quote_path(whole)


def _quote_path(path: str) -> str:
    try:
        return quote(path, safe="/:@!$&'()*+,;=-._~")
    except UnicodeEncodeError:
        return path  # a lone surrogate: a bad request


def _template_of(scope: Scope, params: Mapping[str, str]) -> str | None:
    """Return the template by which a framework's router found the path; None if none is known.

    Starlette says which route it was; FastAPI does not for routes that are not its own. Then the
    template is made of the path and its parameters. Prefixes of mounts are part of it, a prefix
    that a proxy has taken away is not.
    """
    root = scope.get("root_path") or ""
    mount = root[len(scope.get("app_root_path", root)) :]
    route = scope.get("route")
    found = getattr(route, "path_format", None)
    if isinstance(found, str) and hasattr(route, "methods"):  # a mount has no methods
        return _restore_template(mount, params) + found
    if not (mount or params):
        return None
    path = scope["path"]
    return _restore_template(mount + (path[len(root) :] if path.startswith(root) else path), params)


def _restore_template(path: str, params: Mapping[str, str]) -> str:
    """Return a path with the names of its parameters in place of their values.

    Routers give parameters in their order, and in the path they follow fixed text more often than
    they come before it. So each is looked for from the end.
    """
    end = len(path)
    for name, value in reversed(tuple(params.items())):
        start = path.rfind(value, 0, end) if value else -1
        if start > 0 and path[start - 1] == "/" and path[start + len(value) :][:1] in ("", "/"):
            path = f"{path[:start]}{{{name}}}{path[start + len(value) :]}"
            end = start
    return path
