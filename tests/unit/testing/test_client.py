"""Clients in the test's own process."""

from __future__ import annotations

from typing import Any

import pytest

from durable_core import Durable, Request, Response
from durable_core.api.adapter import HTTPHandler
from durable_core.routing import Application
from durable_core.testing.client import resolve_handler
from durable_core.testing.harnesses import harness
from durable_core.testing.simulation import Simulation
from support.harness_sample import plain_app


def echo(durable: Durable[HTTPHandler]) -> HTTPHandler:
    """Return an endpoint that answers with what it has got."""

    @durable.endpoint(methods=("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"), function_id="echo")
    def echo(request: Request) -> Response:
        seen = [
            request.method,
            request.url,
            request.headers.get("content-type"),
            request.headers.get("x-a"),
            request.body.decode(),
        ]
        return Response.json(seen, headers={"x-method": request.method})

    return echo


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_methods(method: str) -> None:
    """There is a method of the client for each of HTTP."""
    durable = plain_app()
    endpoint = echo(durable)
    with harness(durable) as t:
        reply = getattr(t.client(endpoint), method.lower())("/p?q=%20", headers={"X-A": "1"})

    assert [method, "http://testserver/p?q=%20", None, "1", ""] == reply.json()
    assert (200, method) == (reply.status, reply.headers["x-method"])


def test_head_and_options() -> None:
    """HEAD gets no more than GET does, OPTIONS what is allowed."""
    durable = plain_app()
    endpoint = echo(durable)
    with harness(durable) as t:
        client = t.client(endpoint)
        assert "GET" == client.head("/").headers["x-method"]
        assert 204 == client.options("/").status


@pytest.mark.parametrize(
    ("options", "content_type", "body"),
    [
        ({"json": {"a": "ü"}}, "application/json", '{"a": "ü"}'),
        ({"data": b"raw"}, None, "raw"),
        ({"data": "tüxt"}, None, "tüxt"),
        ({"data": {"a": "1 2"}}, "application/x-www-form-urlencoded", "a=1+2"),
        ({"json": 1, "headers": {"Content-Type": "text/x"}}, "text/x", "1"),
    ],
)
def test_bodies(options: dict[str, object], content_type: str | None, body: str) -> None:
    """A body is JSON, a form, or what it is; a content type of one's own counts."""
    durable = plain_app()
    endpoint = echo(durable)
    with harness(durable) as t:
        seen = t.client(endpoint).request("POST", "/", **options).json()  # type: ignore[arg-type]

    assert ["POST", "http://testserver/", content_type, None, body] == seen


def test_json_and_data_exclude_each_other() -> None:
    """A request has one body."""
    durable = plain_app()
    endpoint = echo(durable)
    with harness(durable) as t, pytest.raises(TypeError, match="not both"):
        t.client(endpoint).post("/", json=1, data=b"1")


def test_handler_of_an_application() -> None:
    """An endpoint is its own handler, a wrapped one has it, other things have none."""
    durable = plain_app()
    application = Application(durable, {"GET /": echo(durable)})

    class Wrapped:
        endpoint = application

    simulation = Simulation(durable, None)
    assert application is resolve_handler(simulation, application)
    assert application is resolve_handler(simulation, Wrapped())
    for other in (print, durable, Application):
        with pytest.raises(TypeError, match="a client needs an endpoint"):
            resolve_handler(simulation, other)


def test_an_endpoint_of_another_durable() -> None:
    """It would start the other application, with its store and the time of day."""
    durable, other = plain_app(), plain_app()
    with harness(durable) as t, pytest.raises(ValueError, match="belongs to another Durable than"):
        t.client(echo(other))
    assert not other.health()["started"]


def test_an_option_that_there_is_not() -> None:
    """It is refused as by the type checker, and not left out in silence."""
    durable = plain_app()
    client: Any
    with harness(durable) as t:
        client = t.client(echo(durable))
        with pytest.raises(TypeError, match="a request of a test has no option header; did you"):
            client.get("/", header={"a": "b"})


def test_what_a_harness_takes() -> None:
    """An endpoint is none of it."""
    durable = plain_app()
    endpoint: Any = echo(durable)
    run: Any = 5
    with pytest.raises(TypeError, match="a harness takes a Durable, not <"):
        harness(endpoint)
    with harness(durable) as t, pytest.raises(TypeError, match="named by its id, or by a reply"):
        t.run(run)


def test_path_params_of_an_endpoint_without_a_route() -> None:
    """A test gives an endpoint what its route would have found in the path."""
    durable = plain_app()

    @durable.endpoint
    def user(request: Request) -> str:
        return request.path_params["id"]

    with harness(durable) as t:
        assert "7" == t.client(user).get("/users/7", path_params={"id": "7"}).json()
