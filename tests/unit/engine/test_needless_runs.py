"""A handler that had no use for its run last time is called before it has one."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from durable_core import HTTPError, run
from durable_core.api.adapter import HTTPHandler
from durable_core.api.step import step, sync_step
from durable_core.engine.worker import Worker
from durable_core.errors import WaitInterruptedError
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import Phase
from durable_core.runners.run_tasks import CURRENT_TASKS
from support.harness import FakeClock, Lab, lab, request, until, until_async


def in_loop(work: Callable[[Lab], Coroutine[Any, Any, Any]]) -> Any:
    """Return what a coroutine returns that has a lab on its event loop."""

    async def main() -> Any:
        process = Lab()
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


async def ask(process: Lab, endpoint: HTTPHandler, url: str = "/it", **headers: Any) -> Response:
    """Return the response, once the run of the request has ended, if it has one."""
    response = await endpoint.handle_async(request(url, **headers))
    await until_async(lambda: not worker_of(process).live)
    return response


async def plain(asked: Request) -> dict[str, str]:
    """Need no run."""
    return {"path": asked.path}


@pytest.fixture
def executions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The executions that are made."""
    from durable_core.engine.runs import RunManager

    made: list[object] = []
    make = RunManager.new_execution

    def note(self: RunManager, *args: Any) -> Any:
        made.append(make(self, *args))
        return made[-1]

    monkeypatch.setattr(RunManager, "new_execution", note)
    return made


def test_the_second_request_has_no_run(executions: list[object]) -> None:
    """The first one has, and both have the same response."""

    async def work(process: Lab) -> list[object]:
        endpoint = process.endpoint(plain)
        responses = [await ask(process, endpoint, "/it") for _ in range(3)]
        return [response.body for response in responses]

    assert [b'{"path":"/it"}'] * 3 == in_loop(work)
    assert 1 == len(executions)


def test_a_handler_has_a_task_and_a_run_of_its_own(executions: list[object]) -> None:
    """It sees the same with and without a run."""
    seen: list[object] = []

    async def handler(asked: Request) -> None:
        seen.append(asyncio.current_task())
        assert CURRENT_TASKS.get() is not None

    async def work(process: Lab) -> None:
        endpoint = process.endpoint(handler)
        for _ in range(2):
            await ask(process, endpoint)
        assert asyncio.current_task() not in seen

    in_loop(work)
    assert 2 == len(set(map(id, seen)))
    assert 1 == len(executions)


def test_one_that_asks_for_a_step_has_a_run() -> None:
    """Its step is stored, and the next request begins with a run again."""

    async def handler(asked: Request) -> object:
        return await step.run("it", str, 1) if asked.query.get("step") else None

    async def work(process: Lab) -> list[bool]:
        endpoint = process.endpoint(handler)
        known = []
        for url in ("/it", "/it", "/it?step=1", "/it?step=1", "/it"):
            assert 200 == (await ask(process, endpoint, url)).status
            known.append("it" in worker_of(process).runs.needless)
        assert [Phase.COMPLETED] * 2 == [each.run.phase for each in process.records.list()]
        return known

    assert [True, True, False, False, True] == in_loop(work)


def test_a_thread_cancels_the_handler_in_debug_mode() -> None:
    """As asyncio documents it. In debug mode no other thread may make the task of the handler."""

    async def handler(asked: Request) -> object:
        if not asked.query.get("wait"):
            return None
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
        endpoint = process.endpoint(handler)
        await ask(process, endpoint)
        return (await ask(process, endpoint, "/it?wait=1")).body

    assert b"0" == in_loop(work)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_of_a_handler_releases_its_run(interrupt: type[BaseException]) -> None:
    """The loop is stopped by it. A run that the handler has asked for is not live any more."""

    async def handler(asked: Request) -> None:
        if asked.query.get("stop"):
            assert run.id
            raise interrupt

    process = Lab()
    endpoint = process.endpoint(handler)

    async def main() -> None:
        await ask(process, endpoint)
        assert "it" in worker_of(process).runs.needless
        await endpoint.handle_async(request("/it?stop=1"))

    with pytest.raises(interrupt):
        asyncio.run(main())
    assert not worker_of(process).live
    process.stop()


