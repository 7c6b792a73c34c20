"""Event loops: the engine's own, and the server's."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from durable_core.runners.event_loops import Loops, LoopThread

PATIENCE = 10.0


async def thread_name() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


def test_loop_thread_runs_awaitables() -> None:
    """Any thread may have something awaited on the loop; errors come back."""
    thread = LoopThread()

    async def fails() -> None:
        raise ValueError("x")

    assert "durable-loop" == thread.run(thread_name())
    with pytest.raises(ValueError, match="x"):
        thread.run(fails())
    thread.stop()
    assert thread.loop.is_closed()


def test_loop_thread_cannot_block_on_itself() -> None:
    """Blocking the loop on the loop is an error, not a deadlock."""
    thread = LoopThread()

    async def blocks() -> None:
        inner = thread_name()
        try:
            thread.run(inner)
        finally:
            inner.close()

    with pytest.raises(RuntimeError, match="cannot block"):
        thread.run(blocks())
    thread.stop()


def test_loop_thread_survives_an_exit(caplog: pytest.LogCaptureFixture) -> None:
    """A SystemExit in a task ends neither the loop nor its thread."""
    thread = LoopThread()

    async def exits() -> None:
        raise SystemExit(1)

    with caplog.at_level(logging.ERROR, "durable"):
        task = asyncio.run_coroutine_threadsafe(exits(), thread.loop)
        with pytest.raises(SystemExit):
            task.result(PATIENCE)
        assert "durable-loop" == thread.run(thread_name())
    thread.stop()
    assert "SystemExit" in caplog.text


def test_loop_thread_cancels_what_is_left() -> None:
    """At its end the loop's tasks are cancelled and may clean up."""
    thread = LoopThread()
    cleaned: list[int] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(1)

    async def begin() -> None:
        tasks.append(asyncio.create_task(forever()))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    thread.run(begin())
    thread.stop()
    assert [1] == cleaned


def test_first_loop_is_adopted_until_it_is_closed() -> None:
    """Handlers are replayed on the loop that serves, and on another only when it is gone."""
    loops = Loops()

    async def first() -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        loops.adopt(loop)
        assert loop is loops.replay_loop
        other = asyncio.new_event_loop()
        assert loop is loops.server_loop
        other.close()
        return loop

    loop = asyncio.run(first())
    assert loop.is_closed()
    assert loops.background_loop.loop is loops.replay_loop

    async def second() -> None:
        loops.adopt(asyncio.get_running_loop())
        assert asyncio.get_running_loop() is loops.replay_loop

    asyncio.run(second())
    loops.stop()


def test_no_loop_is_made_before_it_is_needed() -> None:
    """A node whose handlers are all ``def`` has no loop."""
    before = {thread.name for thread in threading.enumerate()}
    loops = Loops()
    loops.stop()
    assert before == {thread.name for thread in threading.enumerate()}


def test_no_loop_is_made_to_find_out_whose_one_is() -> None:
    """Only the node's own loop, once there is one, is that."""
    loops, other = Loops(), asyncio.new_event_loop()
    before = {thread.name for thread in threading.enumerate()}
    assert not loops.is_background_loop(other)
    assert before == {thread.name for thread in threading.enumerate()}

    assert loops.is_background_loop(loops.background_loop.loop)
    assert not loops.is_background_loop(other)
    loops.stop()
    other.close()


def test_end_of_a_loop_is_noticed() -> None:
    """``asyncio.run`` cancels everything at its end; a timeout on the loop is no end."""
    loops = Loops()
    seen: list[bool] = []

    async def cut_off() -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(loops.is_shutting_down(loop))
            assert seen[-1] is (loop is not loops.replay_loop)

    async def main() -> None:
        loops.adopt(asyncio.get_running_loop())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await cut_off()
        left = asyncio.create_task(cut_off())
        await asyncio.sleep(0)
        assert not left.done()

    asyncio.run(main())
    assert [False, True] == seen
    loops.stop()


def test_stop_is_no_end_of_the_loop() -> None:
    """Letting go of a loop does not look like its end."""
    loops = Loops()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loops.adopt(loop)
        loops.stop()
        async with asyncio.timeout(PATIENCE):
            while len(asyncio.all_tasks()) > 1:
                assert not loops.is_shutting_down(loop)
                await asyncio.sleep(0)

    asyncio.run(main())


def test_stop_does_not_wait_for_ever_for_a_task_that_will_not_end() -> None:
    """A task that swallows every cancellation is left behind; others are waited for."""
    thread = LoopThread(patience=0.05)
    ended: list[str] = []

    async def never() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    async def soon() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.append("soon")

    async def begin() -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(never()), asyncio.create_task(soon())]
        await asyncio.sleep(0)
        return tasks

    tasks = thread.run(begin())
    thread.stop()
    assert thread.loop.is_closed()
    assert [False, True] == [task.done() for task in tasks]
    assert ["soon"] == ended
    left: Any = tasks[0]
    left.get_coro().close()
    left._log_destroy_pending = False


def test_stop_does_not_wait_for_ever_for_a_loop_that_is_blocked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Code that blocks the loop is left behind, in a daemon thread, and the log says so."""
    thread = LoopThread(patience=0.05)
    entered, leave = threading.Event(), threading.Event()

    async def blocks() -> None:
        entered.set()
        leave.wait(PATIENCE)

    blocked = asyncio.run_coroutine_threadsafe(blocks(), thread.loop)
    assert entered.wait(PATIENCE)
    thread.stop()

    assert "the engine's event loop is blocked" in caplog.text
    assert not leave.is_set()
    leave.set()
    blocked.result(PATIENCE)
    thread._thread.join(PATIENCE)
    assert thread.loop.is_closed()
