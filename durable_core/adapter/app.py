"""What adapters share: applications that answer by a handler of the core."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from durable_core.api.adapter import EngineLifecycle, HTTPHandler
from durable_core.api.durable import Durable
from durable_core.errors import ConfigurationError, HTTPError
from durable_core.flow.env import Limits
from durable_core.http.problem import problem, problem_from_http_error
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.routing import Application, Routes

__all__ = ["AdapterApp", "check_callable", "refuse_other_adapter", "resolve_handler"]

T = TypeVar("T")


class AdapterApp:
    """What an adapter makes of a handler. Adapters add the form in which their server calls it.

    Args:
        handler: an endpoint, the wait route, the events route, an ``Application`` of routes.

    Attributes:
        endpoint: the handler.
        logger: where a failure is logged; a class sets its own.
    """

    logger = logging.getLogger("durable.adapter")

    def __init__(self, handler: HTTPHandler) -> None:
        self.endpoint = handler

    def __repr__(self) -> str:
        """Show what it answers by, such as ``<WSGIApp of <Endpoint shop:checkout>>``."""
        return f"<{type(self).__name__} of {self.endpoint!r}>"

    @property
    def durables(self) -> tuple[EngineLifecycle, ...]:
        """What a server should start before it serves this, and stop afterwards."""
        return (self.endpoint.engine,)

    @property
    def limits(self) -> Limits:
        """The limits of the application behind it."""
        return self.endpoint.engine.limits

    def respond(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        """Answer in this thread, whatever happens; see ``HTTPHandler.handle``."""
        try:
            return self.endpoint.handle(request, max_wait=max_wait, route=route)
        except Exception as error:
            return self._error_response(request, error)

    async def respond_async(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        """Answer in this task, whatever happens; see ``HTTPHandler.handle_async``."""
        try:
            return await self.endpoint.handle_async(request, max_wait=max_wait, route=route)
        except Exception as error:
            return self._error_response(request, error)

    def run_on_background_loop(self, awaitable: Awaitable[T]) -> T:
        """Await something on the engine's own event loop, and block until it is there."""
        return self.endpoint.engine.run_on_background_loop(awaitable)

    def _error_response(self, request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPError):
            return problem_from_http_error(error)
        # Not the query, which may hold a token, nor the decoded path, which may hold new lines.
        path = urlsplit(request.url).path
        self.logger.error("%s %s failed", request.method, path, exc_info=error)
        return problem(500, "internal-error")


def resolve_handler(served: object, durable: Durable[Any] | None) -> HTTPHandler | None:
    """Return the handler of the core that a server is to serve by; None for something callable.

    Args:
        served: a handler of the core, something callable of the server's own, or routes.
        durable: whose endpoints the routes lead to.

    Raises:
        ConfigurationError: routes without ``durable``, or routes that conflict.
    """
    if hasattr(served, "handle") and hasattr(served, "handle_async"):
        return cast(HTTPHandler, served)
    if callable(served):
        return None
    if durable is None and not isinstance(served, (Mapping, Sequence)):
        raise ConfigurationError(
            f"a server serves an endpoint, or app(durable, routes), not {served!r}"
        )
    if durable is None:
        raise ConfigurationError("routes need durable=, or app(durable, routes) in their place")
    return Application(durable, cast(Routes, served))


def refuse_other_adapter(served: object) -> None:
    """Refuse an endpoint that another adapter has made, for its own kind of server.

    Raises:
        ConfigurationError: it is one.
    """
    if isinstance(served, AdapterApp):
        raise ConfigurationError(
            f"{served!r} is for another kind of server: Durable(endpoint_adapter=) must be the "
            "endpoint_adapter of the package that serves it"
        )


def check_callable(served: Callable[..., Any], interface: str, arguments: int) -> None:
    """See that a server can call what it was given, which may be a handler that is no endpoint yet.

    Args:
        served: what is to be called.
        interface: that of the server, such as ``"WSGI"``.
        arguments: how many it calls with.

    Raises:
        ConfigurationError: it cannot be called so.
    """
    import inspect  # which only a process that serves needs

    try:
        signature = inspect.signature(served)
    except ValueError:  # of some functions written in C
        return
    try:
        signature.bind(*range(arguments))
    except TypeError:
        refuse_other_adapter(served)
        name = getattr(served, "__qualname__", repr(served))
        raise ConfigurationError(
            f"{name}{signature} is neither an endpoint nor an application of {interface}: decorate "
            "it with @durable.endpoint, or serve it by a route, as in "
            'app(durable, {"GET /": function})'
        ) from None
