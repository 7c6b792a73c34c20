"""An application, its clock and its clients in the hands of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from durable_core import Event, Request, Response, step
from durable_core.sync import step as sync_step
from durable_core.testing.harnesses import harness
from support.harness_sample import plain_app, sample

FACES = pytest.mark.parametrize("face", ["def", "async def"])
FINAL = {"steps": ["RESERVE", "CHARGE"], "approved": True}


@FACES
def test_a_run_from_its_start_to_its_end(face: str) -> None:
    """A sleep ends by advancing the clock, a wait by an event; the answer is the handler's own."""
    app = sample(face)
    with harness(app.durable) as t:
        reply = t.client(app.order).get("/order?id=7")
        assert (302, True) == (reply.status, reply.is_handoff)
        t.advance("1 day")
        t.send("order/approved", {"id": "8"})
        assert ["suspended"] == [run.status for run in t.runs()]
        t.send("order/approved", {"id": "7"})

        result = reply.result()

    assert (201, "1", FINAL) == (result.status, result.headers["x-order"], result.json())
    assert ["reserve", "charge"] == app.calls


@FACES
def test_the_same_on_an_event_loop(face: str) -> None:
    """In an asynchronous test the same calls are awaited."""
    app = sample(face)

    async def main() -> object:
        async with harness(app.durable) as t:
            reply = await t.client(app.order).get("/order?id=7")
            await t.advance("1 day")
            await t.send("order/approved", {"id": "7"})
            assert [{"id": "7"}] == [event.data for event in t.sent_events("order/done")]
            return reply.result().json()

    assert FINAL == asyncio.run(main())
    assert ["reserve", "charge"] == app.calls


def test_async_handlers_run_on_the_loop_of_the_test() -> None:
    """So they can use what belongs to it, in the first execution and in replays."""
    durable = plain_app()
    loops = set()

    @durable.endpoint(function_id="it")
    async def endpoint(request: Request) -> None:
        loops.add(asyncio.get_running_loop())
        await step.sleep("nap", "1h")
        loops.add(asyncio.get_running_loop())

    async def main() -> bool:
        async with harness(durable) as t:
            await t.client(endpoint).get("/", follow=True)
            return loops == {asyncio.get_running_loop()}

    assert asyncio.run(main())


def test_clients_at_the_same_time() -> None:
    """Several requests of an asynchronous test may be under way together."""
    app = sample("async def")

    async def main() -> list[object]:
        async with harness(app.durable) as t:
            client = t.client(app.order)
            replies = await asyncio.gather(*(client.get(f"/order?id={n}") for n in range(5)))
            await t.advance("2 days")
            return [reply.result().json() for reply in replies]

    assert [{**FINAL, "approved": False}] * 5 == asyncio.run(main())


@FACES
def test_time_passes_in_order(face: str) -> None:
    """What is due within one advance happens each at its own time, the earliest first."""
    durable = plain_app()
    seen: list[tuple[str, int]] = []

    def nap(request: Request) -> None:
        sync_step.sleep("nap", request.query["for"])
        seen.append((request.query["for"], (clock.now() - start) // 1000))
        sync_step.sleep("again", "30s")
        seen.append((request.query["for"], (clock.now() - start) // 1000))

    async def nap_async(request: Request) -> None:
        await step.sleep("nap", request.query["for"])
        seen.append((request.query["for"], (clock.now() - start) // 1000))
        await step.sleep("again", "30s")
        seen.append((request.query["for"], (clock.now() - start) // 1000))

    endpoint = durable.endpoint(function_id="nap")(nap if face == "def" else nap_async)
    with harness(durable) as t:
        clock, start = t.clock, t.clock.now()
        for duration in ("40s", "20s", "60s"):
            t.client(endpoint).get(f"/?for={duration}")
        t.advance("65s")
        assert start + 65_000 == t.clock.now()

    # replays pass the first line again
    assert [("20s", 20), ("40s", 40)] == seen[:2]
    assert [("20s", 50), ("60s", 60)] == [seen[3], seen[4]]
    assert 5 == len(seen)


@FACES
def test_many_retries_take_no_time(face: str) -> None:
    """Back-offs have no jitter, and pass with the clock."""
    app = sample(face)
    with harness(app.durable) as t:
        t.fail_step("reserve", times=3)
        reply = t.client(app.order).get("/order?id=7")
        t.advance("6.999s")
        assert (3, False) == (t.steps(reply)[0].attempts, t.steps(reply)[0].done)
        t.advance("0.001s")
        assert (4, True) == (t.steps(reply)[0].attempts, t.steps(reply)[0].done)


@FACES
def test_a_planned_error_of_any_class_is_tried_again(face: str) -> None:
    """It stands for one of the step's own, and is not taken for a wrong use of the library."""
    app = sample(face)
    with harness(app.durable) as t:
        t.fail_step("reserve", times=1, error=TypeError("x"))
        reply = t.client(app.order).get("/order?id=7")
        t.advance("1s")
        assert (2, True) == (t.steps(reply)[0].attempts, t.steps(reply)[0].done)


def test_runs_that_wake_each_other_are_done_when_the_call_returns() -> None:
    """What an event of a step brings about happens at once, too."""
    durable = plain_app()

    @durable.endpoint(function_id="waiter")
    def waiter(request: Request) -> bool:
        return sync_step.wait_for_event("e", event="go", timeout="1h") is not None

    @durable.endpoint(function_id="sender")
    async def sender(request: Request) -> None:
        await step.send_event("send", Event("go"))

    with harness(durable) as t:
        waiting = t.client(waiter).get("/")
        assert 200 == t.client(sender).get("/").status
        assert waiting.result().json() is True


@FACES
def test_streamed_bodies_are_read(face: str) -> None:
    """The client gets the whole body, and the run is complete."""
    durable = plain_app()

    def chunks() -> Iterator[bytes]:
        yield from (b"a", b"b")

    async def chunks_async() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    @durable.endpoint(function_id="sync")
    def streams(request: Request) -> Response:
        sync_step.run("one", int)
        return Response(body=chunks())

    @durable.endpoint(function_id="async")
    async def streams_async(request: Request) -> Response:
        await step.run("one", int)
        return Response(body=chunks_async())

    endpoint = streams if face == "def" else streams_async
    with harness(durable) as t:
        reply = t.client(endpoint).get("/")
        assert ("ab", "completed") == (reply.text, t.run(reply).status)

    async def main() -> str:
        async with harness(durable) as t:
            return (await t.client(endpoint).get("/")).text

    assert "ab" == asyncio.run(main())
