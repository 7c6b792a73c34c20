"""Parked steps: what wakes them, and why one was cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from durable_core.runtime import parking
from durable_core.runtime.parking import Parked, Parking
from support.harness import FakeClock

PATIENCE = 10.0


async def fails() -> None:
    for _ in range(5):  # until the branch is parked
        await asyncio.sleep(0)
    raise ValueError("x")


async def a_sibling_fails(branch: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fails())
        group.create_task(_through_gather(branch))


async def the_body_fails(branch: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_through_gather(branch))
        await fails()


async def a_nested_group_fails(branch: Callable[[], Awaitable[None]]) -> None:
    async def inner() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())

    async with asyncio.TaskGroup() as group:
        group.create_task(inner())
        group.create_task(_through_gather(branch))


async def a_timeout(branch: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(0.001):
        await _through_gather(branch)


async def wait_for(branch: Callable[[], Awaitable[None]]) -> None:
    await asyncio.wait_for(_through_gather(branch), 0.001)


async def a_timeout_around_a_group(branch: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(0.001), asyncio.TaskGroup() as group:
        group.create_task(_through_gather(branch))


async def a_timeout_in_the_body_of_a_group(branch: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(0.001), asyncio.TaskGroup() as group:
        group.create_task(_through_gather(branch))
        await asyncio.Event().wait()


async def by_hand(branch: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.ensure_future(branch())
    await asyncio.sleep(0)
    task.cancel()
    await task


async def after_another(branch: Callable[[], Awaitable[None]]) -> None:
    tasks = [asyncio.ensure_future(_through_gather(branch)), asyncio.ensure_future(_ticks(9))]
    _, losers = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for loser in losers:
        loser.cancel()
    await asyncio.gather(*losers)


async def _ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _through_gather(branch: Callable[[], Awaitable[None]]) -> None:
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
    ],
)
def test_cause(
    scenario: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]], may_be_cancelled: bool
) -> None:
    """A decision and a failing sibling are told from a timeout, through gather and groups."""

    async def main() -> None:
        parked = Parked()

        async def branch() -> None:
            await parked

        async with asyncio.timeout(PATIENCE):
            with suppress(TimeoutError, ExceptionGroup, asyncio.CancelledError):
                await scenario(branch)
        assert parked.cancelled()
        assert may_be_cancelled is parked.may_be_cancelled

    asyncio.run(main())


def test_result() -> None:
    """Otherwise it is a future as any other."""

    async def main() -> None:
        parked = Parked()
        parked.set_result(None)
        await parked
        assert not parked.cancel()

    asyncio.run(main())


def test_woken_by_name() -> None:
    """A step is woken by its id, others go on waiting, and ids that are not parked do no harm."""

    async def main() -> None:
        places = Parking(asyncio.get_running_loop(), FakeClock())
        with places.place("a", None) as a, places.place("b", None) as b:
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
        places = Parking(asyncio.get_running_loop(), clock)
        with (
            places.place("due", clock.now() - 5) as due,
            places.place("later", clock.now() + 3_600_000) as later,
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
        places = Parking(asyncio.get_running_loop(), clock)
        with places.place("later", clock.now() + 3_600_000) as later:
            async with asyncio.timeout(PATIENCE):
                await later

    asyncio.run(main())


def test_cancelled_all_at_once() -> None:
    """All that is parked can be cancelled; no place is left when those who waited are gone."""

    async def main() -> None:
        places = Parking(asyncio.get_running_loop(), FakeClock())

        async def wait(op_id: str) -> None:
            with places.place(op_id, None) as future:
                await future

        tasks = [asyncio.ensure_future(wait(op_id)) for op_id in "ab"]
        asyncio.get_running_loop().call_soon(places.cancel_all)
        await asyncio.wait(tasks)
        assert [True, True] == [task.cancelled() for task in tasks]
        assert 0 == len(places)

    asyncio.run(main())
