"""Clients that wait for a limited time, while a step goes on for longer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from durable_core import Request, Response
from durable_core.api.adapter import HTTPHandler
from durable_core.api.step import step, sync_step
from durable_core.errors import StoreError
from durable_core.runners.settings import Settings
from support.harness import Lab, lab, request, until

KINDS = pytest.mark.parametrize("kind", ["def", "async"])
LOOPS = pytest.mark.parametrize("on_loop", [False, True], ids=["thread", "loop"])
SOON = "50ms"


class Gate:
    """A step that is held up, and what was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.opened = threading.Event()

    def work(self) -> str:
        """Wait until the gate is open."""
        self.calls.append("work")
        self.opened.wait(20)
        return "done"

    def plain(self, request: Request) -> str:
        """A handler."""
        self.calls.append("handler")
        return sync_step.run("work", self.work)

    async def coroutine(self, request: Request) -> str:
        """A handler."""
        self.calls.append("handler")
        return await step.run("work", self.work)

    def endpoint(self, process: Lab, kind: str, **options: Any) -> HTTPHandler:
        """Make an endpoint of the handler of that kind."""
        handler: Any = self.plain if kind == "def" else self.coroutine
        return process.endpoint(handler, **{"max_sync_runtime": SOON, **options})


@pytest.fixture
def process() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.opened.set()


def ask(process: Lab, endpoint: HTTPHandler, on_loop: bool, asked: Request | None = None) -> Any:
    """Ask in a thread, or on an event loop that goes on meanwhile."""
    asked = asked or request("/it", "POST")
    if not on_loop:
        return endpoint.handle(asked)
    loop = process.engine._started().loops.background_loop.loop
    return asyncio.run_coroutine_threadsafe(endpoint.handle_async(asked), loop).result(20)


@KINDS
@LOOPS
def test_a_step_goes_on(process: Lab, gate: Gate, kind: str, on_loop: bool) -> None:
    """The client is redirected in mid-step; handler and step are called once."""
    endpoint = gate.endpoint(process, kind)
    answer = ask(process, endpoint, on_loop)
    assert 303 == answer.status
    [run] = process.durable.runs.list()
    assert "running" == run.status
    gate.opened.set()
    assert b'"done"' == process.follow(endpoint, answer).body
    assert ["handler", "work"] == gate.calls
    assert 0 == process.durable.runs.get(run.id).crashes


@KINDS
@LOOPS
def test_a_response_in_time(process: Lab, gate: Gate, kind: str, on_loop: bool) -> None:
    """It comes on the client's own connection."""
    gate.opened.set()
    answer = ask(process, gate.endpoint(process, kind, max_sync_runtime="20s"), on_loop)
    assert (200, b'"done"') == (answer.status, answer.body)


@KINDS
@LOOPS
def test_a_step_that_never_ends(process: Lab, gate: Gate, kind: str, on_loop: bool) -> None:
    """Its client is not kept, and other clients are served."""
    endpoint = gate.endpoint(process, kind)
    held = [ask(process, endpoint, on_loop) for _ in range(3)]
    other = process.endpoint(lambda request: "other", function_id="other", max_sync_runtime=SOON)
    assert [303] * 3 == [each.status for each in held]
    assert 200 == ask(process, other, on_loop).status
    assert ["handler", "work"] * 3 == gate.calls


@KINDS
@LOOPS
def test_a_step_that_keeps_a_processor_busy(process: Lab, kind: str, on_loop: bool) -> None:
    """Its client is answered meanwhile."""
    ended: list[float] = []

    def compute() -> int:
        until_then = time.monotonic() + 1.0
        count = 0
        while time.monotonic() < until_then:
            count += 1
        ended.append(time.monotonic())
        return 1

    def plain(request: Request) -> int:
        return sync_step.run("compute", compute)

    async def coroutine(request: Request) -> int:
        return await step.run("compute", compute)

    handler: Any = plain if kind == "def" else coroutine
    endpoint = process.endpoint(handler, max_sync_runtime=SOON)
    answer = ask(process, endpoint, on_loop)
    answered = time.monotonic()
    assert 303 == answer.status
    assert b"1" == process.follow(endpoint, answer).body
    assert [True] == [answered < each for each in ended]


@KINDS
@LOOPS
def test_a_handler_without_steps(process: Lab, kind: str, on_loop: bool) -> None:
    """What it does outside steps goes on, too; the run is stored for its client."""
    opened = threading.Event()
    calls: list[str] = []

    def plain(request: Request) -> str:
        calls.append("handler")
        opened.wait(20)
        return "done"

    async def coroutine(request: Request) -> str:
        calls.append("handler")
        await asyncio.to_thread(opened.wait, 20)
        return "done"

    handler: Any = plain if kind == "def" else coroutine
    endpoint = process.endpoint(handler, max_sync_runtime=SOON)
    answer = ask(process, endpoint, on_loop)
    opened.set()
    assert 303 == answer.status
    assert b'"done"' == process.follow(endpoint, answer).body
    assert ["handler"] == calls


