"""Tickets and those who wait for them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from durable_core.commit_queue import CommitFuture, ThreadWaiter, notify
from durable_core.ports import Heartbeat


def ticket() -> CommitFuture[bool]:
    return CommitFuture(Heartbeat(id="a", expires_at=1))


def test_an_answer_is_the_result() -> None:
    """The store's answer is what the waiting code gets."""
    each = ticket()
    each.answer = True
    assert (True, True) == (each.answer, each.result())


def test_an_error_is_raised() -> None:
    """The error of a write is raised to whoever waits."""
    each = ticket()
    each.error = KeyError("refused")
    with pytest.raises(KeyError, match="refused"):
        each.result()


def test_a_thread_is_woken_once_however_often_it_is_told() -> None:
    """A second wake-up is harmless."""
    each = ticket()
    blocked = ThreadWaiter(each)
    each.threads += (blocked,)
    notify([each])
    notify([each])
    assert blocked.lock.acquire(timeout=5)
    assert not blocked.lock.acquire(blocking=False)


def test_tasks_are_woken_on_their_own_loop() -> None:
    """From the loop's thread, tasks are woken in place; one that was cancelled is left alone."""

    async def main() -> list[str]:
        each, loop = ticket(), asyncio.get_running_loop()
        each.tasks += (loop.create_future(), loop.create_future())
        each.tasks[0].cancel()
        notify([each])
        return ["cancelled" if future.cancelled() else "woken" for future in each.tasks]

    assert ["cancelled", "woken"] == asyncio.run(main())


def test_another_loop_is_called_once_for_all_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch from another thread costs each loop one call, not one for each task."""
    calls: list[tuple[object, ...]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        tickets = [ticket() for _ in range(3)]
        for each in tickets:
            each.tasks += (loop.create_future(),)
        call = loop.call_soon_threadsafe

        def counted(*args: Any) -> object:
            calls.append(args)
            return call(*args)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        thread = threading.Thread(target=notify, args=(tickets,))
        thread.start()
        await asyncio.gather(*(each.tasks[0] for each in tickets))
        thread.join()

    asyncio.run(main())
    assert 1 == len(calls)


def test_a_closed_loop_is_left_alone() -> None:
    """The tasks of a loop that is gone wait for nothing any more."""
    loop = asyncio.new_event_loop()
    each = ticket()
    each.tasks += (loop.create_future(),)
    loop.close()
    notify([each])
    assert not each.tasks[0].done()
