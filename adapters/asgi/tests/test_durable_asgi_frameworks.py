"""Endpoints inside Starlette, FastAPI and Django applications, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from durable_asgi import ASGIApp, app, create_endpoint_server
from durable_core import Durable, Request, Response, step
from durable_core.routing import Target
from support.asgi_exchange import Exchange
from support.asgi_sample import CHUNKS, make_durable
from support.harness import until
from support.raw_http import ask

METHODS = ("GET", "HEAD", "POST")


class Shop:
    """An application's endpoints."""

    def __init__(self, store: Path) -> None:
        self.durable: Durable[ASGIApp] = make_durable(store)

        @self.durable.endpoint(methods=METHODS)
        async def checkout(request: Request) -> Response:
            what = await step.run("reserve", lambda: request.path_params.get("what", "nothing"))
            return Response.json({"what": what, "path": request.path, "url": request.url}, 201)

        @self.durable.endpoint(methods=METHODS)
        async def nap(request: Request) -> Response:
            await step.sleep("nap", 0.5)
            return Response(status=201, headers={"x-own": "yes"}, body=request.body)

        @self.durable.endpoint
        async def stream(request: Request) -> Response:
            await step.run("first", lambda: None)
            return Response(body=iter(CHUNKS))

        self.checkout, self.nap, self.stream = checkout, nap, stream

    def routes(self) -> ASGIApp:
        """Return them all as one application."""
        routes: dict[str, Target] = {
            "GET,HEAD,POST /checkout/{what}": self.checkout,
            "GET,HEAD,POST /nap": self.nap,
            "GET /stream": self.stream,
        }
        return app(self.durable, routes)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "db")


async def hello(request: Any) -> PlainTextResponse:
    return PlainTextResponse("hello")


def starlette_routes(shop: Shop) -> Starlette:
    """Endpoints as the endpoints of routes."""
    routes = [
        Route("/checkout/{what}", shop.checkout),
        Route("/nap", shop.nap),
        Route("/stream", shop.stream, methods=["GET"]),
        Route("/hello", hello),
    ]
    return Starlette(routes=routes, lifespan=shop.durable.lifespan)


def starlette_mount(shop: Shop) -> Starlette:
    """An application of endpoints, mounted at the root, after what the framework serves itself."""
    routes = [Route("/hello", hello), Mount("/", shop.routes())]
    return Starlette(routes=routes, lifespan=shop.durable.lifespan)


def starlette_middleware(shop: Shop) -> Starlette:
    """Below a middleware that wraps both channels of every request."""

    class Named(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            response = await call_next(request)
            response.headers["x-middleware"] = "yes"
            return response

    inner = starlette_routes(shop)
    return Starlette(
        routes=inner.routes, middleware=[Middleware(Named)], lifespan=shop.durable.lifespan
    )


def fastapi_routes(shop: Shop) -> FastAPI:
    """Routes of the application, and of a router that it includes."""
    api = FastAPI(lifespan=shop.durable.lifespan, routes=[Route("/nap", shop.nap)])
    router = APIRouter()
    # The annotation of add_route names only functions; any ASGI application will do.
    checkout: Any = shop.checkout
    stream: Any = shop.stream
    router.add_route("/checkout/{what}", checkout, methods=[*METHODS])
    api.include_router(router)
    api.add_route("/stream", stream, methods=["GET"])
    api.add_route("/hello", hello)
    return api


def fastapi_mount(shop: Shop) -> FastAPI:
    """An application of endpoints, mounted."""
    api = FastAPI(lifespan=shop.durable.lifespan)
    api.add_route("/hello", hello)
    api.mount("/", shop.routes())
    return api


def django_dispatch(shop: Shop) -> Any:
    """Dispatched by path in Django's own ASGI module; the lifespan is the endpoints'."""
    django, routes = django_application(), shop.routes()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        ours = scope["type"] == "lifespan" or scope["path"] != "/hello"
        await (routes if ours else django)(scope, receive, send)

    return application


def django_application() -> Any:
    """Return a Django application that says hello."""
    return import_module("django.core.asgi").get_asgi_application()


@contextmanager
def django_settings() -> Iterator[None]:
    """Configure Django, which is done once in a process, for a site that says hello."""
    settings = import_module("django.conf").settings
    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="for tests")
    say = import_module("django.http").HttpResponse
    urls = (import_module("django.urls").path("hello", lambda request: say("hello")),)
    with import_module("django.test").override_settings(ROOT_URLCONF=urls, MIDDLEWARE=[]):
        yield


