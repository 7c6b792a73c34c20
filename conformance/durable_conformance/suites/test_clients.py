"""Clients: what the clients that are named make of what a server sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from durable_conformance.clients import PROGRAMS, Call
from durable_conformance.contract import AnyResponse, Capability, Client
from durable_conformance.deployment import LiveServer, deployment_for
from durable_conformance.faulty_proxy import FaultyProxy
from durable_conformance.plugin import client_parameters, needs, requirement
from durable_core.errors import ConnectionLostError, StreamEndedError
from durable_core.http.headers import HeaderFields, Headers

_DONE = (202, "my-value", "All done")
_FAILED = (500, "application/json", "oh no")


@pytest.fixture
def server(durable_subject: Any, handler_kind: str) -> Iterator[LiveServer]:
    """A server of all programs."""
    deployment = deployment_for(durable_subject, handler_kind)

    def routes(durable: Any) -> dict[str, Any]:
        return {
            f"GET /{name}": deployment.endpoint(durable, program, function_id=name)
            for name, program in PROGRAMS.items()
        }

    with deployment.serving(more=routes) as served:
        yield served


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each case with each client."""
    if "client" in metafunc.fixturenames:
        metafunc.parametrize("client", client_parameters(metafunc.config))


@pytest.fixture
def call(client: Client) -> Iterator[Call]:
    """A call by a client."""
    with Call(client) as made:
        yield made


@pytest.fixture
def proxy(server: LiveServer) -> Iterator[FaultyProxy]:
    """What stands between the client and the server."""
    with FaultyProxy(server.host) as proxy:
        yield proxy


def _done(response: AnyResponse) -> tuple[int, str | None, object]:
    return response.status, response.headers.get("x-my-header"), response.json()


def _failed(response: AnyResponse) -> tuple[int, str | None, object]:
    return response.status, response.headers.get("content-type"), response.json()


@requirement("C1")
@pytest.mark.parametrize("name", ["quiet", "quiet-later"])
def test_runs_that_stream_nothing(server: LiveServer, call: Call, name: str) -> None:
    """The handler's own status, header field and body; the run has completed."""
    response = call.of(server.host, name)
    server.settle()

    assert _DONE == _done(response)
    assert (["commit", "commit"], "completed") == (call.told, server.phases()[0])


@requirement("C2")
@pytest.mark.parametrize("name", ["pushing", "pushing-later"])
def test_each_chunk_is_told_once(server: LiveServer, call: Call, name: str) -> None:
    """In order, on one connection or over two; the response is the handler's own."""
    response = call.of(server.host, name)

    assert ["chunk a", "commit", "chunk b", "commit"] == call.told
    assert _DONE == _done(response)


@requirement("C3")
@needs(Capability.STREAMING)
def test_what_failed_attempts_pushed(server: LiveServer, call: Call) -> None:
    """Each step fails once after a push: the first on the first connection, the other later."""
    call.on_commit = call.gate.open  # that of the first step is told by the second connection
    response = call.of(server.host, "flaky")

    assert [
        *("chunk a", "rollback", "chunk a", "commit"),
        *("chunk b", "rollback", "chunk b", "commit"),
    ] == call.told
    assert _DONE == _done(response)


@requirement("C4")
def test_runs_that_fail(server: LiveServer, call: Call) -> None:
    """The response has status 500 and what the error says to clients; nothing is raised."""
    response = call.of(server.host, "failing")

    assert (["partial", "rollback"], _FAILED) == (call.told, _failed(response))


@requirement("C5")
def test_errors_that_are_caught(server: LiveServer, call: Call) -> None:
    """After a nap a step fails for good, and after another the handler answers with its message."""
    assert _FAILED == _failed(call.of(server.host, "catching"))


@requirement("C6")
@pytest.mark.parametrize("form", [Headers, list, dict], ids=["headers", "pairs", "mapping"])
def test_header_fields_reach_the_handler(
    server: LiveServer, call: Call, form: Callable[[list[tuple[str, str]]], HeaderFields]
) -> None:
    """In whichever form they are given; the handler has no steps."""
    response = call.of(server.host, "echo", headers=form([("X-Custom", "hello")]))

    assert (200, "hello") == (response.status, response.json())


@requirement("C7")
@needs(Capability.STREAMING)
@pytest.mark.parametrize("name", ["gated", "gated-later"])
def test_connections_break(proxy: FaultyProxy, call: Call, name: str) -> None:
    """In a step that has streamed already: the client comes back, and has all of it once."""

    def on_data(data: object) -> None:
        if data == "chunk b":
            proxy.cut()
            call.gate.open()

    call.on_data = on_data
    response = call.of(proxy.host, name)

    assert ["chunk a", "commit", "chunk b", "chunk c", "commit"] == call.told
    assert _DONE == _done(response)


@requirement("C8")
@needs(Capability.STREAMING)
def test_the_server_dies_in_the_first_step(proxy: FaultyProxy, call: Call) -> None:
    """There is nowhere to come back to: the error tells, at once."""
    call.on_data = lambda data: proxy.die()
    with pytest.raises((ConnectionLostError, StreamEndedError)):
        call.of(proxy.host, "stuck")

    assert ["chunk a"] == call.told


@requirement("C8")
@needs(Capability.STREAMING)
@pytest.mark.parametrize("name", ["gated", "gated-later"])
def test_the_server_dies_in_a_later_step(proxy: FaultyProxy, call: Call, name: str) -> None:
    """The client comes back in vain, as often as it was told to, and then says so."""
    call.on_data = lambda data: proxy.die() if data == "chunk b" else None
    with pytest.raises(StreamEndedError, match="1 attempts to reconnect"):
        call.of(proxy.host, name, max_reconnects=1)

    assert ["chunk a", "commit", "chunk b"] == call.told
