"""Stored requests, as a server calls an ASGI application with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any
from urllib.parse import unquote, urlsplit

from durable_asgi._types import ASGIApplication, Message, Receive, Scope
from durable_core import Request, Response
from durable_core.adapters import NotReachedError, context_outside_run, enter_run

__all__ = ["ASGIReplay", "replay_scope", "replayed_receive"]

#: Calls a handler, and makes a response of what comes of it.
_Respond = Callable[[], Coroutine[Any, Any, Response]]


class ASGIReplay:
    """A run's request on its way through an application to the run's handler.

    The handler is called in a task of the run, not in the one that the framework has for the
    request.

    Args:
        request: the stored request.
        function: the handler.
        key: of the scope; under it the application finds this.

    Attributes:
        function: the handler.
    """

    def __init__(self, request: Request, function: Callable[..., Any], key: str) -> None:
        self._request = request
        self.function = function
        self._key = key
        self._status = 0
        loop = asyncio.get_running_loop()
        self._called: asyncio.Future[tuple[_Respond, Context] | None] = loop.create_future()
        self._is_over = loop.create_future()

    async def run(self, application: ASGIApplication) -> Response:
        """Send the request through an application; return the response of the handler.

        Raises:
            NotReachedError: it was answered without a call of the handler.
            Exception: what the handler raised.
        """
        loop = asyncio.get_running_loop()
        scope = {**replay_scope(self._request), self._key: self}
        receive = replayed_receive(self._request.body)
        serving = loop.create_task(
            self._serve(application(scope, receive, self._send)), context=context_outside_run()
        )
        try:
            called = await self._called
            if called is None:
                await serving
                raise NotReachedError(
                    f"in a replay the application answered {self._status} before it reached the "
                    "view: middleware or a decorator may need what is not stored with the run, "
                    "such as the header Authorization; see durable.is_replaying()"
                )
            respond, context = called
            enter_run(context)
            return await loop.create_task(respond(), context=context)
        finally:
            if not self._is_over.done():
                self._is_over.set_result(None)
            await asyncio.wait((serving,))

    async def reach(self, function: Callable[..., Any], respond: _Respond) -> bool:
        """Have a handler respond that the application calls, if it is the run's.

        Args:
            function: the handler.
            respond: calls it, in a task of the run, with this context.

        Returns:
            Whether it was, when it has; the application then gets a response that nobody reads.
            False for another handler, which this one calls, and after the first call.
        """
        if function is not self.function or self._called.done():
            return False
        self._called.set_result((respond, copy_context()))
        await asyncio.shield(self._is_over)
        return True

    async def _serve(self, serving: Awaitable[None]) -> None:
        try:
            await serving
        finally:
            if not self._called.done():
                self._called.set_result(None)

    async def _send(self, message: Message) -> None:
        self._status = message.get("status", self._status)


def replay_scope(request: Request) -> Scope:
    """Return the scope that sends a stored request through an application again.

    There is no client, and nothing that a server or another application had put into the scope.
    """
    url = urlsplit(request.url)
    port = url.port or (443 if url.scheme == "https" else 80)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": url.scheme,
        "path": unquote(url.path),
        "raw_path": url.path.encode("ascii"),
        "query_string": url.query.encode("ascii"),
        "root_path": request.root_path,
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in request.headers.items()
        ],
        "client": None,
        "server": (url.hostname or "localhost", port),
        "state": {},
        "extensions": {},
    }


def replayed_receive(body: bytes) -> Receive:
    """Return what gives the body of a stored request; its client never goes away."""
    message: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def receive() -> Message:
        nonlocal message
        first, message = message, None
        return first or await asyncio.get_running_loop().create_future()

    return receive
