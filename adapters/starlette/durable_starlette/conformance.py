"""What the conformance suite judges: handlers of Starlette, in an application on uvicorn.

``durable_starlette.conformance:subject``. The suite's handlers are made into Starlette's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio.from_thread
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response as StarletteResponse
from starlette.responses import StreamingResponse
from starlette.routing import BaseRoute, Mount, Route

from durable_asgi import EndpointServer, app
from durable_core import Durable, Request, Response
from durable_core.adapters import NativeEndpoint, NativeEngine, Routes, is_async
from durable_starlette._adapter import StarletteAdapter, StarletteApp

__all__ = ["StarletteSubject", "subject"]

_Handler = Callable[[Request], Any]


class _SuiteAdapter(StarletteAdapter):
    """The adapter, for handlers that are made into Starlette's."""

    def adapt(self, engine: NativeEngine, function: _Handler) -> _Handler:
        return StarletteAdapter.adapt(self, engine, _native(function))

    def wrap_native(
        self, engine: NativeEngine, endpoint: NativeEndpoint, function: _Handler
    ) -> Any:
        return StarletteAdapter.wrap_native(self, engine, endpoint, _native(function))


@functools.cache
def _native(handler: _Handler) -> Callable[[StarletteRequest], Any]:
    """Return a handler of Starlette's that does what one of the core does."""

    @functools.wraps(handler)
    async def native_async(request: StarletteRequest) -> StarletteResponse:
        value = await handler(_core_request(request, await request.body()))
        return _starlette_response(Response.from_value(value))

    @functools.wraps(handler)
    def native(request: StarletteRequest) -> StarletteResponse:
        body = anyio.from_thread.run(request.body)
        return _starlette_response(Response.from_value(handler(_core_request(request, body))))

    return native_async if is_async(handler) else native


def _core_request(request: StarletteRequest, body: bytes) -> Request:
    url, scope = request.url, request.scope
    path = scope["raw_path"].decode("ascii")
    query = scope["query_string"].decode("ascii")
    return Request(
        method=request.method,
        url=f"{url.scheme}://{url.netloc}{path}?{query}"
        if query
        else f"{url.scheme}://{url.netloc}{path}",
        headers=[
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ],
        body=body,
        path_params={name: str(value) for name, value in request.path_params.items()},
        root_path=scope.get("root_path", ""),
    )


def _starlette_response(response: Response) -> StarletteResponse:
    body = response.body
    answer: StarletteResponse
    if isinstance(body, bytes):
        answer = StarletteResponse(body, response.status)
    else:
        answer = StreamingResponse(body, response.status)
    answer.raw_headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response.headers.items()
    ]
    return answer


class StarletteSubject:
    """The adapter in an application of Starlette."""

    name = "durable-starlette"
    capabilities = frozenset(
        {
            "sync-handlers",
            "async-handlers",
            "streaming",
            "client-disconnect",
            "detach-in-step",
            "keep-alive",
            "chunked-requests",
            "expect-continue",
            "raw-path",
            "repeated-fields",
            "separate-fields",
            "latin-1-fields",
            "head-limit",
            "mounting",
            "native-routes",
        }
    )
    endpoint_adapter = _SuiteAdapter(StarletteApp)

    @contextmanager
    def serve(self, routes: Routes, *, durable: Durable[Any]) -> Iterator[str]:
        """Serve on a free port; yield the URL."""
        assert isinstance(routes, Mapping)
        application = Starlette(
            routes=[_route(durable, pattern, target) for pattern, target in routes.items()],
            lifespan=durable.lifespan,
        )
        with EndpointServer(application, durables=(durable.engine,)).listen() as server:
            yield server.url

    @contextmanager
    def mount(
        self, endpoint: Any, prefix: str, template: str, *, durable: Durable[Any]
    ) -> Iterator[str]:
        """Serve one endpoint by a route of Starlette's, below a prefix if there is one."""
        routes: list[BaseRoute] = [Route(template, endpoint, methods=["GET", "POST"])]
        application = Starlette(
            routes=[Mount(prefix, routes=routes)] if prefix else routes, lifespan=durable.lifespan
        )
        with EndpointServer(application, durables=(durable.engine,)).listen() as server:
            yield server.url


def _route(durable: Durable[Any], pattern: str, target: Any) -> Route:
    methods, _, path = pattern.partition(" ")
    if hasattr(target, "__wrapped__"):
        return Route(path, target, methods=methods.split(","))
    return Route(path, app(durable, {pattern: target}))


subject = StarletteSubject()