FRAMEWORKS: dict[str, Callable[[Shop], Any]] = {
    "starlette-routes": starlette_routes,
    "starlette-mount": starlette_mount,
    "starlette-middleware": starlette_middleware,
    "fastapi-routes": fastapi_routes,
    "fastapi-mount": fastapi_mount,
    "django-dispatch": django_dispatch,
}


@pytest.fixture(params=FRAMEWORKS)
def port(request: pytest.FixtureRequest, shop: Shop) -> Iterator[int]:
    """The port on which a framework's application is served."""
    around = django_settings() if request.param == "django-dispatch" else nullcontext()
    with around, create_endpoint_server(FRAMEWORKS[request.param](shop)) as server:
        yield server.port
    assert not shop.durable.health()["started"]


def test_all_of_it(port: int, shop: Shop) -> None:
    """Endpoints answer, hand off and stream beside the framework's own routes.

    The framework's lifespan has started the engine, and the route's parameters and template are
    the run's.
    """
    assert shop.durable.health()["started"]
    assert b"hello" == ask(port, "GET", "/hello").body

    found = ask(port, "POST", "/checkout/a%20b?x=%31", body=b"{}")
    url = f"http://localhost:{port}/checkout/a%20b?x=%31"
    assert (201, {"what": "a b", "path": "/checkout/a b", "url": url}) == (
        found.status,
        found.json(),
    )
    assert (201, b"") == (lambda reply: (reply.status, reply.body))(
        ask(port, "HEAD", "/checkout/x")
    )

    redirect = ask(port, "POST", "/nap", body=b"body")
    assert 303 == redirect.status
    answer = ask(port, "GET", f"/nap{redirect.get('location')}")
    assert (201, "yes", b"body") == (answer.status, answer.get("x-own"), answer.body)

    assert b"".join(CHUNKS) == ask(port, "GET", "/stream").body
    until(lambda: {"completed"} == {run.status for run in shop.durable.runs.list()})


def test_mount_below_a_prefix(shop: Shop) -> None:
    """Below a mount the paths are relative, the URL is whole, and the wait URL still right."""
    api = Starlette(routes=[Mount("/in/{place}", shop.routes())], lifespan=shop.durable.lifespan)
    with create_endpoint_server(api) as server:
        found = ask(server.port, "GET", "/in/town/checkout/milk").json()
        assert ("/checkout/milk", "milk") == (found["path"], found["what"])
        assert found["url"].endswith("/in/town/checkout/milk")

        redirect = ask(server.port, "GET", "/in/town/nap")
        answer = ask(server.port, "GET", f"/in/town/nap{redirect.get('location')}")
        assert (302, 201) == (redirect.status, answer.status)


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
def test_mount_of_one_endpoint(shop: Shop, framework: type[Starlette]) -> None:
    """A mount answers 307 to its own path without a slash; with it, it is the endpoint."""
    api = framework(lifespan=shop.durable.lifespan)
    api.mount("/nap", shop.nap)
    with create_endpoint_server(api) as server:
        first = ask(server.port, "POST", "/nap", body=b"x")
        assert 307 == first.status
        assert str(first.get("location")).endswith("/nap/")

        redirect = ask(server.port, "POST", "/nap/", body=b"x")
        answer = ask(server.port, "GET", f"/nap/{redirect.get('location')}")
        assert (303, 201, b"x") == (redirect.status, answer.status, answer.body)


def test_mount_gets_no_lifespan(shop: Shop) -> None:
    """A mounted application is not told of the start: the first request is its start."""
    api = Starlette(routes=[Mount("/", shop.routes())])
    with create_endpoint_server(api) as server:
        assert not shop.durable.health()["started"]
        assert 201 == ask(server.port, "GET", "/checkout/x").status
        assert shop.durable.health()["started"]
    shop.durable.stop()


