"""Clients at the wait URL that want an event stream."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from durable_core import NonRetriableError, Request, Response, step, stream
from durable_core.sync import step as sync_step
from durable_core.sync import stream as sync_stream
from support.inngest_app import App, serving
from support.inngest_server import Fault, InngestServer

pytestmark = pytest.mark.slow

SSE = {"accept": "text/event-stream"}


def events_of(body: bytes) -> list[str]:
    lines = body.decode().split("\n")
    return [line[len("event: inngest.") :] for line in lines if line.startswith("event: ")]


def wait_url(app: App, path: str = "/a") -> str:
    location = app.get(path).headers["location"]
    return f"{path}{location}" if location.startswith("?") else location


@contextmanager
def reading(app: App, path: str) -> Iterator[http.client.HTTPResponse]:
    """Ask for a stream; the head of the answer is there."""
    connection = http.client.HTTPConnection(urlsplit(app.url).netloc, timeout=20)
    try:
        connection.request("GET", path, headers=SSE)
        yield connection.getresponse()
    finally:
        connection.close()


@pytest.mark.parametrize("proxy", [False, True])
@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
@pytest.mark.parametrize("is_async", [True, False])
def test_the_rest_of_a_run(
    server: InngestServer, interface: str, is_async: bool, proxy: bool
) -> None:
    """What its steps push from then on, their commits, and its response at last."""
    watched = threading.Event()

    def says() -> str:
        assert watched.wait(20)
        sync_stream.push("live")
        return "b"

    async def handler(request: Request) -> Response:
        await step.sleep("nap", "10ms")
        return Response.json(await step.run("b", says), 202, {"x-own": "yes"})

    def handler_sync(request: Request) -> Response:
        sync_step.sleep("nap", "10ms")
        return Response.json(sync_step.run("b", says), 202, {"x-own": "yes"})

    options = {"async_redirect_url": "/proxy"} if proxy else {}
    chosen: Any = handler if is_async else handler_sync
    with (
        serving(server, {"GET /a": chosen}, interface=interface, options=options) as app,
        reading(app, wait_url(app)) as response,
    ):
        watched.set()
        body = response.read()

    assert (200, "text/event-stream") == (response.status, response.headers["content-type"])
    assert ["metadata", "stream", "commit", "response"] == events_of(body)
    assert b'"live"' in body
    assert b'"statusCode":202' in body
    assert b'"x-own":"yes"' in body


@pytest.mark.parametrize("late", [False, True])
def test_a_run_that_fails(server: InngestServer, late: bool) -> None:
    """Its last event says so, with the message of the error; afterwards, too."""

    async def handler(request: Request) -> None:
        await step.sleep("nap", "50ms")
        raise NonRetriableError("boom")

    with serving(server, {"GET /a": handler}) as app:
        url = wait_url(app)
        if late:
            server.until(lambda: server.run.ended)
        got = app.get(url, headers=SSE)

    assert ["metadata", "response"] == events_of(got.body)
    assert b'"status":"failed"' in got.body
    assert b'\\"boom\\"' in got.body
    assert b'"statusCode":500' in got.body


async def naps(request: Request) -> str:
    await step.sleep("nap", "100ms")
    stream.push("chunk")
    return "done"


def test_a_run_of_another_process(server: InngestServer) -> None:
    """Its chunks are at the server; its end is told here, as the server has it."""
    with serving(server, {"GET /a": naps}) as here, serving(server, {"GET /a": naps}) as there:
        got = there.get(wait_url(here), headers=SSE)

    assert ["metadata", "response"] == events_of(got.body)
    assert b'"status":"succeeded"' in got.body


def test_a_token_that_opens_nothing(server: InngestServer) -> None:
    """It is refused before the stream begins; for what is no run the server is not asked."""
    with serving(server, {"GET /a": naps}) as app:
        url = wait_url(app)
        got = app.get(f"{url}x", headers=SSE)
        missing = app.get("/proxy?runId=a", headers=SSE)
        asked = len(server.seen)
        urls = ("/proxy?runId=..&token=a", "/proxy?runId=a%2Fb&token=a")
        others = [app.get(url, headers=headers) for url in urls for headers in (SSE, {})]
        assert [] == [s for s in server.seen[asked:] if s.path.endswith("output")]

    assert (403, 400) == (got.status, missing.status)
    assert [403] * 4 == [each.status for each in others]


def test_a_server_that_is_away_for_a_moment(server: InngestServer) -> None:
    """The stream stays, and its end comes when the server can be asked again."""
    with serving(server, {"GET /a": naps}) as here, serving(server, {"GET /a": naps}) as there:
        url = wait_url(here)
        server.faults.append(Fault(r"/v1/http/runs/\w+/output", 500, times=1))
        got = there.get(url, headers=SSE)

    assert ["metadata", "response"] == events_of(got.body)


def test_a_client_that_leaves(server: InngestServer) -> None:
    """Nothing is held for it any longer."""
    release = threading.Event()

    async def handler(request: Request) -> str:
        await step.sleep("nap", "10ms")
        await step.run("b", release.wait, 20)
        return "done"

    with serving(server, {"GET /a": handler}) as app:
        with reading(app, wait_url(app)) as response:
            response.read(10)
            assert 1 == app.durable.health()["waiting_clients"]
        server.until(lambda: app.durable.health()["waiting_clients"] == 0)
        release.set()
        server.until(lambda: server.run.ended)
