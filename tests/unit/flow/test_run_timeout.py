"""``run_timeout=``: a run that takes too long fails, wherever it is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from durable_core.api.adapter import endpoint_adapter
from durable_core.api.durable import Durable
from durable_core.api.step import step, sync_step
from durable_core.errors import ConfigurationError, NonRetriableError, StepError
from durable_core.http.request import Request
from durable_core.http.response import Response
from support.harness import FakeClock, WatchedStore, lab, request, until
from support.undoing import RELEASED, RESERVED, Shop, decoded

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])


def assert_timed_out(response: Response) -> dict[str, Any]:
    """See that this is what the client of an overdue run gets; return the problem."""
    problem: dict[str, Any] = decoded(response)
    assert (500, "urn:durable:run-timed-out") == (response.status, problem["type"])
    return problem


@both
def test_a_step_in_progress_is_cut_short(asynchronous: bool) -> None:
    """Of an ``async def`` function the task is cancelled, a plain one is abandoned."""
    release, seen = threading.Event(), list[str]()

    def sync(request: Request) -> None:
        try:
            sync_step.run("long", release.wait, 20)
        except Exception as error:  # the end of the run is none of the handler's errors
            seen.append(repr(error))
        sync_step.run("later", seen.append, "later")

    async def long() -> None:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def async_(request: Request) -> None:
        await step.run("long", long)
        await step.run("later", seen.append, "later")

    begun = time.monotonic()
    with lab() as process:
        endpoint = process.endpoint(async_ if asynchronous else sync, run_timeout=0.1)
        problem = assert_timed_out(endpoint.handle(request()))
        release.set()
    assert "the run took longer than 0.1 s" in problem["detail"]
    assert (["cancelled"] if asynchronous else []) == seen
    assert time.monotonic() - begun < 10


@both
def test_a_run_that_sleeps_fails_when_its_time_is_over(asynchronous: bool) -> None:
    """It is due at its deadline, long before the end of the sleep, and shows why it failed."""
    clock = FakeClock()

    def sync(request: Request) -> None:
        sync_step.sleep("nap", "2h")

    async def async_(request: Request) -> None:
        await step.sleep("nap", "2h")

    with lab(clock=clock) as process:
        endpoint = process.endpoint(async_ if asynchronous else sync, run_timeout="1h")
        response = process.sleep_through(endpoint, clock)
        problem = assert_timed_out(response)
        run = process.durable.runs.get(problem["run_id"])
    assert ("failed", 1) == (run.status, run.attempts)
    assert "RunTimedOut: the run took longer than 3600 s" == run.error
    assert run.deadline is not None
    assert 3600 == (run.deadline - run.started).total_seconds()


@both
def test_its_steps_are_undone(asynchronous: bool) -> None:
    """As those of any run that fails; undoing has all the time that it takes."""
    shop, clock = Shop(), FakeClock()

    def release(reservation: str) -> None:
        shop.ledger.did(f"release {reservation}", None)
        if reservation == "r-b" and shop.ledger.counts()["release r-b"] < 2:
            raise OSError("not yet")

    shop.release = release  # type: ignore[method-assign]
    with lab(clock=clock) as process:
        endpoint = process.endpoint(shop.handler(asynchronous, 7200), run_timeout="1h")
        first = endpoint.handle(request())
        process.pass_nap(clock)
        until(lambda: shop.ledger.counts()["release r-b"] == 1)

        def has_ended() -> bool:
            clock.advance(3600)  # for the second attempt, whenever the first one is over
            process.poke()
            return process.records.list()[0].run.phase.ended

        until(has_ended)
        problem = assert_timed_out(process.follow(endpoint, first))
    assert (["c", "b", "a"], []) == (problem["undone"], problem["not_undone"])
    assert {**RESERVED, **RELEASED, "release r-b": 2} == shop.ledger.counts()


@both
def test_an_attached_client_of_a_run_that_is_undone(asynchronous: bool) -> None:
    """It is handed off: the end comes when the steps in front of the long one are undone."""
    shop, go_on = Shop(), threading.Event()

    def reserve(name: str) -> str:
        if name == "c":
            go_on.wait(20)
        return shop.ledger.did(f"reserve {name}", f"r-{name}")

    shop.reserve = reserve  # type: ignore[method-assign]
    with lab() as process:
        endpoint = process.endpoint(shop.handler(asynchronous), run_timeout=0.2)
        problem = assert_timed_out(process.call(endpoint))
        go_on.set()
    assert ["b", "a"] == problem["undone"]


@both
def test_a_handler_that_returns_too_late_has_failed(asynchronous: bool) -> None:
    """Nothing interrupts code of a handler outside steps, but its response does not count."""
    clock = FakeClock()

    def sync(request: Request) -> str:
        clock.advance(61)
        return "late"

    async def async_(request: Request) -> str:
        clock.advance(61)
        return "late"

    with lab(clock=clock) as process:
        endpoint = process.endpoint(async_ if asynchronous else sync, run_timeout="1min")
        assert_timed_out(endpoint.handle(request()))


@both
def test_without_a_process_it_fails_at_the_next_start(asynchronous: bool) -> None:
    """The limit is stored with the run: one that the code has now changes nothing for it."""
    store, clock = WatchedStore(), FakeClock()
    done: list[str] = []

    def sync(request: Request) -> None:
        sync_step.sleep("nap", "10min")
        sync_step.run("later", done.append, "later")

    async def async_(request: Request) -> None:
        await step.sleep("nap", "10min")
        await step.run("later", done.append, "later")

    handler: Callable[[Request], Any] = async_ if asynchronous else sync
    with lab(store, clock=clock) as process:
        process.endpoint(handler, run_timeout="1h").handle(request())
        until(lambda: process.suspended() > 0 or asynchronous)
        [run] = process.durable.runs.list()
    clock.advance(3 * 3600)
    with lab(store, clock=clock) as process:
        process.endpoint(handler, run_timeout="5 days")
        process.durable.start()
        assert "failed" == process.durable.runs.wait(run.id, timeout="20s").status
    assert [] == done


@both
def test_a_retry_has_as_much_time_again(asynchronous: bool) -> None:
    """The run goes on from its last step."""
    clock, done = FakeClock(), list[int]()

    def work() -> int:
        done.append(1)
        return 1

    def sync(request: Request) -> str:
        sync_step.run("work", work)
        sync_step.sleep("nap", "50min" if len(done) > 1 else "2h")
        return "fine"

    async def async_(request: Request) -> str:
        await step.run("work", work)
        await step.sleep("nap", "50min" if len(done) > 1 else "2h")
        return "fine"

    with lab(clock=clock) as process:
        endpoint = process.endpoint(async_ if asynchronous else sync, run_timeout="1h")
        run_id = assert_timed_out(process.sleep_through(endpoint, clock))["run_id"]
        before = process.durable.runs.get(run_id).deadline
        done.append(2)
        assert process.durable.runs.retry(run_id)
        after = process.durable.runs.get(run_id).deadline
        assert before is not None
        assert after is not None
        assert 3600 == (after - before).total_seconds()
        until(lambda: process.suspended() > 1)
        clock.advance(3000)
        process.poke()
        assert "completed" == process.durable.runs.wait(run_id, timeout="20s").status
    assert [1, 2] == done


@both
def test_a_run_in_time_is_not_touched(asynchronous: bool) -> None:
    """Steps give what they give, also errors, and time-outs of their own."""

    def fail() -> None:
        raise NonRetriableError("no")

    def sync(request: Request) -> list[str]:
        try:
            sync_step.run("fails", fail)
        except StepError as error:
            return [sync_step.run("a", str, 1), error.message]
        return []

    async def async_(request: Request) -> list[str]:
        try:
            await step.run("fails", fail)
        except StepError as error:
            return [await step.run("a", str, 1), error.message]
        return []

    with lab() as process:
        endpoint = process.endpoint(async_ if asynchronous else sync, run_timeout="1min")
        assert ["1", "no"] == decoded(endpoint.handle(request()))


def test_a_failing_run_keeps_its_error() -> None:
    """A run that is being undone when its time is over fails with what had failed it."""
    shop, clock = Shop(), FakeClock()
    shop.end = shop.fails

    def release(reservation: str) -> None:
        if shop.ledger.did("release", None) is None and len(shop.ledger.calls) < 5:
            raise OSError("not yet")

    shop.release = release  # type: ignore[method-assign]
    with lab(clock=clock) as process:
        endpoint = process.endpoint(shop.handler(False), run_timeout="1ms")
        first = endpoint.handle(request())
        process.pass_nap(clock)
        response = process.follow(endpoint, first)
    assert "urn:durable:run-failed" == decoded(response)["type"]
    assert "no money" in decoded(response)["detail"]


@pytest.mark.parametrize("timeout", [0, "0s", -1, "soon", True])
def test_a_limit_is_a_duration(timeout: Any) -> None:
    """Anything else is refused where it is written."""
    with lab() as process, pytest.raises((ValueError, TypeError), match="run_timeout"):
        process.endpoint(lambda request: None, run_timeout=timeout)


def test_only_the_embedded_engine_has_it() -> None:
    """Another engine's server would end the run without its steps being undone."""

    class Elsewhere:
        name = "elsewhere"
        store = None

        def attach(self, env: Any) -> None:
            self.env = env

    engine: Any = Elsewhere()
    durable = Durable(id="x", engine=engine, endpoint_adapter=endpoint_adapter)
    with pytest.raises(ConfigurationError, match="run_timeout= needs the embedded engine"):
        durable.endpoint(run_timeout="1h")(lambda request: None)
