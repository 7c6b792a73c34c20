"""Event streams: what is sent when something has changed, and when they end."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from durable_core import Event, Request, Response
from durable_core.errors import EncryptionKeyError
from durable_core.inspection import StreamedChunk
from durable_core.sync import step, stream
from durable_dashboard import Dashboard, _dashboard
from durable_dashboard import _live as live
from support.harness import Lab, lab, until


@pytest.fixture
def process() -> Iterator[Lab]:
    with lab() as process:
        process.durable.start()
        yield process


def nap(request: Request) -> str:
    """Wait until somebody says go on."""
    step.run("first", int)
    step.wait_for_event("answer", event="go", timeout="1h")
    return "end"


def begin(process: Lab) -> str:
    """Begin a run that waits; return its id."""
    if not process.durable.endpoints():
        process.endpoint(nap, function_id="nap")
    registered = process.durable.engine.endpoints["nap"]
    process.durable.engine.serve(registered, Request(method="GET", url="http://host/it"), None)
    run_id = process.durable.runs.list()[0].id
    until(lambda: len(process.durable.runs.get(run_id).steps) == 2)
    return run_id


def open_stream(dashboard: Dashboard, name: str, max_wait: float = 25.0, **query: str) -> Any:
    """Return the body of an event stream."""
    return dashboard.handle(asking(name, **query), max_wait=max_wait).body


def asking(name: str, /, last: str = "", **query: str) -> Request:
    return Request(
        method="GET",
        url=f"http://localhost/_api/{name}?{urlencode(query)}",
        headers={"last-event-id": last} if last else {},
        client="127.0.0.1",
    )


def parse(part: bytes) -> dict[str, Any]:
    """Return the one event of a part: its name, its id and its document."""
    fields = dict(line.split(": ", 1) for line in part.decode().strip().split("\n") if ": " in line)
    return {**fields, "data": json.loads(fields["data"])}


def test_the_list_is_sent_again_when_it_is_another(process: Lab) -> None:
    """At once as it is, and then when a run has begun or has changed."""
    body = open_stream(Dashboard(process.durable), "runs-live")
    first = next(body)
    assert first.startswith(b"retry: 1000\n\n")
    assert [] == parse(first.partition(b"\n\n")[2])["data"]["runs"]

    run_id = begin(process)
    statuses = []
    while "suspended" not in statuses:
        [run] = parse(next(body))["data"]["runs"]
        assert run_id == run["id"]
        statuses.append(run["status"])
    process.durable.runs.cancel(run_id)
    assert "cancelled" == parse(next(body))["data"]["runs"][0]["status"]
    body.close()


def test_a_run_is_sent_step_by_step(process: Lab) -> None:
    """Steps that the page has are not sent again, also to a browser that comes again."""
    dashboard, run_id = Dashboard(process.durable), begin(process)
    body = open_stream(dashboard, "run-live", id=run_id)
    first = parse(next(body).partition(b"\n\n")[2])
    assert (0, ["first"]) == (first["data"]["from"], names(first["data"]["finished"]))
    assert ["answer"] == names(first["data"]["begun"])

    send(process)
    second = parse(next(body))
    while second["data"]["run"]["ended"] is None:
        second = parse(next(body))
    assert (1, ["answer"]) == (second["data"]["from"], names(second["data"]["finished"]))
    body.close()
    again: Any = dashboard.handle(asking("run-live", last=first["id"], id=run_id)).body
    found = parse(next(again).partition(b"\n\n")[2])
    again.close()
    assert (1, ["answer"]) == (found["data"]["from"], names(found["data"]["finished"]))


def names(steps: list[dict[str, Any]]) -> list[str]:
    return [each["name"] for each in steps]


def send(process: Lab) -> None:
    process.durable.send(Event("go"))


def test_a_stream_about_nothing_says_so(process: Lab) -> None:
    """A stream has no status any more, so the problem is an event."""
    dashboard = Dashboard(process.durable)

    for body, status in (
        (open_stream(dashboard, "run-live", id="nobody"), 404),
        (open_stream(dashboard, "runs-live", status="x"), 400),
    ):
        event = parse(next(body).partition(b"\n\n")[2])
        assert ("problem", status) == (event["event"], event["data"]["problem"]["status"])
        body.close()


def test_the_overview_comes_at_intervals(process: Lab) -> None:
    """It is made anew every two seconds at most, however much happens."""
    body = open_stream(Dashboard(process.durable), "overview-live")
    assert 0 == parse(next(body).partition(b"\n\n")[2])["data"]["begun"]
    began = time.monotonic()
    begin(process)

    while parse(next(body))["data"]["begun"] == 0:
        pass
    assert time.monotonic() - began > 1.0
    body.close()


@pytest.mark.parametrize("how", ["drain", "stop"])
def test_streams_end_when_the_process_is_told_to_stop(process: Lab, how: str) -> None:
    """A server waits for its clients before it stops: none may wait for the dashboard."""
    body = open_stream(Dashboard(process.durable), "runs-live")
    next(body)
    began = time.monotonic()
    threading.Timer(0.1, getattr(process.durable, how)).start()

    assert [] == [part for part in body if part != b":\n\n"]
    assert time.monotonic() - began < 10


def test_a_page_may_be_open_before_the_process_works() -> None:
    """Where the first request of another kind starts it, streams end with it all the same."""
    with lab() as process:
        dashboard = Dashboard(process.durable)
        body = open_stream(dashboard, "runs-live")
        next(body)
        process.durable.start()
        until(lambda: dashboard.changes._was_started)
        process.durable.stop()

        began = time.monotonic()
        assert [] == [part for part in body if part != b":\n\n"]
        assert time.monotonic() - began < 10


def test_streams_in_threads_are_few_and_short(process: Lab) -> None:
    """Each holds a thread of the server: past the limit a client gets what there is, and leaves."""
    dashboard = Dashboard(process.durable, thread_streams=1)
    held = open_stream(dashboard, "runs-live", max_wait=0.3)
    next(held)
    crowded = open_stream(dashboard, "runs-live")

    assert 1 == len(list(crowded))
    began = time.monotonic()
    assert [] == list(held)
    assert 0.1 < time.monotonic() - began < 5
    assert 0 == dashboard.changes.in_threads


def test_streams_leave_threads_to_others(process: Lab) -> None:
    """They count as clients that wait do: one thread in four of a small server stays free."""
    process.durable.start(server_threads=4)
    dashboard = Dashboard(process.durable)
    bodies = [open_stream(dashboard, "runs-live") for _ in range(3)]
    for body in bodies:
        next(body)

    assert 2 == process.durable.health()["waiting_clients"]
    assert [] == list(bodies[2])
    for body in bodies:
        body.close()
    assert 0 == process.durable.health()["waiting_clients"]


def test_nobody_looks_when_nobody_watches(process: Lab) -> None:
    """The thread that looks at the store ends with the last stream."""
    body = open_stream(Dashboard(process.durable), "runs-live")
    next(body)
    assert "durable-dashboard" in threads()
    body.close()
    until(lambda: "durable-dashboard" not in threads())


def threads() -> list[str]:
    return [each.name for each in threading.enumerate()]


def test_a_quiet_stream_finds_out_who_is_gone(
    process: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comment is sent from time to time."""
    monkeypatch.setattr(live, "_KEEP_ALIVE", 0.05)
    body = open_stream(Dashboard(process.durable), "runs-live")

    next(body)
    assert b":\n\n" == next(body)
    body.close()


