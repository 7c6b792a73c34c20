"""Clients that would rather not wait, at an endpoint and at its wait URL."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from durable_core import HTTPError, Request, Response
from durable_core.api.adapter import HTTPHandler
from durable_core.api.step import step, sync_step
from durable_core.observers import Fact, Observer, StoreCommitted
from support.harness import Lab, lab, request, until

KINDS = pytest.mark.parametrize("kind", ["def", "async"])


class Shop:
    """An application whose endpoints call one step, which a test may hold up."""

    def __init__(self, process: Lab, kind: str, **options: Any) -> None:
        self.process = process
        self.calls = 0
        self.open = threading.Event()
        self.open.set()

        def work() -> int:
            self.calls += 1
            self.open.wait(20)
            return self.calls

        def plain(request: Request) -> dict[str, object]:
            return {"count": sync_step.run("work", work), "method": request.method}

        async def coroutine(request: Request) -> dict[str, object]:
            return {"count": await step.run("work", work), "method": request.method}

        handler: Any = plain if kind == "def" else coroutine
        self.endpoint: HTTPHandler = process.endpoint(handler, **options)

    def ask(self, prefer: str | None = None, method: str = "POST", **headers: Any) -> Response:
        """Ask the endpoint."""
        if prefer is not None:
            headers["prefer"] = prefer
        return self.endpoint.handle(request("/it", method, body=b"x", **headers))

    def follow(self, accepted: Response, prefer: str | None = None) -> Response:
        """Ask the wait URL of a response."""
        headers: dict[str, Any] = {} if prefer is None else {"prefer": prefer}
        url = "/it" + accepted.headers["location"]
        return self.endpoint.handle(request(url, **headers), max_wait=10.0)


@pytest.fixture
def process() -> Iterator[Lab]:
    with lab() as made:
        yield made


def fields(response: Response, *names: str) -> list[str | None]:
    return [response.headers.get(name) for name in names]


@KINDS
@pytest.mark.parametrize("method", ["POST", "GET", "QUERY"])
def test_respond_async(process: Lab, kind: str, method: str) -> None:
    """The client gets 202 before the handler begins, and finds the response at the location."""
    shop = Shop(process, kind)
    shop.open.clear()
    answer = shop.ask("respond-async", method)

    names = ("preference-applied", "vary", "retry-after", "cache-control", "referrer-policy")
    assert 202 == answer.status
    assert ["respond-async", "Prefer", "5", "no-store", "no-referrer"] == fields(answer, *names)
    assert isinstance(answer.body, bytes)
    told = json.loads(answer.body)
    assert "running" == told["status"]
    assert [told["run_id"]] == [run.id for run in process.durable.runs.list()]
    assert told["token"] in answer.headers["location"]
    shop.open.set()
    final = shop.follow(answer)
    assert (200, {"count": 1, "method": method}) == (final.status, json.loads(final.body))  # type: ignore[arg-type]
    assert 1 == shop.calls


@KINDS
def test_respond_async_on_an_event_loop(process: Lab, kind: str) -> None:
    """It is the same for a client of an asynchronous server."""
    shop = Shop(process, kind)

    async def main() -> Response:
        answer = await shop.endpoint.handle_async(request("/it", "POST", prefer="respond-async"))
        assert (202, "respond-async") == (answer.status, answer.headers["preference-applied"])
        url = "/it" + answer.headers["location"]
        final = await shop.endpoint.handle_async(request(url), max_wait=10.0)
        await process.durable.stop_async()
        return final

    assert b'{"count":1,"method":"POST"}' == asyncio.run(main()).body


@KINDS
def test_wait(process: Lab, kind: str) -> None:
    """Past the time that a client waits it gets 202 in mid-step; the step goes on, once."""
    shop = Shop(process, kind)
    shop.open.clear()
    answer = shop.ask("wait=1")
    assert (202, "wait=1") == (answer.status, answer.headers["preference-applied"])
    assert ["running"] == [run.status for run in process.durable.runs.list()]
    shop.open.set()
    assert b'{"count":1,"method":"POST"}' == shop.follow(answer).body
    assert 1 == shop.calls


@KINDS
def test_wait_on_an_event_loop(process: Lab, kind: str) -> None:
    """It is the same for a client of an asynchronous server."""
    shop = Shop(process, kind)
    shop.open.clear()

    async def main() -> Response:
        asked = request("/it", "POST", prefer="respond-async, wait=1")
        answer = await shop.endpoint.handle_async(asked)
        shop.open.set()
        assert "respond-async, wait=1" == answer.headers["preference-applied"]
        url = "/it" + answer.headers["location"]
        final = await shop.endpoint.handle_async(request(url), max_wait=10.0)
        await process.durable.stop_async()
        return final

    assert b'{"count":1,"method":"POST"}' == asyncio.run(main()).body
    assert 1 == shop.calls


@KINDS
@pytest.mark.parametrize("prefer", ["wait=20", "respond-async, wait=20"])
def test_a_response_in_time(process: Lab, kind: str, prefer: str) -> None:
    """It is the handler's own, untouched."""
    answer = Shop(process, kind).ask(prefer)
    assert (200, b'{"count":1,"method":"POST"}') == (answer.status, answer.body)
    assert [None, None] == fields(answer, "preference-applied", "vary")