class Marker:
    """Something in the context of a handler."""


def test_a_time_out_keeps_no_memory() -> None:
    """A request that set one is forgotten at its end, with a run and without, without a search."""
    kept: list[weakref.ref[Marker]] = []
    value: ContextVar[object] = ContextVar("value")

    async def handler(asked: Request) -> None:
        mine = Marker()
        value.set(mine)
        kept.append(weakref.ref(mine))
        async with asyncio.timeout(60):
            pass

    async def work(process: Lab) -> None:
        endpoint = process.endpoint(handler)
        gc.disable()
        try:
            for _ in range(2):
                await ask(process, endpoint)
                await asyncio.sleep(0)
        finally:
            gc.enable()
        assert [None, None] == [each() for each in kept]

    in_loop(work)


@pytest.mark.parametrize("why", ["raise", "ask"])
def test_one_that_needs_a_run_without_a_step(why: str) -> None:
    """Where it raises an error, or asks for its run, the next request begins with a run."""

    def needs(asked: Request) -> object:
        if asked.query.get("raise"):
            raise HTTPError(404, "no such cart")
        return run.id if asked.query.get("ask") else None

    async def needs_async(asked: Request) -> object:
        return needs(asked)

    async def work(process: Lab) -> list[bool]:
        endpoint, known = process.endpoint(needs_async), []
        for url in ("/it", f"/it?{why}=1"):
            await ask(process, endpoint, url)
            known.append("it" in worker_of(process).runs.needless)
        return known

    assert [True, False] == in_loop(work)
    with lab() as process:
        endpoint, known = process.endpoint(needs), []
        for url in ("/it", f"/it?{why}=1"):
            endpoint.handle(request(url))
            known.append("it" in worker_of(process).runs.needless)
    assert [True, False] == known


@pytest.mark.parametrize("is_async", [True, False])
def test_one_that_always_raises_has_a_run_each_time(is_async: bool) -> None:
    """To call it before would save nothing."""

    def fails(asked: Request) -> None:
        raise HTTPError(404, "no such cart")

    async def fails_async(asked: Request) -> None:
        raise HTTPError(404, "no such cart")

    async def work(process: Lab) -> set[str]:
        if is_async:
            await ask(process, process.endpoint(fails_async))
        else:
            process.endpoint(fails).handle(request())
        return worker_of(process).runs.needless

    assert set() == in_loop(work)


PYTHON_TASKS = """
import asyncio
asyncio.Task = asyncio.tasks.Task = asyncio.tasks._PyTask  # as nest_asyncio does

from durable_core import Durable
from durable_core.api.adapter import endpoint_adapter
from durable_core.http.request import Request
from durable_core.engines import EmbeddedEngine
from durable_core.stores import MemoryStore

durable = Durable(id="it", endpoint_adapter=endpoint_adapter, engine=EmbeddedEngine(MemoryStore()))

@durable.endpoint()
async def handler(request):
    return 1

async def main():
    for _ in range(3):
        await handler.handle_async(Request(method="GET", url="http://localhost/it"))
        await asyncio.sleep(0)
    await durable.stop_async()

asyncio.run(main())
"""


def test_tasks_in_python() -> None:
    """None is reported as destroyed before it has run."""
    done = subprocess.run(
        [sys.executable, "-c", PYTHON_TASKS], check=False, capture_output=True, text=True
    )
    assert (0, "") == (done.returncode, done.stderr)


def test_one_that_waits_has_a_run() -> None:
    """From the moment at which it waits; its client may leave, and it goes on."""
    gate, ended = asyncio.Event(), []

    async def handler(asked: Request) -> object:
        if asked.query.get("wait"):
            await gate.wait()
            ended.append(await step.run("it", str, 1))
        return None

    async def work(process: Lab) -> None:
        endpoint = process.endpoint(handler)
        await ask(process, endpoint)
        client = asyncio.create_task(endpoint.handle_async(request("/it?wait=1")))
        await until_async(lambda: len(worker_of(process).live) == 1)
        assert "it" not in worker_of(process).runs.needless
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
        if asked.query.get("nap"):
            await asyncio.wait_for(nap(), 0.02)

    async def work(process: Lab) -> list[Phase]:
        endpoint = process.endpoint(handler)
        await ask(process, endpoint)
        await ask(process, endpoint, "/it?nap=1")
        return [each.run.phase for each in process.records.list()]

    assert [Phase.FAILED] == in_loop(work)
    assert [WaitInterruptedError] == seen


