"""What is pushed after the handoff, on its way through the server to who listens there."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from durable_core import NonRetriableError, Request, step
from durable_core.codec.sse import SSEDecoder
from durable_core.sync import stream as sync_stream
from durable_inngest import _api as _calls
from durable_inngest._http import Timeouts
from support.inngest_app import serving
from support.inngest_server import Fault, InngestServer

pytestmark = pytest.mark.slow

LIMIT = 1_024_000


@contextmanager
def listening(server: InngestServer) -> Iterator[http.client.HTTPResponse]:
    """Listen at the server, before anything is pushed there."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    try:
        connection.request("GET", f"/v1/realtime/sse?token=rt.{server.run.id}")
        yield connection.getresponse()
    finally:
        connection.close()


def pushed_of(response: http.client.HTTPResponse, at_a_time: int = 1 << 16) -> list[Any]:
    """Return the data of the chunks up to the response of the run."""
    parser = SSEDecoder()
    data: list[Any] = []
    while True:
        for event in parser.feed(response.read1(at_a_time)):
            if event.event == "inngest.response":
                return data
            if event.event == "inngest.stream":
                data.append(json.loads(event.data)["data"])


@pytest.mark.parametrize(("count", "size"), [(60, 50_000), (3, 900_000), (2, 1_500_000)])
def test_posts_are_no_larger_than_the_server_takes(
    server: InngestServer, count: int, size: int
) -> None:
    """However much is pushed at once, all of it comes through in order."""
    heard = threading.Event()

    def says() -> None:
        assert heard.wait(20)
        for number in range(count):
            sync_stream.push(f"{number}:".ljust(size, "x"))

    async def handler(request: Request) -> None:
        await step.sleep("nap", "10ms")
        await step.run("a", says)

    with serving(server, {"GET /a": handler}) as app:
        app.get("/a")
        with listening(server) as response:
            heard.set()
            data = pushed_of(response)

    assert [f"{number}:" for number in range(count)] == [each.rstrip("x") for each in data]
    posts = [len(s.body) for s in server.seen if s.path == "/v1/realtime/publish/tee"]
    assert max(posts) <= LIMIT
    assert count * size < sum(posts) < count * size + 50_000


def test_a_slow_reader(server: InngestServer) -> None:
    """It holds up neither the step nor the run, and gets all of it."""
    heard = threading.Event()

    def says() -> None:
        assert heard.wait(20)
        for number in range(100):
            sync_stream.push(str(number).ljust(20_000))

    async def handler(request: Request) -> str:
        await step.sleep("nap", "10ms")
        await step.run("a", says)
        return "done"

    with serving(server, {"GET /a": handler}) as app:
        app.get("/a")
        with listening(server) as response:
            heard.set()
            server.until(lambda: server.run.ended)  # nothing has been read until now
            data = pushed_of(response, 512)

    assert [str(number) for number in range(100)] == [each.strip() for each in data]


def test_a_reader_that_comes_late(server: InngestServer) -> None:
    """It finds no chunk any more, but the end: the server keeps nothing, so that is told again."""

    def refuses() -> None:
        raise NonRetriableError("never")

    async def handler(request: Request) -> None:
        await step.run("a", refuses)

    tee = "/v1/realtime/publish/tee"
    with serving(server, {"GET /a": handler}) as app:
        first = app.get("/a", headers={"accept": "text/event-stream"})
        server.until(lambda: any(each.path == tee for each in server.seen))
        with listening(server) as response:
            assert [] == pushed_of(response)

    assert b"inngest.redirect_info" in first.body
    assert b"inngest.response" not in first.body


def test_nobody_comes_late_who_was_not_sent(server: InngestServer) -> None:
    """The end is told once where no client follows the stream."""

    async def handler(request: Request) -> str:
        await step.sleep("nap", "10ms")
        return "done"

    with serving(server, {"GET /a": handler}) as app:
        followed = app.get("/a", headers={"accept": "text/event-stream"})
        assert 200 == followed.status
        plain = app.follow("GET", "/a")
        assert 200 == plain.status
        first, second = server.runs

        def ends_of(run_id: str) -> int:
            tee = "/v1/realtime/publish/tee"
            seen = [s for s in list(server.seen) if s.path == tee]
            return sum(s.query["channel"] == run_id for s in seen)

        server.until(lambda: ends_of(first) >= 2 and ends_of(second) >= 1)

    assert 1 == ends_of(second)


def test_a_server_that_takes_nothing(server: InngestServer) -> None:
    """The run goes on, and its client has its response."""

    def says() -> None:
        sync_stream.push("lost")

    async def handler(request: Request) -> str:
        await step.sleep("nap", "10ms")
        await step.run("a", says)
        return "done"

    server.faults.append(Fault("/v1/realtime/publish/tee", "drop", times=9))
    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert b'"done"' == got.body


def test_a_server_that_does_not_say_that_it_has_it(
    server: InngestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One post is waited for so long; the next one of the run goes out then."""
    monkeypatch.setattr(_calls, "_STREAMED", Timeouts(connect=5.0, idle=2.0))
    gate = threading.Event()
    tee = "/v1/realtime/publish/tee"

    async def handler(request: Request) -> str:
        await step.sleep("nap", "10ms")
        await step.run("a", sync_stream.push, "one")
        await step.run("b", sync_stream.push, "two")
        return "done"

    server.faults.append(Fault(tee, "slow", gate=gate))
    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")
        server.until(lambda: [each.path for each in list(server.seen)].count(tee) >= 3)
        gate.set()

    assert b'"done"' == got.body
    [first, second, last] = [each.body for each in server.seen if each.path == tee][:3]
    assert (b'"one"' in first, b'"two"' in second, b"inngest.response" in last) == (True,) * 3