@KINDS
@LOOPS
def test_a_step_that_fails_after_the_handoff(process: Lab, kind: str, on_loop: bool) -> None:
    """It is tried again, in the background."""
    opened, calls = threading.Event(), list[int]()

    def work() -> str:
        calls.append(1)
        opened.wait(20)
        if len(calls) == 1:
            raise OSError("not yet")
        return "done"

    def plain(request: Request) -> str:
        return sync_step.run("work", work)

    async def coroutine(request: Request) -> str:
        return await step.run("work", work)

    handler: Any = plain if kind == "def" else coroutine
    endpoint = process.endpoint(handler, max_sync_runtime=SOON)
    answer = ask(process, endpoint, on_loop)
    opened.set()
    assert b'"done"' == process.follow(endpoint, answer).body
    assert [1, 1] == calls


@pytest.mark.parametrize("on_loop", [False, True])
def test_zero(process: Lab, gate: Gate, on_loop: bool) -> None:
    """The client is handed off before the handler begins."""
    endpoint = gate.endpoint(process, "def", max_sync_runtime=0, async_response="accepted")
    answer = ask(process, endpoint, on_loop)
    assert 202 == answer.status
    assert "preference-applied" not in answer.headers
    gate.opened.set()
    assert b'"done"' == endpoint.handle(request("/it" + answer.headers["location"])).body


@KINDS
def test_a_streamed_response(process: Lab, kind: str) -> None:
    """A client that is being answered is not handed off."""

    def body() -> Iterator[bytes]:
        for _ in range(5):
            time.sleep(0.03)
            yield b"x"

    def plain(request: Request) -> Response:
        sync_step.run("a", lambda: 1)
        return Response(body=body())

    async def coroutine(request: Request) -> Response:
        await step.run("a", lambda: 1)
        return Response(body=body())

    handler: Any = plain if kind == "def" else coroutine
    answer: Any = process.endpoint(handler, max_sync_runtime=SOON).handle(request())
    assert (200, b"xxxxx") == (answer.status, b"".join(answer.body))
    until(lambda: ["completed"] == [run.status for run in process.durable.runs.list()])


@KINDS
def test_an_event_stream(process: Lab, gate: Gate, kind: str) -> None:
    """It ends at the limit, after it has said where it goes on."""
    endpoint = gate.endpoint(process, kind)
    stream: Any = endpoint.handle(request("/it", "POST", accept="text/event-stream"))
    text = b"".join(stream.body).decode()
    assert "inngest.redirect_info" in text
    assert "inngest.response" not in text
    gate.opened.set()
    until(lambda: ["completed"] == [run.status for run in process.durable.runs.list()])
    assert ["handler", "work"] == gate.calls


@KINDS
@LOOPS
def test_a_client_that_joins(process: Lab, gate: Gate, kind: str, on_loop: bool) -> None:
    """It waits for no longer than the first client."""
    endpoint = gate.endpoint(process, kind)
    asked = request("/it", "POST", idempotency_key="k")
    assert [303, 303] == [ask(process, endpoint, on_loop, asked).status for _ in range(2)]
    gate.opened.set()
    until(lambda: ["completed"] == [run.status for run in process.durable.runs.list()])
    assert 200 == ask(process, endpoint, on_loop, asked).status
    assert ["handler", "work"] == gate.calls


@KINDS
@LOOPS
def test_a_drain(process: Lab, gate: Gate, kind: str, on_loop: bool) -> None:
    """A process that stops hands the client off in mid-step, also one of a thread."""
    endpoint = gate.endpoint(process, kind, max_sync_runtime="1h")
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, process, endpoint, on_loop)
        until(lambda: gate.calls == ["handler", "work"])
        process.durable.drain()
        answer = asking.result(20)
    assert 303 == answer.status
    gate.opened.set()
    assert b'"done"' == process.follow(endpoint, answer).body
    assert ["handler", "work"] == gate.calls


@LOOPS
@pytest.mark.parametrize("stops", [False, True])
def test_a_drain_of_what_waits_for_a_thread(gate: Gate, on_loop: bool, stops: bool) -> None:
    """A client whose handler has found no thread is handed off, too; the run begins elsewhere."""
    settings = Settings(serving_threads=1, unwind_time=2.0)
    with lab(settings=settings) as process, ThreadPoolExecutor(2) as pool:
        held = gate.endpoint(process, "def", function_id="held")
        assert 303 == ask(process, held, on_loop).status
        queued = process.endpoint(lambda request: "quick", max_sync_runtime="1h")
        asking = pool.submit(ask, process, queued, on_loop)
        worker = process.engine.worker
        assert worker is not None
        until(lambda: len(worker.sync_limit._in_threads) == 2)
        if stops:
            stopping = pool.submit(process.durable.stop, 10)
        else:
            process.durable.drain()
        answer = asking.result(20)
        assert 303 == answer.status
        gate.opened.set()
        if stops:
            stopping.result(20)
        assert b'"quick"' == process.follow(queued, answer).body
        until(lambda: not worker.sync_limit._in_threads)