def test_in_a_task(process: Lab) -> None:
    """The same on an event loop, which is not blocked; it ends when the process is to stop."""

    async def read() -> list[bytes]:
        response = await dashboard.handle_async(asking("runs-live"))
        body: Any = response.body
        assert isinstance(body, AsyncIterator)
        parts = [await anext(body)]
        await asyncio.to_thread(begin, process)
        parts.append(await anext(body))
        process.durable.drain()
        parts += [part async for part in body]
        return parts

    dashboard = Dashboard(process.durable)
    first, second, *_ = asyncio.run(read())
    assert [] == parse(first.partition(b"\n\n")[2])["data"]["runs"]
    assert 1 == len(parse(second)["data"]["runs"])


def test_a_stream_in_a_task_ends_in_the_end(process: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client asks for it again, and so whether it may still have it."""
    monkeypatch.setattr(_dashboard, "_LONGEST", 0.2)

    async def read() -> list[bytes]:
        response = await Dashboard(process.durable).handle_async(asking("runs-live"))
        body: Any = response.body
        async with asyncio.timeout(20):
            return [part async for part in body]

    [first] = asyncio.run(read())
    assert first.startswith(b"retry: 1000\n\n")


def letter(request: Request) -> str:
    """Stream a letter in a step."""
    step.run("write", write)
    step.wait_for_event("answer", event="go", timeout="1h")
    return "sent"


def write() -> None:
    for word in ("Dear", "Anna"):
        stream.push(word)


@pytest.fixture
def letter_id(process: Lab) -> str:
    process.endpoint(letter).handle(Request(method="GET", url="http://host/it"))
    run_id = process.durable.runs.list()[0].id
    until(lambda: len(process.durable.runs.get(run_id).steps) == 2)
    return run_id


def test_what_a_run_streams(process: Lab, letter_id: str) -> None:
    """As its clients get it, but for the right of other sites to read it."""
    response = Dashboard(process.durable).handle(asking("stream", id=letter_id))
    body: Any = response.body
    parts = b""
    while b'"Anna"' not in parts:
        parts += next(body)
    body.close()

    assert b"event: inngest.stream" in parts
    assert "access-control-allow-origin" not in response.headers
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_the_text_in_a_task_ends_in_the_end(
    process: Lab, letter_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client asks again, is authorized anew, and gets what it has not got."""
    monkeypatch.setattr(_dashboard, "_LONGEST", 0.3)
    asked: list[str] = []

    def authorize(request: Request) -> str:
        asked.append(request.headers.get("last-event-id") or "")
        return "anna"

    async def read(**headers: str) -> bytes:
        dashboard = Dashboard(process.durable, authorize=authorize)
        request = asking("stream", id=letter_id)
        request = Request(
            method="GET", url=request.url, headers={**dict(request.headers.items()), **headers}
        )
        response = await dashboard.handle_async(request)
        body: Any = response.body
        async with asyncio.timeout(20):
            return b"".join([part async for part in body])

    async def read_twice() -> tuple[bytes, str, bytes]:
        first = await read()
        position = re.findall(rb"^id: (.+)$", first, re.MULTILINE)[-1].decode()
        return first, position, await read(**{"last-event-id": position})

    first, position, second = asyncio.run(read_twice())
    assert (True, False) == (b'"Anna"' in first, b'"Anna"' in second)
    assert ["", position] == asked


def test_a_stream_that_cannot_be_read_ends(caplog: pytest.LogCaptureFixture) -> None:
    """The page does not ask again and again; the log says why."""

    def chunks() -> Iterator[StreamedChunk]:
        yield StreamedChunk(step="a", data="Dear")
        raise EncryptionKeyError("this process has no keys")

    events = [parse(part)["event"] for part in live.encode_chunks(chunks())]

    assert ["reset", "inngest.stream", "end"] == events
    assert "this process has no keys" in caplog.text


def test_what_a_run_has_streamed(process: Lab, letter_id: str) -> None:
    """A process that only looks sends what is stored; then the page is told that this is all."""
    looking = Lab(process.durable.engine.store)
    response: Response = Dashboard(looking.durable).handle(asking("stream", id=letter_id))
    body: Any = response.body

    events = [parse(part) for part in body]
    assert ["reset", "inngest.stream", "inngest.stream", "end"] == [e["event"] for e in events]
    assert ["Dear", "Anna"] == [event["data"]["data"] for event in events[1:3]]
    assert not looking.durable.health()["started"]
