"""Several endpoints behind one router."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durable_core.api.step import sync_step
from durable_core.errors import ConfigurationError, HTTPError
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.routing import Application, Route
from support.harness import FakeClock, lab, request


def sleeps(request: Request) -> object:
    sync_step.sleep("nap", 0.01)
    return request.path_params


def plain(request: Request) -> object:
    return ["plain", request.path_params]


async def plain_async(request: Request) -> object:
    await asyncio.sleep(0)
    return "async"


def ask(app: Application, asked: Request, asynchronous: bool) -> Response:
    """Ask in either way."""
    return asyncio.run(app.handle_async(asked)) if asynchronous else app.handle(asked)


both = pytest.mark.parametrize("asynchronous", [False, True])


@both
def test_routes(asynchronous: bool) -> None:
    """Requests go by path and method; others get 404, 405 or the allowed methods."""
    with lab() as process:
        app = Application(
            process.durable,
            {"GET /plain/{id}": plain, "POST,PUT /async": plain_async, "GET /durable": plain},
        )
        assert b'["plain",{"id":"7"}]' == ask(app, request("/plain/7"), asynchronous).body
        assert b'"async"' == ask(app, request("/async", "PUT"), asynchronous).body
        assert 404 == ask(app, request("/nothing"), asynchronous).status
        refused = ask(app, request("/async"), asynchronous)
        assert (405, "OPTIONS, POST, PUT") == (refused.status, refused.headers["allow"])
        options = ask(app, request("/async", "OPTIONS"), asynchronous)
        assert (204, "OPTIONS, POST, PUT") == (options.status, options.headers["allow"])


@both
def test_a_proxy_answers_options_itself(asynchronous: bool) -> None:
    """Browsers on other origins get the headers of CORS, unless a route declares OPTIONS."""
    with lab() as process:
        proxy = process.durable.endpoint_proxy()
        app = Application(process.durable, {"GET,HEAD /wait": proxy, "POST /wait": plain})
        answer = ask(app, request("/wait", "OPTIONS"), asynchronous)
        assert 204 == answer.status
        assert "*" == answer.headers["access-control-allow-origin"]
        own: dict[str, Any] = {"GET /wait": proxy, "OPTIONS /wait": plain}
        answer = ask(Application(process.durable, own), request("/wait", "OPTIONS"), asynchronous)
        assert b'["plain",{}]' == answer.body


@pytest.mark.parametrize("others", [{}, {"GET /orders/{id}": plain}, {"GET /{any:path}": plain}])
def test_wait_url_goes_before_other_routes(others: dict[str, Any]) -> None:
    """A client waits by GET at the path of a POST endpoint, whatever else is there."""
    clock = FakeClock()
    with lab(clock=clock) as process:
        endpoint = process.endpoint(sleeps)
        app = Application(process.durable, {"POST /orders/{id}": endpoint, **others})
        response = app.handle(request("/orders/7", "POST"))
        assert 303 == response.status
        clock.advance(1)
        process.poke()
        while response.status in (302, 303):
            response = app.handle(request("/orders/7" + response.headers["location"]))
        assert b'{"id":"7"}' == response.body


def test_path_parameters_are_stored() -> None:
    """A replay sees the path parameters, and the run is labelled by its route."""
    clock = FakeClock()
    with lab(clock=clock) as process:
        app = Application(process.durable, [Route("/u/{id}", process.endpoint(sleeps), ("GET",))])
        response = app.handle(request("/u/7"))
        [record] = process.records.list()
        assert (302, "it") == (response.status, record.run.function_id)
        clock.advance(1)
        process.poke()
        while response.status == 302:
            response = app.handle(request("/u/7" + response.headers["location"]))
        assert b'{"id":"7"}' == response.body


@both
def test_plain_errors(asynchronous: bool) -> None:
    """A plain function's HTTPError is its answer; other errors are the server's affair."""

    def fails(request: Request) -> None:
        raise HTTPError(418, "teapot") if request.method == "GET" else ValueError("x")

    with lab() as process:
        app = Application(process.durable, {"GET,POST /x": fails})
        assert 418 == ask(app, request("/x"), asynchronous).status
        with pytest.raises(ValueError, match="x"):
            ask(app, request("/x", "POST"), asynchronous)


@pytest.mark.parametrize("routes", [{"/x": plain}, {"GET x": plain}, {"GET /x": 7}])
def test_malformed_routes(routes: Any) -> None:
    """Routes that cannot be are refused at once."""
    with lab() as process, pytest.raises(ConfigurationError):
        Application(process.durable, routes)


def test_engine() -> None:
    """Servers start and stop the application's engine."""
    with lab() as process:
        assert process.durable.engine is Application(process.durable, {}).engine


def test_what_is_no_application() -> None:
    """An endpoint in the place of Durable, and routes of another form, are refused by name."""
    make: Any = Application
    with lab() as process:
        endpoint = process.endpoint(plain)
        with pytest.raises(ConfigurationError, match="begins with a Durable, not <Endpoint"):
            make(endpoint, {"GET /": endpoint})
        with pytest.raises(ConfigurationError, match=r"a dict such as .*, not \('GET /',"):
            make(process.durable, [("GET /", endpoint)])
