"""The routes to durable endpoints, and what FastAPI shows of them in its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["add_responses", "count_endpoints"]

_PROBLEM = {
    "description": "The run was refused, or has failed: a problem (RFC 9457)",
    "content": {
        "application/problem+json": {
            "schema": {
                "title": "Problem",
                "type": "object",
                "properties": {
                    "type": {"type": "string", "format": "uri"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "run_id": {"type": "string"},
                },
            }
        }
    },
}
_LOCATION = {"Location": {"description": "The URL to ask", "schema": {"type": "string"}}}
_RETRY_AFTER = {"Retry-After": {"description": "In seconds", "schema": {"type": "integer"}}}
#: By status, in the order in which the document shows them.
_RESPONSES: Mapping[int | str, Mapping[str, Any]] = {
    202: {
        "description": "The run goes on: ask again later",
        "headers": {**_LOCATION, **_RETRY_AFTER},
    },
    302: {"description": "The run goes on: ask for its response", "headers": _LOCATION},
    303: {"description": "The run goes on: ask for its response", "headers": _LOCATION},
    "5XX": _PROBLEM,  # with "default" FastAPI would leave out 422
}


def add_responses(routes: Iterable[Any], engine: object) -> None:
    """Add the responses that durable endpoints may also have to those of their routes.

    What the user says of a status stays. Routes of Starlette show nothing.

    Args:
        routes: of an application of FastAPI, or of a router in it.
        engine: whose endpoints they are.
    """
    for route in _durable_routes(routes, engine):
        if hasattr(route, "responses"):
            known = {str(status) for status in (route.status_code, *route.responses)}
            more = {key: dict(value) for key, value in _RESPONSES.items() if str(key) not in known}
            if not {"GET", "HEAD"} & route.methods:
                more.pop(302, None)
            route.responses = {**route.responses, **more}


def count_endpoints(routes: Iterable[Any], engine: object) -> int:
    """Return how many of the routes of an application lead to endpoints of an engine."""
    return sum(1 for _ in _durable_routes(routes, engine))


def _durable_routes(routes: Iterable[Any], engine: object) -> Iterator[Any]:
    for route in routes:
        durable = getattr(getattr(route, "endpoint", None), "endpoint", None)
        if getattr(durable, "engine", None) is engine:
            yield route
        inner = getattr(route, "original_router", route)  # what FastAPI has included
        yield from _durable_routes(getattr(inner, "routes", None) or (), engine)
