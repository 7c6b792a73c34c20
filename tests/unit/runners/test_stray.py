"""Handlers that swallow whatever a refused step raises, for ever."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.http.request import Request
from durable_core.runners.settings import Settings
from support.harness import FakeClock, Lab, lab, request, until

Handler = Callable[[Request], Any]


class Swallower:
    """A handler in both kinds that never lets go, until the test does."""

    def __init__(self) -> None:
        self.ends = threading.Event()
        self.entered = 0
        self.asked = 0

    def sync(self, request: Request) -> str:
        self.entered += 1
        while not self.ends.is_set():
            self.asked += 1
            try:
                sync_step.sleep("nap", "1h")
                return "end"
            except BaseException:
                continue
        return "late"

    async def async_(self, request: Request) -> str:
        self.entered += 1
        while not self.ends.is_set():
            self.asked += 1
            try:
                await step.sleep("nap", "1h")
                return "end"
            except BaseException:
                continue
        return "late"


@pytest.fixture
def swallower() -> Iterator[Swallower]:
    """End its handlers after the test."""
    made = Swallower()
    yield made
    made.ends.set()


def one_worker(clock: FakeClock) -> Lab:
    quick = Settings(settle_time=0.01, unwind_time=0.05, worker_threads=1, worker_tasks=1)
    return Lab(clock=clock, settings=quick)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_run_goes_on_without_it(
    swallower: Swallower, asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its client is handed off, the run finishes in another worker, and the log says so once."""
    clock = FakeClock()
    process = one_worker(clock)
    handler: Handler = swallower.async_ if asynchronous else swallower.sync
    endpoint = process.endpoint(handler)
    begun = threading.Thread(target=lambda: answers.append(endpoint.handle(request())))
    answers: list[Any] = []
    begun.start()
    until(lambda: process.records.list() and process.records.list()[0].due_at)
    clock.advance(3600)
    process.poke()
    until(lambda: process.records.list()[0].run.phase.ended)
    swallower.ends.set()
    begun.join(10)
    assert [302] == [each.status for each in answers]
    assert 2 == swallower.entered
    assert 1 == caplog.text.count("goes on asking for steps")
    process.stop()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_it_takes_no_processor_and_no_worker(swallower: Swallower, asynchronous: bool) -> None:
    """One that has gone astray in the only worker holds up no other run, and asks seldom."""
    clock = FakeClock()
    process = one_worker(clock)

    def sync(asked: Request) -> object:
        sync_step.sleep("first", "1h")
        return swallower.sync(asked)

    async def async_(asked: Request) -> object:
        await step.sleep("first", "1h")
        return await swallower.async_(asked)

    endpoint = process.endpoint(async_ if asynchronous else sync)
    for _ in range(3):
        assert 302 == endpoint.handle(request()).status
    until(lambda: all(each.due_at for each in process.records.list()))
    clock.advance(3600)
    process.poke()
    until(lambda: swallower.entered == 3)
    until(lambda: all(each.due_at for each in process.records.list()))
    began, before = time.monotonic(), swallower.asked
    asyncio.run(asyncio.sleep(0.3))
    assert swallower.asked - before <= 3 * (time.monotonic() - began + 1)
    swallower.ends.set()
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
