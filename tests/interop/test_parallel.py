"""Steps side by side after a handoff: the server calls for each, and hands them over unordered."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from durable_core import Event, NonRetriableError, Request, StepError, step
from support.inngest_app import serving
from support.inngest_handlers import CALLS, called
from support.inngest_server import InngestServer

pytestmark = pytest.mark.slow


def fails(name: str, times: int) -> str:
    CALLS[name] += 1
    if CALLS[name] <= times:
        raise ValueError(f"{name} failure #{CALLS[name]}")
    return name


async def first_of(**branches: Any) -> str:
    """Return the name of what finishes first; cancel the others."""
    tasks = [asyncio.create_task(each, name=name) for name, each in branches.items()]
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    return min(task.get_name() for task in done)


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_a_race_is_won_by_the_first(server: InngestServer, names: tuple[str, str]) -> None:
    """Whatever the ids hash to, the run goes on with the first, at once, and stays with it."""
    quick, slow = names

    async def handler(request: Request) -> list[str]:
        winner = await first_of(
            quick=step.sleep(quick, "20ms"),
            slow=step.wait_for_event(slow, event="never", timeout="30s"),
        )
        await step.run("after", called, "after")
        await step.sleep("nap", "20ms")
        return [winner, await step.run("end", called, "end")]

    began = time.monotonic()
    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, ["quick", "end"]) == (got.status, got.json)
    assert time.monotonic() - began < 20
    assert {"after": 1, "end": 1} == CALLS


def test_a_race_of_steps(server: InngestServer) -> None:
    """The slow step runs on in its own call; nobody waits for it."""
    end = threading.Event()

    def slow() -> str:
        CALLS["slow"] += 1
        end.wait(20)
        return "slow"

    async def handler(request: Request) -> str:
        await step.sleep("nap", "10ms")
        winner = await first_of(slow=step.run("slow", slow), quick=step.run("q", called, "q"))
        return winner + await step.run("after", called, "after")

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")
        end.set()

    assert (200, "quickafter") == (got.status, got.json)
    assert {"slow": 1, "q": 1, "after": 1} == CALLS


def test_replay_keeps_the_winner(server: InngestServer) -> None:
    """The loser finishes later: a replay that has both outcomes still sees who was first."""
    orders: list[list[str]] = []

    async def handler(request: Request) -> list[str]:
        seen: list[str] = []

        async def nap(name: str, length: str) -> None:
            await step.sleep(name, length)
            seen.append(name)

        await asyncio.gather(nap("c", "60ms"), nap("a", "120ms"), nap("b", "10ms"))
        orders.append(seen)
        await step.run("after", called, "after")
        await step.sleep("nap", "10ms")
        return seen

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, ["b", "c", "a"]) == (got.status, got.json)
    assert [["b", "c", "a"]] * len(orders) == orders
    assert 1 == CALLS["after"]


def test_the_order_while_attached_is_kept(server: InngestServer) -> None:
    """Steps that finished side by side before the handoff are replayed as they finished."""
    orders: list[list[str]] = []

    async def handler(request: Request) -> list[str]:
        seen: list[str] = []

        async def run(name: str, seconds: float) -> None:
            await step.run(name, asyncio.sleep, seconds)
            seen.append(name)

        await asyncio.gather(run("a", 0.2), run("b", 0.0), run("c", 0.1))
        orders.append(seen)
        await step.sleep("nap", "10ms")
        return seen

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, ["b", "c", "a"]) == (got.status, got.json)
    assert [["b", "c", "a"]] * 2 == orders


def test_branches_do_not_wait_for_each_other(server: InngestServer) -> None:
    """A branch that ends the wait of another one by an event gets to send it."""

    async def handler(request: Request) -> list[Any]:
        async def sends() -> str:
            await step.sleep("nap", "10ms")
            await step.send_event("send", Event("done", {"x": 1}))
            return "sent"

        event, sent = await asyncio.gather(
            step.wait_for_event("wait", event="done", timeout="5s"), sends()
        )
        return [None if event is None else dict(event.data), sent]

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, [{"x": 1}, "sent"]) == (got.status, got.json)


def test_many_side_by_side(server: InngestServer) -> None:
    """Each runs once, and what comes after them, too, though the server calls after each."""

    async def handler(request: Request) -> list[str]:
        await step.sleep("nap", "10ms")
        several = [step.run(f"s{n}", called, f"s{n}") for n in range(12)]
        results = await asyncio.gather(*several)
        for name in ("join", "after"):
            results.append(await step.run(name, called, name))
        return results

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    names = [*(f"s{n}" for n in range(12)), "join", "after"]
    assert (200, names) == (got.status, got.json)
    assert dict.fromkeys(names, 1) == CALLS


@pytest.mark.parametrize("naps", [False, True])
@pytest.mark.parametrize("retries", [1, 3])
def test_attempts_of_several(server: InngestServer, naps: bool, retries: int) -> None:
    """Each of them has the attempts that it may have, counted from the first, attached or not."""

    async def handler(request: Request) -> list[str]:
        if naps:
            await step.sleep("nap", "10ms")
        several = (step.run(name, fails, name, 99) for name in ("a", "b"))
        results = await asyncio.gather(
            *several, step.run("ok", called, "ok"), return_exceptions=True
        )
        return [each.message if isinstance(each, StepError) else str(each) for each in results]

    with serving(server, {"GET /a": handler}, options={"retries": retries}) as app:
        got = app.follow("GET", "/a")

    last = retries + 1
    assert (200, [f"a failure #{last}", f"b failure #{last}", "ok"]) == (got.status, got.json)
    assert {"a": last, "b": last, "ok": 1} == CALLS


def test_attempts_after_several(server: InngestServer) -> None:
    """After several in one checkpoint the server asks for planned steps: no more attempts."""

    async def handler(request: Request) -> str:
        await asyncio.gather(*(step.run(name, called, name) for name in ("a", "b")))
        try:
            await step.run("bad", fails, "bad", 99)
        except StepError as error:
            return error.message
        return ""

    with serving(server, {"GET /a": handler}, options={"retries": 3}) as app:
        got = app.follow("GET", "/a")

    assert (200, "bad failure #4") == (got.status, got.json)
    assert {"a": 1, "b": 1, "bad": 4} == CALLS


@pytest.mark.parametrize("final", [False, True])
def test_a_handler_that_raises_in_a_call_for_one_step(server: InngestServer, final: bool) -> None:
    """The server calls for that step again; after the last attempt the run has failed."""

    async def handler(request: Request) -> list[str]:
        await step.sleep("nap", "10ms")
        CALLS["handler"] += 1
        if CALLS["handler"] == 2 or (final and CALLS["handler"] > 2):
            raise ValueError("not now")
        return await asyncio.gather(*(step.run(name, called, name) for name in ("a", "b")))

    with serving(server, {"GET /a": handler}, options={"retries": 2}) as app:
        got = app.follow("GET", "/a")

    if final:
        assert (500, "ValueError: not now") == (got.status, got.json["detail"])
        assert "Failed" == server.run.status
    else:
        assert (200, ["a", "b"]) == (got.status, got.json)
        assert (1, 1) == (CALLS["a"], CALLS["b"])


def test_a_planned_step_that_is_not_asked_for_again(server: InngestServer) -> None:
    """The run fails when its attempts are used up, and says why: nothing waits for ever."""

    async def handler(request: Request) -> list[str]:
        await step.sleep("nap", "10ms")
        CALLS["handler"] += 1
        names = ("a", "b") if CALLS["handler"] == 1 else ("a",)
        results = await asyncio.gather(*(step.run(name, called, name) for name in names))
        await step.wait_for_event("w", event="never", timeout="1h")
        return results

    with serving(server, {"GET /a": handler}, options={"retries": 1}) as app:
        got = app.follow("GET", "/a")

    assert (500, "StepNotFound") == (got.status, got.json["error"]["name"])
    assert "Failed" == server.run.status


def test_one_that_fails_for_good(server: InngestServer) -> None:
    """The handler is told at once, although another one still waits."""

    async def handler(request: Request) -> str:
        await step.sleep("nap", "10ms")
        try:
            await asyncio.gather(
                step.run("bad", refuses), step.wait_for_event("w", event="never", timeout="1h")
            )
        except StepError as error:
            return f"{error.message} {await step.run('after', called, 'after')}"
        return ""

    def refuses() -> None:
        CALLS["bad"] += 1
        raise NonRetriableError("never")

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, "never after") == (got.status, got.json)
    assert {"bad": 1, "after": 1} == CALLS


def test_a_busy_event_loop(server: InngestServer) -> None:
    """A handler whose steps take their turns slowly is not taken for idle: all are reported."""

    async def hogs() -> None:
        while True:
            time.sleep(0.002)
            await asyncio.sleep(0)

    async def handler(request: Request) -> str:
        await step.sleep("nap", "10ms")
        hogging = asyncio.create_task(hogs())
        try:
            return await first_of(
                quick=step.run("q", called, "q"),
                slow=step.wait_for_event("w", event="never", timeout="30s"),
            )
        finally:
            hogging.cancel()

    began = time.monotonic()
    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, "quick") == (got.status, got.json)
    assert time.monotonic() - began < 20
