"""ASGI applications for the handlers of the core."""

from __future__ import annotations

import logging
from typing import Any

from durable_asgi._exchange import ASGIExchange
from durable_asgi._lifespan import check_event_loop, serve_lifespan
from durable_asgi._types import Receive, Scope, Send
from durable_core import Durable
from durable_core.adapters import AdapterApp, Application, Routes, converse_async

__all__ = ["ASGIApp", "app"]


class ASGIApp(AdapterApp):
    """An ASGI 3 application that answers by a handler of the core.

    Its lifespan starts and stops the engine. Without one, as where it is mounted in another
    application, the first request starts it, and the end of the process stops it.

    Args:
        handler: an endpoint, the wait route, the events route, an ``Application`` of routes.

    Attributes:
        endpoint: the handler.
    """

    logger = logging.getLogger("durable.asgi")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope.

        Raises:
            ConfigurationError: the event loop is not asyncio's.
            Exception: what a streamed body raised; the server then cuts the connection.
            ValueError: a type of scope other than ``http``, ``lifespan`` and ``websocket``; the
                last is closed.
        """
        kind = scope["type"]
        if kind == "http":
            check_event_loop()
            await converse_async(self, ASGIExchange(scope, receive, send))
        elif kind == "lifespan":
            await serve_lifespan(self.endpoint.engine, receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": "there is only HTTP"})
        else:
            raise ValueError(f"durable_asgi serves the scopes http and lifespan, not {kind!r}")


def app(durable: Durable[Any], routes: Routes) -> ASGIApp:
    """Return an ASGI application that answers by routes.

    Args:
        durable: whose endpoints they lead to.
        routes: ``{"GET /users/{id}": target}`` (several methods: ``"GET,POST /users"``), or
            ``Route`` objects. A target is an endpoint or a plain function of the request.

    Raises:
        ConfigurationError: conflicting or malformed routes.
    """
    return ASGIApp(Application(durable, routes))
