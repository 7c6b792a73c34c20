"""A server that is slow, down, refuses, loses answers, and calls twice or out of order."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from durable_core import Request, step
from durable_core.engine.remote import attempts
from durable_core.errors import EngineError
from durable_core.machine.step_ids import hash_step_id
from support.inngest_app import serving
from support.inngest_handlers import CALLS, called, naps, two, two_sync
from support.inngest_server import Fault, InngestServer, inngest_server

pytestmark = pytest.mark.slow


async def rests(request: Request) -> None:
    """Leave the server nothing to do meanwhile."""
    await step.run("a", called, "a")
    await step.sleep("nap", "1h")


@pytest.mark.parametrize("kind", [500, 429, "drop", "lose", "slow"])
@pytest.mark.parametrize("path", ["/v1/checkpoint", r"/v1/checkpoint/\w+/steps"])
def test_a_checkpoint_that_fails_now_and_then(
    server: InngestServer, kind: str | int, path: str
) -> None:
    """It is tried again; the steps run once, and the client has its answer."""
    server.faults.append(Fault(path, kind, times=2, seconds=0.05))
    with serving(server, {"GET /a": two}) as app:
        got = app.get("/a")

    assert (200, ["a", "b"]) == (got.status, got.json)
    assert {"a": 1, "b": 1} == CALLS
    assert "Completed" == server.run.status


def test_the_next_step_waits_for_the_last_one(server: InngestServer) -> None:
    """No step begins before the checkpoint of the last one is taken; the handler's code goes on."""
    gate, between = threading.Event(), threading.Event()
    server.faults.append(Fault("/v1/checkpoint", "slow", gate=gate))

    async def handler(request: Request) -> None:
        await step.run("a", called, "a")
        between.set()
        await step.run("b", called, "b")

    with serving(server, {"GET /a": handler}) as app:
        client = threading.Thread(target=app.get, args=("/a",))
        client.start()
        assert between.wait(20)
        server.until(lambda: bool(server.seen))  # the checkpoint is on its way, and held up
        before = dict(CALLS)
        gate.set()
        client.join(20)

    assert ({"a": 1}, {"a": 1, "b": 1}) == (before, CALLS)


@pytest.mark.parametrize("status", [400, 413])
def test_a_checkpoint_that_is_refused(server: InngestServer, status: int) -> None:
    """It is not tried again, and the client is not told that all went well."""
    server.faults.append(Fault("/v1/checkpoint", status, times=99))
    with serving(server, {"GET /a": two}) as app:
        got = app.get("/a")

    assert (503, {"a": 1}) == (got.status, CALLS)
    assert ["POST /v1/checkpoint"] == server.paths()


@pytest.fixture
def strict() -> Iterator[InngestServer]:
    """A server that begins no run twice, and knows the endpoint by a run before."""
    CALLS.clear()
    with inngest_server(begins_once=True) as serving:
        yield serving


def test_a_run_that_is_there_already(strict: InngestServer) -> None:
    """The answer to its beginning was lost, and the next attempt is refused: it goes on."""
    with serving(strict, {"GET /a": two}) as app:
        app.get("/a")
        strict.faults.append(Fault("/v1/checkpoint", "lose"))
        got = app.get("/a")

    assert (200, ["a", "b"]) == (got.status, got.json)
    assert {"a": 2, "b": 2} == CALLS
    first, second = strict.runs.values()
    assert ("Completed", "Completed") == (first.status, second.status)
    assert first.memos == second.memos


def test_what_is_lost_with_the_answer(strict: InngestServer) -> None:
    """Without a token the client could never see the run end: it ends at once, for both sides."""
    with serving(strict, {"GET /a": naps}) as app:
        app.follow("GET", "/a")
        strict.faults.append(Fault("/v1/checkpoint", "lose"))
        got = app.get("/a")

    assert (503, "1") == (got.status, got.headers["retry-after"])
    assert ["Completed", "Failed"] == [run.status for run in strict.runs.values()]


def test_a_first_run_that_is_there_already(strict: InngestServer) -> None:
    """What the server calls a new endpoint is not known then: nothing more can be recorded."""
    with serving(strict, {"GET /a": two}) as app:
        strict.faults.append(Fault("/v1/checkpoint", "lose"))
        got = app.get("/a")

    assert (503, {"a": 1}) == (got.status, CALLS)


def test_a_run_of_somebody_else(server: InngestServer) -> None:
    """A refusal of the first attempt is no run of ours."""
    with serving(server, {"GET /a": two}) as app:
        app.get("/a")
        server.faults.append(Fault("/v1/checkpoint", 409))
        got = app.get("/a")

    assert 503 == got.status


