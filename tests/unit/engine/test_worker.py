"""One process's part, seen as a whole."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

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
    assert (False, True, True) == (
        health["draining"],
        health["commits"] > 0,
        0 <= health["commit_seconds"] < 1,
    )


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


def test_clients_are_led_on_by_a_drain() -> None:
    """The one that waits asks again, the one in a run is handed off, and the runs go on."""
    entered, leave = threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        assert leave.wait(20)

    def sleeper(request: Request) -> str:
        sync_step.sleep("nap", "1h")
        return "awake"

    def worker(request: Request) -> str:
        sync_step.run("slow", slow)
        sync_step.run("quick", lambda: None)
        return "done"

    clock = FakeClock()
    with lab(clock=clock) as process, ThreadPoolExecutor(2) as clients:
        process.durable.drain()  # nothing is started, and nothing is to be done
        sleeping = process.endpoint(sleeper, function_id="sleeper")
        working = process.endpoint(worker, function_id="worker")
        asleep = sleeping.handle(request())
        waiting = clients.submit(sleeping.handle, request("/it" + asleep.headers["location"]))
        attached = clients.submit(working.handle, request())
        until(lambda: process.durable.health()["waiting_clients"] == 1)
        assert entered.wait(10)
        process.durable.drain()
        assert 303 == waiting.result(10).status
        leave.set()
        redirected = attached.result(10)
        assert 302 == redirected.status
        process.pass_nap(clock)
        answers = [process.follow(sleeping, asleep), process.follow(working, redirected)]
    assert [b'"awake"', b'"done"'] == [each.body for each in answers]
