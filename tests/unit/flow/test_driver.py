"""The two drivers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import nullcontext
from typing import Any

import pytest

from durable_core.errors import Suspended
from durable_core.flow.driver import (
    ask_again,
    await_values,
    drive_async,
    drive_sync,
    drive_values,
)
from durable_core.flow.effects import Effect, Flow, Park, Submit, park
from durable_core.ports import Heartbeat

SUBMIT = Submit(Heartbeat(id="p", expires_at=1))


def adds() -> Flow[int]:
    first: int = yield SUBMIT
    yield from park("x", None)
    second: int = yield SUBMIT
    return first + second


def guarded(caught: list[BaseException]) -> Flow[str]:
    try:
        yield from park("x", None)
    except BaseException as error:
        caught.append(error)
    yield SUBMIT
    return "end"


def sync_performer(ask: Effect) -> Any:
    return 4 if isinstance(ask, Submit) else None


def async_performer(ask: Effect) -> Any:
    return asyncio.sleep(0) if isinstance(ask, Park) else 4


def test_both_drive_a_flow_to_its_end() -> None:
    """Each Ask is answered, and the flow's value is returned."""
    assert 8 == drive_sync(adds(), sync_performer, nullcontext())
    assert 8 == asyncio.run(drive_async(adds(), async_performer))


@pytest.mark.parametrize("error", [ValueError("x"), Suspended(), KeyboardInterrupt()])
def test_errors_are_raised_in_the_flow(error: BaseException) -> None:
    """What the performer raises comes out of the Ask; the flow may go on after it."""

    def fails(ask: Effect) -> Any:
        if isinstance(ask, Park):
            raise error
        return 4

    async def fails_later() -> None:
        raise error

    def fails_async(ask: Effect) -> Any:
        return fails_later() if isinstance(ask, Park) else 4

    caught: list[BaseException] = []
    assert "end" == drive_sync(guarded(caught), fails, nullcontext())
    assert "end" == asyncio.run(drive_async(guarded(caught), fails))
    assert [error] * 2 == caught
    if isinstance(error, Exception):
        assert "end" == asyncio.run(drive_async(guarded(caught), fails_async))
        assert error is caught[-1]


def test_error_that_the_flow_lets_pass() -> None:
    """It leaves the driver."""

    def fails(ask: Effect) -> Any:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        drive_sync(adds(), fails, nullcontext())
    with pytest.raises(ValueError, match="x"):
        asyncio.run(drive_async(adds(), fails))


def test_a_flow_that_waits_for_an_answer_can_ask_again() -> None:
    """Another driver goes on with it; answers and errors reach the flow as before."""
    flow = adds()
    assert 8 == drive_sync(ask_again(flow, next(flow)), sync_performer, nullcontext())

    def fails(ask: Effect) -> Any:
        if isinstance(ask, Park):
            raise error
        return 4

    error, caught = ValueError("x"), list[BaseException]()
    flow_of_text = guarded(caught)
    asked = ask_again(flow_of_text, next(flow_of_text))
    assert "end" == drive_sync(asked, fails, nullcontext())
    assert [error] == caught


def test_lock_is_held_until_the_flow_waits() -> None:
    """No other flow comes between a decision and what is done at once about it."""
    lock = threading.Lock()
    held: list[bool] = []

    def flow() -> Flow[None]:
        held.append(lock.locked())
        yield SUBMIT
        yield from park("x", None)
        held.append(lock.locked())

    def perform(ask: Effect) -> Any:
        held.append(lock.locked())

    drive_sync(flow(), perform, lock)
    assert [True, True, False, True] == held
    assert not lock.locked()


def test_cancelled_task() -> None:
    """Cancelling the task raises in the flow, which may clean up."""
    cleaned: list[bool] = []

    def flow() -> Flow[None]:
        try:
            yield from park("x", None)
        finally:
            yield SUBMIT
            cleaned.append(True)

    async def main() -> None:
        forever = asyncio.Event()
        task = asyncio.ensure_future(
            drive_async(flow(), lambda ask: forever.wait() if isinstance(ask, Park) else 4)
        )
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [True] == cleaned


def doubled() -> Generator[Any, Any, int]:
    try:
        yield refused()
    except ValueError:
        value: int = yield 21
        return 2 * value
    return 0


def refused() -> int:
    raise ValueError


async def later(value: int) -> int:
    return value


def doubled_later() -> Generator[Any, Any, int]:
    try:
        yield refused_later()
    except ValueError:
        value: int = yield later(21)
        return 2 * value
    return 0


async def refused_later() -> int:
    raise ValueError


def test_a_flow_may_perform_its_effects_itself() -> None:
    """Each value is given back; a coroutine is awaited; what it raises is raised there."""
    assert 42 == drive_values(doubled())
    assert 42 == asyncio.run(await_values(doubled_later()))
