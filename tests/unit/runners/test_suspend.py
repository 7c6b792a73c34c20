"""Parked steps: what wakes them, and why one was cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import pytest

from durable_core.runners import suspend as parking
from durable_core.runners.suspend import ParkedFuture, ParkedSteps
from support.harness import FakeClock

PATIENCE = 10.0
Branch = Callable[[], Coroutine[Any, Any, None]]


class PatientLoop(asyncio.SelectorEventLoop):
    """A loop whose time stands still until the branch is parked: no timeout comes before that."""

    parked = False

    def __init__(self) -> None:
        self._began = time.monotonic()
        super().__init__()

    def time(self) -> float:
        """Return the time of the loop."""
        return super().time() + 1.0 if self.parked else self._began


async def fails() -> None:
    for _ in range(5):  # until the branch is parked
        await asyncio.sleep(0)
    raise ValueError("x")


async def a_sibling_fails(branch: Branch) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fails())
        group.create_task(_through_gather(branch))


async def the_body_fails(branch: Branch) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_through_gather(branch))
        await fails()


async def a_nested_group_fails(branch: Branch) -> None:
    async def inner() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())

    async with asyncio.TaskGroup() as group:
        group.create_task(inner())
        group.create_task(_through_gather(branch))


async def a_timeout(branch: Branch) -> None:
    async with asyncio.timeout(0.001):
        await _through_gather(branch)


async def wait_for(branch: Branch) -> None:
    await asyncio.wait_for(_through_gather(branch), 0.001)


async def a_timeout_around_a_group(branch: Branch) -> None:
    async with asyncio.timeout(0.001), asyncio.TaskGroup() as group:
        group.create_task(_through_gather(branch))


async def a_timeout_in_the_body_of_a_group(branch: Branch) -> None:
    async with asyncio.timeout(0.001), asyncio.TaskGroup() as group:
        group.create_task(_through_gather(branch))
        await asyncio.Event().wait()


async def by_hand(branch: Branch) -> None:
    task = asyncio.ensure_future(branch())
    await asyncio.sleep(0)
    task.cancel()
    await task


async def after_another(branch: Branch) -> None:
    tasks = [asyncio.ensure_future(_through_gather(branch)), asyncio.ensure_future(_ticks(9))]
    _, losers = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for loser in losers:
        loser.cancel()
    await asyncio.gather(*losers)


async def anyio_timeout(branch: Branch) -> None:
    with anyio.fail_after(0.001):
        await _through_gather(branch)


async def anyio_move_on(branch: Branch) -> None:
    with anyio.move_on_after(0.001):
        await branch()


async def anyio_timeout_that_is_over(branch: Branch) -> None:
    with anyio.move_on_after(0):
        await branch()


async def anyio_timeout_around_a_group(branch: Branch) -> None:
    with anyio.fail_after(0.001):
        async with anyio.create_task_group() as group:
            group.start_soon(_through_gather, branch)
            await anyio.sleep_forever()


async def a_timeout_around_an_anyio_group(branch: Branch) -> None:
    async with asyncio.timeout(0.001), anyio.create_task_group() as group:
        group.start_soon(branch)


async def a_timeout_in_the_body_of_an_anyio_group(branch: Branch) -> None:
    async with asyncio.timeout(0.001), anyio.create_task_group() as group:
        group.start_soon(branch)
        await anyio.sleep_forever()


async def anyio_sibling_fails(branch: Branch) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_through_gather, branch)
        group.start_soon(fails)


async def anyio_body_fails(branch: Branch) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(branch)
        await fails()


async def anyio_by_hand(branch: Branch) -> None:
    with anyio.move_on_after(PATIENCE) as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(branch)
            await _ticks(5)
            scope.cancel()


async def anyio_group_by_hand(branch: Branch) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(branch)
        await _ticks(5)
        group.cancel_scope.cancel()


async def _ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _through_gather(branch: Branch) -> None:
    await asyncio.gather(branch(), asyncio.sleep(0))


@pytest.mark.parametrize(
    ("scenario", "may_be_cancelled"),
    [
        (a_sibling_fails, True),
        (the_body_fails, True),
        (a_nested_group_fails, True),
        (a_timeout, False),
        (wait_for, False),
        (a_timeout_around_a_group, False),
        (a_timeout_in_the_body_of_a_group, False),
        (by_hand, True),
        (after_another, True),
        (anyio_timeout, False),
        (anyio_move_on, False),
        (anyio_timeout_that_is_over, False),
        (anyio_timeout_around_a_group, False),
        (a_timeout_around_an_anyio_group, False),
        (a_timeout_in_the_body_of_an_anyio_group, False),
        (anyio_sibling_fails, True),
        (anyio_body_fails, True),
        (anyio_by_hand, True),
        (anyio_group_by_hand, True),
    ],
)
def test_cause(scenario: Callable[[Branch], Awaitable[None]], may_be_cancelled: bool) -> None:
    """A decision and a failing sibling are told from a timeout, through gather and groups."""

    async def main() -> None:
        parked = ParkedFuture()

        async def branch() -> None:
            loop.parked = True
            await parked

        async with asyncio.timeout(PATIENCE):
            with suppress(TimeoutError, ExceptionGroup, asyncio.CancelledError):
                await scenario(branch)
        assert parked.cancelled()
        assert may_be_cancelled is parked.may_be_cancelled

    loop = PatientLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())


def test_result() -> None:
    """Otherwise it is a future as any other."""

    async def main() -> None:
        parked = ParkedFuture()
        parked.set_result(None)
        await parked
        assert not parked.cancel()

    asyncio.run(main())


def test_woken_by_name() -> None:
    """A step is woken by its id, others go on waiting, and ids that are not parked do no harm."""

    async def main() -> None:
        places = ParkedSteps(asyncio.get_running_loop(), FakeClock())
        with places.park("a", None) as a, places.park("b", None) as b:
            places.wake("a")
            places.wake("a")
            places.wake("c")
            assert (True, False) == (a.done(), b.done())
            places.wake_all()
            assert b.done()
            assert 2 == len(places)
        assert 0 == len(places)

    asyncio.run(main())


def test_woken_when_due() -> None:
    """A step that is due already is woken in the next tick; one that is due later is not."""

    async def main() -> None:
        clock = FakeClock()
        places = ParkedSteps(asyncio.get_running_loop(), clock)
        with (
            places.park("due", clock.now() - 5) as due,
            places.park("later", clock.now() + 3_600_000) as later,
        ):
            async with asyncio.timeout(PATIENCE):
                await due
            assert not later.done()

    asyncio.run(main())


def test_looks_at_the_clock_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late a step is due, it is woken before long, for the clock may have been set."""
    monkeypatch.setattr(parking, "_LONGEST_TIMER", 0.001)

    async def main() -> None:
        clock = FakeClock()
        places = ParkedSteps(asyncio.get_running_loop(), clock)
        with places.park("later", clock.now() + 3_600_000) as later:
            async with asyncio.timeout(PATIENCE):
                await later

    asyncio.run(main())


def test_cancelled_all_at_once() -> None:
    """All that is parked can be cancelled; no place is left when those who waited are gone."""

    async def main() -> None:
        places = ParkedSteps(asyncio.get_running_loop(), FakeClock())

        async def wait(op_id: str) -> None:
            with places.park(op_id, None) as future:
                await future

        tasks = [asyncio.ensure_future(wait(op_id)) for op_id in "ab"]
        asyncio.get_running_loop().call_soon(places.cancel_all)
        await asyncio.wait(tasks)
        assert [True, True] == [task.cancelled() for task in tasks]
        assert 0 == len(places)

    asyncio.run(main())