@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
@pytest.mark.parametrize("kind", ["drop", 503])
@pytest.mark.parametrize("handler", [two, two_sync])
def test_a_server_that_is_not_there_yet(
    server: InngestServer, interface: str, kind: str | int, handler: Any
) -> None:
    """It is asked before the first step runs; when it has come, all is well."""
    server.faults.append(Fault(".*", kind))
    with serving(server, {"GET /a": handler}, interface=interface) as app:
        first = app.get("/a")
        steps_run = dict(CALLS)
        second = app.get("/a")

    assert (503, "1", {}) == (first.status, first.headers["retry-after"], steps_run)
    assert (200, ["a", "b"]) == (second.status, second.json)


def test_a_server_that_goes_down(server: InngestServer) -> None:
    """One client learns it after 5 attempts, the next one before any step; then all is well."""
    with serving(server, {"GET /a": two}) as app:
        before = app.get("/a")
        CALLS.clear()
        seen = len(server.seen)
        server.faults.append(Fault(".*", "drop", times=6))
        first = app.get("/a")
        steps_run = dict(CALLS)
        second = app.get("/a")
        third = app.get("/a")

    assert 200 == before.status
    assert (503, "1", {"a": 1}) == (first.status, first.headers["retry-after"], steps_run)
    assert (503, 200) == (second.status, third.status)
    assert {"a": 2, "b": 1} == CALLS
    attempts = [s.path for s in server.seen[seen : seen + 5]]
    assert ["/v1/checkpoint"] * 5 == attempts
    assert b"http" not in first.body


@pytest.mark.parametrize("kind", [500, "drop"])
def test_state_that_cannot_be_read(server: InngestServer, kind: str | int) -> None:
    """It is asked for again: a call that comes to nothing would be an attempt of a step."""
    server.faults.append(Fault(r"/v0/runs/01\w+/(batch|actions)", kind, times=3))
    with serving(server, {"GET /a": naps}, options={"retries": 0}) as app:
        got = app.follow("GET", "/a")

    assert (200, ["a", "b", "c"]) == (got.status, got.json)
    assert "answer 500" not in server.run.history


