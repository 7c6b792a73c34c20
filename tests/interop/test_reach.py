"""Whether the server is there: before the first step, in the middle of a run, and at its end."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from durable_core import Request, step, stream
from durable_core.engine.remote import attempts as _attempts
from durable_inngest import _api as _calls
from durable_inngest._api import NO_RUN
from durable_inngest._http import Timeouts
from support.inngest_app import serving
from support.inngest_handlers import CALLS, called, two
from support.inngest_server import Fault, InngestServer, inngest_server

pytestmark = pytest.mark.slow


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[InngestServer]:
    """A development server, which nobody waits long for."""
    CALLS.clear()
    monkeypatch.setattr(_attempts, "_BASE", 0.001)
    with inngest_server() as serving:
        yield serving


async def one(request: Request) -> str:
    return await step.run("a", called, "a")


async def none(request: Request) -> str:
    return "done"


async def says(request: Request) -> str:
    stream.push("chunk")
    return "done"


@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
@pytest.mark.parametrize("kind", [301, 404, 405, 500])
def test_servers_answer_as_they_like(
    server: InngestServer, interface: str, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the question comes to, the server is there; it is asked once for many clients."""
    monkeypatch.setattr(_attempts, "_SILENCE", 3600.0)  # on any machine
    server.faults.append(Fault(f"/v0/runs/{NO_RUN}/actions", kind, times=99))
    with serving(server, {"GET /a": two}, interface=interface) as app:
        got = [app.get("/a") for _ in range(5)]

    assert [(200, ["a", "b"])] * 5 == [(each.status, each.json) for each in got]
    assert (1, 1) == (server.asked, server.accepted)


@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
def test_the_reason_is_in_the_log(
    server: InngestServer, interface: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client hears that the server is away, whoever runs the application also how."""
    caplog.set_level(logging.ERROR, "durable")
    server.faults.append(Fault(f"/v0/runs/{NO_RUN}/actions", "drop"))
    with serving(server, {"GET /a": two}, interface=interface) as app:
        got = app.get("/a")

    assert (503, "1", {}) == (got.status, got.headers["retry-after"], CALLS)
    assert "engine's server is not available" in got.json["detail"]
    [record] = caplog.records
    assert "a request was refused before its handler ran: the Inngest server cannot be used" in (
        record.getMessage()
    )


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
@pytest.mark.parametrize(
    ("handler", "path"),
    [
        (none, "/v1/checkpoint"),
        (says, "/v1/checkpoint"),
        (one, "/v1/checkpoint"),
        (two, r"/v1/checkpoint/\w+/steps"),
    ],
    ids=["no step", "chunk", "one step", "second step"],
)
def test_no_success_that_was_not_recorded(
    server: InngestServer, handler: Any, path: str, interface: str, accept: str
) -> None:
    """Whatever could not be reported, be it the end alone, the client is told of no success."""
    server.faults.append(Fault(path, "drop", times=99))
    with serving(server, {"GET /a": handler}, interface=interface) as app:
        got = app.get("/a", headers={"accept": accept})

    if accept == "*/*":
        assert (503, "1") == (got.status, got.headers["retry-after"])
    else:
        assert 200 == got.status
        last = got.body.rstrip().rpartition(b"event: ")[2]
        assert last.startswith(b"inngest.response\n")
        assert b'"status":"failed"' in last
        assert b'"statusCode":503' in last
    assert all(run.status == "Running" for run in server.runs.values())
    assert all(times == 1 for times in CALLS.values())


def test_a_call_that_is_not_answered(
    server: InngestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is over at some time, and it is made again; the step is not."""
    monkeypatch.setattr(_calls, "_QUICK", Timeouts(connect=5.0, idle=2.0, whole=4.0))
    gate = threading.Event()
    server.faults.append(Fault("/v1/checkpoint", "slow", gate=gate))
    with serving(server, {"GET /a": two}) as app:
        got = app.get("/a")
        gate.set()

    assert (200, ["a", "b"]) == (got.status, got.json)
    assert {"a": 1, "b": 1} == CALLS


def test_what_is_ready_together_goes_out_together(server: InngestServer) -> None:
    """Results that come while a call is on its way are one call; the run is replayed after that."""
    gate, go_on = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    server.faults.append(Fault("/v1/checkpoint", "slow", gate=gate))

    async def waits(name: str) -> str:
        await go_on.wait()
        return called(name)

    async def handler(request: Request) -> list[Any]:
        loops[:] = [asyncio.get_running_loop()]
        several = await asyncio.gather(
            step.run("a", called, "a"), step.run("b", waits, "b"), step.run("c", waits, "c")
        )
        await step.sleep("nap", "10ms")
        return [*several, await step.run("d", called, "d")]

    got: list[Any] = []
    with serving(server, {"GET /a": handler}) as app:
        client = threading.Thread(target=lambda: got.append(app.follow("GET", "/a")))
        client.start()
        server.until(lambda: bool(server.seen))  # the first result is on its way
        loops[0].call_soon_threadsafe(go_on.set)
        engine: Any = app.durable.engine
        server.until(lambda: len(engine.host.live.all()[0].ex.reporter._queue) == 2)
        gate.set()
        client.join(20)

    assert ["a", "b", "c", "d"] == got[0].json
    assert dict.fromkeys("abcd", 1) == CALLS
    calls = [each.json["steps"] for each in server.seen if each.path.startswith("/v1/checkpoint")]
    names = [[op.get("displayName") for op in ops] for ops in calls]
    assert (["a"], ["b", "c"]) == (names[0], names[1][:2])
    assert ["order of steps 1", "nap"] == [name for each in names[1:] for name in each][2:]


def test_no_thread_for_each_client(server: InngestServer) -> None:
    """``async def`` handlers and steps of many clients at a time need none of ours at all."""
    loops: list[asyncio.AbstractEventLoop] = []
    go_on = asyncio.Event()

    async def waits() -> str:
        CALLS["waits"] += 1
        await go_on.wait()
        return "done"

    async def handler(request: Request) -> str:
        loops[:] = [asyncio.get_running_loop()]
        await step.run("a", waits)
        return await step.run("b", waits)

    got: list[Any] = []
    with serving(server, {"GET /a": handler}) as app:
        before = {thread.ident for thread in threading.enumerate()}
        clients = [
            threading.Thread(target=lambda: got.append(app.get("/a")), name="client")
            for _ in range(30)
        ]
        for client in clients:
            client.start()
        server.until(lambda: CALLS["waits"] == 30)
        new = [thread.name for thread in threading.enumerate() if thread.ident not in before]
        loops[0].call_soon_threadsafe(go_on.set)
        for client in clients:
            client.join(20)

    assert ["client"] * 30 == new
    assert [200] * 30 == [each.status for each in got]
    assert 1 == server.asked
