"""Handlers on a loop whose tasks begin at once: ``asyncio.eager_task_factory``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from durable_core.api.step import step
from durable_core.errors import NonRetriableError
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.runners.run_tasks import watch_loop
from durable_core.runners.settings import Settings
from support.harness import FakeClock, Ledger, lab

if sys.version_info < (3, 12):
    pytest.skip("eager tasks are of Python 3.12 and later", allow_module_level=True)


@pytest.fixture
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each new loop one with eager tasks, as a server may."""
    make = asyncio.new_event_loop

    def make_eager() -> asyncio.AbstractEventLoop:
        loop = make()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    monkeypatch.setattr(asyncio, "new_event_loop", make_eager)


def body_of(response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    return response.body


async def in_group(*calls: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with anyio.create_task_group() as group:
        for call in calls:
            group.start_soon(call)


@pytest.mark.usefixtures("_eager")
def test_groups_of_anyio() -> None:
    """They work in handlers and in steps: the loop's factory is still known as an eager one."""
    seen: list[str] = []

    async def note() -> None:
        await anyio.sleep(0)
        seen.append("in step")

    async def first() -> None:
        await step.run("first", in_group, note, note)

    async def second() -> None:
        await step.run("second", in_group, note, note)

    async def handler(request: Request) -> int:
        await in_group(first, second)
        return len(seen)

    with lab() as process:
        assert b"4" == body_of(process.call(process.endpoint(handler)))


@pytest.mark.usefixtures("_eager")
def test_tasks_are_eager_and_known() -> None:
    """A task begins at once. The run is suspended while it waits for a step."""
    seen: list[str] = []

    async def branch() -> None:
        seen.append("branch")
        await step.sleep("nap", "1h")

    async def handler(request: Request) -> str:
        task = asyncio.create_task(branch())
        seen.append("handler")
        await task
        return "end"

    clock = FakeClock()
    with lab(clock=clock, settings=Settings(max_own_wait=60)) as process:
        assert b'"end"' == body_of(process.sleep_through(process.endpoint(handler), clock))
    assert ["branch", "handler"] * 2 == seen


@pytest.mark.usefixtures("_eager")
def test_a_branch_that_begins_before_the_others_are_made() -> None:
    """Its new step is no sign of a change: the others may come to what is stored."""
    ledger = Ledger()

    async def early() -> object:
        return await step.run("early", ledger.did, "early", 2)

    async def handler(request: Request) -> list[object]:
        late = step.run("late", ledger.fails, "late", 1, NonRetriableError("no"), 1)
        got = await asyncio.gather(late, early(), return_exceptions=True)
        if isinstance(got[0], Exception):
            raise got[0]
        return list(got)

    with lab() as process:
        process.call(process.endpoint(handler, on_mismatch="fail"))
        runs = process.durable.runs
        [failed] = runs.list()
        assert runs.retry(failed.id)
        assert "completed" == runs.wait(failed.id, timeout="20s").status
    assert ["early", "late", "late"] == sorted(ledger.calls)


def test_the_constructor_of_tasks_is_kept() -> None:
    """A watched loop makes its eager tasks by the constructor that its factory was made with."""

    class OwnTask(asyncio.Task[Any]):
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.create_eager_task_factory(OwnTask))
        watch_loop(loop)
        assert OwnTask is type(asyncio.create_task(asyncio.sleep(0), name="mine"))

    asyncio.run(main())