@pytest.mark.parametrize(
    ("raised", "status"), [(HTTPError(404, "no such cart"), 404), (ValueError("broken"), 500)]
)
def test_an_error_is_that_of_a_run(raised: Exception, status: int) -> None:
    """What the handler raises has the same response with and without a run before it."""

    async def handler(asked: Request) -> object:
        if asked.query.get("fail"):
            raise raised
        return None

    async def work(process: Lab) -> None:
        endpoint = process.endpoint(handler, retries=0)
        expected = await ask(process, endpoint, "/it?fail=1")
        await ask(process, endpoint, "/it")
        assert "it" in worker_of(process).runs.needless
        actual = await ask(process, endpoint, "/it?fail=1")
        assert (status, expected.headers) == (actual.status, actual.headers)
        assert expected.status == actual.status

    in_loop(work)


def test_what_cannot_be_sent_fails(executions: list[object]) -> None:
    """A result that has no JSON form fails the run, as it does in one that began at once."""

    async def handler(asked: Request) -> object:
        return object() if asked.query.get("fail") else None

    async def work(process: Lab) -> int:
        endpoint = process.endpoint(handler)
        await ask(process, endpoint, "/it")
        return (await ask(process, endpoint, "/it?fail=1")).status

    assert 500 == in_loop(work)
    assert 2 == len(executions)


def test_a_typed_result() -> None:
    """The result is converted by the type that the handler names."""

    async def handler(asked: Request) -> set[int]:
        return {1}

    async def work(process: Lab) -> list[object]:
        endpoint = process.endpoint(handler)
        return [(await ask(process, endpoint)).body for _ in range(2)]

    assert [b"[1]"] * 2 == in_loop(work)


def test_a_streamed_response() -> None:
    """It is sent as it is."""

    async def chunks() -> Any:
        yield b"a"
        yield b"b"

    async def handler(asked: Request) -> Response:
        return Response(body=chunks())

    async def work(process: Lab) -> list[list[bytes]]:
        endpoint, bodies = process.endpoint(handler), []
        for _ in range(2):
            response = await ask(process, endpoint)
            assert not isinstance(response.body, bytes)
            bodies.append([chunk async for chunk in response.body])  # type: ignore[union-attr]
        return bodies

    assert [[b"a", b"b"]] * 2 == in_loop(work)


def test_credentials_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that reads a header which is not stored is named, although it has no run."""

    async def handler(asked: Request) -> object:
        return asked.headers.get("authorization") if asked.query.get("read") else None

    async def work(process: Lab) -> None:
        endpoint = process.endpoint(handler)
        await ask(process, endpoint, "/it")
        await ask(process, endpoint, "/it?read=1", authorization="Bearer x")

    with caplog.at_level(logging.WARNING):
        in_loop(work)
    assert 1 == sum("'authorization'" in each.getMessage() for each in caplog.records)


def test_an_option_that_needs_the_run(executions: list[object]) -> None:
    """An endpoint that keeps a record of every run has one each time."""

    async def work(process: Lab) -> None:
        endpoint = process.endpoint(plain, record="always")
        for _ in range(3):
            await ask(process, endpoint)
        assert 3 == len(process.records.list())

    in_loop(work)
    assert 3 == len(executions)


def test_preference_of_a_client(executions: list[object]) -> None:
    """A client that would rather not wait has a run, whatever the last request needed."""

    async def work(process: Lab) -> int:
        endpoint = process.endpoint(plain)
        await ask(process, endpoint)
        return (await ask(process, endpoint, prefer="respond-async")).status

    assert 202 == in_loop(work)
    assert 2 == len(executions)


def test_behind_a_server_of_threads(executions: list[object]) -> None:
    """The loop is the engine's own, and the same is true there."""
    with lab() as process:
        endpoint = process.endpoint(plain)
        bodies = []
        for _ in range(3):
            bodies.append(endpoint.handle(request()).body)
            until(lambda: not worker_of(process).live)

    assert [b'{"path":"/it"}'] * 3 == bodies
    assert 1 == len(executions)


