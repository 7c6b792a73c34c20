"""Starting and stopping: nothing is lost on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import pytest

from durable_conformance.contract import Capability
from durable_conformance.deployment import Deployment, LiveServer, ObservedEngine
from durable_conformance.plugin import needs, requirement
from durable_conformance.programs import LONG_NAP, NAP, CallLog, Gate, Program, Script, until
from durable_conformance.wire import patience
from durable_core import Request
from durable_core.stores.memory import MemoryStore

_STEPS = 400


@requirement("S1")
def test_starting_takes_up_what_was_left(deployment: Deployment) -> None:
    """A run that slept when the server stopped goes on without any request."""
    store = MemoryStore()  # to ask the second `durable` would start it, too

    def program(request: Request, step: Any) -> Script:
        yield step.sleep("nap", NAP)

    with deployment.serving(program, store=store) as server:
        assert 302 == server.ask("GET", "/it").status
        run_id = server.durable.runs.list()[0].id
    with deployment.serving(program, store=store):
        until(lambda: store.which_ended("suite", [run_id]), "the run completed")


@requirement("S2")
def test_stopping_hands_clients_off(
    deployment: Deployment, background: Callable[..., Future[Any]]
) -> None:
    """A client in the middle of a run is redirected, and finds its result after the restart."""
    call_log, begun, hurry = CallLog(), threading.Event(), threading.Event()

    def work(number: int) -> int:
        begun.set()
        hurry.wait(0.01)
        return call_log.record(str(number), number)

    def program(request: Request, step: Any) -> Script:
        for number in range(_STEPS):
            yield step.run(f"s{number}", work, number)
        return "done"

    with deployment.serving(program) as server:
        client = background(server.ask, "GET", "/it")
        assert begun.wait(patience())
        time.sleep(0.05)  # let it get some way; how far is no matter
    first = client.result()
    hurry.set()
    with deployment.serving(program) as server:
        final = server.follow("/it", first)

    assert (302, "done") == (first.status, final.json())
    assert {str(number): 1 for number in range(_STEPS)} == call_log.counts()


def _interrupted(call_log: CallLog, gate: Gate) -> Program:
    """Return a program whose first step stays at a gate, with too many behind it for a moment."""

    def program(request: Request, step: Any) -> Script:
        yield step.run("gate", lambda: call_log.record("gate", gate.wait_open(0)))
        for number in range(_STEPS):
            yield step.run(f"s{number}", call_log.record, str(number), number)
        return "done"

    return program


_EACH_ONCE = {"gate": 1, **{str(number): 1 for number in range(_STEPS)}}


@requirement("S4")
def test_stopping_in_a_step(deployment: Deployment, background: Callable[..., Future[Any]]) -> None:
    """The step ends, its client is redirected, and the run goes on after the restart."""
    call_log, gate = CallLog(), deployment.gate(closed=True)
    program = _interrupted(call_log, gate)
    with deployment.serving(program) as server:
        client = background(server.ask, "GET", "/it")
        gate.wait_reached()
        background(_open_when_stopping, server, gate)
    first, when_stopped = client.result(), call_log.counts()
    with deployment.serving(program) as server:
        final = server.follow("/it", first)

    assert (302, "done") == (first.status, final.json())
    assert 1 == when_stopped["gate"]
    assert len(when_stopped) < len(_EACH_ONCE)
    assert call_log.counts() == _EACH_ONCE


def _open_when_stopping(server: LiveServer, gate: Gate) -> None:
    engine = server.durable.engine
    assert isinstance(engine, ObservedEngine)
    assert engine.stopping.wait(patience())
    gate.open()


@requirement("S6")
@needs(Capability.DETACH_IN_STEP)
def test_stopping_detaches_in_a_step(
    deployment: Deployment, background: Callable[..., Future[Any]]
) -> None:
    """The client is redirected while the step still runs, which is then waited for."""
    call_log, gate = CallLog(), deployment.gate(closed=True)
    program = _interrupted(call_log, gate)
    with deployment.serving(program) as server:
        client = background(server.ask, "GET", "/it")
        gate.wait_reached()
        opener = background(_open_when_answered, client, gate)
    first = opener.result()
    with deployment.serving(program) as server:
        final = server.follow("/it", first)

    assert (302, "done") == (first.status, final.json())
    assert call_log.counts() == _EACH_ONCE


def _open_when_answered(client: Future[Any], gate: Gate) -> Any:
    try:
        return client.result(patience())
    finally:
        gate.open()


@requirement("S3")
def test_stopping_sends_waiting_clients_on(
    deployment: Deployment, background: Callable[..., Future[Any]]
) -> None:
    """A client held at the wait URL is told to come again; it is not cut off, nor waited for."""

    def program(request: Request, step: Any) -> Script:
        yield step.sleep("nap", LONG_NAP)

    with deployment.serving(program) as server:
        target = f"/it{server.ask('GET', '/it').get('location')}"
        client = background(server.ask, "GET", target)
        until(lambda: server.durable.health()["waiting_clients"] == 1, "a client waited")
        began = time.monotonic()
    took = time.monotonic() - began

    assert client.result().status in (202, 303)
    assert client.result().get("location")
    assert took < 8


@requirement("S4")
def test_stopping_lets_answers_out(
    deployment: Deployment, background: Callable[..., Future[Any]]
) -> None:
    """The last step of a run is waited for, and its client gets an answer, now or later."""
    call_log, gate = CallLog(), deployment.gate(closed=True)

    def program(request: Request, step: Any) -> Script:
        value = yield step.run("gate", lambda: call_log.record("gate", gate.wait_open(1)))
        return value

    with deployment.serving(program) as server:
        client = background(server.ask, "GET", "/it")
        gate.wait_reached()
        background(_open_when_stopping, server, gate)
    first = client.result()
    with deployment.serving(program) as server:
        assert 1 == server.follow("/it", first).json()

    assert first.status in (200, 302)
    assert {"gate": 1} == call_log.counts()


@requirement("S5")
def test_nothing_is_left_when_it_has_stopped(deployment: Deployment) -> None:
    """The port is closed, the engine stopped, and no thread of either still there."""
    before = set(threading.enumerate())

    def program(request: Request, step: Any) -> Script:
        yield step.run("a", lambda: None)

    with deployment.serving(program) as server:
        assert server.durable.health()["started"]
        assert 200 == server.ask("GET", "/it").status

    with pytest.raises(OSError, match=r"."):
        server.ask("GET", "/it")
    assert not server.durable.health()["started"]

    def left() -> list[str]:
        return [each.name for each in threading.enumerate() if each not in before]

    with suppress(AssertionError):
        until(lambda: not left(), "all threads ended")
    assert [] == left()  # the report has the names