@KINDS
@pytest.mark.parametrize("prefer", ["wait=soon", "return=minimal", "respond-async=no", '"'])
def test_what_is_ignored(process: Lab, kind: str, prefer: str) -> None:
    """Unknown and malformed preferences change nothing."""
    answer = Shop(process, kind).ask(prefer)
    assert (200, None) == (answer.status, answer.headers.get("preference-applied"))


@KINDS
def test_the_wait_url(process: Lab, kind: str) -> None:
    """There, too, a client that prefers not to wait is told to come back; else it is held."""
    shop = Shop(process, kind)
    shop.open.clear()
    accepted = shop.ask("respond-async")
    for prefer in ("respond-async", "wait=0"):
        answer = shop.follow(accepted, prefer)
        assert (202, prefer) == (answer.status, answer.headers["preference-applied"])
        assert ["Prefer", "5", "no-store"] == fields(answer, "vary", "retry-after", "cache-control")
    shop.open.set()
    final = shop.follow(accepted, "wait=600")
    assert (200, None) == (final.status, final.headers.get("preference-applied"))
    assert 200 == shop.follow(accepted, "respond-async").status


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_at_the_wait_url(process: Lab, is_async: bool) -> None:
    """It ends after what there is, although the run goes on."""
    shop = Shop(process, "async")
    shop.open.clear()
    url = "/it" + shop.ask("respond-async").headers["location"]
    asked = request(url, prefer="respond-async", accept="text/event-stream")

    async def read() -> tuple[Response, bytes]:
        stream = await shop.endpoint.handle_async(asked, max_wait=10.0)
        return stream, b"".join([part async for part in stream.body])  # type: ignore[union-attr]

    if is_async:
        stream, text = asyncio.run(read())
    else:
        stream = shop.endpoint.handle(asked, max_wait=10.0)
        text = b"".join(stream.body)  # type: ignore[arg-type]
    shop.open.set()
    assert "respond-async" == stream.headers["preference-applied"]
    assert b"inngest.metadata" in text
    assert b"inngest.response" not in text


def test_a_server_that_holds_clients_for_less(process: Lab) -> None:
    """The response says for how long the client was really held."""
    shop = Shop(process, "def")
    shop.open.clear()
    url = "/it" + shop.ask("respond-async").headers["location"]
    answer = shop.endpoint.handle(request(url, prefer="wait=60"), max_wait=1.0)
    shop.open.set()
    assert (202, "wait=1") == (answer.status, answer.headers["preference-applied"])


@KINDS
def test_a_key(process: Lab, kind: str) -> None:
    """A repeated request gets the same run: 202 while it runs, its response at the end."""
    shop = Shop(process, kind)
    shop.open.clear()
    first = shop.ask("respond-async", idempotency_key="k")
    second = shop.ask("respond-async", idempotency_key="k")
    assert [202, 202] == [first.status, second.status]
    assert "respond-async" == second.headers["preference-applied"]
    shop.open.set()
    assert 200 == shop.follow(first).status
    third = shop.ask("respond-async", idempotency_key="k")
    assert (200, b'{"count":1,"method":"POST"}') == (third.status, third.body)
    assert 1 == len(process.durable.runs.list(key="k"))


