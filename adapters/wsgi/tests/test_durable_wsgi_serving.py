"""What can be served in one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable_core import Limits
from durable_core.errors import ConfigurationError
from durable_wsgi import EndpointServer, create_endpoint_server
from support.raw_http import ask
from support.wsgi_sample import make_durable, make_sample


def test_everything_can_be_served(tmp_path: Path) -> None:
    """A wrapped endpoint, a handler of the core, routes and a plain WSGI callable."""
    durable = make_durable(tmp_path / "db")

    @durable.endpoint
    def hello(request: Any) -> str:
        return "hello"

    routes: dict[str, Any] = {"GET /": hello}
    servers: list[Callable[[], EndpointServer]] = [
        lambda: create_endpoint_server(hello),
        lambda: create_endpoint_server(hello.endpoint),
        lambda: create_endpoint_server(routes, durable=durable),
        lambda: create_endpoint_server(lambda e, s: hello(e, s), durable=durable),
    ]
    for create in servers:
        with create().listen() as server:
            assert durable.health()["started"] is True
            assert b'"hello"' == ask(server.port, "GET", "/").body
        assert durable.health()["started"] is False


def test_a_function_that_is_no_endpoint() -> None:
    """It is refused before the server listens, and the message says how it is served."""

    def forgotten(request: Any) -> str:
        return "never"

    function: Any = forgotten
    message = (
        r"forgotten\(request: .* neither an endpoint nor an application of WSGI.* @durable.endpoint"
    )
    with pytest.raises(ConfigurationError, match=message):
        create_endpoint_server(function)


def test_routes_need_their_durable() -> None:
    """Routes alone do not say whose they are."""
    with pytest.raises(ConfigurationError, match="routes need durable="):
        create_endpoint_server({"GET /": lambda request: "x"})


def test_limits_are_those_of_the_application(tmp_path: Path) -> None:
    """The head's limit is the one that the application was made with."""
    sample = make_sample(tmp_path / "db")
    long = "x" * (Limits().head + 1)

    with create_endpoint_server(sample).listen() as server:
        assert 431 == ask(server.port, "GET", f"/{long}").status
        assert 404 == ask(server.port, "GET", f"/{long[:50_000]}").status
