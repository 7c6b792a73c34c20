"""Runs of ``def`` handlers: unwinding and replaying."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest

from durable_core.api.step import sync_step
from durable_core.errors import RetryAfterError, StepError, Suspended
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import Phase
from support.harness import FakeClock, Lab, Ledger, lab, request, until, until_async

Handler = Callable[[Request], Any]


def finish(handler: Handler, **options: Any) -> Response:
    """Run it to its end in one process."""
    with lab() as process:
        return process.call(process.endpoint(handler, **options))


def body_of(response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    return response.body


# Threads of the handler's own


@pytest.mark.parametrize("threads", [1, 2])
def test_a_parked_thread_does_not_hold_the_others_up(threads: int) -> None:
    """While one sleeps others start new steps, also in its thread; then the handler is put away."""
    ledger, clock, parked = Ledger(), FakeClock(), threading.Event()

    def sleeps() -> None:
        try:
            sync_step.sleep("nap", "1h")
        finally:
            parked.set()

    def works() -> int:
        assert parked.wait(10)
        return sum(sync_step.run(f"s{n}", ledger.did, f"s{n}", n) for n in range(3))

    def handler(request: Request) -> object:
        with ThreadPoolExecutor(threads) as pool:
            nap, work = (pool.submit(copy_context().run, each) for each in (sleeps, works))
        return [nap.result(), work.result()]

    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        assert ["s0", "s1", "s2"] == ledger.calls
        clock.advance(3600)
        process.poke()
        assert b"[null,3]" == body_of(process.follow(endpoint, first))
    assert ["s0", "s1", "s2"] == ledger.calls


def test_the_handler_does_not_go_on_from_a_thread_that_was_put_away() -> None:
    """It may look at how the thread ended, and must not take the signal for a failure."""
    ledger, clock = Ledger(), FakeClock()

    def handler(request: Request) -> object:
        with ThreadPoolExecutor(1) as pool:
            nap = pool.submit(copy_context().run, sync_step.sleep, "nap", "1h")
        if nap.exception() is not None:
            sync_step.run("compensate", ledger.did, "compensate", 1)
        return "end"

    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        assert b'"end"' == body_of(process.sleep_through(endpoint, clock))
    assert [] == ledger.calls


# Unwinding


def _pass() -> None:
    try:
        sync_step.sleep("nap", "1h")
    except BaseException:
        pass


def _bare() -> None:
    try:
        sync_step.sleep("nap", "1h")
    except:  # noqa: E722
        pass


def _finally_return() -> None:
    try:
        sync_step.sleep("nap", "1h")
    finally:
        return  # noqa: B012


def _suppress() -> None:
    with contextlib.suppress(BaseException):
        sync_step.sleep("nap", "1h")


def _raise_other() -> None:
    try:
        sync_step.sleep("nap", "1h")
    except BaseException:
        raise ValueError("of my own") from None


@pytest.mark.parametrize("swallow", [_pass, _bare, _finally_return, _suppress, _raise_other])
def test_swallowed_signal(swallow: Callable[[], None], caplog: pytest.LogCaptureFixture) -> None:
    """A handler that swallows the signal harms nothing: it is warned of once."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        sync_step.run("before", ledger.did, "before", 1)
        swallow()
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


def test_steps_after_a_swallowed_signal_do_not_run() -> None:
    """Every further step raises the signal again."""
    ledger = Ledger()
    raised: list[BaseException] = []

    def handler(request: Request) -> object:
        slept = False
        try:
            sync_step.sleep("nap", "1h")
            slept = True
        except BaseException as error:
            raised.append(error)
        for n in range(3):
            try:
                sync_step.run(f"after{n}", ledger.did, f"after{n} {slept}", n)
            except BaseException as error:
                raised.append(error)
        return "end"

    clock = FakeClock()
    with lab(clock=clock) as process:
        assert b'"end"' == process.sleep_through(process.endpoint(handler), clock).body
    assert [f"after{n} True" for n in range(3)] == ledger.calls
    assert [Suspended] * 4 == [type(error) for error in raised]