# -- def handlers -------------------------------------------------------------------------------


def plain_def(asked: Request) -> object:
    """Do what the query says; need no run without one."""
    if asked.query.get("step"):
        return sync_step.run("it", str, 1)
    if asked.query.get("fail"):
        raise HTTPError(404, "no such cart")
    if asked.query.get("read"):
        return asked.headers.get("authorization")
    return object() if asked.query.get("broken") else None


def test_a_def_handler(executions: list[object]) -> None:
    """Only a request that asks for a step, or fails, has a run after the first one."""
    with lab() as process:
        endpoint = process.endpoint(plain_def)
        counts, statuses = [], []
        for query in ("", "", "?step=1", "?step=1", "", "", "?fail=1", "", "?broken=1"):
            statuses.append(endpoint.handle(request(f"/it{query}")).status)
            counts.append(len(executions))
        assert [Phase.COMPLETED] * 2 == [each.run.phase for each in process.records.list()]

    assert [200, 200, 200, 200, 200, 200, 404, 200, 500] == statuses
    assert [1, 1, 2, 3, 4, 4, 5, 6, 7] == counts


def test_when_a_run_begins_late() -> None:
    """It began when the handler first needed it."""
    clock = FakeClock()

    def handler(asked: Request) -> object:
        clock.advance(5)
        return run.started_at.timestamp() if asked.query.get("ask") else None

    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        endpoint.handle(request("/it"))
        response = endpoint.handle(request("/it?ask=1"))
    assert str(clock.now() / 1000).encode() == response.body


def test_a_def_handler_reads_credentials(caplog: pytest.LogCaptureFixture) -> None:
    """The warning is the same as in a run."""
    with lab() as process, caplog.at_level(logging.WARNING):
        endpoint = process.endpoint(plain_def)
        endpoint.handle(request("/it"))
        response = endpoint.handle(request("/it?read=1", authorization="Bearer x"))

    assert b'"Bearer x"' == response.body
    assert 1 == sum("'authorization'" in each.getMessage() for each in caplog.records)


def test_a_def_handler_on_an_event_loop_has_a_thread(executions: list[object]) -> None:
    """It is never called on the loop, whatever its last run needed."""
    threads: list[int] = []

    def handler(asked: Request) -> None:
        threads.append(threading.get_ident())

    async def work(process: Lab) -> None:
        endpoint = process.endpoint(handler)
        for _ in range(3):
            await ask(process, endpoint)

    in_loop(work)
    assert 3 == len(executions)
    assert threading.get_ident() not in threads


def test_a_stop_waits_for_a_def_handler() -> None:
    """One that has no run is not cut off when the process is told to stop."""
    began, gate = threading.Event(), threading.Event()

    def handler(asked: Request) -> str:
        if asked.query.get("wait"):
            began.set()
            gate.wait(20)
        return "end"

    process = Lab()
    endpoint = process.endpoint(handler)
    endpoint.handle(request())
    bodies: list[object] = []
    client = threading.Thread(
        target=lambda: bodies.append(endpoint.handle(request("/it?wait=1")).body)
    )
    client.start()
    assert began.wait(20)
    stopper = threading.Thread(target=process.stop)
    stopper.start()
    gate.set()
    stopper.join(20)
    client.join(20)
    assert [b'"end"'] == bodies


def test_an_interrupt_is_a_crash() -> None:
    """A run that has begun within such a handler is released, and goes on elsewhere."""
    calls: list[str] = []

    def handler(asked: Request) -> object:
        if not asked.query.get("step"):
            return None
        sync_step.run("a", calls.append, "a")
        if len(calls) < 2:
            calls.append("interrupted")
            raise KeyboardInterrupt
        return "end"

    with lab() as process:
        endpoint = process.endpoint(handler)
        endpoint.handle(request())
        with pytest.raises(KeyboardInterrupt):
            endpoint.handle(request("/it?step=1"))
        until(lambda: [each.run.phase for each in process.records.list()] == [Phase.COMPLETED])
    assert ["a", "interrupted"] == calls
