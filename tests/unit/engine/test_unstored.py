"""Ends of steps that are shown before they are stored."""

from __future__ import annotations

import threading

import pytest

from durable_core.api.step import step, sync_step
from durable_core.http.request import Request
from durable_core.stores import MemoryStore
from support.harness import FakeClock, lab, request, until


@pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])
def test_a_sleep_that_is_over_has_ended_in_every_process(asynchronous: bool) -> None:
    """Its end is stored with the next step; until then others read it from its time."""
    store, clock = MemoryStore(), FakeClock()
    inside, go_on = threading.Event(), threading.Event()

    def work() -> None:
        inside.set()
        assert go_on.wait(20)

    def sync(request: Request) -> None:
        sync_step.sleep("nap", 60)
        sync_step.run("work", work)

    async def async_(request: Request) -> None:
        await step.sleep("nap", 60)
        await step.run("work", work)

    with lab(store, clock=clock) as process, lab(store, clock=clock) as other:
        endpoint = process.endpoint(async_ if asynchronous else sync)
        first = endpoint.handle(request())
        runs = other.durable.runs
        until(lambda: runs.list(status="suspended") != [])
        [run] = runs.list()
        [nap] = runs.get(run.id).steps
        assert ("sleeping", None) == (nap.status, nap.ended)

        clock.advance(61)
        process.poke()
        assert inside.wait(20)
        [ended] = runs.get(run.id).steps
        assert ("completed", nap.due, None) == (ended.status, ended.ended, ended.due)
        assert ["nap", "work"] == [each.name for each in process.durable.runs.get(run.id).steps]
        go_on.set()
        assert 200 == process.follow(endpoint, first).status
        assert ["nap", "work"] == [each.name for each in runs.get(run.id).steps]


def test_a_run_that_nobody_executes_sleeps_on() -> None:
    """Its time is over, and no process has claimed it yet."""
    store, clock = MemoryStore(), FakeClock()

    def handler(request: Request) -> None:
        sync_step.sleep("nap", 60)

    with lab(store, clock=clock) as process:
        process.endpoint(handler).handle(request())
    clock.advance(61)
    with lab(store, clock=clock) as process:
        [run] = process.durable.runs.list()
        [nap] = process.durable.runs.get(run.id).steps
    assert ("sleeping", None) == (nap.status, nap.ended)
