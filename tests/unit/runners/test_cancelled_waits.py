"""Which cancellations of a parked step are refused: time-outs are, decisions are not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import pytest

from durable_core.api.step import step
from durable_core.errors import WaitInterruptedError
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.runners.settings import Settings
from support.harness import (
    FakeClock,
    Ledger,
    WatchedStore,
    lab,
)

Branch = Callable[[], Coroutine[Any, Any, None]]


def body_of(response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    return response.body


# Time-outs around parked steps


async def timeout(branch: Branch, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await branch()


async def wait_for(branch: Branch, seconds: float) -> None:
    await asyncio.wait_for(branch(), seconds)


async def wait_for_gather(branch: Branch, seconds: float) -> None:
    await asyncio.wait_for(asyncio.gather(branch()), seconds)


async def timeout_around_a_group(branch: Branch, seconds: float) -> None:
    async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
        group.create_task(branch())


async def timeout_in_the_body_of_a_group(branch: Branch, seconds: float) -> None:
    async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
        group.create_task(branch())
        await asyncio.Event().wait()


async def in_an_anyio_group(branch: Branch) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(branch)


async def timeout_around_nested_groups(branch: Branch, seconds: float) -> None:
    async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
        group.create_task(in_an_anyio_group(branch))


async def fail_after(branch: Branch, seconds: float) -> None:
    with anyio.fail_after(seconds):
        await branch()


async def move_on_after(branch: Branch, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await asyncio.gather(branch())


async def fail_after_around_a_group(branch: Branch, seconds: float) -> None:
    with anyio.fail_after(seconds):
        async with anyio.create_task_group() as group:
            group.start_soon(branch)


async def timeout_around_an_anyio_group(branch: Branch, seconds: float) -> None:
    async with asyncio.timeout(seconds), anyio.create_task_group() as group:
        group.start_soon(branch)
        await anyio.sleep_forever()


TIME_OUTS = [
    timeout,
    wait_for,
    wait_for_gather,
    timeout_around_a_group,
    timeout_in_the_body_of_a_group,
    timeout_around_nested_groups,
    fail_after,
    move_on_after,
    fail_after_around_a_group,
    timeout_around_an_anyio_group,
]


@pytest.mark.parametrize("seconds", [0.02, 0.3])
@pytest.mark.parametrize("commit_takes", [0.0, 0.1])
@pytest.mark.parametrize("time_out", TIME_OUTS)
def test_time_out_is_refused(
    time_out: Callable[[Branch, float], Awaitable[None]],
    commit_takes: float,
    seconds: float,
) -> None:
    """A time-out that ends around a parked step fails the run, whenever it ends, whatever the
    handler makes of the error."""
    store, ledger, seen = WatchedStore(), Ledger(), []
    store.seconds = commit_takes

    async def held() -> None:
        try:
            await step.sleep("held", "1h")
        except BaseException as error:
            seen.append(type(error))
            raise

    async def handler(request: Request) -> str:
        with suppress(Exception):
            await time_out(held, seconds)
        await step.run("after", ledger.did, "after", 1)
        return "end"

    with lab(store) as process:
        response = process.call(process.endpoint(handler))
    assert [WaitInterruptedError] == seen
    assert [] == ledger.calls
    assert 500 == response.status
    assert b"WaitInterruptedError: a time-out ended around step 'held'" in body_of(response)
    assert b"use the step's own timeout=" in body_of(response)


@pytest.mark.parametrize("time_out", TIME_OUTS)
def test_time_out_that_does_not_end(time_out: Callable[[Branch, float], Awaitable[None]]) -> None:
    """A time-out around a sleep that is shorter changes nothing."""

    async def short() -> None:
        await step.sleep("short", "50ms")

    async def handler(request: Request) -> str:
        with suppress(asyncio.CancelledError):
            if time_out not in (timeout_in_the_body_of_a_group, timeout_around_an_anyio_group):
                await time_out(short, 20.0)
        return "end"

    with lab() as process:
        assert b'"end"' == body_of(process.call(process.endpoint(handler)))


@pytest.mark.parametrize("time_out", TIME_OUTS)
def test_long_time_out_is_refused(
    time_out: Callable[[Branch, float], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """A time-out that will end before the step, and cannot be kept until then, fails the run when
    the run would be suspended."""
    seen: list[type[BaseException]] = []

    async def held() -> None:
        try:
            await step.sleep("held", "3h")
        except BaseException as error:
            seen.append(type(error))
            raise

    async def handler(request: Request) -> str:
        with suppress(Exception):
            await time_out(held, 7200)
        return "end"

    with lab(settings=Settings(max_own_wait=0.1)) as process:
        response = process.call(process.endpoint(handler))
    assert [WaitInterruptedError] == seen
    assert 500 == response.status
    assert b"a time-out around step 'held' will end before the step does" in body_of(response)
    assert b"use the step's own timeout=" in body_of(response)
    assert [] == [each for each in caplog.records if "awaited" in each.getMessage()]


def test_no_time_out_is_no_long_one(caplog: pytest.LogCaptureFixture) -> None:
    """``wait_for`` may have no time-out; what else the handler awaits is warned of."""
    entered: list[int] = []

    async def handler(request: Request) -> str:
        entered.append(1)
        sleeper = asyncio.create_task(asyncio.wait_for(step.sleep("nap", "1h"), None))
        if len(entered) == 1:
            await asyncio.Event().wait()
        await sleeper
        return "end"

    clock = FakeClock()
    with lab(clock=clock, settings=Settings(max_own_wait=0.1)) as process:
        assert b'"end"' == body_of(process.sleep_through(process.endpoint(handler), clock))
    assert 1 == sum("awaited" in each.getMessage() for each in caplog.records)


def test_longer_time_out_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """A time-out that will end after the step is no reason to fail: it begins anew."""

    async def handler(request: Request) -> str:
        async with asyncio.timeout(7200):
            await step.sleep("nap", "1h")
        return "end"

    clock = FakeClock()
    with lab(clock=clock, settings=Settings(max_own_wait=0.1)) as process:
        assert b'"end"' == body_of(process.sleep_through(process.endpoint(handler), clock))
    [warning] = [each.getMessage() for each in caplog.records if "awaited" in each.getMessage()]
    assert "'nap'" in warning
    assert warning.endswith("what a time-out is around, which begins anew when the run goes on")


# Cancellations that are decisions of the handler


async def fails(after: float) -> None:
    await asyncio.sleep(after)
    raise ValueError("x")


async def a_sibling_fails(branch: Branch, after: float) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fails(after))
        group.create_task(branch())


async def the_body_fails(branch: Branch, after: float) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(branch())
        await fails(after)


async def a_nested_group_fails(branch: Branch, after: float) -> None:
    async def inner() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails(after))

    async with asyncio.TaskGroup() as group:
        group.create_task(inner())
        group.create_task(branch())


async def by_hand(branch: Branch, after: float) -> None:
    task = asyncio.create_task(branch())
    await asyncio.sleep(after)
    task.cancel()
    await task


async def after_another(branch: Branch, after: float) -> None:
    tasks: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(asyncio.gather(branch())),
        asyncio.create_task(fails(after)),
    ]
    _, losers = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for loser in losers:
        loser.cancel()
    await asyncio.gather(*losers)


async def a_sibling_times_out(branch: Branch, after: float) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(after):
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(branch())
        group.create_task(bounded())


async def a_sibling_waits_for_too_long(branch: Branch, after: float) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(branch())
        group.create_task(_wait_for_nothing(after))


async def _wait_for_nothing(after: float) -> None:
    await asyncio.wait_for(asyncio.Event().wait(), after)


async def after_a_bounded_wait(branch: Branch, after: float) -> None:
    loser = asyncio.create_task(branch())
    await asyncio.wait_for(asyncio.sleep(after), 20)
    loser.cancel()
    await loser


async def anyio_sibling_fails(branch: Branch, after: float) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(branch)
        group.start_soon(fails, after)


async def anyio_body_fails(branch: Branch, after: float) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(branch)
        await fails(after)


async def anyio_by_hand(branch: Branch, after: float) -> None:
    with anyio.move_on_after(20) as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(branch)
            await asyncio.sleep(after)
            scope.cancel()


async def anyio_group_by_hand(branch: Branch, after: float) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(branch)
        await asyncio.sleep(after)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("after", [0.0, 0.15])
@pytest.mark.parametrize(
    "scenario",
    [
        a_sibling_fails,
        the_body_fails,
        a_nested_group_fails,
        by_hand,
        after_another,
        a_sibling_times_out,
        a_sibling_waits_for_too_long,
        after_a_bounded_wait,
        anyio_sibling_fails,
        anyio_body_fails,
        anyio_by_hand,
        anyio_group_by_hand,
    ],
)
def test_decision(scenario: Callable[[Branch, float], Awaitable[None]], after: float) -> None:
    """The handler may cancel a parked step, or let it be cancelled by what fails beside it."""
    seen: list[type] = []

    async def held() -> None:
        try:
            await step.sleep("held", "1h")
        except BaseException as error:
            seen.append(type(error))
            raise

    async def handler(request: Request) -> str:
        with suppress(asyncio.CancelledError, ExceptionGroup, TimeoutError):
            await scenario(held, after)
        return "end"

    with lab() as process:
        assert b'"end"' == body_of(process.call(process.endpoint(handler)))
    assert set(seen) <= {asyncio.CancelledError}
    assert after == 0.0 or seen
