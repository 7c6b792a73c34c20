"""Handlers that swallow whatever a refused step raises, for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import StepUsageError
from durable_core.flow.scope import HandlerKind
from durable_core.http.request import Request
from durable_core.model.run import Phase
from durable_core.runners.settings import Settings
from support.harness import FakeClock, Lab, lab, request, until

Handler = Callable[[Request], Any]


class Swallower:
    """A handler in both kinds that never lets go, until the test does."""

    def __init__(self) -> None:
        self.ends = threading.Event()
        self.entered = 0
        self.asked = 0
        self.error: Exception | None = None

    def note(self, error: BaseException) -> None:
        if isinstance(error, Exception):
            self.error = error

    def sync(self, request: Request) -> str:
        self.entered += 1
        while not self.ends.is_set():
            self.asked += 1
            try:
                sync_step.sleep("nap", "1h")
                return "end"
            except BaseException as error:
                self.note(error)
        return "late"

    async def async_(self, request: Request) -> str:
        self.entered += 1
        while not self.ends.is_set():
            self.asked += 1
            try:
                await step.sleep("nap", "1h")
                return "end"
            except BaseException as error:
                self.note(error)
        return "late"


@pytest.fixture
def swallower() -> Iterator[Swallower]:
    """End its handlers after the test."""
    made = Swallower()
    yield made
    made.ends.set()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_it_is_slowed_down(
    swallower: Swallower, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It asks for a step a second at most, each raises what is wrong, and the log says so once."""
    clock = FakeClock()
    process = Lab(clock=clock, settings=Settings(unwind_time=0.05))
    endpoint = process.endpoint(swallower.sync if kind == "def" else swallower.async_)
    answers: list[Any] = []
    begun = threading.Thread(target=lambda: answers.append(endpoint.handle(request())))
    begun.start()
    until(lambda: "has asked for 101 steps" in caplog.text)
    began, before = time.monotonic(), swallower.asked
    until(lambda: swallower.error is not None)
    assert isinstance(swallower.error, StepUsageError)
    assert swallower.asked - before <= time.monotonic() - began + 1
    swallower.ends.set()
    begun.join(10)
    assert [302] == [each.status for each in answers]
    assert 1 == caplog.text.count("since it was suspended, and does not end")
    process.stop()


def test_an_async_run_goes_on_without_it(swallower: Swallower) -> None:
    """An ``async def`` handler holds up neither its event loop nor its run."""
    clock = FakeClock()
    process = Lab(clock=clock, settings=Settings(unwind_time=0.05))
    endpoint = process.endpoint(swallower.async_)
    assert 302 == endpoint.handle(request()).status
    until(lambda: process.records.list()[0].run.phase is Phase.SUSPENDED)
    clock.advance(3600)
    process.poke()
    until(lambda: process.records.list()[0].run.phase.ended)
    assert 2 == swallower.entered
    swallower.ends.set()
    process.stop()


@pytest.mark.parametrize("resumed", [False, True])
def test_a_def_run_fails_without_it(
    swallower: Swallower, resumed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is lost, but the run is not held for ever, and takes no other thread."""
    monkeypatch.setattr("durable_core.runners.thread.REFUSED_STEP_DELAY", 0.001)
    monkeypatch.setattr("durable_core.runners.thread._LONGEST_DELAY", 0.05)

    def handler(request: Request) -> str:
        if resumed:
            sync_step.sleep("first", 0.001)
        return swallower.sync(request)

    process = Lab()
    endpoint = process.endpoint(handler)
    answers: list[Any] = []
    begun = threading.Thread(target=lambda: answers.append(endpoint.handle(request())))
    begun.start()
    until(lambda: [Phase.FAILED] == [each.run.phase for each in process.records.list()])
    worker = process.engine.worker
    assert worker is not None
    until(lambda: worker.live.all() == [])  # which comes after the commit
    [record] = process.records.list()
    run = process.durable.runs.get(record.run.id)
    assert run.error is not None
    assert "has asked for 130 steps since it was suspended" in run.error
    assert 1 == swallower.entered
    swallower.ends.set()
    begun.join(10)
    assert [302] == [each.status for each in answers]
    until(lambda: worker.runs.capacity.busy[HandlerKind.DEF] == 0)
    assert [Phase.FAILED] == [each.run.phase for each in process.records.list()]
    process.stop()


def test_a_few_refused_steps_are_no_matter() -> None:
    """A handler that asks for some steps while it is unwound ends as any other does."""

    def handler(request: Request) -> str:
        try:
            sync_step.sleep("nap", 0.001)
        finally:
            for n in range(20):
                try:
                    sync_step.run(f"clean-{n}", int)
                except BaseException:
                    pass
        return "end"

    with lab() as process:
        assert b'"end"' == process.call(process.endpoint(handler)).body
