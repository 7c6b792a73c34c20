"""What both harnesses do: they run everything that is due."""

from __future__ import annotations

import asyncio
import threading

import pytest

from durable_core import Request
from durable_core import step as async_step
from durable_core.errors import NotFinishedError
from durable_core.sync import step
from durable_core.testing.harnesses import harness
from support.harness_sample import plain_app, sample


def test_due_at_once_is_done_at_once() -> None:
    """A run that is taken over goes on before the call returns, as far as it can."""
    app = sample("def")
    with harness(app.durable) as t:
        t.crash_after("reserve")
        reply = t.client(app.order).get("/order?id=7")

        assert [True, True, False] == [step.done for step in t.steps(reply)]


def test_advance_refuses_what_is_no_duration() -> None:
    """As ``step.sleep`` does."""
    with harness(plain_app()) as t:
        start = t.clock.now()
        with pytest.raises(ValueError, match="duration cannot be"):
            t.advance("soon")
        with pytest.raises(ValueError, match="duration cannot be"):
            t.advance(-1)
        assert start == t.clock.now()


def test_a_handler_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that waits for something outside its steps is named, in either kind of test."""
    monkeypatch.setattr("durable_core.testing.simulation.PATIENCE", 0.05)
    durable, ended = plain_app(), threading.Event()

    @durable.endpoint(function_id="hangs")
    def hangs(request: Request) -> None:
        step.sleep("nap", "1s")
        ended.wait(10)

    async def main() -> None:
        async with harness(durable) as t:
            await t.client(hangs).get("/hang")
            with pytest.raises(NotFinishedError, match="hangs did not come to an end"):
                await t.advance("1s")
            ended.set()

    with harness(durable) as t:
        t.client(hangs).get("/hang")
        with pytest.raises(NotFinishedError, match="hangs did not come to an end"):
            t.advance("1s")
        ended.set()
    ended.clear()
    asyncio.run(main())


def test_a_sleep_that_is_short_by_the_real_clock() -> None:
    """A parked handler is put away although its sleep would soon be over by the real clock."""
    durable = plain_app()

    @durable.endpoint(function_id="short")
    async def short(request: Request) -> str:
        await async_step.sleep("nap", "1ms")
        return "up"

    with harness(durable) as t:
        reply = t.client(short).get("/")
        with pytest.raises(NotFinishedError, match=r"another 0\.001 s"):
            reply.result()
        t.advance("1ms")
        assert "up" == reply.result().json()