def test_endpoint_below_a_failing_middleware(shop: Shop) -> None:
    """A middleware that fails after the answer was made leaves the run as it is."""

    class Failing(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            await call_next(request)
            raise PermissionError

    routes = [Route("/stream", shop.stream)]
    middleware = [Middleware(Failing)]
    api = Starlette(routes=routes, middleware=middleware, lifespan=shop.durable.lifespan)
    with create_endpoint_server(api) as server:
        assert 500 == ask(server.port, "GET", "/stream").status
        until(lambda: all(run.ended for run in shop.durable.runs.list()))


def test_clients_that_leave_below_a_middleware(shop: Shop) -> None:
    """``BaseHTTPMiddleware`` gets a response, although nobody is there: it logs no error."""

    class Passing(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            return await call_next(request)

    async def wait(request: Request) -> None:
        exchange.leave()
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        waiting = app(shop.durable, {"GET /x": wait})
        api = Starlette(routes=[Mount("/", waiting)], middleware=[Middleware(Passing)])
        await exchange.run(api)  # raises what a server would log

    exchange = Exchange()
    asyncio.run(main())
    shop.durable.stop()

    assert 499 == exchange.status


# Templates


def starlette_typed(checkout: Any, lifespan: Any) -> Any:
    return Starlette(lifespan=lifespan, routes=[Route("/users/{id:int}", checkout)])


def starlette_nested(checkout: Any, lifespan: Any) -> Any:
    inner = Mount("/teams/{team}", routes=[Route("/users/{id}", checkout)])
    return Starlette(lifespan=lifespan, routes=[Mount("/api", routes=[inner])])


def fastapi_added(checkout: Any, lifespan: Any) -> Any:
    api = FastAPI(lifespan=lifespan)
    api.add_route("/users/{id}", checkout)
    return api


def fastapi_behind_a_proxy(checkout: Any, lifespan: Any) -> Any:
    api = fastapi_added(checkout, lifespan)

    async def with_prefix(scope: Any, receive: Any, send: Any) -> None:
        await api({**scope, "root_path": "/proxy"}, receive, send)

    return with_prefix


def fastapi_included(checkout: Any, lifespan: Any) -> Any:
    api, router = FastAPI(lifespan=lifespan), APIRouter()
    router.add_route("/users/{id}", checkout)
    api.include_router(router, prefix="/api")
    return api


def fastapi_mounted(checkout: Any, lifespan: Any) -> Any:
    api, inner = FastAPI(lifespan=lifespan), FastAPI()
    inner.add_route("/users/{id}", checkout)
    api.mount("/teams/{team}", inner)
    return api


def fastapi_mounted_endpoint(checkout: Any, lifespan: Any) -> Any:
    api = FastAPI(lifespan=lifespan)
    api.mount("/users/{id}", checkout)
    return api


@pytest.mark.parametrize(
    ("make", "path", "template"),
    [
        (starlette_typed, "/users/7", "/users/{id}"),
        (starlette_nested, "/api/teams/a/users/7", "/api/teams/{team}/users/{id}"),
        (fastapi_added, "/users/7", "/users/{id}"),
        (fastapi_added, "/users/users", "/users/{id}"),
        (fastapi_added, "/users/a%20%C3%A9", "/users/{id}"),
        (fastapi_behind_a_proxy, "/users/7", "/users/{id}"),
        (fastapi_included, "/api/users/7", "/api/users/{id}"),
        (fastapi_mounted, "/teams/7/users/7", "/teams/{team}/users/{id}"),
        (fastapi_mounted_endpoint, "/users/7/", "/users/{id}/"),
    ],
)
def test_runs_are_shown_by_the_template(
    make: Callable[[Any, Any], Any], path: str, template: str, shop: Shop
) -> None:
    """Runs of one route have one name, whatever the path was."""
    with create_endpoint_server(make(shop.checkout, shop.durable.lifespan)) as server:
        assert 201 == ask(server.port, "GET", path).status
        [run] = shop.durable.runs.list()

    assert f"GET {template}" == run.name