@LOOPS
def test_a_lost_lease(process: Lab, gate: Gate, on_loop: bool) -> None:
    """The client is sent to the run, which is another process's now, although the step goes on."""
    endpoint = gate.endpoint(process, "def", max_sync_runtime="500ms", idempotency="required")
    with ThreadPoolExecutor(1) as pool:
        asked = request("/it", "POST", idempotency_key="k")
        asking = pool.submit(ask, process, endpoint, on_loop, asked)
        until(lambda: gate.calls == ["handler", "work"])
        worker = process.engine.worker
        assert worker is not None
        [live] = worker.live.all()
        live.lease_lost()
        assert 303 == asking.result(20).status


@KINDS
@LOOPS
def test_a_store_that_fails(process: Lab, gate: Gate, kind: str, on_loop: bool) -> None:
    """The client gets 503 at the limit, and does not wait for the end of the step."""
    endpoint = gate.endpoint(process, kind)
    process.engine._started()

    def fault(writes: object) -> None:
        raise StoreError("the disk is full")

    process.watched.fault = fault
    answer = ask(process, endpoint, on_loop)
    process.watched.fault = None
    assert 503 == answer.status
    assert not gate.opened.is_set()


@LOOPS
def test_a_full_pool(gate: Gate, on_loop: bool) -> None:
    """A run that finds no thread in time begins elsewhere; nothing hangs."""
    settings = Settings(serving_threads=1, unwind_time=2.0)
    with lab(settings=settings) as process:
        held = gate.endpoint(process, "def", function_id="held")
        quick = process.endpoint(lambda request: "quick", max_sync_runtime=SOON)
        assert 303 == ask(process, held, on_loop).status
        answer = ask(process, quick, on_loop)
        assert 303 == answer.status
        assert b'"quick"' == process.follow(quick, answer).body
        stream: Any = quick.handle(request("/it", "POST", accept="text/event-stream"))
        text = b"".join(stream.body).decode()
        assert "inngest.response" not in text
        expected = ["completed", "completed", "running"]
        until(lambda: expected == [run.status for run in process.durable.runs.list()])
        gate.opened.set()
    assert ["handler", "work"] == gate.calls


@KINDS
def test_a_body_that_is_not_stored(gate: Gate, kind: str) -> None:
    """A run whose request has no body in the store is not begun by a replay."""
    with lab(settings=Settings(serving_threads=1, unwind_time=2.0)) as process:
        held = gate.endpoint(process, "def", function_id="held")

        def plain(request: Request) -> str:
            return sync_step.run("read", lambda: request.body.decode())

        async def coroutine(request: Request) -> str:
            return await step.run("read", lambda: request.body.decode())

        handler: Any = plain if kind == "def" else coroutine
        endpoint = process.endpoint(handler, max_sync_runtime=SOON, omit_request_body=True)
        assert 303 == held.handle(request("/it", "POST")).status
        answer = endpoint.handle(request("/it", "POST", b"secret"))
        gate.opened.set()
        assert b'"secret"' == process.follow(endpoint, answer).body
        asked = request("/it", "POST", b"secret", prefer="respond-async")
        assert (200, b'"secret"') == (endpoint.handle(asked).status, endpoint.handle(asked).body)


def test_many_at_once(process: Lab) -> None:
    """Around the limit each client gets response or handoff, and each step is called once."""
    calls: list[str] = []

    def work(name: str) -> str:
        calls.append(name)
        time.sleep(0.05)
        return name

    def handler(request: Request) -> str:
        return sync_step.run("work", work, request.query["n"])

    endpoint = process.endpoint(handler, max_sync_runtime=SOON)
    with ThreadPoolExecutor(8) as pool:
        asked = [request(f"/it?n={number}", "POST") for number in range(40)]
        answers = list(pool.map(endpoint.handle, asked))
    assert {200, 303} >= {each.status for each in answers}
    finals = [process.follow(endpoint, each).body for each in answers]
    assert [f'"{number}"'.encode() for number in range(40)] == finals
    assert sorted(str(number) for number in range(40)) == sorted(calls)


@pytest.mark.parametrize("value", ["soon", -1, float("nan"), True, "400 days"])
def test_bad_values(process: Lab, value: Any) -> None:
    """What is no duration is refused when the endpoint is made."""
    with pytest.raises((ValueError, TypeError), match="max_sync_runtime"):
        process.endpoint(lambda request: "x", max_sync_runtime=value)


def test_zero_needs_the_body(process: Lab) -> None:
    """A run that begins by a replay has no body that is not stored."""
    with pytest.raises(ValueError, match="max_sync_runtime=0 begins every run by a replay"):
        process.endpoint(lambda request: "x", max_sync_runtime=0, omit_request_body=True)
