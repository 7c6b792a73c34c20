"""What the server serves: applications for the handlers of the core."""

from __future__ import annotations

import logging
from typing import Any

from durable_core import Durable, Request, Response
from durable_core.adapters import AdapterApp, Application, Routes

__all__ = ["AsyncioApp", "app"]


class AsyncioApp(AdapterApp):
    """An asynchronous function from a request to a response, by a handler of the core.

    Args:
        handler: an endpoint, the wait route, the events route, an ``Application`` of routes.

    Attributes:
        endpoint: the handler.
    """

    logger = logging.getLogger("durable.asyncio")

    async def __call__(self, request: Request) -> Response:
        """Answer one request. Cancelling it means that the client is gone; the run goes on."""
        return await self.respond_async(request)


def app(durable: Durable[Any], routes: Routes) -> AsyncioApp:
    """Return an application that answers by routes.

    Args:
        durable: whose endpoints they lead to.
        routes: ``{"GET /users/{id}": target}`` (several methods: ``"GET,POST /users"``), or
            ``Route`` objects. A target is an endpoint or a plain function of the request.

    Raises:
        ConfigurationError: conflicting or malformed routes.
    """
    return AsyncioApp(Application(durable, routes))
