"""A handler that is called before it has a run: its tasks, interrupts, memory and end."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from durable_core import run
from durable_core.api.step import step, sync_step
from durable_core.engine.worker import Worker
from durable_core.errors import WaitInterruptedError
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import Phase
from support.deferred import call_deferred, call_deferred_def
from support.harness import FakeClock, Lab, lab, request, until, until_async

Handler = Callable[[Request], Awaitable[Any]]


def in_loop(work: Callable[[Lab], Coroutine[Any, Any, Any]]) -> Any:
    """Return what a coroutine returns that has a lab, already started, on its event loop."""

    async def main() -> Any:
        process = Lab()
        process.engine.start()
        try:
            return await work(process)
        finally:
            await process.durable.stop_async()

    return asyncio.run(main())


def worker_of(process: Lab) -> Worker:
    """Return the worker, which has been started."""
    worker = process.engine.worker
    assert worker is not None
    return worker


async def ask(process: Lab, handler: Handler, url: str = "/it") -> Response:
    """Return the response, once the run of the request has ended, if it has one."""
    response = await call_deferred(process.endpoint(handler), handler, request(url))
    await until_async(lambda: not worker_of(process).live)
    return response


def test_a_thread_cancels_the_handler_in_debug_mode() -> None:
    """As asyncio documents it. In debug mode no other thread may make the task of the handler."""

    async def handler(asked: Request) -> object:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(task.cancel))
        thread.start()
        thread.join()
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            return task.uncancel()
        return "not cancelled"

    async def work(process: Lab) -> object:
        asyncio.get_running_loop().set_debug(True)
        return (await ask(process, handler)).body

    assert b"0" == in_loop(work)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_releases_the_run(interrupt: type[BaseException]) -> None:
    """The loop is stopped by it. A run that the handler has asked for is not live any more."""

    async def handler(asked: Request) -> None:
        assert run.id
        raise interrupt

    process = Lab()
    process.engine.start()
    with pytest.raises(interrupt):
        asyncio.run(call_deferred(process.endpoint(handler), handler, request()))
    assert not worker_of(process).live
    process.stop()


class Marker:
    """Something in the context of a handler."""


def test_a_time_out_keeps_no_memory() -> None:
    """A request that set one is forgotten at its end, without a search for cycles."""
    kept: list[weakref.ref[Marker]] = []
    value: ContextVar[object] = ContextVar("value")

    async def handler(asked: Request) -> None:
        mine = Marker()
        value.set(mine)
        kept.append(weakref.ref(mine))
        async with asyncio.timeout(60):
            pass

    async def work(process: Lab) -> None:
        gc.disable()
        try:
            await ask(process, handler)
            await asyncio.sleep(0)
        finally:
            gc.enable()
        assert [None] == [each() for each in kept]

    in_loop(work)


PYTHON_TASKS = """
import asyncio
asyncio.Task = asyncio.tasks.Task = asyncio.tasks._PyTask  # as nest_asyncio does

from durable_core import Durable
from durable_core.api.adapter import endpoint_adapter
from durable_core.engines import EmbeddedEngine
from durable_core.http.request import Request
from durable_core.stores import MemoryStore
from support.deferred import call_deferred

engine = EmbeddedEngine(MemoryStore())
durable = Durable(id="it", endpoint_adapter=endpoint_adapter, engine=engine)

async def handler(request):
    return 1

async def main():
    engine.start()
    asked = Request(method="GET", url="http://localhost/it")
    for _ in range(3):
        await call_deferred(endpoint, handler, asked)
        await asyncio.sleep(0)
    await durable.stop_async()

endpoint = durable.endpoint()(handler)
asyncio.run(main())
"""


def test_tasks_in_python() -> None:
    """None is reported as destroyed before it has run."""
    done = subprocess.run(
        [sys.executable, "-c", PYTHON_TASKS],
        check=False,
        capture_output=True,
        text=True,
        cwd="tests",
    )
    assert (0, "") == (done.returncode, done.stderr)


def test_one_that_waits_has_a_run() -> None:
    """From the moment at which it waits; its client may leave, and it goes on."""
    gate, ended = asyncio.Event(), []

    async def handler(asked: Request) -> object:
        await gate.wait()
        ended.append(await step.run("it", str, 1))
        return None

    async def work(process: Lab) -> None:
        client = asyncio.create_task(ask(process, handler))
        await until_async(lambda: len(worker_of(process).live) == 1)
        client.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client
        gate.set()
        await until_async(lambda: not worker_of(process).live)
        assert [Phase.COMPLETED] == [each.run.phase for each in process.records.list()]

    in_loop(work)
    assert ["1"] == ended


def test_a_time_out_around_a_step() -> None:
    """It is refused, as it is in a run that is there before the task that waits for the step."""
    seen: list[type[BaseException]] = []

    async def nap() -> None:
        try:
            await step.sleep("nap", "1h")
        except BaseException as error:
            seen.append(type(error))
            raise

    async def handler(asked: Request) -> None:
        await asyncio.wait_for(nap(), 0.02)

    async def work(process: Lab) -> list[Phase]:
        await ask(process, handler)
        return [each.run.phase for each in process.records.list()]

    assert [Phase.FAILED] == in_loop(work)
    assert [WaitInterruptedError] == seen


# -- def handlers -------------------------------------------------------------------------------


def test_when_a_run_begins_late() -> None:
    """It began when the handler first needed it."""
    clock = FakeClock()

    def handler(asked: Request) -> object:
        clock.advance(5)
        return run.started_at.timestamp()

    with lab(clock=clock) as process:
        process.engine.start()
        response = call_deferred_def(process.endpoint(handler), handler, request())
    assert str(clock.now() / 1000).encode() == response.body


def test_a_stop_waits_for_a_def_handler() -> None:
    """One that has no run is not cut off when the process is told to stop."""
    began, gate = threading.Event(), threading.Event()

    def handler(asked: Request) -> str:
        began.set()
        gate.wait(20)
        return "end"

    process = Lab()
    process.engine.start()
    endpoint = process.endpoint(handler)
    bodies: list[object] = []
    client = threading.Thread(
        target=lambda: bodies.append(call_deferred_def(endpoint, handler, request()).body)
    )
    client.start()
    assert began.wait(20)
    stopper = threading.Thread(target=process.stop)
    stopper.start()
    gate.set()
    stopper.join(20)
    client.join(20)
    assert [b'"end"'] == bodies


def test_an_interrupt_of_a_def_handler_is_a_crash() -> None:
    """A run that has begun within such a handler is released, and goes on elsewhere."""
    calls: list[str] = []

    def handler(asked: Request) -> object:
        sync_step.run("a", calls.append, "a")
        if len(calls) < 2:
            calls.append("interrupted")
            raise KeyboardInterrupt
        return "end"

    with lab() as process:
        process.engine.start()
        endpoint = process.endpoint(handler)
        with pytest.raises(KeyboardInterrupt):
            call_deferred_def(endpoint, handler, request())
        until(lambda: [each.run.phase for each in process.records.list()] == [Phase.COMPLETED])
    assert ["a", "interrupted"] == calls
