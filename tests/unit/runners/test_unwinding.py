"""Handlers that are put away: whatever they do about it, the run goes on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import StoreError, Suspended
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.ports import Checkpoint, Write
from durable_core.runners.settings import Settings
from support.harness import (
    FakeClock,
    Lab,
    Ledger,
    WatchedStore,
    lab,
    request,
    until,
    until_async,
)

Handler = Callable[[Request], Any]
Swallower = Callable[[], Any]


def finish(handler: Handler) -> Response:
    """Run it to its end in one process."""
    with lab() as process:
        return process.call(process.endpoint(handler))


def body_of(response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    return response.body


async def _one(value: int) -> int:
    return value


async def _pass() -> None:
    try:
        await step.sleep("nap", "1h")
    except BaseException:
        pass


async def _bare() -> None:
    try:
        await step.sleep("nap", "1h")
    except:  # noqa: E722
        pass


async def _finally_return() -> None:
    try:
        await step.sleep("nap", "1h")
    finally:
        return  # noqa: B012


async def _suppress() -> None:
    with contextlib.suppress(BaseException):
        await step.sleep("nap", "1h")


async def _raise_other() -> None:
    try:
        await step.sleep("nap", "1h")
    except BaseException:
        raise ValueError("of my own") from None


async def _gathered() -> None:
    with contextlib.suppress(BaseException):
        await asyncio.gather(step.sleep("nap", "1h"), step.sleep("other", "1h"))


@pytest.mark.parametrize(
    "swallow", [_pass, _bare, _finally_return, _suppress, _raise_other, _gathered]
)
def test_swallowed_cancellation(swallow: Swallower, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that swallows what puts it away harms nothing: it is warned of once."""
    ledger = Ledger()

    async def handler(request: Request) -> object:
        await step.run("before", ledger.did, "before", 1)
        await swallow()
        return "discarded, or the end"

    clock = FakeClock()
    with caplog.at_level(logging.WARNING, "durable"), lab(clock=clock) as process:
        response = process.sleep_through(process.endpoint(handler), clock)

    assert b'"discarded, or the end"' == body_of(response)
    assert ["before"] == ledger.calls
    warnings = [r.getMessage() for r in caplog.records if "swallowed" in r.getMessage()]
    assert len(warnings) == 1
    assert ": it swallowed" in warnings[0]
    assert "'nap'" in warnings[0]


