"""ASGI applications for the handlers of the core."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from durable_asgi._lifespan import serve_lifespan
from durable_asgi._request import read_body, route_of, to_request
from durable_asgi._response import send_response
from durable_asgi._types import Receive, Scope, Send
from durable_asgi._watch import is_gone
from durable_core import Durable, HTTPError
from durable_core.adapter.app import AdapterApp
from durable_core.adapter.asynchronous import ClientDisconnectedError, DisconnectWatcher
from durable_core.http.problem import problem_from_http_error
from durable_core.routing import Application, Routes

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
            ValueError: a type of scope other than ``http``, ``lifespan`` and ``websocket``; the
                last is closed.
        """
        kind = scope["type"]
        if kind == "http":
            try:
                await self._serve(scope, receive, send)
            except ClientDisconnectedError:
                pass
        elif kind == "lifespan":
            await serve_lifespan(self.endpoint.engine, receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": "there is only HTTP"})
        else:
            raise ValueError(f"durable_asgi serves the scopes http and lifespan, not {kind!r}")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = scope["method"] == "HEAD"
        try:
            request = to_request(scope, await read_body(scope, receive, self.limits.body))
        except HTTPError as error:
            await send_response(problem_from_http_error(error), send, head=head)
            return
        async with DisconnectWatcher(partial(is_gone, receive)) as watch:
            response = await self.respond_async(request, route=route_of(scope))
            if response.is_streaming:
                watch.listen()
            await send_response(response, send, head=head)


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
