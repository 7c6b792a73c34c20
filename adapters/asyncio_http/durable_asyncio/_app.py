"""What the server serves: applications for the handlers of the core."""

from __future__ import annotations

import logging
from typing import Any

from durable_core import Durable, HTTPError, Limits, Request, Response
from durable_core.api.adapter import HTTPHandler, ServedEngine
from durable_core.api.application import Application, Routes
from durable_core.wire.problem import problem, problem_from_http_error

__all__ = ["AsyncioApp", "app"]

_logger = logging.getLogger("durable.asyncio")


class AsyncioApp:
    """An asynchronous function from a request to a response, by a handler of the core.

    Args:
        handler: an endpoint, the wait route, the events route, an ``Application`` of routes.

    Attributes:
        endpoint: the handler.
    """

    def __init__(self, handler: HTTPHandler) -> None:
        self.endpoint = handler

    @property
    def durables(self) -> tuple[ServedEngine, ...]:
        """What a server should start before it serves this, and stop afterwards."""
        return (self.endpoint.engine,)

    @property
    def limits(self) -> Limits:
        """The limits of the application behind it."""
        return self.endpoint.engine.limits

    async def __call__(self, request: Request) -> Response:
        """Answer one request. Cancelling it means that the client is gone; the run goes on."""
        try:
            return await self.endpoint.handle_async(request)
        except HTTPError as error:
            return problem_from_http_error(error)
        except Exception:
            # Not the query, which may hold a token, nor the decoded path, which may hold new lines.
            _logger.exception("%s %s failed", request.method, request.url.partition("?")[0])
            return problem(500, "internal-error")


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