def test_state_that_cannot_be_read_at_all(
    server: InngestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is told to call again."""
    monkeypatch.setattr(attempts, "_BASE", 0.001)
    server.faults.append(Fault(r"/v0/runs/01\w+/batch", 500, times=5))
    with serving(server, {"GET /a": naps}) as app:
        got = app.follow("GET", "/a")

    assert (200, ["a", "b", "c"]) == (got.status, got.json)
    assert 1 == server.run.history.count("answer 500")


def test_calls_that_come_twice(server: InngestServer) -> None:
    """A step may run twice then, as at any server; its first result counts, and the run ends."""
    server.repeat = lambda call: 2
    with serving(server, {"GET /a": naps}) as app:
        got = app.follow("GET", "/a")

    assert (200, ["a", "b", "c"]) == (got.status, got.json)
    assert 1 == CALLS["a"]


def test_calls_out_of_order(server: InngestServer) -> None:
    """One that comes early is answered with the op that is pending still.

    A late one gets an error of the call: the server would take a failure for the end of the run,
    which has another one.
    """
    with serving(server, {"GET /a": naps}) as app:
        first = app.get("/a")
        server.call(server.run)
        got = app.get("/a" + first.headers["location"])
        server.until(lambda: server.run.ended)
        headers = {"x-run-id": server.run.id, "x-inngest-signature": ""}
        late = app.ask("GET", "/a", headers=headers)

    assert ["a", "b", "c"] == got.json
    assert (500, "false") == (late.status, late.headers["x-inngest-no-retry"])
    assert ("internal", "RunUnknown") == (late.json["type"], late.json["name"])


def test_a_step_that_is_no_longer_there(server: InngestServer) -> None:
    """A call for a step that the handler does not ask for names those that it does."""
    with serving(server, {"GET /a": rests}) as app:
        app.get("/a")
        headers = {
            "x-run-id": server.run.id,
            "x-inngest-signature": "",
            "x-inngest-step-id": hash_step_id("gone"),
        }
        got = app.ask("GET", "/a", headers=headers)

    assert (500, "false") == (got.status, got.headers["x-inngest-no-retry"])
    assert (hash_step_id("gone"), 1) == (got.json["requestedStep"], got.json["totalFoundSteps"])
    assert "nap" == got.json["foundSteps"][0]["name"]


@pytest.mark.parametrize(
    ("run_id", "status", "final"),
    [("01J00000000000000000000000", 500, "false"), ("no-ulid", 400, "true"), ('"}x', 400, "true")],
)
def test_an_unknown_run(server: InngestServer, run_id: str, status: int, final: str) -> None:
    """No handler runs for it; what cannot be a run at all is refused for good."""
    with serving(server, {"GET /a": two}) as app:
        headers = {"x-run-id": run_id, "x-inngest-signature": ""}
        got = app.ask("GET", "/a", headers=headers)

    assert (status, final, {}) == (got.status, got.headers["x-inngest-no-retry"], CALLS)
    assert got.json["name"] == ("CallRefused" if status == 400 else "RunUnknown")


@pytest.mark.parametrize(
    "event", [{}, {"data": None}, {"data": {"method": 7}}, {"data": {"method": "G ET"}}]
)
def test_malformed_state(server: InngestServer, event: dict[str, Any]) -> None:
    """What makes no sense is an error of the call, not of the handler."""
    with serving(server, {"GET /a": rests}) as app:
        app.get("/a")
        server.run.event = event
        headers = {"x-run-id": server.run.id, "x-inngest-signature": ""}
        got = app.ask("GET", "/a", headers=headers)

    assert (500, "internal", {"a": 1}) == (got.status, got.json["type"], CALLS)


def test_what_the_server_does_itself(server: InngestServer) -> None:
    """Looking at runs and cancelling them is refused, naming the engine."""
    with serving(server, {"GET /a": two}) as app:
        for ask in (app.durable.runs.list, lambda: app.durable.runs.cancel("x")):
            with pytest.raises(EngineError, match="the Inngest engine cannot"):
                ask()


def test_a_stop_hands_runs_over(server: InngestServer) -> None:
    """The step in flight is recorded, the client sent on, and the server calls again."""
    began, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        CALLS["slow"] += 1
        began.set()
        go_on.wait(10)
        return "slow"

    async def handler(request: Request) -> list[Any]:
        return [await step.run("slow", slow), await step.run("b", called, "b")]

    got: list[Any] = []
    server.hosts["http://shop.example"] = None
    engine = {"is_dev": True, "serve_origin": "http://shop.example"}
    with serving(server, {"GET /a": handler}, engine=engine) as app:
        client = threading.Thread(target=lambda: got.append(app.get("/a")))
        client.start()
        began.wait(10)
        stopping = threading.Thread(target=lambda: app.durable.stop(10))
        stopping.start()
        engine_of: Any = app.durable.engine
        server.until(lambda: engine_of.host.stopping)
        server.until(lambda: engine_of.host.live.all()[0].ex.stopping)
        go_on.set()
        client.join(10)
        stopping.join(10)
    with serving(server, {"GET /a": handler}, engine=engine) as app:
        server.hosts["http://shop.example"] = app.url
        assert 302 == got[0].status, (got[0], server.run.history)
        last = app.get("/a" + got[0].headers["location"])

    assert (302, ["slow", "b"]) == (got[0].status, last.json)
    assert {"slow": 1, "b": 1} == CALLS


def test_large_state(server: InngestServer) -> None:
    """A run with megabytes of results is replayed like any other."""

    async def handler(request: Request) -> int:
        sizes = [len(await step.run(f"s{n}", lambda: "é" * 400_000)) for n in range(5)]
        await step.sleep("nap", "10ms")
        return sum(sizes)

    with serving(server, {"GET /a": handler}) as app:
        assert 2_000_000 == app.follow("GET", "/a").json


def test_several_clients_at_a_time(server: InngestServer) -> None:
    """Runs do not mix, and share the connections."""

    async def handler(request: Request) -> str:
        return await step.run("a", str, request.query["n"])

    async def clients(app: Any) -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(app.get, f"/a?n={n}") for n in range(20)))

    with serving(server, {"GET /a": handler}) as app:
        answers = asyncio.run(clients(app))

    assert [str(n) for n in range(20)] == [json.loads(each.body) for each in answers]


def test_a_run_of_another_endpoint(server: InngestServer) -> None:
    """Whoever knows a run, and the form of a re-entry, cannot have it replayed by another one."""
    headers = {"x-inngest-signature": ""}
    with serving(server, {"GET /a": rests, "GET /b": two}) as app:
        app.get("/a")
        other = app.get("/b", headers={**headers, "x-run-id": server.run.id})
        own = app.get("/a?x=y", headers={**headers, "x-run-id": server.run.id})

    assert (400, "true") == (other.status, other.headers["x-inngest-no-retry"])
    assert 206 == own.status
    assert {"a": 1} == CALLS
