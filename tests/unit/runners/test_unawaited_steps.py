"""A handler that has ended before its steps: its run fails, and the error says what to do."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import HTTPError, NonRetriableError, StepError, Suspended
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.event import Event
from support.harness import Ledger, WatchedStore, lab, request, until

REMEDY = "write 'await' before the call of a step; if it is in a task, await that task, or cancel"

Handler = Callable[[Request], Coroutine[Any, Any, object]]


def text_of(response: Response) -> str:
    assert isinstance(response.body, bytes)
    return response.body.decode()


def detail_of(handler: Handler, *, retries: int = 3) -> str:
    """Return what the client is told, on its own connection, of a run that has failed at once."""
    calls = Ledger()

    async def counted(request: Request) -> object:
        calls.did("handler", None)
        return await handler(request)

    with lab() as process:
        response = process.endpoint(counted, retries=retries).handle(request())
        gc.collect()
    assert 500 == response.status
    assert ["handler"] == calls.calls
    return text_of(response)


CALLS: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
    "run": lambda: step.run("it", int),
    "sleep": lambda: step.sleep("it", "1h"),
    "wait": lambda: step.wait_for_event("it", event="e", timeout="1h"),
    "send": lambda: step.send_event("it", Event("e")),
}


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.filterwarnings("ignore:coroutine 'step:RuntimeWarning")
def test_a_step_that_nobody_awaits(kind: str) -> None:
    """The ``await`` is missing."""

    async def handler(request: Request) -> str:
        _ = CALLS[kind]()
        return "done"

    detail = detail_of(handler)
    assert "step 'it'" in detail
    assert REMEDY in detail


def test_a_step_that_is_kept() -> None:
    """The coroutine is there when the handler returns, beside one that was awaited."""
    kept: list[Coroutine[Any, Any, int]] = []

    async def handler(request: Request) -> str:
        kept.append(step.run("first", int))
        kept.append(step.run("second", int))
        await kept[0]
        return "done"

    detail = detail_of(handler)
    assert ("second" in detail, "first" in detail) == (True, False)
    kept[1].close()


@pytest.mark.filterwarnings("ignore:coroutine 'step:RuntimeWarning")
@pytest.mark.slow
def test_a_coroutine_that_is_taken_for_a_result() -> None:
    """What is returned, and what is made of it, says little; the error says what it was."""

    async def returned(request: Request) -> object:
        return step.run("it", int)

    async def used(request: Request) -> object:
        order: Any = step.run("it", dict)
        return order["id"]

    async def added(request: Request) -> object:
        total: Any = step.run("it", int)
        return total + 1

    async def attribute(request: Request) -> object:
        event: Any = step.wait_for_event("it", event="e", timeout="1h")
        return event.data

    for handler in (returned, used, added, attribute):
        assert "step 'it'" in detail_of(handler)


@pytest.mark.filterwarnings("ignore:coroutine 'step:RuntimeWarning")
def test_after_a_handoff() -> None:
    """The run fails at once there, too."""

    async def handler(request: Request) -> str:
        await step.sleep("nap", 0.01)
        step.run("it", int)  # type: ignore[unused-coroutine]
        return "done"

    with lab() as process:
        response = process.call(process.endpoint(handler))
        [record] = process.records.list()
        gc.collect()
    assert "step 'it'" in text_of(response)
    assert 0 == record.run.failures


def test_another_error_counts() -> None:
    """A handler that raises before it has awaited the steps that it has made fails by that."""
    kept: list[Coroutine[Any, Any, int]] = []

    async def handler(request: Request) -> object:
        kept.append(step.run("it", int))
        raise HTTPError(422, "no")

    with lab() as process:
        assert 422 == process.endpoint(handler).handle(request()).status
    kept[0].close()


# Tasks


async def slow(ledger: Ledger) -> None:
    ledger.did("slow", None)
    await asyncio.Event().wait()


async def in_a_function(ledger: Ledger) -> None:
    await step.run("slow", slow, ledger)


async def sleeps_and_goes_on(ledger: Ledger) -> None:
    await step.sleep("nap", "1h")
    await step.run("after", ledger.did, "after", 1)


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda ledger: step.run("slow", slow, ledger), "step.run('slow')"),
        (in_a_function, "step.run('slow')"),
        (lambda ledger: asyncio.wait_for(step.run("slow", slow, ledger), 60), "step.run('slow')"),
        (sleeps_and_goes_on, "step.sleep('nap')"),
    ],
    ids=["run", "in-a-function", "wait-for", "sleep"],
)
def test_a_task_that_is_left_behind(
    make: Callable[[Ledger], Coroutine[Any, Any, object]],
    shown: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its step is not done: the answer is no success, and the task ends without noise."""
    tasks: list[asyncio.Task[object]] = []

    async def handler(request: Request) -> str:
        tasks.append(asyncio.create_task(make(Ledger())))
        await asyncio.sleep(0.01)
        return "done"

    caplog.set_level(logging.ERROR, "asyncio")
    with lab() as process:
        response = process.call(process.endpoint(handler))
        if "run" in shown:  # user code may go on for as long as it likes
            tasks[0].get_loop().call_soon_threadsafe(tasks[0].cancel)
        until(tasks[0].done)
    del tasks[0]
    gc.collect()
    assert f"the handler has ended before {shown}: {REMEDY}" in text_of(response)
    assert [] == [each for each in caplog.records if each.name == "asyncio"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_task_that_only_waits(begun: bool) -> None:
    """Nothing is lost with a sleep or a wait that is left behind: it ends with the handler."""
    tasks: list[asyncio.Future[Any]] = []

    async def handler(request: Request) -> str:
        waits = step.wait_for_event("wait", event="e", timeout="1h")
        tasks.append(asyncio.create_task(step.sleep("nap", "1h")))
        tasks.append(asyncio.gather(waits, return_exceptions=True))
        if begun:
            limited = asyncio.wait_for(step.sleep("nap2", "1h"), 60)
            tasks.append(asyncio.create_task(limited))
            await asyncio.sleep(0.01)
        return "done"

    with lab() as process:
        assert '"done"' == text_of(process.call(process.endpoint(handler)))
        until(lambda: all(each.done() for each in tasks))


def test_a_task_that_has_not_begun() -> None:
    """It begins after the end of the handler; its step does not run."""
    ledger = Ledger()
    tasks: list[asyncio.Task[Any]] = []

    async def handler(request: Request) -> str:
        tasks.append(asyncio.create_task(step.run("it", ledger.did, "it", 1)))
        return "done"

    with lab() as process:
        response = process.call(process.endpoint(handler))
        until(tasks[0].cancelled)
    assert f"the handler has ended before step 'it': {REMEDY}" in text_of(response)
    assert [] == ledger.calls


def test_a_sibling_of_a_step_that_failed() -> None:
    """``gather`` leaves the others alone when one raises; the handler must await or cancel them."""
    ledger = Ledger()

    def fail() -> None:
        raise HTTPError(402, "no money")

    async def handler(request: Request) -> str:
        try:
            await asyncio.gather(step.run("slow", slow, ledger), step.run("fail", fail))
        except StepError:
            return "handled"
        return "done"

    detail = detail_of(handler)
    assert "step.run('slow')" in detail


def test_steps_that_the_handler_has_cancelled() -> None:
    """A loser of a race is the handler's decision, wherever the cancellation meets it."""
    ledger = Ledger()

    async def before_it_begins(request: Request) -> str:
        asyncio.create_task(step.run("slow", slow, ledger)).cancel()
        return "done"

    async def before_it_begins_and_later(request: Request) -> str:
        asyncio.create_task(step.run("slow", slow, ledger)).cancel()
        await step.run("a", int)
        await asyncio.sleep(0.01)
        return "done"

    async def while_it_runs(request: Request) -> str:
        task = asyncio.create_task(step.run("slow", slow, ledger))
        while not ledger.calls:
            await asyncio.sleep(0)
        task.cancel()
        return "done"

    async def while_it_waits(request: Request) -> str:
        nap = asyncio.create_task(asyncio.wait_for(step.sleep("nap", "1h"), None))
        await asyncio.sleep(0.01)
        nap.cancel()
        return "done"

    async def in_a_gather(request: Request) -> str:
        both = asyncio.gather(step.sleep("a", "1h"), in_a_function(ledger))
        await asyncio.sleep(0.01)
        both.cancel()
        return "done"

    for handler in (
        before_it_begins,
        before_it_begins_and_later,
        while_it_runs,
        while_it_waits,
        in_a_gather,
    ):
        with lab() as process:
            assert '"done"' == text_of(process.call(process.endpoint(handler))), handler.__name__


@pytest.mark.parametrize("ends_with", ["answer", "error"])
def test_a_loser_whose_cancellation_comes_late(
    ends_with: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes while the end of the run is being stored: nothing is recorded or logged."""
    ledger = Ledger()
    losers: list[asyncio.Task[None]] = []

    async def handler(request: Request) -> object:
        winner = asyncio.create_task(step.run("quick", ledger.did_async, "quick", 1))
        losers.append(asyncio.create_task(step.run("slow", slow, ledger)))
        done, _ = await asyncio.wait({winner, losers[-1]}, return_when=asyncio.FIRST_COMPLETED)
        losers[-1].cancel()
        if ends_with == "error":
            raise NonRetriableError("no")
        return [each.result() for each in done]

    store = WatchedStore()
    store.seconds = 0.02
    with lab(store) as process:
        response = process.call(process.endpoint(handler))
        until(lambda: all(each.done() for each in losers))
        assert [True] == [each.cancelled() for each in losers]
    assert ("[1]" if ends_with == "answer" else "no") in text_of(response)
    assert {"quick": 1} == store.memos()
    del losers[:]
    gc.collect()
    shown = [each for each in caplog.records if "the run failed" not in each.getMessage()]
    assert [] == shown


def test_a_task_without_steps_may_be_left_behind() -> None:
    """It is none of the engine's business."""
    tasks: list[asyncio.Task[bool]] = []

    async def handler(request: Request) -> str:
        tasks.append(asyncio.create_task(asyncio.Event().wait()))
        loser = asyncio.create_task(step.sleep("nap", "1h"))
        await asyncio.sleep(0.01)
        loser.cancel()
        return "done"

    with lab() as process:
        assert '"done"' == text_of(process.call(process.endpoint(handler)))
        assert not tasks[0].done()
        tasks[0].get_loop().call_soon_threadsafe(tasks[0].cancel)
        until(tasks[0].done)


def test_a_task_that_asks_for_a_step_after_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """The run has succeeded by then; the log says that the step is not done."""
    ledger = Ledger()
    tasks: list[asyncio.Task[None]] = []

    async def later() -> None:
        await asyncio.sleep(0.05)
        await step.run("late", ledger.did, "late", 1)

    async def handler(request: Request) -> str:
        tasks.append(asyncio.create_task(later()))
        await asyncio.sleep(0)
        return "done"

    with lab() as process:
        assert '"done"' == text_of(process.call(process.endpoint(handler)))
        until(tasks[0].cancelled)
    assert [] == ledger.calls
    [record] = caplog.records
    assert "a task that the handler of it has left behind asks for a step" in record.getMessage()


# Threads


def test_a_thread_that_is_left_behind() -> None:
    """A ``def`` handler has returned, and a thread of it runs a step."""
    began, end = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def wait() -> None:
        began.set()
        assert end.wait(20)

    def in_thread() -> None:
        with pytest.raises(Suspended):
            sync_step.run("slow", wait)

    def handler(request: Request) -> str:
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: context.run(in_thread))
        threads.append(thread)
        thread.start()
        assert began.wait(20)
        return "done"

    with lab() as process:
        response = process.endpoint(handler).handle(request())
        end.set()
        threads[0].join(20)
    assert 500 == response.status
    assert "a thread of it still runs a step" in text_of(response)


def test_an_error_that_says_more() -> None:
    """Steps that were called in place of branches: the error of ``parallel`` says what to do."""

    async def handler(request: Request) -> object:
        branches: Any = (step.run("a", int), step.run("b", int))
        return await step.parallel("both", *branches)

    detail = detail_of(handler)
    assert "a branch must be a function without arguments, as in lambda:" in detail
