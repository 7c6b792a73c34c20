"""Tests for :mod:`durable_core.runners.begun_call`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from operator import methodcaller

import pytest

from durable_core.runners.begun_call import BegunCall, LateTask

NAME: ContextVar[str] = ContextVar("name")


def test_a_late_task_that_nobody_asks_for_anything_is_not_made() -> None:
    """The event loop knows of no such task, though it was the current one of a call."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = asyncio.all_tasks()
        task = LateTask(loop, copy_context())

        async def call() -> bool:
            return asyncio.current_task() is task

        begun = BegunCall(call, task, loop)
        assert begun.result() is True
        assert before == asyncio.all_tasks()

    asyncio.run(main(), debug=True)


@pytest.mark.parametrize(
    "ask",
    [
        methodcaller("done"),
        methodcaller("cancelling"),
        methodcaller("add_done_callback", id),
        methodcaller("__await__"),
        asyncio.isfuture,
        repr,
    ],
    ids=["done", "cancelling", "callback", "await", "isfuture", "repr"],
)
def test_a_late_task_that_is_asked_for_anything_is_an_ordinary_one(
    ask: Callable[[asyncio.Task[None]], object],
) -> None:
    """It is pending, runs what it is told in its context, and ends."""

    async def main() -> None:
        context = copy_context()
        context.run(NAME.set, "of the task")
        seen = []

        async def rest() -> None:
            seen.append((NAME.get(), asyncio.current_task()))

        task = LateTask(asyncio.get_running_loop(), context)
        ask(task)
        assert task in asyncio.all_tasks()
        task.code.rest = rest()
        await task
        assert seen == [("of the task", task)]
        assert task.done()

    asyncio.run(main())


def test_a_late_task_that_is_cancelled_before_it_begins() -> None:
    """What it does is begun, and cancelled then: as with any task, the cancellation counts."""

    async def main() -> None:
        seen = []

        async def rest() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        task = LateTask(asyncio.get_running_loop(), copy_context())
        assert task.cancel()
        assert task.cancelling() == 1
        task.code.rest = rest()
        await asyncio.wait((task,))
        assert seen == ["cancelled"]
        assert task.cancelled()

    asyncio.run(main())


def test_a_time_out_of_the_first_part_is_of_the_late_task() -> None:
    """It binds to the current task before anything is awaited, and cancels that later."""

    async def main() -> None:
        loop, context = asyncio.get_running_loop(), copy_context()
        task = LateTask(loop, context)

        async def call() -> str:
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(60)
            except TimeoutError:
                return "in time"
            return "too late"

        begun = context.run(BegunCall, call, task, loop)
        results = []

        async def rest() -> None:
            results.append(await begun)

        task.code.rest = rest()
        await task
        assert results == ["in time"]

    asyncio.run(main())
