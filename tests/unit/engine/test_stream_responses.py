"""Answering with a stream: the statements of the protocol, and what is promised besides."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from durable_core.api.adapter import HTTPHandler
from durable_core.api.step import step, sync_step
from durable_core.api.stream import stream, sync_stream
from durable_core.errors import NonRetriableError, StoreError
from durable_core.flow.env import Limits
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.ports import ReapWorkers, Unregister
from durable_core.runners.settings import Settings
from durable_core.stores.memory import MemoryStore
from support.harness import FakeClock, Lab, WatchedStore, lab, until
from support.stream_handlers import (
    TWO_STEPS,
    push,
    sleepy,
    sleepy_async,
    two_steps,
    two_steps_async,
)
from support.streams import Reading, asks_stream, kept, read, second_request

Handler = Callable[[Request], Any]

both = pytest.mark.parametrize("handler", [two_steps, two_steps_async])


@both
def test_sync_stream(handler: Handler) -> None:
    """Each chunk and commit in order, redirect_info after the first checkpoint, the response."""
    with lab() as process:
        reading = Reading(process.endpoint(handler).handle(asks_stream()))
        told = list(reading)
    assert TWO_STEPS == told
    assert "no" == reading.response.headers["x-accel-buffering"]
    assert "?1" == reading.response.headers["incremental"]


@both
def test_sync_stream_on_a_loop(handler: Handler) -> None:
    """The same where the body is iterated on an event loop."""

    async def exchange(process: Lab) -> list[str]:
        response = await process.endpoint(handler).handle_async(asks_stream())
        told = [event async for event in Reading(response)]
        await process.durable.stop_async(5.0)
        return told

    process = Lab()
    assert TWO_STEPS == asyncio.run(exchange(process))


def test_no_pushes() -> None:
    """A run that streams nothing is followed all the same."""

    def handler(request: Request) -> object:
        sync_step.run("a", int)
        sync_step.run("b", int)
        return "done"

    with lab() as process:
        told = read(process.endpoint(handler).handle(asks_stream()))
    assert ["meta", "commit a", "redirect", "commit b", '200: "done"'] == told


def test_no_steps() -> None:
    """A run without a checkpoint has no redirect_info, for there is nothing to go on from."""

    def handler(request: Request) -> object:
        sync_stream.push({"a": [1, None, "\N{SNOWMAN}"]})
        return Response.text("hello", 201)

    with lab() as process:
        told = read(process.endpoint(handler).handle(asks_stream()))
    assert ["meta", "-: {'a': [1, None, '\N{SNOWMAN}']}", "201: hello"] == told


def test_failure_for_good() -> None:
    """Rollback, redirect_info, and a failed response with the message of the error."""

    def fail() -> None:
        sync_stream.push("partial")
        raise NonRetriableError("boom")

    with lab() as process:
        reading = Reading(
            process.endpoint(lambda request: sync_step.run("a", fail)).handle(asks_stream())
        )
        told = list(reading)
        late = read(process.endpoint(two_steps, function_id="x").handle(second_request(reading)))
    assert ["meta", "a: partial", "rollback a", "redirect", 'failed 500: "boom"'] == told
    assert ["meta", 'failed 500: "boom"'] == late


@pytest.mark.parametrize("handler", [sleepy, sleepy_async])
def test_handoff(handler: Handler) -> None:
    """The first stream ends at the handoff; the one that waits for it has the rest, once."""
    clock = FakeClock()
    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        reading = Reading(endpoint.handle(asks_stream()))
        first = reading.take(4)
        second = Reading(endpoint.handle(second_request(reading)))
        first += list(reading)
        start = second.take(1)
        clock.advance(61)
        process.poke()
        rest = list(second)
        late = read(endpoint.handle(asks_stream(reading.redirect.replace("&durable-from", "&x"))))
        resumed = read(endpoint.handle(second_request(reading, last_event_id=second.ids[1])))
    assert ["meta", "a: sync-data", "commit a", "redirect"] == first
    assert ["meta"] == start
    assert ["b: async-data", "commit b", '200: "done"'] == rest
    assert ["meta", "a: sync-data", "commit a", *rest] == late
    assert ["meta", "commit b", '200: "done"'] == resumed


def test_who_comes_before_the_handoff_is_stored_waits_for_it() -> None:
    """The run has a record, and a step that has failed will hand its client off.

    The second stream goes on where the first one ends, also when commits of other steps come
    between the record and the handoff, and take long.
    """
    attempts: list[int] = []

    async def pushes() -> None:
        stream.push("a")
        await asyncio.sleep(0.03)

    async def fails_once() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("boom")

    async def handler(request: Request) -> str:
        await asyncio.gather(
            step.run("a", pushes), step.run("b", fails_once), step.run("c", asyncio.sleep, 0.01)
        )
        return "done"

    store = WatchedStore()
    store.seconds = 0.1
    with lab(store) as process, ThreadPoolExecutor(1) as pool:
        endpoint = process.endpoint(handler)
        reading = Reading(endpoint.handle(asks_stream()))
        told = []
        for event in reading:
            told.append(event)
            if event == "redirect":
                second = pool.submit(read, endpoint.handle(second_request(reading)))
        told += second.result(20)

    assert ["a"] == kept(told)
    assert 1 == told.count("a: a") == told.count("commit a") == told.count("commit c")
    assert '200: "done"' == told[-1]


def test_retries() -> None:
    """Every attempt is told of, and rolled back when it has failed."""

    def fail() -> None:
        sync_stream.push("partial")
        raise ValueError("boom")

    with lab() as process:
        endpoint = process.endpoint(lambda request: sync_step.run("a", fail), retries=3)
        reading = Reading(endpoint.handle(asks_stream()))
        first = list(reading)
        rest = read(endpoint.handle(asks_stream(reading.redirect.replace("&durable-from", "&x"))))
    assert ["meta", "a: partial", "rollback a", "redirect"] == first
    assert 'failed 500: "boom"' == rest[-1]
    assert [] == kept(rest)


def test_retries_are_followed_from_the_handoff() -> None:
    """A client that waits sees each later attempt, and its rollback."""
    clock, seen = FakeClock(), threading.Semaphore(1)

    def fail() -> None:
        sync_stream.push("partial")
        assert seen.acquire(timeout=10)
        raise ValueError("boom")

    with lab(clock=clock) as process:
        endpoint = process.endpoint(lambda request: sync_step.run("a", fail), retries=2)
        reading = Reading(endpoint.handle(asks_stream()))
        list(reading)
        second = Reading(endpoint.handle(second_request(reading)))
        rest = second.take(1)
        for attempt in (1, 2):
            until(lambda n=attempt: process.suspended() >= n)  # type: ignore[misc]
            clock.advance(3600)
            process.poke()
            rest += second.take(1)
            seen.release()
            rest += second.take(1)
        rest += list(second)
    assert ["meta", *["a: partial", "rollback a"] * 2, 'failed 500: "boom"'] == rest


@pytest.mark.parametrize("asynchronous", [False, True])
def test_chunks_are_not_buffered(asynchronous: bool) -> None:
    """A chunk is with the client while its step still runs."""
    go_on, before = threading.Event(), threading.Event()

    def blocked() -> int:
        sync_stream.push("first")
        assert before.wait(10)
        assert go_on.wait(10)
        sync_stream.push("second")
        return 1

    async def handler(request: Request) -> object:
        return await step.run("a", blocked)

    with lab() as process:
        endpoint = process.endpoint(handler)
        if asynchronous:

            async def exchange() -> list[str]:
                reading = Reading(await endpoint.handle_async(asks_stream()))
                told = await reading.take_async(2)
                before.set()
                go_on.set()
                told += [event async for event in reading]
                await process.durable.stop_async(5.0)
                return told

            told = asyncio.run(exchange())
        else:
            reading = Reading(endpoint.handle(asks_stream()))
            told = reading.take(2)
            before.set()
            go_on.set()
            told += list(reading)
    assert ["meta", "a: first", "a: second", "commit a", "redirect", "200: 1"] == told


def test_without_the_header_the_answer_is_plain() -> None:
    """Chunks are dropped for this client, and stored for those who come for the stream."""
    with lab() as process:
        endpoint = process.endpoint(two_steps)
        response = endpoint.handle(Request(method="GET", url="http://test/it"))
        [run] = process.records.list()
        stored = process.store.read_stream("lab", run.run.id, done=0, outside=0, most=1000)
    assert b'"done"' == response.body
    assert stored is not None
    assert [('"from a"',), ('"from b"',)] == [piece.texts for piece in stored.chunks]


def test_a_gone_client_stops_nothing() -> None:
    """The run goes on, and its stream can be read from where the client was."""
    clock, go_on = FakeClock(), threading.Event()

    def blocked() -> int:
        sync_stream.push("first")
        assert go_on.wait(10)
        sync_stream.push("second")
        return 1

    def handler(request: Request) -> object:
        sync_step.run("a", push, "0")
        return sync_step.run("b", blocked)

    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        reading = Reading(endpoint.handle(asks_stream()))
        told = reading.take(5)
        reading.close()
        again = Reading(endpoint.handle(second_request(reading, last_event_id=reading.ids[-1])))
        start = again.take(1)
        go_on.set()
        rest = list(again)
    assert ["meta", "a: 0", "commit a", "redirect", "b: first"] == told
    assert ["meta"] == start
    assert ["b: second", "commit b", "200: 1"] == rest


@pytest.mark.parametrize("is_async", [False, True])
def test_a_client_outlives_a_lost_lease(is_async: bool) -> None:
    """Another process takes its run over: what was open is rolled back, and the rest follows on
    the same connection, to the response; each chunk that stays is sent once.
    """
    store, clock = MemoryStore(), FakeClock()
    began, go_on = threading.Event(), threading.Event()

    def blocked() -> int:
        sync_stream.push("first" if not began.is_set() else "again")
        if not began.is_set():
            began.set()
            assert go_on.wait(10)
        return 1

    def handler(request: Request) -> object:
        sync_step.run("a", push, "0")
        return sync_step.run("b", blocked)

    async def async_handler(request: Request) -> object:
        await step.run("a", push, "0")
        return await step.run("b", blocked)

    made = async_handler if is_async else handler
    with lab(store, clock=clock) as one, lab(store, clock=clock) as two:
        reading = Reading(one.endpoint(made).handle(asks_stream()))
        assert began.wait(10)
        told = reading.take(5)
        two.endpoint(made)
        two.durable.start()
        loser, winner = one.engine.worker, two.engine.worker
        assert loser is not None
        assert winner is not None
        winner.queue.execute(ReapWorkers(ids=(loser.owner,), now=clock.now()))
        two.poke()
        until(lambda: two.durable.runs.list()[0].status == "completed")
        go_on.set()
        told += list(reading)

    assert ["meta", "a: 0", "commit a", "redirect", "b: first"] == told[:5]
    assert ["rollback b", "b: again", "commit b", "200: 1"] == told[5:]
    assert ["0", "again"] == kept(told)


def _buried_after_its_first_step(process: Lab, store: WatchedStore) -> Handler:
    """Return a handler whose process is taken for dead while the first checkpoint is written."""
    lost: list[bool] = []

    def first() -> None:
        sync_stream.push("0")
        store.seconds = 0.0 if lost else 0.2

    def handler(request: Request) -> object:
        sync_step.run("a", first)
        if not lost:
            lost.append(True)
            worker = process.engine.worker
            assert worker is not None
            [live] = worker.live.all()
            live.lease_lost()
            worker.queue.submit(Unregister(id=worker.owner, now=0))
        return sync_step.run("b", push, "1")

    return handler


@pytest.mark.slow
def test_a_lease_is_lost_before_the_run_is_stored() -> None:
    """The client of a stream reads on once the run is there, to the response."""
    store = WatchedStore()
    with lab(store) as process:
        told = read(
            process.endpoint(_buried_after_its_first_step(process, store)).handle(asks_stream())
        )

    assert "200: 1" == told[-1]
    assert ["0", "1"] == kept(told)


def test_a_lease_is_lost_and_the_run_is_never_stored() -> None:
    """The client of a stream gets a response that says so."""
    store = WatchedStore()

    def refuse(writes: object) -> None:
        raise StoreError("the disk is full")

    def first() -> None:
        store.fault = refuse

    def handler(request: Request) -> object:
        sync_step.run("a", first)
        assert process.engine.worker is not None
        [live] = process.engine.worker.live.all()
        live.lease_lost()
        return sync_step.run("b", push, "1")

    with lab(store) as process:
        told = read(process.endpoint(handler).handle(asks_stream()))
        store.fault = None

    assert told[-1].startswith("failed 503: ")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_stopping_ends_streams(asynchronous: bool) -> None:
    """The attached client is handed off, those who wait come again; both keep what they have."""
    clock, began, go_on = FakeClock(), threading.Event(), threading.Event()

    def blocked() -> int:
        sync_stream.push("first")
        began.set()
        assert go_on.wait(10)
        return 1

    def handler(request: Request) -> object:
        return sync_step.run("a", blocked)

    async def async_handler(request: Request) -> object:
        return await step.run("a", blocked)

    process = Lab(clock=clock)
    endpoint = process.endpoint(async_handler if asynchronous else handler)
    reading = Reading(endpoint.handle(asks_stream()))
    assert began.wait(10)
    stopping = threading.Thread(target=process.stop)
    stopping.start()
    told = list(reading)
    go_on.set()
    stopping.join()
    again = Lab(process.store, clock=clock)
    endpoint = again.endpoint(lambda request: sync_step.run("a", lambda: push("again")))
    rest = read(endpoint.handle(second_request(reading)))
    again.stop()

    assert ["meta", "a: first", "redirect"] == told
    assert ["meta", "commit a", "200: 1"] == rest


def test_outside_steps_across_a_handoff() -> None:
    """What is pushed outside steps is not pushed again by the replay."""

    def handler(request: Request) -> object:
        sync_stream.push("one")
        sync_step.run("a", push, "a")
        sync_stream.push("two")
        sync_step.sleep("nap", 60)
        sync_stream.push("three")
        return "done"

    clock = FakeClock()
    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        reading = Reading(endpoint.handle(asks_stream()))
        first = list(reading)
        clock.advance(61)
        process.poke()
        rest = read(endpoint.handle(second_request(reading)))
        late = read(endpoint.handle(asks_stream(reading.redirect.replace("&durable-from", "&x"))))
    assert sorted(["meta", "-: one", "a: a", "commit a", "redirect", "-: two"]) == sorted(first)
    assert ["meta", "-: three", '200: "done"'] == rest
    assert ["one", "a", "two", "three"] == kept(late)


def test_a_failed_attempt_is_told_however_short_it_was() -> None:
    """To a client that came for what follows the handoff and reads only after it is all over."""
    attempts: list[str] = []

    def shaky() -> None:
        attempts.append(str(len(attempts)))
        sync_stream.push(attempts[-1])
        if len(attempts) < 4:
            raise ValueError("not yet")

    clock = FakeClock()
    with lab(clock=clock) as process:
        endpoint = process.endpoint(lambda request: sync_step.run("a", shaky))
        first = Reading(endpoint.handle(asks_stream()))
        told = first.take(4)
        early = Reading(endpoint.handle(second_request(first)))
        start = early.take(1)
        told += list(first)
        for nap in range(3):
            process.pass_nap(clock, nap)
        until(lambda: process.records.list()[0].run.phase.ended)
        rest = list(early)
    assert ["meta", "a: 0", "rollback a", "redirect"] == told
    assert ["meta"] == start
    assert ["a: 1", "rollback a", "a: 2", "rollback a", "a: 3", "commit a"] == rest[:-1]


@pytest.mark.parametrize("of_step", [True, False])
def test_limits(of_step: bool) -> None:
    """Too much is an error in the step that says which limit it is, and is not tried again."""
    limits = Limits(stream_step=10) if of_step else Limits(stream_run=10)

    def much() -> None:
        for _ in range(3):
            sync_stream.push("12345")

    with lab(limits=limits) as process:
        told = read(
            process.endpoint(lambda request: sync_step.run("a", much)).handle(asks_stream())
        )
    assert ["meta", "a: 12345", "rollback a", "redirect"] == told[:-1]
    assert ("Limits.stream_step" if of_step else "Limits.stream_run") in told[-1]


def test_streamed_and_binary_responses() -> None:
    """The body of the response is whole in the last event, whatever it was."""

    def handler(request: Request) -> Response:
        return Response(body=iter([b"one ", b"two"]))

    with lab() as process:
        told = read(process.endpoint(handler).handle(asks_stream()))
    assert ["meta", "200: one two"] == told


def test_public_url_and_proxy() -> None:
    """redirect_info leads where the application says, by an absolute URL."""
    with lab(clock=FakeClock(), public_url="https://api.example.com") as process:
        own = Reading(process.endpoint(sleepy).handle(asks_stream()))
        list(own)
        path = Reading(
            process.endpoint(sleepy, function_id="2", async_redirect_url="/wait").handle(
                asks_stream()
            )
        )
        list(path)
        proxy: HTTPHandler = process.durable.endpoint_proxy()
        waiting = Reading(proxy.handle(second_request(path)))
        start = waiting.take(1)
        waiting.close()
        chosen = Reading(
            process.endpoint(
                sleepy, function_id="3", async_redirect_url=lambda run_id, token: f"/x?r={run_id}"
            ).handle(asks_stream())
        )
        list(chosen)
    assert own.redirect.startswith("https://api.example.com/it?durable-run=")
    assert path.redirect.startswith("https://api.example.com/wait?runId=")
    assert chosen.redirect.startswith("https://api.example.com/x?r=")
    assert chosen.redirect.endswith("&from=handoff")
    assert "*" == waiting.response.headers["access-control-allow-origin"]
    assert ["meta"] == start


def test_parallel_steps() -> None:
    """Steps at the same time: each chunk once, each commit after its chunks."""

    async def chatty(name: str) -> str:
        for number in range(20):
            stream.push(f"{name}{number}")
            await asyncio.sleep(0)
        return name

    async def handler(request: Request) -> object:
        return await asyncio.gather(*(step.run(name, chatty, name) for name in "abc"))

    with lab(settings=Settings()) as process:
        told = read(process.endpoint(handler).handle(asks_stream()))
    assert sorted(f"{name}{number}" for name in "abc" for number in range(20)) == sorted(kept(told))
    assert '200: ["a","b","c"]' == told[-1]


def test_nothing_is_left() -> None:
    """When all streams are read and all runs are over, the process remembers none of them."""
    with lab() as process:
        endpoint = process.endpoint(two_steps)
        reading = Reading(endpoint.handle(asks_stream()))
        list(reading)
        read(endpoint.handle(second_request(reading)))
        node = process.engine.worker
        assert node is not None
        until(lambda: not len(node.streams))
        assert 0 == len(node.waiters)


def test_what_an_unwound_handler_pushes_on_its_way_out() -> None:
    """It takes the place of nothing that the replay pushes."""

    def handler(request: Request) -> object:
        sync_stream.push("one")
        try:
            sync_step.sleep("nap", 60)
            sync_stream.push("two")
        finally:
            sync_stream.push("bye")
        return "done"

    clock = FakeClock()
    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        reading = Reading(endpoint.handle(asks_stream()))
        told = list(reading)
        second = Reading(endpoint.handle(second_request(reading)))
        clock.advance(61)
        process.poke()
        told += second
    assert ["meta", "-: one", "redirect", "meta", "-: two", "-: bye", '200: "done"'] == told


def test_a_thread_left_behind_does_not_silence_the_run() -> None:
    """It first pushes when a later execution of the run streams already."""
    left: list[Callable[[], object]] = []
    pushed, go_on = threading.Event(), threading.Event()

    def blocked() -> int:
        sync_stream.push("first")
        pushed.set()
        assert go_on.wait(10)
        sync_stream.push("second")
        return 1

    def handler(request: Request) -> object:
        context = contextvars.copy_context()
        left.append(lambda: context.run(sync_stream.push, "late"))
        sync_step.sleep("nap", 60)
        return sync_step.run("a", blocked)

    clock = FakeClock()
    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        endpoint.handle(Request(method="GET", url="http://test/it"))
        clock.advance(61)
        process.poke()
        assert pushed.wait(10)
        left[0]()
        go_on.set()
        until(lambda: process.records.list()[0].run.phase.ended)
        [run] = process.records.list()
        stored = process.store.read_stream("lab", run.run.id, done=0, outside=0, most=1000)
    assert stored is not None
    assert ('"first"', '"second"') == stored.chunks[-1].texts


def test_a_slow_client_is_let_go_after_the_handoff() -> None:
    """It has all up to there, and no more, however far the run has gone on meanwhile."""

    def much() -> int:
        for number in range(600):
            sync_stream.push([number, "y" * 1000])
        return 1

    def handler(request: Request) -> object:
        sync_step.run("a", much)
        sync_step.sleep("nap", 60)
        sync_step.run("b", much)
        sync_step.run("c", much)
        return "done"

    clock = FakeClock()
    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        response = endpoint.handle(asks_stream())
        until(lambda: process.suspended() >= 1)
        clock.advance(61)
        process.poke()
        until(lambda: process.records.list()[0].run.phase.ended)
        reading = Reading(response)
        told = reading.take(603)
        rest = list(reading) if told[-1] == "redirect" else ["no end"]
    assert ["meta", 600, "commit a", "redirect"] == [
        told[0],
        sum(event.startswith("a: ") for event in told),
        *told[-2:],
    ]
    assert [] == rest
