"""Events end waits: each one that should, and none is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from durable_conformance.contract import Capability
from durable_conformance.deployment import Deployment, LiveServer, deployment_for
from durable_conformance.plugin import needs, requirement
from durable_conformance.programs import NAP, Program, Script
from durable_core import Event


def _waiting(timeout: float = 20, **options: Any) -> Program:
    """Return a program that answers with the data of the event it waits for."""

    def program(request: Any, step: Any) -> Script:
        event = yield step.wait_for_event("w", event="go", timeout=timeout, **options)
        return None if event is None else dict(event.data)

    return program


@requirement("E1")
def test_an_event_ends_the_wait(deployment: Deployment) -> None:
    """The run goes on with it, and its client is answered."""
    with deployment.serving(_waiting()) as server:
        first = server.ask("GET", "/it")
        server.settle()
        server.durable.send(Event("go", {"n": 1}))
        assert {"n": 1} == server.follow("/it", first).json()


@requirement("E2")
def test_a_wait_ends_in_time(deployment: Deployment) -> None:
    """Without an event it gives None when its time is over."""
    with deployment.serving(_waiting(timeout=0.05)) as server:
        assert server.finish("GET", "/it").json() is None


@requirement("E3")
@pytest.mark.parametrize(
    ("sent", "target", "body"),
    [("GET", "/it?id=7", None), ("POST", "/it", b'{"id": 7}')],
    ids=["query", "body"],
)
def test_match(deployment: Deployment, sent: str, target: str, body: bytes | None) -> None:
    """Only the event counts that has the value of the run's own request."""
    with deployment.serving(_waiting(match="data.id")) as server:
        first = server.ask(sent, target, body=body)
        server.settle()
        server.durable.send([Event("go", {"id": 8}), Event("no", {"id": 7}), Event("go", {})])
        server.durable.send(Event("go", {"id": 7, "right": True}))
        assert {"id": 7, "right": True} == server.follow("/it", first).json()


@requirement("E4")
@needs(Capability.EARLY_EVENTS)
def test_an_event_between_a_step_and_the_wait(deployment: Deployment) -> None:
    """It came after the step, so the wait has it, although it came before the wait."""
    gate = deployment.gate()

    def program(request: Any, step: Any) -> Script:
        yield step.run("a", lambda: None)
        yield deployment.outside_step(gate.wait_open, 0)
        event = yield step.wait_for_event("w", event="go", timeout=3)
        return None if event is None else dict(event.data)

    with deployment.serving(program) as server, server.connect() as connection:
        connection.send(f"GET /it HTTP/1.1\r\nHost: {server.host}\r\n\r\n".encode())
        gate.wait_reached()
        server.durable.send(Event("go", {"n": 1}))
        gate.open()
        assert {"n": 1} == server.follow("/it", connection.receive()).json()


@requirement("E5")
def test_an_event_wakes_everybody(
    deployment: Deployment, background: Callable[..., Future[Any]]
) -> None:
    """Each run that waits for it goes on."""
    with deployment.serving(_waiting()) as server:
        redirects = [server.ask("GET", "/it") for _ in range(5)]
        clients = [background(server.follow, "/it", each) for each in redirects]
        server.settle()
        server.durable.send(Event("go", {"n": 1}))
        assert [{"n": 1}] * 5 == [client.result().json() for client in clients]


@requirement("E6")
@needs(Capability.EVENT_IDS)
def test_an_event_sent_twice_counts_once(deployment: Deployment) -> None:
    """The second of one id is not taken, so that the next wait is for another."""

    def program(request: Any, step: Any) -> Script:
        first = yield step.wait_for_event("first", event="go", timeout=20)
        second = yield step.wait_for_event("second", event="go", timeout=20)
        return [first.data["n"], second.data["n"]]

    with deployment.serving(program) as server:
        reply = server.ask("GET", "/it")
        for number in (1, 1, 2):
            server.settle()
            server.durable.send(Event("go", {"n": number}, id=f"{server.host}-{number}"))
        assert [1, 2] == server.follow("/it", reply).json()


@requirement("E7")
def test_a_step_sends_events(deployment: Deployment) -> None:
    """One run wakes another, exactly once, however often it is replayed itself."""

    def sender(request: Any, step: Any) -> Script:
        ids = yield step.send_event("tell", Event("go", {"n": 1}))
        yield step.sleep("nap", NAP)
        return ids

    def routes(durable: Any) -> dict[str, Any]:
        return {"POST /tell": deployment.endpoint(durable, sender, function_id="tell")}

    with deployment.serving(_waiting(), more=routes) as server:
        first = server.ask("GET", "/it")
        server.settle()
        ids = server.finish("POST", "/tell").json()
        assert {"n": 1} == server.follow("/it", first).json()

    assert 1 == len(ids)


def _route(durable: Any) -> dict[str, Any]:
    return {
        "POST,OPTIONS /events": durable.events_endpoint(public=True),
        "POST /keyed": durable.events_endpoint(event_key="a-key"),
    }


@pytest.fixture
def inbox(durable_subject: Any, handler_kind: str) -> Iterator[LiveServer]:
    with deployment_for(durable_subject, handler_kind).serving(more=_route) as server:
        yield server


@requirement("E8")
def test_events_by_http(deployment: Deployment) -> None:
    """An object is one event, an array several; the answer has their ids."""
    with deployment.serving(_waiting(), more=_route) as server:
        first = server.ask("GET", "/it")
        several = [{"name": "no", "id": "1"}, {"name": "go", "id": "2", "data": {"n": 1}}]
        reply = server.ask("POST", "/events", body=json.dumps(several).encode())
        one = server.ask("POST", "/events", body=b'{"name": "x", "id": "3"}')
        assert {"n": 1} == server.follow("/it", first).json()

    assert (200, {"ids": ["1", "2"]}) == (reply.status, reply.json())
    assert {"ids": ["3"]} == one.json()


@requirement("E8")
@pytest.mark.parametrize(
    "body", [b"", b"{", b"7", b"[]", b"[7]", b'{"data": {}}', b'{"name": "", "data": {}}', b"\xff"]
)
def test_broken_events_by_http(inbox: LiveServer, body: bytes) -> None:
    """400 as a problem document."""
    reply = inbox.ask("POST", "/events", body=body)

    assert (400, "application/problem+json") == (reply.status, reply.get("content-type"))


@requirement("E9")
@pytest.mark.parametrize(
    ("key", "status"), [(None, 401), ("Bearer wrong", 401), ("a-key", 401), ("Bearer a-key", 200)]
)
def test_the_key_of_the_events_route(inbox: LiveServer, key: str | None, status: int) -> None:
    """Without it, or with another, nothing is taken."""
    fields = () if key is None else (("Authorization", key),)
    reply = inbox.ask("POST", "/keyed", fields=fields, body=b'{"name": "go"}')

    assert status == reply.status
