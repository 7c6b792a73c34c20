"""One process's part, seen as a whole."""

from __future__ import annotations

import threading
import time

from durable_core.api.step import step, sync_step
from durable_core.http.request import Request
from support.harness import FakeClock, lab, request, until


def test_health() -> None:
    """Health says what is live."""
    with lab() as process:
        entered, leave = threading.Event(), threading.Event()

        def handler(request: Request) -> None:
            entered.set()
            assert leave.wait(10)

        endpoint = process.endpoint(handler)
        client = threading.Thread(target=endpoint.handle, args=(request(),))
        client.start()
        assert entered.wait(10)
        health = process.durable.health()
        leave.set()
        client.join(10)
    assert (1, True, ["it"]) == (health["live_runs"], health["scheduler"], health["endpoints"])
    assert {"def": 0, "async def": 0} == health["replaying"]


def test_runs_asleep_hold_nothing() -> None:
    """A run that sleeps has no live handler, no task and no thread of its own."""

    async def handler(request: Request) -> None:
        await step.sleep("nap", "1h")

    before = threading.active_count()
    with lab() as process:
        endpoint = process.endpoint(handler)
        for _ in range(20):
            assert 302 == endpoint.handle(request()).status
        until(lambda: process.durable.health()["live_runs"] == 0)
        assert threading.active_count() - before < 10


def test_a_client_that_comes_during_a_stop_is_not_held() -> None:
    """It is sent to ask again at once, when the next process may be there."""
    entered, leave = threading.Event(), threading.Event()

    def slow() -> None:
        if entered.is_set():
            raise RuntimeError("called again")
        entered.set()
        assert leave.wait(20)

    def handler(request: Request) -> None:
        sync_step.sleep("nap", "1h")
        sync_step.run("slow", slow)

    clock = FakeClock()
    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        location = endpoint.handle(request()).headers["location"]
        process.pass_nap(clock)
        assert entered.wait(10)
        node = process.engine.worker
        assert node is not None
        stop = threading.Thread(target=process.durable.stop, args=(20.0,))
        stop.start()
        until(lambda: node.stopping)
        began = time.monotonic()
        answer = endpoint.handle(request("/it" + location), max_wait=15.0)
        took = time.monotonic() - began
        leave.set()
        stop.join(10)
    assert (303, True) == (answer.status, took < 10.0)
