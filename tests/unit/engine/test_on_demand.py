"""Processes that execute due runs only when they are asked to."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable_conformance.store_values import created, peer
from durable_core.api.adapter import endpoint_adapter
from durable_core.api.durable import Durable
from durable_core.api.step import step, sync_step
from durable_core.errors import ConfigurationError
from durable_core.http.request import Request
from durable_core.model.run import Phase
from durable_core.ports import Register
from durable_core.runners.settings import Settings
from durable_core.stores.memory import MemoryStore
from support.harness import FakeClock, Lab, Ledger, lab, request, until, until_async

ON_DEMAND = Settings(on_demand=True, unwind_time=2.0)


def sleeps(request: Request) -> str:
    sync_step.sleep("nap", "1h")
    return "end"


async def sleeps_async(request: Request) -> str:
    await step.sleep("nap", "1h")
    return "end"


def phases(process: Lab) -> list[Phase]:
    """Return the phases of all runs."""
    return [record.run.phase for record in process.records.list()]


def rounds(process: Lab, count: int = 3) -> None:
    """Let the scheduler look at everything a few times."""
    assert process.engine.worker is not None
    for _ in range(count):
        process.engine.worker.scheduler._finishes_round(10)


@pytest.mark.parametrize("handler", [sleeps, sleeps_async])
def test_due_runs_wait_until_they_are_asked_for(handler: Any) -> None:
    """However often the scheduler looks; then all are executed, and counted."""
    clock = FakeClock()
    with lab(clock=clock, settings=ON_DEMAND) as process:
        endpoint = process.endpoint(handler)
        for _ in range(3):
            assert 302 == endpoint.handle(request()).status
        until(lambda: [Phase.SUSPENDED] * 3 == phases(process))
        assert 0 == process.durable.run_due("10s")
        clock.advance(3600)
        rounds(process)
        assert [Phase.SUSPENDED] * 3 == phases(process)
        assert 3 == process.durable.run_due("10s")
        assert [Phase.COMPLETED] * 3 == phases(process)
        assert 0 == process.durable.run_due("10s")


def test_a_client_has_only_its_own_run_executed() -> None:
    """Another run stays due."""
    clock = FakeClock()
    with lab(clock=clock, settings=ON_DEMAND) as process:
        endpoint = process.endpoint(sleeps)
        first, _ = endpoint.handle(request()), endpoint.handle(request())
        clock.advance(3600)
        assert b'"end"' == process.follow(endpoint, first).body
        rounds(process)
        assert {Phase.COMPLETED, Phase.SUSPENDED} == set(phases(process))


def test_a_client_waits_for_the_time_of_its_run() -> None:
    """It is held when its run is not due yet, and the run is executed once it is."""
    clock = FakeClock()
    with lab(clock=clock, settings=ON_DEMAND) as process:
        endpoint = process.endpoint(sleeps)
        location = endpoint.handle(request()).headers["location"]
        answers: list[Any] = []
        client = threading.Thread(
            target=lambda: answers.append(endpoint.handle(request("/it" + location), max_wait=20.0))
        )
        client.start()
        until(lambda: process.durable.health()["waiting_clients"])
        rounds(process)
        assert [Phase.SUSPENDED] == phases(process)
        clock.advance(3600)
        process.poke()
        client.join(20)
        assert (200, b'"end"') == (answers[0].status, answers[0].body)


def test_the_deadline_passes_in_a_step() -> None:
    """The call returns; a stop gives the run back, and another process goes on with it."""
    clock, store, ledger = FakeClock(), MemoryStore(), Ledger()
    entered, leave = threading.Event(), threading.Event()

    def slow(value: int) -> int:
        entered.set()
        assert leave.wait(10)
        return ledger.did("slow", value)

    def handler(request: Request) -> str:
        sync_step.sleep("nap", "1h")
        sync_step.run("slow", slow, 1)
        sync_step.run("last", ledger.did, "last", 2)
        return "end"

    with lab(store, clock=clock, settings=ON_DEMAND) as process:
        first = process.endpoint(handler).handle(request())
        clock.advance(3600)
        began = time.monotonic()
        assert 1 == process.durable.run_due(0.3)
        assert time.monotonic() - began >= 0.3
        assert entered.is_set()
        threading.Timer(0.1, leave.set).start()
    assert {"slow": 1} == ledger.counts()
    with lab(store, clock=clock, settings=ON_DEMAND) as process:
        endpoint = process.endpoint(handler)
        assert 1 == process.durable.run_due("10s")
        assert b'"end"' == process.follow(endpoint, first).body
    assert {"slow": 1, "last": 1} == ledger.counts()


def test_runs_of_a_dead_process_are_due() -> None:
    """Its lease is over: the call takes its runs over first."""
    clock, store = FakeClock(), MemoryStore()
    with lab(store, clock=clock, settings=ON_DEMAND) as process:
        process.endpoint(sleeps)
        process.durable.start()
        dead = peer("0" * 26)
        process.store.commit(
            [Register(worker=dead), created("r1", app="lab", key="it", owner=dead.id)], wait=1.0
        )
        assert process.durable.next_due() is None
        assert 1 == process.durable.run_due("10s")


def test_when_the_next_run_is_due() -> None:
    """The earliest time of all runs, as an aware datetime; None without any."""
    clock = FakeClock()
    with lab(clock=clock, settings=ON_DEMAND) as process:
        assert process.durable.next_due() is None
        endpoint = process.endpoint(sleeps)
        assert process.durable.next_due() is None
        begun = datetime.fromtimestamp(clock.now() / 1000, UTC)
        endpoint.handle(request())
        clock.advance(60)
        endpoint.handle(request())
        assert begun + timedelta(hours=1) == process.durable.next_due()


def test_on_an_event_loop() -> None:
    """The async twins do the same; async handlers run on the loop that awaits them."""
    clock, loops = FakeClock(), list[asyncio.AbstractEventLoop]()

    async def handler(request: Request) -> str:
        loops.append(asyncio.get_running_loop())
        await step.sleep("nap", "1h")
        return "end"

    async def invoke(process: Lab) -> None:
        endpoint = process.endpoint(handler)
        assert 302 == (await endpoint.handle_async(request())).status
        await until_async(lambda: [Phase.SUSPENDED] == phases(process))
        assert await process.durable.next_due_async() is not None
        clock.advance(3600)
        assert 1 == await process.durable.run_due_async("10s")
        assert [Phase.COMPLETED] == phases(process)
        assert {asyncio.get_running_loop()} == set(loops)
        await process.durable.stop_async()

    asyncio.run(invoke(Lab(clock=clock, settings=ON_DEMAND)))


def test_a_process_that_works_all_the_time_may_be_asked_too() -> None:
    """The call then waits until nothing is due and nothing is executed."""
    clock = FakeClock()
    with lab(clock=clock) as process:
        process.endpoint(sleeps).handle(request())
        clock.advance(3600)
        process.durable.run_due("10s")
        assert [Phase.COMPLETED] == phases(process)


def test_another_engine_has_no_due_runs() -> None:
    """It is refused by its name."""

    class Elsewhere:
        name = "another engine"

        def attach(self, env: object) -> None:
            """Take the application."""

    engine: Any = Elsewhere()
    durable = Durable(id="x", endpoint_adapter=endpoint_adapter, engine=engine)
    with pytest.raises(ConfigurationError, match="another engine"):
        durable.run_due("1s")
    with pytest.raises(ConfigurationError, match="another engine"):
        durable.next_due()


@pytest.mark.parametrize("deadline", [-1, "soon", None])
def test_a_deadline_is_a_duration(deadline: Any) -> None:
    """Anything else is refused, and nothing is started."""
    process = Lab(settings=ON_DEMAND)
    with pytest.raises((ValueError, TypeError)):
        process.durable.run_due(deadline)
    assert process.engine.worker is None
