"""Starting and stopping: nothing is lost on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from durable_conformance.plugin import requirement
from durable_conformance.programs import Ledger, Script, until
from durable_conformance.stage import Stage
from durable_conformance.wire import patience
from durable_core import Request
from durable_core.runtime.memory_store import MemoryStore

_STEPS = 400


@requirement("S1")
def test_starting_takes_up_what_was_left(stage: Stage) -> None:
    """A run that slept when the server stopped goes on without any request."""
    store = MemoryStore()  # to ask the second `durable` would start it, too

    def program(request: Request, step: Any) -> Script:
        yield step.sleep("nap", 0.15)

    with stage.serving(program, store=store) as site:
        assert 302 == site.ask("GET", "/it").status
        run_id = site.durable.runs.list()[0].run.id
    with stage.serving(program, store=store):
        until(lambda: store.ended("suite", [run_id]), "the run completed")


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


@requirement("S3")
def test_stopping_sends_waiting_clients_on(
    stage: Stage, background: Callable[..., Future[Any]]
) -> None:
    """A client held at the wait URL is told to come again; it is not cut off, nor waited for."""

    def program(request: Request, step: Any) -> Script:
        yield step.sleep("nap", 3600)

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
    """A step in flight is waited for, and its client gets an answer."""
    ledger, begun = Ledger(), threading.Event()

    def work() -> int:
        begun.set()
        time.sleep(0.2)
        return ledger.did("work", 1)

    def program(request: Request, step: Any) -> Script:
        value = yield step.run("work", work)
        return value

    with stage.serving(program) as site:
        client = background(site.ask, "GET", "/it")
        assert begun.wait(patience())

    assert client.result().status in (200, 302)
    assert {"work": 1} == ledger.counts()


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
