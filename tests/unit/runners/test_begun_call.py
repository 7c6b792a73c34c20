"""Tests for :mod:`durable_core.runners.begun_call`."""

from __future__ import annotations

import asyncio
import threading
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


def test_a_handler_that_gives_way_goes_on_after_the_tasks_it_has_started() -> None:
    """``asyncio.sleep(0)`` lets a new task begin, in the first part as anywhere else."""

    async def main() -> None:
        loop, order = asyncio.get_running_loop(), list[str]()
        task = LateTask(loop, copy_context())
        task.done()  # as the task factory of a loop with runs does

        async def call() -> None:
            started = loop.create_task(note())
            await asyncio.sleep(0)
            order.append("handler")
            await started

        async def note() -> None:
            order.append("task")

        begun = BegunCall(call, task, loop)

        async def rest() -> None:
            await begun

        task.code.rest = rest()
        await task
        assert order == ["task", "handler"]

    asyncio.run(main())


def test_a_time_out_of_no_seconds() -> None:
    """It ends a first part that only gives way to others."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = LateTask(loop, copy_context())

        async def call() -> None:
            async with asyncio.timeout(0):
                await asyncio.sleep(0)

        begun = BegunCall(call, task, loop)

        async def rest() -> None:
            with pytest.raises(TimeoutError):
                await begun

        task.code.rest = rest()
        await task

    asyncio.run(main())


def test_a_call_by_a_server_without_tasks() -> None:
    """A server may drive its requests by itself: then there is no current task but the call's."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = LateTask(loop, copy_context())

        async def call() -> bool:
            return asyncio.current_task() is task

        seen: asyncio.Future[list[object]] = loop.create_future()

        def serve() -> None:
            result = BegunCall(call, task, loop).result()
            seen.set_result([result, asyncio.current_task()])

        loop.call_soon(serve)
        assert await seen == [True, None]

    asyncio.run(main())


def test_threads_that_ask_for_a_late_task_make_one_task() -> None:
    """Two threads may be the first to ask it: one makes it, the other one waits for that."""
    makes = []
    making, asked = threading.Event(), threading.Event()

    class Loop(asyncio.SelectorEventLoop):
        def call_soon(self, *args: object, **options: object) -> asyncio.Handle:
            if isinstance(getattr(args[0], "__self__", None), LateTask):
                makes.append(args)
                making.set()
                asked.wait(0.2)  # the other thread has no answer meanwhile
            return super().call_soon(*args, **options)  # type: ignore[arg-type]

    async def main() -> None:
        task = LateTask(asyncio.get_running_loop(), copy_context())
        codes = []

        def ask() -> None:
            making.wait(20)
            codes.append(task.get_coro())
            asked.set()

        thread = threading.Thread(target=ask)
        thread.start()
        assert not task.done()
        thread.join()
        assert codes == [task.code]
        await task

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())
    assert len(makes) == 1


def test_a_late_task_that_is_kept_for_longer_than_its_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It can be shown, and nobody is told that it has not ended."""

    kept = []

    async def main() -> None:
        kept.append(LateTask(asyncio.get_running_loop(), copy_context()))

    asyncio.run(main())
    task = kept.pop()
    assert "pending" in repr(task)
    assert not task.done()
    del task
    assert caplog.records == []


def test_a_late_task_shows_what_it_does() -> None:
    """A debugger finds the frame and the name of the coroutine that waits."""

    async def main() -> None:
        async def rest() -> None:
            await asyncio.sleep(0)

        task = LateTask(asyncio.get_running_loop(), copy_context())
        assert task.get_stack() == []
        task.code.rest = rest()
        await asyncio.sleep(0)
        assert [frame.f_code for frame in task.get_stack()] == [rest.__code__]
        assert "rest() running at" in repr(task)
        await task

    asyncio.run(main())
