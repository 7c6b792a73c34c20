"""Writes that are queued on an event loop, and who commits them if no task waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from durable_conformance.store_values import created
from durable_core.commit_queue import CommitFuture, CommitQueue
from durable_core.ports import CheckpointResult
from support.harness import PATIENCE, WatchedStore, until


@contextmanager
def queue_on(store: WatchedStore) -> Iterator[CommitQueue]:
    """Give a started queue, and stop it."""
    queue = CommitQueue(store)
    queue.start()
    try:
        yield queue
    finally:
        queue.stop()


def test_what_no_task_waits_for_is_committed_soon() -> None:
    """A write that is submitted on an event loop, and then left alone, too."""
    store = WatchedStore()
    threads = list[str]()
    store.fault = lambda writes: threads.append(threading.current_thread().name)

    async def main(queue: CommitQueue) -> None:
        ticket = queue.submit(created())
        async with asyncio.timeout(PATIENCE):
            while not ticket.done:
                await asyncio.sleep(0.001)
        assert CheckpointResult() == ticket.result()

    with queue_on(store) as queue:
        asyncio.run(main(queue))
    assert ["durable-writer"] == threads


def test_the_background_thread_sleeps_while_tasks_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time that it wakes up delays the loop; the tick of the loop commits."""
    store = WatchedStore()

    async def task(queue: CommitQueue, name: str) -> None:
        for n in range(20):
            await queue.wait_async(queue.submit(created(f"{name}-{n}")))

    async def main(queue: CommitQueue) -> None:
        await asyncio.gather(task(queue, "a"), task(queue, "b"))

    with queue_on(store) as queue:
        queue._average = -1e9  # the machine may be slow
        notified = list[str]()
        with monkeypatch.context() as patched:
            patched.setattr(queue._wakeup, "notify", lambda: notified.append("told"))
            asyncio.run(main(queue))
        assert 20 == queue.commits
        assert [] == notified


def _look_twice(queue: CommitQueue, ticket: CommitFuture[CheckpointResult]) -> None:
    queue.commit_forgotten()
    assert not ticket.done
    queue.commit_forgotten()
    until(lambda: ticket.done)


def test_what_a_busy_loop_has_queued_is_committed() -> None:
    """Its next tick may be far; whoever looks from time to time finds the write there twice."""
    store = WatchedStore()

    async def main(queue: CommitQueue) -> None:
        _look_twice(queue, queue.submit(created()))  # nothing else runs on the loop meanwhile

    with queue_on(store) as queue:
        asyncio.run(main(queue))
        queue.commit_forgotten()
    assert 1 == len(store.batches)


def test_what_a_loop_that_has_ended_has_queued_is_committed() -> None:
    """There is no next tick."""
    store = WatchedStore()
    tickets: list[CommitFuture[CheckpointResult]] = []
    with queue_on(store) as queue:
        loop = asyncio.new_event_loop()
        loop.call_soon(lambda: tickets.append(queue.submit(created())))
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        _look_twice(queue, *tickets)
