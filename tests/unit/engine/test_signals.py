"""Waking a reader, be it a thread or a task."""

from __future__ import annotations

import asyncio
import threading

from durable_core.engine.stream_bodies import TaskWaker, ThreadWaker


def test_a_thread_is_woken_once_for_each_time() -> None:
    """What came before the wait counts, once; nothing is a time-out."""
    signal = ThreadWaker()
    signal.wake()
    signal.wake()

    assert signal.wait(10)
    assert not signal.wait(0.001)


def test_a_task_is_woken_from_anywhere() -> None:
    """Before it waits, from its own loop, and from another thread."""

    async def wait_thrice() -> list[bool]:
        loop = asyncio.get_running_loop()
        signal = TaskWaker(loop)
        signal.wake()
        woken = [await signal.wait(10)]
        loop.call_soon(signal.wake)
        woken.append(await signal.wait(10))
        threading.Timer(0.01, signal.wake).start()
        woken.append(await signal.wait(10))
        woken.append(await signal.wait(0.001))
        return woken

    assert [True, True, True, False] == asyncio.run(wait_thrice())


def test_a_closed_loop_has_no_reader() -> None:
    """Waking a task whose loop is gone does nothing."""
    loop = asyncio.new_event_loop()
    signal = TaskWaker(loop)
    signal._waiting = loop.create_future()
    loop.close()

    signal.wake()
