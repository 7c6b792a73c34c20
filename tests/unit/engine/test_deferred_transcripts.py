"""Clients, the store and the log see the same whether or not handlers are called before a run."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from durable_core import HTTPError, run
from durable_core.api.adapter import HTTPHandler
from durable_core.api.step import step, sync_step
from durable_core.http.request import Request
from durable_core.http.response import Response
from support.deferred import call_deferred, call_deferred_def
from support.harness import Lab, request, until, until_async

VALUE: ContextVar[int] = ContextVar("value", default=0)


# -- what a handler does if it is asked to ------------------------------------------------------


def one_step(asked: Request) -> object:
    """Ask for a step."""
    return sync_step.run("a", str, 1)


def a_failing_step(asked: Request) -> object:
    """Ask for a step that fails."""
    return sync_step.run("a", fail, asked)


def its_run(asked: Request) -> object:
    """Ask for its run only."""
    return [len(run.id), run.attempt]


def fail(asked: object) -> object:
    """Fail."""
    raise ValueError("broken")


def refuse(asked: Request) -> object:
    """Answer by an error."""
    raise HTTPError(404, "no such cart")


def no_result(asked: Request) -> object:
    """Return what cannot be sent."""
    return object()


def a_response(asked: Request) -> object:
    """Return a response."""
    return Response(body=b"made", status=201, headers={"x-cart": "1"})


async def one_step_async(asked: Request) -> object:
    """Ask for a step."""
    return await step.run("a", str, 1)


async def steps_in_tasks(asked: Request) -> object:
    """Ask for steps in tasks."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(step.run(name, str, name)) for name in "ab"]
    return [task.result() for task in tasks]


async def gives_way(asked: Request) -> object:
    """Let a task begin."""
    order: list[str] = []

    async def note() -> None:
        order.append("task")

    task = asyncio.create_task(note())
    await asyncio.sleep(0)
    order.append("handler")
    await task
    return order


async def a_time_out(asked: Request) -> object:
    """Wait for too long."""
    try:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(20)
    except TimeoutError:
        return "too late"
    return "in time"


async def cancels_itself(asked: Request) -> object:
    """Cancel its task, and take that."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    try:
        await asyncio.sleep(20)
    except asyncio.CancelledError:
        return task.cancelling()
    return "not cancelled"


async def a_context(asked: Request) -> object:
    """Reset a variable that it has set before it waited."""
    token = VALUE.set(1)
    result = [await step.run("a", str, 1), VALUE.get()]
    VALUE.reset(token)
    return [*result, VALUE.get()]


DEFS = [one_step, a_failing_step, its_run, fail, refuse, a_response]
COROUTINES = [
    *(one_step_async, steps_in_tasks, gives_way, a_time_out, cancels_itself),
    a_context,
]


def as_coroutine(
    call: Callable[[Request], object],
) -> Callable[[Request], Awaitable[object]]:
    """Return an ``async def`` handler that does the same, where that needs no step."""

    async def handler(asked: Request) -> object:
        return call(asked)

    return handler


PROGRAMS: dict[str, Callable[[Request], Any]] = {
    **{call.__name__: call for call in COROUTINES},
    **{
        f"{call.__name__}_async": as_coroutine(call)
        for call in (its_run, fail, refuse, no_result, a_response)
    },
}

# -- transcripts --------------------------------------------------------------------------------


def plain(text: object) -> str:
    """Return a text without what differs between any two runs."""
    text = re.sub(r"[0-9A-HJKMNP-TV-Z]{26}", "(id)", str(text))
    return re.sub(r"d1\.\w+\.[\w-]{43}|\d{4}-\d\d-\d\dT\S+|process \d+| at 0x\w+", "(any)", text)


def seen(response: Response) -> list[str]:
    """Return what a client sees."""
    return [plain(response.status), plain(sorted(response.headers.items())), plain(response.body)]


def is_over(process: Lab) -> bool:
    """Tell whether no run goes on."""
    worker = process.engine.worker
    assert worker is not None
    return not worker.live and all(each.run.phase.ended for each in process.records.list())


def stored(process: Lab) -> list[str]:
    """Return what the store has of the runs, and of their steps."""
    phases = [each.run.phase.value for each in process.records.list()]
    return [*sorted(phases), str(sorted(process.watched.memos().items()))]


def of_threads(call: Callable[[Request], object], *, deferred: bool) -> list[object]:
    """Return the transcript of a ``def`` handler."""
    process = Lab(debug=False)
    process.engine.start()
    endpoint: HTTPHandler = process.endpoint(call, retries=0)
    if deferred:
        response = call_deferred_def(endpoint, call, request())
    else:
        response = endpoint.handle(request())
    until(lambda: is_over(process))
    process.stop()
    return [seen(response), stored(process)]


def of_loop(call: Callable[[Request], Awaitable[object]], *, deferred: bool) -> list[object]:
    """Return the transcript of an ``async def`` handler."""

    async def main() -> list[object]:
        process = Lab(debug=False)
        process.engine.start()
        endpoint: HTTPHandler = process.endpoint(call, retries=0)
        if deferred:
            response = await call_deferred(endpoint, call, request())
        else:
            response = await endpoint.handle_async(request())
        await until_async(lambda: is_over(process))
        await process.durable.stop_async()
        return [seen(response), stored(process)]

    return asyncio.run(main())


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Return what has been logged since it was last asked."""

    def messages() -> list[str]:
        found = sorted(plain(each.getMessage()) for each in caplog.records)
        caplog.clear()
        return found

    with caplog.at_level(logging.INFO, "durable"):
        yield messages


@pytest.mark.parametrize("call", DEFS, ids=lambda call: call.__name__)
def test_def_handlers(call: Callable[[Request], object], log: Callable[[], list[str]]) -> None:
    """The transcripts are the same."""
    expected = [of_threads(call, deferred=False), log()]
    assert expected == [of_threads(call, deferred=True), log()]


@pytest.mark.parametrize("name", PROGRAMS)
def test_async_def_handlers(name: str, log: Callable[[], list[str]]) -> None:
    """The transcripts are the same."""
    expected = [of_loop(PROGRAMS[name], deferred=False), log()]
    assert expected == [of_loop(PROGRAMS[name], deferred=True), log()]
