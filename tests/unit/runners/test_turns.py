"""The order in which a replayed handler's steps are answered."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.runners.suspend import ReplayOrder


@given(st.lists(st.integers(min_value=0, max_value=9), unique=True))
def test_lowest_number_first(numbers: list[int]) -> None:
    """Those who ask in one tick go on in the order of their numbers, however they came."""
    order: list[int] = []

    async def main() -> None:
        turns = ReplayOrder(asyncio.get_running_loop())

        async def ask(number: int) -> None:
            await turns.wait_turn(number)
            order.append(number)

        await asyncio.gather(*map(ask, numbers))

    asyncio.run(main())
    assert sorted(numbers) == order


def test_later_tick_comes_later() -> None:
    """Who asks after the others were let go waits for nobody, and nobody for it."""
    order: list[int] = []

    async def main() -> None:
        turns = ReplayOrder(asyncio.get_running_loop())
        for number in (2, 1):
            await turns.wait_turn(number)
            order.append(number)

    asyncio.run(main())
    assert [2, 1] == order


def test_cancelled_one_holds_up_nobody() -> None:
    """When one of those who ask is cancelled, the others still get their turns."""

    async def main() -> None:
        turns = ReplayOrder(asyncio.get_running_loop())
        first, second = (asyncio.ensure_future(turns.wait_turn(number)) for number in (1, 2))
        asyncio.get_running_loop().call_soon(first.cancel)
        await asyncio.wait([first, second])
        assert (True, False) == (first.cancelled(), second.cancelled())

    asyncio.run(main())


@pytest.mark.parametrize("count", [2, 3, 20])
def test_the_first_is_seen_alone(count: int) -> None:
    """Code that waits for the first of several sees that one, and has time to cancel the others."""

    async def main() -> None:
        turns = ReplayOrder(asyncio.get_running_loop())

        async def step(number: int) -> int:
            await turns.wait_turn(number)
            return number

        async def within_a_task(number: int) -> int:
            [result] = await asyncio.gather(step(number))
            return result

        tasks = [asyncio.ensure_future(within_a_task(n)) for n in range(count, 0, -1)]
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for each in others:
            each.cancel()
        assert [1] == [each.result() for each in done]
        await asyncio.wait(others)
        assert all(each.cancelled() for each in others)
        assert 7 == await step(7)

    asyncio.run(main())


def test_a_turn_is_taken_only_in_the_order_of_completion() -> None:
    """The next number needs no tick. Another one waits for one, as does one that has company."""

    async def main() -> list[bool]:
        turns = ReplayOrder(asyncio.get_running_loop())
        taken = [turns.take_turn(2), turns.take_turn(1), turns.take_turn(2), turns.take_turn(4)]
        await turns.wait_turn(4)
        taken.append(turns.take_turn(5))
        waiting = asyncio.ensure_future(turns.wait_turn(7))
        await asyncio.sleep(0)
        taken.append(turns.take_turn(6))
        await waiting
        return taken

    assert [False, True, True, False, True, False] == asyncio.run(main())


def test_a_long_replay_lets_others_on_the_loop_go_on() -> None:
    """A turn in a hundred waits for a tick, however fast the handler asks."""

    async def main() -> list[int]:
        turns = ReplayOrder(asyncio.get_running_loop())
        waited = []
        for number in range(1, 303):
            if not turns.take_turn(number):
                waited.append(number)
                await turns.wait_turn(number)
        return waited

    assert [101, 202] == asyncio.run(main())
