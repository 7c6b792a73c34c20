"""What the log says of handlers that await something of their own while they wait for steps."""

from __future__ import annotations

import asyncio

import pytest

from durable_core.api.step import step
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.runners import run_tasks
from durable_core.runners.settings import Settings
from support.harness import FakeClock, lab


def body_of(response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    return response.body


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if "also awaited" in each.getMessage()]


def test_few_steps_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """The line does not grow with the number of steps."""
    entered: list[int] = []

    async def handler(request: Request) -> str:
        entered.append(1)
        naps = [asyncio.create_task(step.sleep(f"nap{number}", "1h")) for number in range(7)]
        if len(entered) == 1:
            await asyncio.Event().wait()
        await asyncio.gather(*naps)
        return "end"

    clock = FakeClock()
    with lab(clock=clock, settings=Settings(max_own_wait=0.1)) as process:
        assert b'"end"' == body_of(process.sleep_through(process.endpoint(handler), clock))
    [warning] = warnings(caplog)
    named = "'nap0', 'nap1', 'nap2', 'nap3', 'nap4' and 2 more; for 0.1 seconds"
    assert named in warning


def test_a_slow_loop_is_no_wait_of_ones_own(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tasks wait for steps, but the loop takes too long for the ticks after which that counts.

    The handler is suspended all the same, without a warning.
    """
    monkeypatch.setattr(run_tasks, "_TICKS_TO_SETTLE", 1_000_000_000)

    async def handler(request: Request) -> str:
        await asyncio.gather(step.sleep("nap1", "1h"), step.sleep("nap2", "1h"))
        return "end"

    clock = FakeClock()
    with lab(clock=clock, settings=Settings(max_own_wait=0.1)) as process:
        assert b'"end"' == body_of(process.sleep_through(process.endpoint(handler), clock))
    assert [] == warnings(caplog)
