"""Starting and stopping: nothing is lost on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from durable_conformance.contract import Capability
from durable_conformance.plugin import needs, requirement
from durable_conformance.programs import LONG_NAP, NAP, Gate, Ledger, Program, Script, until
from durable_conformance.stage import Site, Stage, WatchedEngine
from durable_conformance.wire import patience
from durable_core import Request
from durable_core.stores.memory import MemoryStore

_STEPS = 400


@requirement("S1")
def test_starting_takes_up_what_was_left(stage: Stage) -> None:
    """A run that slept when the server stopped goes on without any request."""
    store = MemoryStore()  # to ask the second `durable` would start it, too

    def program(request: Request, step: Any) -> Script:
        yield step.sleep("nap", NAP)

    with stage.serving(program, store=store) as site:
        assert 302 == site.ask("GET", "/it").status
        run_id = site.durable.runs.list()[0].id
    with stage.serving(program, store=store):
        until(lambda: store.which_ended("suite", [run_id]), "the run completed")


@requirement("S2")
def test_stopping_hands_clients_off(stage: Stage, background: Callable[..., Future[Any]]) -> None:
    """A client in the middle of a run is redirected, and finds its result after the restart."""
    ledger, begun, hurry = Ledger(), threading.Event(), threading.Event()

    def work(number: int) -> int:
        begun.set()
        hurry.wait(0.01)
        return ledger.did(str(number), number)

    def program(request: Request, step: Any) -> Script:
        for number in range(_STEPS):
            yield step.run(f"s{number}", work, number)
        return "done"

    with stage.serving(program) as site:
        client = background(site.ask, "GET", "/it")
        assert begun.wait(patience())
        time.sleep(0.05)  # let it get some way; how far is no matter
    first = client.result()
    hurry.set()
    with stage.serving(program) as site:
        final = site.follow("/it", first)

    assert (302, "done") == (first.status, final.json())
    assert {str(number): 1 for number in range(_STEPS)} == ledger.counts()


def _interrupted(ledger: Ledger, gate: Gate) -> Program:
    """Return a program whose first step stays at a gate, with too many behind it for a moment."""

    def program(request: Request, step: Any) -> Script:
        yield step.run("gate", lambda: ledger.did("gate", gate.pass_(0)))
        for number in range(_STEPS):
            yield step.run(f"s{number}", ledger.did, str(number), number)
        return "done"

    return program


_EACH_ONCE = {"gate": 1, **{str(number): 1 for number in range(_STEPS)}}


@requirement("S4")
def test_stopping_in_a_step(stage: Stage, background: Callable[..., Future[Any]]) -> None:
    """The step ends, its client is redirected, and the run goes on after the restart."""
    ledger, gate = Ledger(), stage.gate(closed=True)
    program = _interrupted(ledger, gate)
    with stage.serving(program) as site:
        client = background(site.ask, "GET", "/it")
        gate.reached()
        background(_open_when_stopping, site, gate)
    first, when_stopped = client.result(), ledger.counts()
    with stage.serving(program) as site:
        final = site.follow("/it", first)

    assert (302, "done") == (first.status, final.json())
    assert 1 == when_stopped["gate"]
    assert len(when_stopped) < len(_EACH_ONCE)
    assert ledger.counts() == _EACH_ONCE


def _open_when_stopping(site: Site, gate: Gate) -> None:
    engine = site.durable.engine
    assert isinstance(engine, WatchedEngine)
    assert engine.stopping.wait(patience())
    gate.open()


@requirement("S6")
@needs(Capability.DETACH_IN_STEP)
def test_stopping_detaches_in_a_step(stage: Stage, background: Callable[..., Future[Any]]) -> None:
    """The client is redirected while the step still runs, which is then waited for."""
    ledger, gate = Ledger(), stage.gate(closed=True)
    program = _interrupted(ledger, gate)
    with stage.serving(program) as site:
        client = background(site.ask, "GET", "/it")
        gate.reached()
        opener = background(_open_when_answered, client, gate)
    first = opener.result()
    with stage.serving(program) as site:
        final = site.follow("/it", first)

    assert (302, "done") == (first.status, final.json())
    assert ledger.counts() == _EACH_ONCE


def _open_when_answered(client: Future[Any], gate: Gate) -> Any:
    try:
        return client.result(patience())
    finally:
        gate.open()


@requirement("S3")
def test_stopping_sends_waiting_clients_on(
    stage: Stage, background: Callable[..., Future[Any]]
) -> None:
    """A client held at the wait URL is told to come again; it is not cut off, nor waited for."""

    def program(request: Request, step: Any) -> Script:
        yield step.sleep("nap", LONG_NAP)

    with stage.serving(program) as site:
        target = f"/it{site.ask('GET', '/it').get('location')}"
        client = background(site.ask, "GET", target)
        until(lambda: site.durable.health()["waiting_clients"] == 1, "a client waited")
        began = time.monotonic()
    took = time.monotonic() - began

    assert client.result().status in (202, 303)
    assert client.result().get("location")
    assert took < 8


@requirement("S4")
def test_stopping_lets_answers_out(stage: Stage, background: Callable[..., Future[Any]]) -> None:
    """The last step of a run is waited for, and its client gets an answer, now or later."""
    ledger, gate = Ledger(), stage.gate(closed=True)

    def program(request: Request, step: Any) -> Script:
        value = yield step.run("gate", lambda: ledger.did("gate", gate.pass_(1)))
        return value

    with stage.serving(program) as site:
        client = background(site.ask, "GET", "/it")
        gate.reached()
        background(_open_when_stopping, site, gate)
    first = client.result()
    with stage.serving(program) as site:
        assert 1 == site.follow("/it", first).json()

    assert first.status in (200, 302)
    assert {"gate": 1} == ledger.counts()


@requirement("S5")
def test_nothing_is_left_when_it_has_stopped(stage: Stage) -> None:
    """The port is closed, the engine stopped, and no thread of either still there."""
    before = set(threading.enumerate())

    def program(request: Request, step: Any) -> Script:
        yield step.run("a", lambda: None)

    with stage.serving(program) as site:
        assert site.durable.health()["started"]
        assert 200 == site.ask("GET", "/it").status

    with pytest.raises(OSError, match=r"."):
        site.ask("GET", "/it")
    assert not site.durable.health()["started"]
    until(lambda: set(threading.enumerate()) <= before, "all threads ended")
