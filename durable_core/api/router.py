"""A pure router: from method and path to an endpoint and its path parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from durable_core.errors import ConfigurationError
from durable_core.model.headers import TOKEN

__all__ = ["Matched", "MethodNotAllowed", "Route", "Router"]

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
        _parse(self.path)
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
            segments = _parse(route.path)
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


def _parse(template: str) -> tuple[_Segment, ...]:
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
    return tuple(segment.kind for segment in _parse(route.path))


def _refuse_conflicts(routes: tuple[Route[EndpointT], ...]) -> None:
    taken: dict[object, str] = {}
    for route in routes:
        shape = tuple(
            segment.text if segment.kind == _FIXED else segment.kind
            for segment in _parse(route.path)
        )
        for method in set(route.methods):
            key = (method, shape)
            if key in taken:
                raise ConfigurationError(
                    f"two routes answer {method}: {taken[key]!r} and {route.path!r}"
                )
            taken[key] = route.path
