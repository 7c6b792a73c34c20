"""A pure router: from method and path to an endpoint and its path parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, cast

from durable_core.api.adapter import EngineLifecycle, HTTPHandler
from durable_core.api.durable import Durable
from durable_core.api.effects import CallFunction, FlowHandler, RequestFlow
from durable_core.api.endpoint import Endpoint, is_wait
from durable_core.api.waiting import Proxy
from durable_core.errors import ConfigurationError, HTTPError
from durable_core.http.headers import TOKEN
from durable_core.http.problem import problem_from_http_error, refuse_method
from durable_core.http.request import Request
from durable_core.http.response import Response

__all__ = [
    "Application",
    "Matched",
    "MethodNotAllowed",
    "PlainHandler",
    "Route",
    "Router",
    "Routes",
    "Target",
]


EndpointT = TypeVar("EndpointT")

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}")


@dataclass(frozen=True, slots=True)
class Route(Generic[EndpointT]):
    """An endpoint, and the requests it is for.

    Args:
        path: a template such as ``"/users/{id}"``. ``{id}`` stands for one segment that is not
            empty; ``{rest:path}``, which must come last, for all that follows, even nothing.
        endpoint: what answers.
        methods: one or more methods.

    Raises:
        ConfigurationError: a template or methods of another form.
    """

    path: str
    endpoint: EndpointT
    methods: tuple[str, ...] = ("GET",)

    def __post_init__(self) -> None:
        _parse_template(self.path)
        if isinstance(self.methods, str) or not self.methods:
            raise ConfigurationError(
                f"route {self.path!r}: methods must be a tuple such as ('GET', 'POST'), "
                f"not {self.methods!r}"
            )
        for method in self.methods:
            if TOKEN.fullmatch(method) is None or method != method.upper():
                raise ConfigurationError(
                    f"route {self.path!r}: a method must be an upper-case name, not {method!r}"
                )
        object.__setattr__(self, "methods", tuple(self.methods))


@dataclass(frozen=True, slots=True)
class Matched(Generic[EndpointT]):
    """A route for the request was found."""

    route: Route[EndpointT]
    path_params: dict[str, str]


@dataclass(frozen=True, slots=True)
class MethodNotAllowed:
    """There are routes for the path, but none for the method (answers 405).

    Attributes:
        allow: the methods that there are, sorted, ``OPTIONS`` always among them.
    """

    allow: tuple[str, ...]


class Router(Generic[EndpointT]):
    """Finds the most specific route.

    Segment by segment, fixed text goes before ``{x}``, and that before ``{x:path}``.

    Args:
        routes: in any order.

    Raises:
        ConfigurationError: two routes are for the same paths and method.
    """

    def __init__(self, routes: Iterable[Route[EndpointT]]) -> None:
        self.routes = tuple(routes)
        _refuse_conflicts(self.routes)
        self._fixed: dict[str, list[Route[EndpointT]]] = {}
        self._templates: list[tuple[re.Pattern[str], Route[EndpointT]]] = []
        for route in sorted(self.routes, key=_specificity):
            segments = _parse_template(route.path)
            if all(segment.kind == _FIXED for segment in segments):
                self._fixed.setdefault(route.path, []).append(route)
            else:
                self._templates.append((_pattern(segments), route))

    def match(self, method: str, path: str) -> Matched[EndpointT] | MethodNotAllowed | None:
        """Return the route for the request, or why there is none (None: no such path).

        A less specific route is taken when only that one has the method.

        Args:
            method: as on the wire.
            path: decoded.
        """
        allow: set[str] = set()
        for route, path_params in self._candidates(path):
            if method in route.methods:
                return Matched(route, path_params)
            allow.update(route.methods)
        return MethodNotAllowed(tuple(sorted(allow | {"OPTIONS"}))) if allow else None

    def _candidates(self, path: str) -> Iterator[tuple[Route[EndpointT], dict[str, str]]]:
        for route in self._fixed.get(path, ()):
            yield route, {}
        for pattern, route in self._templates:
            values = pattern.fullmatch(path)
            if values is not None:
                yield route, values.groupdict()


_FIXED, _ONE, _REST = range(3)


@dataclass(frozen=True, slots=True)
class _Segment:
    kind: int
    text: str


def _parse_template(template: str) -> tuple[_Segment, ...]:
    if not template.startswith("/"):
        raise ConfigurationError(f"route {template!r}: a path must begin with '/'")
    texts = template[1:].split("/")
    segments = tuple(_segment(template, text) for text in texts)
    names = [segment.text for segment in segments if segment.kind != _FIXED]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"route {template!r}: a parameter name is used twice")
    if any(segment.kind == _REST for segment in segments[:-1]):
        raise ConfigurationError(f"route {template!r}: a ':path' parameter must come last")
    return segments


def _segment(template: str, text: str) -> _Segment:
    parameter = _PARAMETER.fullmatch(text)
    if parameter is not None:
        return _Segment(_REST if parameter[2] else _ONE, parameter[1])
    if "{" in text or "}" in text:
        raise ConfigurationError(
            f"route {template!r}: {text!r} must be fixed text, '{{name}}' or '{{name:path}}'"
        )
    return _Segment(_FIXED, text)


def _pattern(segments: tuple[_Segment, ...]) -> re.Pattern[str]:
    forms = {_ONE: "(?P<{}>[^/]+)", _REST: "(?P<{}>.*)", _FIXED: "{}"}
    parts = [forms[segment.kind].format(re.escape(segment.text)) for segment in segments]
    return re.compile("/" + "/".join(parts), re.DOTALL)


def _specificity(route: Route[EndpointT]) -> tuple[int, ...]:
    return tuple(segment.kind for segment in _parse_template(route.path))


def _refuse_conflicts(routes: tuple[Route[EndpointT], ...]) -> None:
    taken: dict[object, str] = {}
    for route in routes:
        shape = tuple(
            segment.text if segment.kind == _FIXED else segment.kind
            for segment in _parse_template(route.path)
        )
        for method in set(route.methods):
            key = (method, shape)
            if key in taken:
                raise ConfigurationError(
                    f"two routes answer {method}: {taken[key]!r} and {route.path!r}"
                )
            taken[key] = route.path


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


class PlainHandler(FlowHandler):
    """A function of the request without durability: called once, answered as it returns."""

    def __init__(self, durable: Durable[Any], function: Callable[[Request], Any]) -> None:
        self.engine = durable.engine
        self._function = function

    def __repr__(self) -> str:
        """Show the function."""
        return f"<PlainHandler {self._function!r}>"

    def answer(self, request: Request, max_wait: float) -> RequestFlow[Response]:
        """Answer with what the function returns."""
        try:
            return Response.from_value((yield CallFunction(self._function, request)))
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
        ConfigurationError: conflicting or malformed routes, or no ``Durable``.
    """

    def __init__(self, durable: Durable[Any], routes: Routes) -> None:
        if not isinstance(durable, Durable):
            raise ConfigurationError(f"app(durable, routes) begins with a Durable, not {durable!r}")
        self.durable = durable
        listed = _list_routes(routes)
        self._router = Router(
            Route(route.path, self._handler(route.endpoint), route.methods) for route in listed
        )

    def __repr__(self) -> str:
        """Show the application and how many routes it has."""
        return f"<Application of {self.durable.id}, {len(self._router.routes)} routes>"

    @property
    def engine(self) -> EngineLifecycle:
        """The engine of the application."""
        return self.durable.engine

    def handle(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        """Answer in this thread; see ``HTTPHandler.handle``."""
        found = self._find(request)
        if isinstance(found, Response):
            return found
        handler = found.route.endpoint
        request = request.with_path_params(found.path_params)
        return handler.handle(request, max_wait=max_wait, route=found.route.path)

    async def handle_async(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        """Answer in this task; see ``HTTPHandler.handle_async``."""
        found = self._find(request)
        if isinstance(found, Response):
            return found
        handler = found.route.endpoint
        request = request.with_path_params(found.path_params)
        return await handler.handle_async(request, max_wait=max_wait, route=found.route.path)

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
                if request.method in ("OPTIONS", "DELETE"):
                    found = self._leading_to(Proxy, request.path)
                return found or refuse_method(request.method, ", ".join(allow))
        return problem_from_http_error(HTTPError(404, "there is nothing at this path"))

    def _leading_to(
        self, kind: type[Endpoint] | type[Proxy], path: str
    ) -> Matched[HTTPHandler] | None:
        """Return a route at a path that leads to such a handler, whatever its methods.

        Clients wait for the runs of an endpoint by GET and cancel them by DELETE, there and at a
        proxy; browsers ask a proxy by OPTIONS.
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


def _list_routes(routes: Routes) -> list[Route[Target]]:
    if not isinstance(routes, Mapping):
        listed: list[Any] = list(routes) if isinstance(routes, Iterable) else [routes]
        for each in listed:
            if not isinstance(each, Route):
                raise ConfigurationError(
                    "routes are a dict such as {'GET /users/{id}': endpoint}, or Route objects, "
                    f"not {each!r}"
                )
        return listed
    return [_parse_pattern(pattern, target) for pattern, target in routes.items()]


def _parse_pattern(pattern: str, target: Target) -> Route[Target]:
    methods, _, path = pattern.partition(" ") if isinstance(pattern, str) else ("", "", "")
    if not path.startswith("/"):
        raise ConfigurationError(f"a route is written like 'GET /users/{{id}}', not {pattern!r}")
    return Route(path, target, tuple(methods.split(",")))