def test_a_handler_that_has_just_ended_swallows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A process that stops suspends a handler when its step ends, though it only returns then."""
    begun, go_on = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        while not go_on.is_set():
            await asyncio.sleep(0.001)

    async def handler(request: Request) -> str:
        await step.run("work", work)
        return "done"

    store = WatchedStore()
    with lab(store) as process:
        endpoint = process.endpoint(handler, max_sync_runtime="10ms")
        first = endpoint.handle(request())
        assert begun.wait(5)
        stopping = threading.Thread(target=process.durable.stop)
        stopping.start()
        until(lambda: process.durable.health()["draining"])
        go_on.set()
        stopping.join()
    with lab(store) as process:
        last = process.follow(process.endpoint(handler), first)

    assert b'"done"' == last.body
    assert "swallowed" not in caplog.text


def test_steps_after_a_swallowed_cancellation_do_not_run() -> None:
    """A handler that goes on after it was put away can start no step."""
    ledger = Ledger()

    async def handler(request: Request) -> object:
        slept = False
        try:
            await step.sleep("nap", 0.03)
            slept = True
        except BaseException:
            pass
        await step.run("after", ledger.did, f"after {slept}", None)
        return "end"

    assert b'"end"' == body_of(finish(handler))
    assert ["after True"] == ledger.calls


def _sleep_sync(request: Request) -> str:
    sync_step.sleep("nap", "1h")
    return "end"


async def _sleep_async(request: Request) -> str:
    await step.sleep("nap", "1h")
    return "end"


@pytest.mark.parametrize("handler", [_sleep_sync, _sleep_async])
def test_a_run_that_begins_with_a_sleep_takes_one_commit(handler: Handler) -> None:
    """Its client is handed off after the commit that stores the run, its sleep and its release."""
    store, clock = WatchedStore(), FakeClock()
    with lab(store, clock=clock) as process:
        it = process.endpoint(handler)
        response = it.handle(request())
        stored = store.checkpoints()
        clock.advance(3600)
        process.poke()
        last = process.follow(it, response)

    [[write]] = stored
    assert isinstance(write, Checkpoint)
    assert 302 == response.status
    assert ["nap"] == [each.op.name for each in write.pending]
    assert write.create is not None
    assert write.release is not None
    assert b'"end"' == body_of(last)


@pytest.mark.parametrize("handler", [_sleep_sync, _sleep_async])
def test_a_sleep_that_cannot_be_stored(handler: Handler) -> None:
    """The client is answered that the store is not there, and no run is left."""
    store = WatchedStore()

    def fault(writes: Sequence[Write[Any]]) -> None:
        if any(isinstance(write, Checkpoint) for write in writes):
            raise StoreError("broken")

    with lab(store) as process:
        store.fault = fault
        response = process.endpoint(handler).handle(request())
        store.fault = None
        runs = process.records.list()

    assert 503 == response.status
    assert [] == list(runs)


def test_a_client_does_not_wait_for_the_end_of_an_unwound_handler() -> None:
    """While a ``finally`` block awaits something, the client has its redirect already."""
    leave = asyncio.Event()

    async def handler(request: Request) -> str:
        try:
            await step.sleep("nap", "1h")
        finally:
            await leave.wait()
        return "end"

    async def main(process: Lab) -> tuple[Response, int]:
        response = await process.endpoint(handler).handle_async(request())
        suspended = process.suspended()
        leave.set()
        await until_async(process.suspended)
        return response, suspended

    with lab() as process:
        response, suspended = asyncio.run(main(process))

    assert 302 == response.status
    assert 0 == suspended


def test_a_client_does_not_wait_for_other_branches() -> None:
    """A branch that sleeps hands the client off at once, although another branch works on."""
    entered, leave = threading.Event(), threading.Event()

    def work() -> int:
        entered.set()
        assert leave.wait(20)
        return 1

    def nap() -> None:
        assert entered.wait(20)
        sync_step.sleep("nap", "1h")

    def handler(request: Request) -> str:
        sync_step.parallel("both", nap, lambda: sync_step.run("work", work))
        return "end"

    async def main(process: Lab) -> Response:
        response = await process.endpoint(handler).handle_async(request())
        leave.set()
        await until_async(process.suspended)
        return response

    with lab() as process:
        assert 302 == asyncio.run(main(process)).status


def test_finally_blocks_run_at_each_suspension() -> None:
    """Each time a handler is put away its ``finally`` blocks run, and once more at its end."""
    cleaned: list[str] = []

    async def handler(request: Request) -> str:
        try:
            await step.sleep("one", "1h")
            await step.sleep("two", "1h")
        finally:
            cleaned.append("x")
        return "end"

    clock = FakeClock()
    with lab(clock=clock) as process:
        process.sleep_through(process.endpoint(handler), clock, naps=2)
    assert 3 == len(cleaned)


def test_handler_that_will_not_end_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that goes on for long after it was cancelled does not hold the run up."""
    clock, release = FakeClock(), threading.Event()
    entered: list[int] = []

    async def handler(request: Request) -> str:
        entered.append(1)
        try:
            await step.sleep("nap", "1h")
        except asyncio.CancelledError:
            await asyncio.to_thread(release.wait)
            raise
        return "end"

    try:
        with lab(clock=clock, settings=Settings(unwind_time=0.05)) as process:
            endpoint = process.endpoint(handler)
            assert b'"end"' == body_of(process.sleep_through(endpoint, clock))
            release.set()
    finally:
        release.set()
    assert 2 == len(entered)
    assert any("still runs" in record.getMessage() for record in caplog.records)


def test_handler_that_will_not_end_is_given_up_although_the_store_fails() -> None:
    """Its run is released as soon as the store takes that, while the handler still goes on."""
    clock, release = FakeClock(), threading.Event()
    entered: list[int] = []
    refused: list[Checkpoint] = []
    store = WatchedStore()

    def refuse(writes: Sequence[Write[Any]]) -> None:
        releases = [each for each in writes if isinstance(each, Checkpoint) and each.release]
        if releases and len(refused) < 3:
            refused.extend(releases)
            raise StoreError("not now")

    async def handler(request: Request) -> str:
        entered.append(1)
        try:
            await step.sleep("nap", "1h")
        except asyncio.CancelledError:
            await asyncio.to_thread(release.wait)
            raise
        return "end"

    try:
        store.fault = refuse
        with lab(store, clock=clock, settings=Settings(unwind_time=0.05)) as process:
            endpoint = process.endpoint(handler)
            assert b'"end"' == body_of(process.sleep_through(endpoint, clock))
            release.set()
    finally:
        release.set()
    assert (2, 3) == (len(entered), len(refused))


def test_stop_puts_a_run_away_between_steps() -> None:
    """At a stop the step in flight ends and is stored; the next process goes on after it."""
    ledger = Ledger()
    started, release = threading.Event(), threading.Event()

    def slow() -> int:
        started.set()
        assert release.wait(5)
        return ledger.did("slow", 1)

    async def branch() -> int:
        first = await step.run("slow", slow)
        return first + await step.run("next", ledger.did, "next", 1)

    async def handler(request: Request) -> object:
        # The sibling sleeps for long: that must not delay the branch that was cut short.
        nap = asyncio.ensure_future(step.sleep("nap", "1h"))
        return [await branch(), nap.done()]

    with lab() as process:
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        assert started.wait(5)
        node = process.engine.worker
        assert node is not None
        [live] = node.live.all()
        stopper = threading.Thread(target=process.stop)
        stopper.start()
        until(lambda: live.ex.stopping)
        release.set()
        stopper.join(10)
        assert ["slow"] == ledger.calls
        store = process.store
    with lab(store) as other:
        endpoint = other.endpoint(handler)
        assert b"[2,false]" == body_of(other.follow(endpoint, first))
    assert ["slow", "next"] == ledger.calls