def test_observers() -> None:
    """They are told of a run that starts, and is handed off, before its handler is called."""
    seen: list[str] = []

    class Watcher(Observer):
        def notify(self, fact: Fact) -> None:
            if not isinstance(fact, StoreCommitted):
                seen.append(type(fact).__name__)

    with lab(observers=[Watcher()]) as process:
        shop = Shop(process, "def")
        shop.follow(shop.ask("respond-async"))
    assert ["RunStarted", "RunHandedOff", "RunResumed", "StepStarted", "StepFinished"] == seen[:5]


@KINDS
def test_authorize(process: Lab, kind: str) -> None:
    """A request that is refused is refused at once, and begins no run."""

    def authorize(request: Request) -> bool:
        if request.headers.get("x-user") != "ann":
            raise HTTPError(401, "who are you?")
        return True

    shop = Shop(process, kind, authorize=authorize)
    assert 401 == shop.ask("respond-async").status
    assert [] == process.durable.runs.list()
    assert 202 == shop.ask("respond-async", x_user="ann").status


@KINDS
def test_an_event_stream(process: Lab, kind: str) -> None:
    """``respond-async`` goes before the stream, which can be read at the location."""
    shop = Shop(process, kind)
    accepted = shop.ask("respond-async", accept="text/event-stream")
    assert 202 == accepted.status
    url = "/it" + accepted.headers["location"]
    stream = shop.endpoint.handle(request(url, accept="text/event-stream"), max_wait=10.0)
    assert not isinstance(stream.body, bytes)
    text = b"".join(stream.body).decode()  # type: ignore[arg-type]
    assert "text/event-stream" in stream.headers["content-type"]
    assert '\\"count\\":1' in text


@KINDS
def test_an_event_stream_for_a_time(process: Lab, kind: str) -> None:
    """The stream ends after the time of ``wait``, and goes on at the wait URL."""
    shop = Shop(process, kind)
    shop.open.clear()
    stream = shop.ask("wait=1", accept="text/event-stream")
    text = b"".join(stream.body).decode()  # type: ignore[arg-type]
    assert "inngest.redirect_info" in text
    assert "count" not in text
    shop.open.set()
    until(lambda: ["completed"] == [run.status for run in process.durable.runs.list()])
    assert 1 == shop.calls


@pytest.mark.parametrize("response", ["token", "redirect", "accepted"])
def test_what_other_clients_get(process: Lab, response: str) -> None:
    """A preference goes before ``async_response``, and uses the URL of the application."""
    shop = Shop(process, "def", async_response=response, async_redirect_url="/results")
    answer = shop.ask("respond-async")
    assert 202 == answer.status
    assert answer.headers["location"].startswith("/results?runId=")


def test_accepted(process: Lab) -> None:
    """``async_response="accepted"`` answers a handoff with 202."""

    def naps(request: Request) -> str:
        sync_step.sleep("nap", "1h")
        return "rested"

    answer = process.endpoint(naps, async_response="accepted").handle(request())
    names = ("retry-after", "cache-control", "preference-applied")
    assert (202, ["5", "no-store", None]) == (answer.status, fields(answer, *names))
    assert answer.headers["location"].startswith("?durable-run=")


def test_a_full_pool(process: Lab) -> None:
    """Where no thread is free, the run is stored at the end of the time, and begins elsewhere."""
    shop = Shop(process, "def")
    worker = process.engine.worker or process.engine._started()
    held = threading.Event()
    for _ in range(40):
        worker.servers.submit(held.wait, 20)
    try:
        accepted = shop.ask("wait=1")
        assert (202, "wait=1") == (accepted.status, accepted.headers["preference-applied"])
        assert 200 == shop.follow(accepted).status
    finally:
        held.set()
    assert 1 == shop.calls


def test_a_store_that_fails(process: Lab) -> None:
    """A run that could not be stored is answered 503, and no step that goes on keeps it."""
    from durable_core.errors import StoreError

    shop = Shop(process, "def")
    shop.open.clear()

    def fault(writes: object) -> None:
        raise StoreError("the disk is full")

    process.engine._started()
    process.watched.fault = fault
    assert 503 == shop.ask("respond-async").status
    assert 503 == shop.ask("wait=1").status
    process.watched.fault = None
    shop.open.set()
