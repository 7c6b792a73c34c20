"""Endpoints inside of an application of the server's own."""

from __future__ import annotations

from typing import Any

import pytest

from durable_conformance.contract import Capability
from durable_conformance.deployment import Deployment
from durable_conformance.plugin import needs, requirement
from durable_conformance.programs import NAP, Script
from durable_core import Request


def _show(request: Request) -> dict[str, object]:
    """Return what a mount changes of a request."""
    return {"url": request.url, "path": request.path, "params": dict(request.path_params)}


def _sleep_between(request: Request, step: Any) -> Script:
    """Return what the handler saw before and after a replay."""
    before = yield step.run("look", _show, request)
    yield step.sleep("nap", NAP)
    return [before, _show(request)]


@requirement("M1")
@needs(Capability.MOUNTING)
@pytest.mark.parametrize(
    ("prefix", "sent"), [("/shop", "/shop"), ("/a b/caf\xe9", "/a%20b/caf%C3%A9")]
)
def test_the_prefix_of_a_mount(deployment: Deployment, prefix: str, sent: str) -> None:
    """The URL has the prefix, the path is what follows it; also in a replay, and for the client,
    which is sent to a wait URL below the prefix.
    """
    with deployment.mounting(_sleep_between, prefix, "/it") as server:
        redirect = server.ask("POST", f"{sent}/it?q=1")
        reply = server.follow(f"{sent}/it?q=1", redirect)

    seen = {"url": f"http://{server.host}{sent}/it?q=1", "path": "/it", "params": {}}
    assert 303 == redirect.status
    assert (200, [seen, seen]) == (reply.status, reply.json())


@requirement("M2")
@needs(Capability.NATIVE_ROUTES)
def test_parameters_of_the_path(deployment: Deployment) -> None:
    """The handler has what the router found, decoded; also in a replay."""
    with deployment.mounting(_sleep_between, "", "/orders/{order}/{part}") as server:
        reply = server.finish("GET", "/orders/a%20b/7")

    params = {"order": "a b", "part": "7"}
    assert 200 == reply.status
    assert [params, params] == [each["params"] for each in reply.json()]


@requirement("M3")
@needs(Capability.NATIVE_ROUTES)
def test_the_template_of_the_route(deployment: Deployment) -> None:
    """A run is shown under the template of its route, not under each path."""

    def program(request: Request, step: Any) -> Script:
        yield step.run("look", lambda: None)

    with deployment.mounting(program, "", "/orders/{order}") as server:
        assert [200, 200] == [server.ask("GET", f"/orders/{n}").status for n in (1, 2)]
        names = [run.name for run in server.durable.runs.list()]

    assert ["GET /orders/{order}"] * 2 == names