def test_loop_that_ends_does_not_fail_a_step() -> None:
    """``asyncio.run`` cancels all tasks at its end; a step in flight then is not cancelled code."""
    ledger = Ledger()

    async def slow() -> int:
        ledger.did("slow", None)
        if ledger.counts()["slow"] == 1:
            await asyncio.Event().wait()
        return 1

    async def handler(request: Request) -> object:
        await step.run("before", ledger.did, "before", 1)
        nap = asyncio.ensure_future(step.sleep("nap", "1h"))
        return [await step.run("slow", slow), nap.done()]

    process = Lab()
    endpoint = process.endpoint(handler, retries=0)

    async def main() -> Response:
        first = await endpoint.handle_async(request())
        while "slow" not in ledger.calls:
            await asyncio.sleep(0)
        return first

    try:
        first = asyncio.run(main())
        assert b"[1,false]" == body_of(process.follow(endpoint, first))
    finally:
        process.stop()
    assert ["before", "slow", "slow"] == ledger.calls


def test_task_left_behind_by_a_handler_ends_with_it() -> None:
    """A step that still waits when the handler returns does not outlive it."""
    left: list[asyncio.Future[Any]] = []

    async def handler(request: Request) -> object:
        left.append(asyncio.ensure_future(step.sleep("nap", "1h")))
        await step.run("a", _one, 1)
        node = process.engine.worker
        assert node is not None
        [live] = node.live.all()
        await until_async(lambda: live.ex.parked)
        return "end"

    with lab() as process:
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        assert b'"end"' == body_of(process.follow(endpoint, first))
        until(lambda: all(each.cancelled() for each in left))


def test_task_left_behind_before_it_waits_ends_with_the_handler() -> None:
    """Nor does one that was about to wait, whether the run has ended meanwhile or is to go on."""
    left: list[asyncio.Future[Any]] = []

    async def handler(request: Request) -> object:
        left.append(asyncio.ensure_future(step.sleep("nap", "1h")))
        await asyncio.sleep(0)  # it waits for its place in the store
        if len(left) == 1:
            raise OSError
        return "end"

    store = WatchedStore()
    store.seconds = 0.03
    with lab(store) as process:
        assert b'"end"' == body_of(process.call(process.endpoint(handler)))
        until(lambda: all(each.done() for each in left))
    for each in left:
        assert each.cancelled() or isinstance(each.exception(), Suspended)


# Steps in flight when the handler ends


def test_handler_that_fails_waits_for_steps_in_flight() -> None:
    """A branch fails while its sibling's step still runs: that step is checkpointed, and not run
    again by the next attempt of the handler."""
    ledger = Ledger()
    release = asyncio.Event()
    attempts: list[int] = []

    async def slow() -> str:
        await release.wait()
        return await ledger.did_async("slow", "slow")

    async def failing() -> str:
        attempts.append(len(attempts))
        if attempts == [0]:
            asyncio.get_running_loop().call_later(0.03, release.set)
            raise ValueError("the first attempt fails")
        return "fine"

    async def handler(request: Request) -> object:
        return await asyncio.gather(step.run("slow", slow), failing())

    with lab() as process:
        assert b'["slow","fine"]' == process.call(process.endpoint(handler)).body
    assert {"slow": 1} == ledger.counts()


def test_handler_that_passes_a_refused_step_does_not_count() -> None:
    """A run that is being put away refuses new steps. A timeout that the handler puts around one
    is no failure of its: it is replayed, and the step in flight is not lost."""
    ledger = Ledger()
    release = asyncio.Event()
    stopped: list[str] = []

    async def slow() -> str:
        await release.wait()
        return await ledger.did_async("slow", "slow")

    with lab() as process:

        async def branch() -> str:
            await step.run("one", ledger.did_async, "one", 1)
            if not stopped:
                node = process.engine.worker
                assert node is not None
                [live] = node.live.all()
                stopped.append(live.ex.run.id)
                live.stop()
                asyncio.get_running_loop().call_later(0.05, release.set)
                await asyncio.sleep(0)
            async with asyncio.timeout(0.01):
                return await step.run("two", ledger.did_async, "two", "two")

        async def handler(request: Request) -> object:
            return await asyncio.gather(step.run("slow", slow), branch())

        assert b'["slow","two"]' == process.call(process.endpoint(handler, retries=0)).body
    assert {"slow": 1, "one": 1, "two": 1} == ledger.counts()