def test_exception_does_not_catch_the_signal() -> None:
    """``except Exception`` around a sleep is right: the signal passes it."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        try:
            sync_step.sleep("nap", 0.01)
        except Exception:
            ledger.did("caught", None)
        return "end"

    assert b'"end"' == body_of(finish(handler))
    assert [] == ledger.calls


def test_finally_blocks_run_at_each_suspension() -> None:
    """Each time a handler is unwound its ``finally`` blocks run, and once more at its end."""
    cleaned: list[int] = []

    def handler(request: Request) -> str:
        try:
            sync_step.sleep("one", "1h")
            sync_step.sleep("two", "1h")
        finally:
            cleaned.append(1)
        return "end"

    clock = FakeClock()
    with lab(clock=clock) as process:
        process.sleep_through(process.endpoint(handler), clock, naps=2)
    assert 3 == len(cleaned)


# Threads of a handler


def test_threads_of_a_handler() -> None:
    """Threads that carry the handler's context may take steps, each with ids of its own."""
    ledger = Ledger()

    def branch(name: str) -> str:
        return sync_step.run(name, ledger.did, name, name)

    def handler(request: Request) -> object:
        with ThreadPoolExecutor(4) as pool:
            branches = [pool.submit(copy_context().run, branch, f"b{n}") for n in range(4)]
            together = [each.result() for each in branches]
        sync_step.sleep("nap", 0.01)
        return together

    assert b'["b0","b1","b2","b3"]' == body_of(finish(handler))
    assert {f"b{n}": 1 for n in range(4)} == ledger.counts()


@pytest.mark.parametrize("main_first", [True, False])
def test_one_id_from_two_threads(main_first: bool) -> None:
    """One id from two threads of a run is refused, whichever asks first."""

    def handler(request: Request) -> None:
        def other() -> None:
            sync_step.run("save", int)

        with ThreadPoolExecutor(1) as pool:
            if main_first:
                sync_step.run("save", int)
            pool.submit(copy_context().run, other).result()
            sync_step.run("save", int)

    response = finish(handler)
    assert 500 == response.status
    assert b"DuplicateStepIdError" in body_of(response)
    assert b"'save'" in body_of(response)


def test_step_in_flight_in_another_thread_is_stored() -> None:
    """When one thread parks, a step that another one runs still gets its checkpoint."""
    ledger = Ledger()
    running, release = threading.Event(), threading.Event()

    def slow() -> int:
        running.set()
        assert release.wait(5)
        return ledger.did("slow", 1)

    def parks() -> None:
        assert running.wait(5)
        try:
            sync_step.sleep("nap", 0.01)
        finally:
            release.set()

    def handler(request: Request) -> object:
        with ThreadPoolExecutor(2) as pool:
            slow_one = pool.submit(copy_context().run, lambda: sync_step.run("slow", slow))
            if not ledger.calls:
                pool.submit(copy_context().run, parks).result()
            return slow_one.result()

    assert b"1" == body_of(finish(handler))
    assert ["slow"] == ledger.calls


# Functions of steps


def test_async_function_in_a_def_handler() -> None:
    """A step of a ``def`` handler cannot await; the error says so."""

    async def nothing() -> None: ...

    def handler(request: Request) -> object:
        return sync_step.run("x", nothing)

    response = finish(handler)
    assert 500 == response.status
    assert b"was given an async function" in body_of(response)


