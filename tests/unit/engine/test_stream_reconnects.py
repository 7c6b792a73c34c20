"""Clients that come back to the URL of an endpoint: they follow the run that they began."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.api.stream import sync_stream
from durable_core.http.request import Request
from support.harness import FakeClock, lab
from support.stream_handlers import TWO_STEPS, sleepy, two_steps, two_steps_async
from support.streams import Reading, asks_stream, second_request

Handler = Callable[[Request], Any]

both = pytest.mark.parametrize("handler", [two_steps, two_steps_async])


@both
def test_who_comes_back_begins_no_other_run(handler: Handler) -> None:
    """A browser asks the same URL again, with the last id: the stream of its run goes on."""
    with lab() as process:
        endpoint = process.endpoint(handler)
        first = Reading(endpoint.handle(asks_stream()))
        told = first.take(4)
        again = Reading(endpoint.handle(asks_stream(last_event_id=first.ids[-2])))
        rest = list(again)
        told += list(first)
        stopped = [
            endpoint.handle(asks_stream(last_event_id=last))
            for last in (first.ids[-1], again.ids[-1])
        ]
        runs = process.durable.runs.list()

    assert TWO_STEPS == told
    assert ["meta", *TWO_STEPS[4:]] == rest
    assert [204, 204] == [response.status for response in stopped]
    assert 1 == len(runs)


@pytest.mark.parametrize("is_noticed", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
def test_who_comes_back_before_the_run_has_a_record(is_async: bool, is_noticed: bool) -> None:
    """The first connection broke in the first step, and the server learns it later, or never."""
    go_on = threading.Event()

    def blocked() -> int:
        sync_stream.push("first")
        assert go_on.wait(10)
        sync_stream.push("second")
        return 1

    async def handler_async(request: Request) -> object:
        return await step.run("b", blocked)

    def handler(request: Request) -> object:
        return sync_step.run("b", blocked)

    with lab() as process:
        endpoint = process.endpoint(handler_async if is_async else handler)
        first = Reading(endpoint.handle(asks_stream()))
        told = first.take(2)
        again = Reading(endpoint.handle(asks_stream(last_event_id=first.ids[-1])))
        start = again.take(1)
        if is_noticed:
            first.close()
        go_on.set()
        rest = list(again)
        result = endpoint.handle(second_request(first if is_noticed else again))

    assert ["meta", "b: first"] == told
    assert ["meta"] == start
    assert ["b: second", "commit b", "200: 1"] == [each for each in rest if each != "redirect"]
    assert 200 == result.status


def test_who_comes_back_to_a_run_that_leaves_no_record() -> None:
    """The stream goes on while the run does, and ends with it."""
    go_on = threading.Event()

    def handler(request: Request) -> object:
        sync_stream.push("first")
        assert go_on.wait(10)
        sync_stream.push("second")
        return 1

    with lab() as process:
        endpoint = process.endpoint(handler)
        first = Reading(endpoint.handle(asks_stream()))
        told = first.take(2)
        again = Reading(endpoint.handle(asks_stream(last_event_id=first.ids[-1])))
        start = again.take(1)
        began = time.monotonic()
        go_on.set()
        rest = list(again)
        took = time.monotonic() - began
        told += list(first)
        late = endpoint.handle(asks_stream(last_event_id=first.ids[1]))

    assert ["meta", "-: first", "-: second", "200: 1"] == told
    assert ["meta"] == start
    assert ["-: second"] == rest
    assert took < 10
    assert 410 == late.status


@pytest.mark.parametrize(
    ("headers", "method"),
    [
        ({"last_event_id": "7"}, "GET"),
        ({"last_event_id": "0.0"}, "GET"),
        ({"last_event_id": "end"}, "GET"),
        ({"last_event_id": "0.0", "accept": "application/json"}, "POST"),
    ],
)
def test_who_comes_back_with_another_id_is_stopped(headers: dict[str, str], method: str) -> None:
    """Whatever it is the id of, and whatever else is asked for: it begins no run."""
    with lab() as process:
        endpoint = process.endpoint(two_steps)
        response = endpoint.handle(asks_stream(method=method, **headers))
        runs = process.durable.runs.list()

    assert (204, "no-store") == (response.status, response.headers["cache-control"])
    assert [] == list(runs)


def test_an_id_opens_its_own_run_only() -> None:
    """As a token does: with another run in it, it is refused, at the endpoint and elsewhere."""
    with lab(clock=FakeClock()) as process:
        endpoint = process.endpoint(sleepy)
        first, second = (Reading(endpoint.handle(asks_stream())) for _ in range(2))
        list(first)
        list(second)
        run, token, place = first.ids[-1].split("!")
        other = second.ids[-1].split("!")[0]
        forged = endpoint.handle(asks_stream(last_event_id=f"{other}!{token}!{place}"))
        elsewhere = endpoint.handle(second_request(second, last_event_id=first.ids[-1]))

    assert run != other
    assert (403, 400) == (forged.status, elsewhere.status)
