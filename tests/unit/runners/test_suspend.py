"""Parked steps: what wakes them."""

from __future__ import annotations

import asyncio

import pytest

from durable_core.runners import suspend as parking
from durable_core.runners.suspend import ParkedSteps
from support.harness import FakeClock

PATIENCE = 10.0


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
    """However late a step is due, it is woken soon after the clock has been set past that time;
    until then it is not disturbed."""
    monkeypatch.setattr(parking, "_LONGEST_TIMER", 0.001)

    async def main() -> None:
        clock = FakeClock()
        places = ParkedSteps(asyncio.get_running_loop(), clock)
        with places.park("later", clock.now() + 3_600_000) as later:
            await asyncio.sleep(0.02)
            assert not later.done()
            clock.advance(3600)
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