def test_keyboard_interrupt_is_a_crash() -> None:
    """An interrupt in a handler is no failure: the run is given up, and finished by a worker."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        sync_step.run("a", ledger.did, "a", 1)
        if len(ledger.calls) < 2:
            ledger.did("interrupted", None)
            raise KeyboardInterrupt
        return sync_step.run("b", ledger.did, "b", 2)

    with lab() as process:
        endpoint = process.endpoint(handler, retries=0)
        with pytest.raises(KeyboardInterrupt):
            endpoint.handle(request())
        [record] = until(process.records.list)
        until(lambda: process.records.get(record.run.id).run.phase.ended)
        assert Phase.COMPLETED is process.records.get(record.run.id).run.phase
    assert ["a", "interrupted", "b"] == ledger.calls


def test_interrupts_without_end_fail_the_run() -> None:
    """A handler that crashes every time is not replayed for ever."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        sync_step.run("a", ledger.did, "a", 1)
        ledger.did("crash", None)
        raise SystemExit(3)

    with lab() as process:
        endpoint = process.endpoint(handler)
        with pytest.raises(SystemExit):
            endpoint.handle(request())
        [record] = until(process.records.list)
        until(lambda: process.records.get(record.run.id).run.phase.ended)
        assert Phase.FAILED is process.records.get(record.run.id).run.phase
    assert {"a": 1, "crash": 10} == ledger.counts()


# Clients of asynchronous servers


def test_served_on_an_event_loop() -> None:
    """A ``def`` handler works under an asynchronous server, in a thread."""
    names: list[str] = []

    def handler(request: Request) -> object:
        names.append(threading.current_thread().name)
        return sync_step.run("a", lambda: 1)

    async def main() -> Response:
        process = Lab()
        try:
            return await process.endpoint(handler).handle_async(request())
        finally:
            await process.durable.stop_async()

    assert b"1" == asyncio.run(main()).body
    assert names[0].startswith("durable-serve")


@pytest.mark.parametrize("how", ["cancel", "stop"])
def test_client_is_let_go_within_a_step(how: str) -> None:
    """A client that goes, or a stop, does not wait for the step; the step is stored once."""
    ledger = Ledger()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        started, release = asyncio.Event(), threading.Event()

        def slow() -> int:
            loop.call_soon_threadsafe(started.set)
            assert release.wait(5)
            return ledger.did("slow", 1)

        def handler(request: Request) -> object:
            return sync_step.run("slow", slow)

        process = Lab()
        endpoint = process.endpoint(handler)
        client = asyncio.create_task(endpoint.handle_async(request()))
        await started.wait()
        if how == "cancel":
            client.cancel()
            with pytest.raises(asyncio.CancelledError):
                await client
            release.set()
        else:
            stopping = asyncio.create_task(process.durable.stop_async())
            async with asyncio.timeout(5):
                assert 302 == (await client).status
            assert [] == ledger.calls
            release.set()
            await stopping
        runs = await until_async(
            lambda: [each for each in process.records.list() if each.run.phase.ended]
        )
        assert Phase.COMPLETED is runs[0].run.phase
        await process.durable.stop_async()

    asyncio.run(main())
    assert ["slow"] == ledger.calls


def test_client_is_let_go_although_the_step_may_be_tried_again_at_once() -> None:
    """What comes next may take long, and would have the client wait for its redirect."""
    calls: list[int] = []
    go_on = threading.Event()

    def fails_once() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise RetryAfterError("not now", 0)
        assert go_on.wait(10)
        return len(calls)

    def handler(request: Request) -> object:
        return sync_step.run("flaky", fails_once)

    with lab() as process, ThreadPoolExecutor(1) as pool:
        endpoint = process.endpoint(handler)
        client = pool.submit(endpoint.handle, request())
        try:
            first = client.result(5)
        finally:
            go_on.set()
        assert 302 == first.status
        assert b"2" == body_of(process.follow(endpoint, first))


def test_step_error_of_a_def_handler() -> None:
    """A step that fails for good raises StepError with what is known about it."""

    class OutOfStockError(Exception):
        data = {"left": 0}  # noqa: RUF012

    def fails() -> None:
        raise OutOfStockError("none left")

    def handler(request: Request) -> object:
        try:
            sync_step.run("reserve", fails)
        except StepError as error:
            return [error.step_id, error.name, error.message, error.data]
        return None

    assert b'["reserve","OutOfStockError","none left",{"left":0}]' == body_of(
        finish(handler, retries=0)
    )
