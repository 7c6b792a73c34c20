"""Several endpoints behind one router."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

from durable_core.api.adapter import HTTPHandler, ServedEngine
from durable_core.api.durable import Durable
from durable_core.api.endpoint import Endpoint, is_wait
from durable_core.api.proxy import Proxy
from durable_core.api.router import Matched, MethodNotAllowed, Route, Router
from durable_core.errors import ConfigurationError, HTTPError
from durable_core.model.request import Request
from durable_core.model.response import Response
from durable_core.wire.problem import problem_from_http_error

__all__ = ["Application", "PlainHandler", "Routes", "Target"]


class _Wrapped(Protocol):
    """What an adapter made of a handler."""

    @property
    def endpoint(self) -> HTTPHandler:
        """The handler."""
        ...


#: What a route may lead to: an endpoint, wrapped or not, or a plain function of the request.
Target: TypeAlias = "HTTPHandler | _Wrapped | Callable[[Request], Any]"
#: ``{"GET /users/{id}": target}`` (several methods: ``"GET,POST /users"``), or Route objects.
Routes: TypeAlias = "Mapping[str, Target] | Sequence[Route[Target]]"


class PlainHandler:
    """A function of the request without durability: called once, answered as it returns."""

    def __init__(self, durable: Durable[Any], function: Callable[[Request], Any]) -> None:
        self.engine = durable.engine
        self._function = function

    def handle(self, request: Request, *, hold: float = 25.0, route: str | None = None) -> Response:
        """Answer in this thread; see ``HTTPHandler.handle``."""
        try:
            value = self._function(request)
            if inspect.isawaitable(value):
                value = self.engine.await_elsewhere(cast("Awaitable[object]", value))
            return Response.from_value(value)
        except HTTPError as error:
            return problem_from_http_error(error)

    async def handle_async(
        self, request: Request, *, hold: float = 25.0, route: str | None = None
    ) -> Response:
        """Answer in this task; a ``def`` function runs in a thread."""
        try:
            if inspect.iscoroutinefunction(self._function):
                return Response.from_value(await self._function(request))
            value = await self.engine.call_in_thread(self._function, request)
            return Response.from_value(await value if inspect.isawaitable(value) else value)
        except HTTPError as error:
            return problem_from_http_error(error)


class Application:
    """Answers each request by the route it matches: 404 without one, 405 for another method.

    OPTIONS is answered with 204 and ``Allow`` unless a route declares it; at the path of a proxy,
    by the proxy, with the headers of CORS.

    Args:
        durable: whose endpoints they are; servers start and stop it.
        routes: see ``Routes``.

    Raises:
        ConfigurationError: conflicting or malformed routes.
    """

    def __init__(self, durable: Durable[Any], routes: Routes) -> None:
        self.durable = durable
        listed = _listed(routes)
        self._router = Router(
            Route(route.path, self._handler(route.endpoint), route.methods) for route in listed
        )

    @property
    def engine(self) -> ServedEngine:
        """The engine of the application."""
        return self.durable.engine

    def handle(self, request: Request, *, hold: float = 25.0, route: str | None = None) -> Response:
        """Answer in this thread; see ``HTTPHandler.handle``."""
        found = self._find(request)
        if isinstance(found, Response):
            return found
        handler = found.route.endpoint
        request = request.with_path_params(found.path_params)
        return handler.handle(request, hold=hold, route=found.route.path)

    async def handle_async(
        self, request: Request, *, hold: float = 25.0, route: str | None = None
    ) -> Response:
        """Answer in this task; see ``HTTPHandler.handle_async``."""
        found = self._find(request)
        if isinstance(found, Response):
            return found
        handler = found.route.endpoint
        request = request.with_path_params(found.path_params)
        return await handler.handle_async(request, hold=hold, route=found.route.path)

    def _find(self, request: Request) -> Matched[HTTPHandler] | Response:
        found = None
        if is_wait(request):
            found = self._leading_to(Endpoint, request.path)
        if found is not None:
            return found
        match self._router.match(request.method, request.path):
            case Matched() as found:
                return found
            case MethodNotAllowed(allow=allow):
                if request.method == "OPTIONS":
                    found = self._leading_to(Proxy, request.path)
                return found or _refused(request, ", ".join(allow))
        return problem_from_http_error(HTTPError(404, "there is nothing at this path"))

    def _leading_to(
        self, kind: type[Endpoint] | type[Proxy], path: str
    ) -> Matched[HTTPHandler] | None:
        """Return a route at a path that leads to such a handler, whatever its methods.

        Clients wait for the runs of an endpoint by GET, and browsers ask a proxy by OPTIONS.
        """
        probe = self._router.match("", path)
        for method in probe.allow if isinstance(probe, MethodNotAllowed) else ():
            found = self._router.match(method, path)
            if isinstance(found, Matched) and isinstance(found.route.endpoint, kind):
                return found
        return None

    def _handler(self, target: Target) -> HTTPHandler:
        inner = getattr(target, "endpoint", target)
        if hasattr(inner, "handle") and hasattr(inner, "handle_async"):
            return cast(HTTPHandler, inner)
        if callable(inner):
            return PlainHandler(self.durable, inner)
        raise ConfigurationError(f"a route cannot lead to {target!r}")


def _refused(request: Request, allow: str) -> Response:
    if request.method == "OPTIONS":
        return Response(status=204, headers=(("allow", allow),))
    detail = f"{request.method} is not allowed here"
    return problem_from_http_error(HTTPError(405, detail, {"allow": allow}))


def _listed(routes: Routes) -> list[Route[Target]]:
    if not isinstance(routes, Mapping):
        return list(routes)
    return [_parse(pattern, target) for pattern, target in routes.items()]


def _parse(pattern: str, target: Target) -> Route[Target]:
    methods, _, path = pattern.partition(" ")
    if not path.startswith("/"):
        raise ConfigurationError(f"a route is written like 'GET /users/{{id}}', not {pattern!r}")
    return Route(path, target, tuple(methods.split(",")))
