"""How many clients may read streams at a time, for how long, and who gives way."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from durable_core.api.adapter import HTTPHandler
from durable_core.api.step import sync_step
from durable_core.api.stream import sync_stream
from durable_core.flow.env import Limits
from durable_core.http.request import Request
from support.harness import FakeClock, Lab, lab
from support.streams import Reading, asks_stream, read, second_request


def push(text: object, result: object = 1) -> object:
    sync_stream.push(text)
    return result


def sleepy(request: Request) -> object:
    sync_step.run("a", push, "sync-data")
    sync_step.sleep("nap", 60)
    sync_step.run("b", push, "async-data")
    return "done"


def test_many_readers_and_one_that_never_reads() -> None:
    """Every reader gets all; one that does not read costs neither the run nor the others."""
    go_on = threading.Event()

    def handler(request: Request) -> object:
        sync_step.run("a", push, "x" * 1000)
        sync_step.sleep("nap", 1)
        assert go_on.wait(10)
        return sync_step.run("b", much)

    def much() -> int:
        for number in range(2000):
            sync_stream.push([number, "y" * 1000])
        return 1

    clock = FakeClock()
    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        first = Reading(endpoint.handle(asks_stream()))
        list(first)
        lazy = Reading(endpoint.handle(second_request(first)))
        eager = Reading(endpoint.handle(second_request(first)))
        lazy.take(1)
        clock.advance(2)
        process.poke()
        go_on.set()
        told = list(eager)
        held = list(lazy)
    assert [2000, 1, 1] == [
        sum(event.startswith("b: ") for event in told),
        told.count("commit b"),
        told.count("200: 1"),
    ]
    assert held == told[1:]


def test_too_many_clients() -> None:
    """A stream counts as a client that waits; one too many is told to come later."""
    with lab(clock=FakeClock(), limits=Limits(waiting_clients=1)) as process:
        endpoint = process.endpoint(sleepy)
        first = Reading(endpoint.handle(asks_stream()))
        list(first)
        held = Reading(endpoint.handle(second_request(first)))
        refused = endpoint.handle(second_request(first))
        held.close()
        after = endpoint.handle(second_request(first))
        Reading(after).close()
    assert (503, "5") == (refused.status, refused.headers["retry-after"])
    assert 200 == after.status


@pytest.mark.parametrize(
    ("change", "status"),
    [(("durable-token=", "durable-token=x"), 403), (("durable-run=", "durable-run=x"), 403)],
)
def test_refusals_are_plain(change: tuple[str, str], status: int) -> None:
    """What the wait URL refuses it refuses as ever."""
    with lab(clock=FakeClock()) as process:
        endpoint = process.endpoint(sleepy)
        first = Reading(endpoint.handle(asks_stream()))
        list(first)
        response = endpoint.handle(asks_stream(first.redirect.replace(*change)))
    assert status == response.status


def test_an_id_that_is_none() -> None:
    """Last-Event-ID must be the id of an event."""
    with lab(clock=FakeClock()) as process:
        endpoint = process.endpoint(sleepy)
        first = Reading(endpoint.handle(asks_stream()))
        list(first)
        response = endpoint.handle(second_request(first, last_event_id="7"))
    assert 400 == response.status


def waiting(process: Lab, endpoint: HTTPHandler) -> str:
    """Begin a run that waits for long; return where its stream goes on."""
    first = Reading(endpoint.handle(asks_stream()))
    list(first)
    return first.redirect


def test_one_run_does_not_take_all() -> None:
    """Who has one token can hold so many clients; those of other runs are let in."""
    with lab(clock=FakeClock(), limits=Limits(run_clients=2)) as process:
        endpoint = process.endpoint(sleepy)
        one, other = waiting(process, endpoint), waiting(process, endpoint)
        held = [endpoint.handle(asks_stream(one)) for _ in range(2)]
        refused = endpoint.handle(asks_stream(one))
        let_in = endpoint.handle(asks_stream(other))
        for response in (*held, let_in):
            Reading(response).close()
        again = endpoint.handle(asks_stream(one))
        Reading(again).close()

    assert [200, 200, 503, 200, 200] == [
        response.status for response in (*held, refused, let_in, again)
    ]


def test_streams_leave_room_for_others() -> None:
    """A quarter of all places is for clients that wait for the result alone."""
    with lab(clock=FakeClock(), limits=Limits(waiting_clients=4)) as process:
        endpoint = process.endpoint(sleepy)
        url = waiting(process, endpoint)
        held = [endpoint.handle(asks_stream(url)) for _ in range(3)]
        refused = endpoint.handle(asks_stream(url))
        other = endpoint.handle(Request(method="GET", url=f"http://test{url}"), max_wait=0.01)
        for response in held:
            Reading(response).close()

    assert (503, 303) == (refused.status, other.status)


def test_streams_do_not_hold_threads_for_long() -> None:
    """They end after the time that a client is held; where they have many threads already, once
    the client has what there is.
    """
    with lab(clock=FakeClock(), limits=Limits(thread_streams=1)) as process:
        endpoint = process.endpoint(sleepy)
        url = waiting(process, endpoint).replace("&durable-from=handoff", "")
        held = Reading(endpoint.handle(asks_stream(url), max_wait=1.0))
        began = time.monotonic()
        crowded = read(endpoint.handle(asks_stream(url), max_wait=60.0))
        took = time.monotonic() - began
        told = list(held)

    assert ["meta", "a: sync-data", "commit a"] == crowded
    assert crowded == told
    assert took < 10


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_ends_with_its_token(asynchronous: bool) -> None:
    """It has opened the run until then, and not for longer."""
    clock = FakeClock()
    with lab(clock=clock) as process:
        endpoint = process.endpoint(sleepy)
        url = waiting(process, endpoint).replace("&durable-from=handoff", "")
        clock.advance(7 * 24 * 3600 - 0.2)
        if asynchronous:

            async def exchange() -> list[str]:
                response = await endpoint.handle_async(asks_stream(url))
                return [event async for event in Reading(response)]

            told = asyncio.run(exchange())
        else:
            told = read(endpoint.handle(asks_stream(url), max_wait=60.0))

    assert "commit a" == told[2]
    assert not any(event.startswith("200") for event in told[:3])
