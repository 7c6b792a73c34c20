"""Streams: on the client's connection, and after the handoff through the server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from durable_client import Collector, fetch_with_stream
from durable_core import NonRetriableError, Request, Response, step, stream
from durable_core.sync import step as sync_step
from durable_core.sync import stream as sync_stream
from support.inngest_app import serving
from support.inngest_handlers import CALLS
from support.inngest_server import InngestServer

pytestmark = pytest.mark.slow


def says(text: str) -> str:
    sync_stream.push(text)
    return text


def says_and_fails(listens: Callable[[], None], text: str, times: int) -> str:
    """Push; after the first failure of all, when the client has come to the server."""
    if CALLS:
        listens()
    CALLS[text] += 1
    sync_stream.push(text)
    if CALLS[text] <= times:
        raise ValueError("not yet")
    return text


async def attached(request: Request) -> Response:
    await step.run("a", says, "from a")
    await step.run("b", says, "from b")
    return Response.json("done", 202, {"x-own": "yes"})


def attached_sync(request: Request) -> Response:
    sync_step.run("a", says, "from a")
    sync_step.run("b", says, "from b")
    return Response.json("done", 202, {"x-own": "yes"})


def events_of(body: bytes) -> list[str]:
    lines = body.decode().split("\n")
    return [line[len("event: inngest.") :] for line in lines if line.startswith("event: ")]


@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
@pytest.mark.parametrize("handler", [attached, attached_sync])
def test_attached(server: InngestServer, interface: str, handler: Any) -> None:
    """The recorded order: each chunk, its commit, the way on after the first checkpoint."""
    with serving(server, {"GET /a": handler}, interface=interface) as app:
        got = app.get("/a", headers={"accept": "text/event-stream"})

    assert (200, "text/event-stream") == (got.status, got.headers["content-type"])
    assert [
        *("metadata", "stream", "commit", "redirect_info"),
        *("stream", "commit", "response"),
    ] == events_of(got.body)
    assert "Completed" == server.run.status


@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
@pytest.mark.parametrize("face", ["async", "def"])
def test_across_the_handoff(server: InngestServer, interface: str, face: str) -> None:
    """The client follows to the server; what was rolled back is dropped, the response is whole."""

    def listens() -> None:
        server.until(lambda: server.is_followed)

    async def handed_off(request: Request) -> Response:
        await step.run("a", says_and_fails, listens, "sync-data", 1)
        await step.sleep("nap", "20ms")
        await step.run("b", says_and_fails, listens, "async-data", 1)
        return Response.json("done", 202, {"x-own": "yes"})

    def handed_off_sync(request: Request) -> Response:
        sync_step.run("a", says_and_fails, listens, "sync-data", 1)
        sync_step.sleep("nap", "20ms")
        sync_step.run("b", says_and_fails, listens, "async-data", 1)
        return Response.json("done", 202, {"x-own": "yes"})

    handler: Any = handed_off if face == "async" else handed_off_sync
    with serving(server, {"GET /a": handler}, interface=interface) as app:
        collected = Collector()
        response = fetch_with_stream(f"{app.url}/a", collect=collected, timeout=20)
        # The stream ends a moment before the server has the answer of the last call.
        server.until(lambda: server.run.status == "Completed")

    assert (202, b'"done"', "yes") == (response.status, response.body, response.headers["x-own"])
    assert ["sync-data", "async-data"] == list(collected.items)


def test_a_run_that_fails(server: InngestServer) -> None:
    """Its stream ends with the message of the error."""

    async def handler(request: Request) -> None:
        stream.push("partial")
        raise NonRetriableError("boom")

    with serving(server, {"GET /a": handler}) as app:
        got = app.get("/a", headers={"accept": "text/event-stream"})

    assert ["metadata", "stream", "response"] == events_of(got.body)[:2] + events_of(got.body)[-1:]
    assert b'"status":"failed"' in got.body
    assert b'\\"boom\\"' in got.body


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_a_run_that_is_cancelled_at_the_server(server: InngestServer, interface: str) -> None:
    """A client that follows the stream there learns of it: the stream ends."""

    async def handler(request: Request) -> None:
        await step.run("a", says, "sync-data")
        await step.sleep("nap", "1h")

    def cancel() -> None:
        server.until(lambda: server.is_followed)
        server.cancel(server.run)

    cancelling = threading.Thread(target=cancel)
    with serving(server, {"GET /a": handler}, interface=interface) as app:
        cancelling.start()
        response = fetch_with_stream(f"{app.url}/a", timeout=20)
        cancelling.join(20)

    assert (410, b'"the run was cancelled"') == (response.status, response.body)


def test_a_run_that_goes_on_is_left_at_a_stop(server: InngestServer) -> None:
    """Nobody waits for it: a process whose clients follow streams at the server stops at once."""

    async def handler(request: Request) -> None:
        await step.run("a", says, "sync-data")
        await step.sleep("nap", "1h")

    with serving(server, {"GET /a": handler}) as app:
        got = app.get("/a", headers={"accept": "text/event-stream"})
        server.until(lambda: any(each.path.endswith("/output") for each in server.seen))
        began = time.monotonic()
        app.durable.stop(5)

    assert b"redirect_info" in got.body
    assert time.monotonic() - began < 5


def test_clients_are_led_on_by_a_drain(server: InngestServer) -> None:
    """Who waits in a process that is about to stop is redirected, or its stream ends."""

    async def handler(request: Request) -> None:
        await step.sleep("nap", "1h")

    with serving(server, {"GET /a": handler}) as app, ThreadPoolExecutor(2) as clients:
        url = "/a" + app.get("/a").headers["location"]
        waiting = clients.submit(app.get, url)
        streaming = clients.submit(app.get, url, headers={"accept": "text/event-stream"})
        server.until(lambda: app.durable.health()["waiting_clients"] == 2)
        app.durable.drain()
        answers = waiting.result(10), streaming.result(10)

    assert [303, 200] == [each.status for each in answers]
    assert b"inngest.response" not in answers[1].body
