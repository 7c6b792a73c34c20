"""Runs on the server: attached, handed off, called again, and their results."""

from __future__ import annotations

from typing import Any

import pytest

from durable_core import (
    Event,
    NonRetriableError,
    Request,
    Response,
    RetryAfterError,
    StepError,
    step,
)
from durable_core.errors import ConfigurationError
from durable_core.sync import step as sync_step
from support.inngest_app import App, serving
from support.inngest_handlers import CALLS
from support.inngest_server import InngestServer, inngest_server

pytestmark = pytest.mark.slow


def called(name: str, result: object = None) -> object:
    CALLS[name] += 1
    return result


def fails(name: str, times: int, result: object = "ok") -> object:
    CALLS[name] += 1
    if CALLS[name] <= times:
        raise ValueError(f"{name} failure #{CALLS[name]}")
    return result


async def two_steps(request: Request) -> dict[str, Any]:
    first = await step.run("first", called, "first", {"user": "u1"})
    second = await step.run("second", called, "second", 2)
    return {"a": first, "b": second, "q": request.query.get("q")}


def two_steps_sync(request: Request) -> dict[str, Any]:
    first = sync_step.run("first", called, "first", {"user": "u1"})
    second = sync_step.run("second", called, "second", 2)
    return {"a": first, "b": second, "q": request.query.get("q")}


@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
@pytest.mark.parametrize("handler", [two_steps, two_steps_sync])
def test_steps_while_attached(server: InngestServer, interface: str, handler: Any) -> None:
    """Each step is a checkpoint; the end goes along with the last one of a coroutine."""
    with serving(server, {"GET /a": handler}, interface=interface) as app:
        got = app.get("/a?q=7")

    assert (200, {"a": {"user": "u1"}, "b": 2, "q": "7"}) == (got.status, got.json)
    first, *others = [path for path in server.paths() if path.startswith("POST")]
    assert ("POST /v1/checkpoint", {"POST /v1/checkpoint/RUN/steps"}) == (first, set(others))
    assert len(others) == 1 or handler is two_steps_sync
    assert "Completed" == server.run.status
    assert [
        "checkpoint StepRun first",
        "checkpoint StepRun second",
        "checkpoint RunComplete",
    ] == server.run.history


async def flaky(request: Request) -> Response:
    before = await step.run("before", called, "before", 1)
    flaky = await step.run("flaky", fails, "flaky", 2)
    after = await step.run("after", called, "after", 3)
    return Response.json([before, flaky, after], 201, {"x-own": "yes"})


def flaky_sync(request: Request) -> Response:
    before = sync_step.run("before", called, "before", 1)
    flaky = sync_step.run("flaky", fails, "flaky", 2)
    after = sync_step.run("after", called, "after", 3)
    return Response.json([before, flaky, after], 201, {"x-own": "yes"})


@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
@pytest.mark.parametrize("handler", [flaky, flaky_sync])
def test_a_step_that_fails_twice(server: InngestServer, interface: str, handler: Any) -> None:
    """The client is handed off, and gets the handler's own status, headers and body."""
    with serving(server, {"GET /a": handler}, interface=interface) as app:
        first = app.get("/a")
        got = app.follow("GET", "/a")

    assert 302 == first.status
    assert first.headers["location"].startswith("?durable-run=")
    assert (201, "yes", [1, "ok", 3]) == (got.status, got.headers["x-own"], got.json)
    assert {"x-durable-response"}.isdisjoint(got.headers)


@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
@pytest.mark.parametrize("face", ["async", "def"])
def test_sleeps_and_waits(server: InngestServer, interface: str, face: str) -> None:
    """A sleep, then a wait that an event of the right value ends."""

    async def handler(request: Request) -> object:
        await step.sleep("nap", "30ms")
        event = await step.wait_for_event(
            "approval", event="approved", match="data.id", timeout="20s"
        )
        return None if event is None else dict(event.data)

    def plain(request: Request) -> object:
        sync_step.sleep("nap", "30ms")
        event = sync_step.wait_for_event(
            "approval", event="approved", match="data.id", timeout="20s"
        )
        return None if event is None else dict(event.data)

    chosen: Any = handler if face == "async" else plain
    with serving(server, {"POST /a": chosen}, interface=interface) as app:
        first = app.ask("POST", "/a", body=b'{"id": "r\\"1"}')
        server.until(lambda: bool(server.run.waits))
        server.send({"name": "approved", "data": {"id": "other"}})
        server.send({"name": "approved", "data": {"id": 'r"1', "by": "me"}})
        got = app.get("/a" + first.headers["location"])

    assert 303 == first.status
    assert {"id": 'r"1', "by": "me"} == got.json


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
@pytest.mark.parametrize("face", ["async", "def"])
def test_signals(server: InngestServer, interface: str, face: str) -> None:
    """A step sends one to the run that waits; what was sent is known in the next re-entry."""

    async def waits(request: Request) -> object:
        got = await step.wait_for_signal("wait", signal="go", timeout="20s", on_conflict="replace")
        return None if got is None else [got.name, got.data]

    def waits_plain(request: Request) -> object:
        got = sync_step.wait_for_signal("wait", signal="go", timeout="20s", on_conflict="replace")
        return None if got is None else [got.name, got.data]

    async def sends(request: Request) -> object:
        to = await step.send_signal("send", "go", {"by": ["me", None]})
        nobody = await step.send_signal("again", "go")
        await step.sleep("nap", "30ms")
        return [to, nobody]

    def sends_plain(request: Request) -> object:
        to = sync_step.send_signal("send", "go", {"by": ["me", None]})
        nobody = sync_step.send_signal("again", "go")
        sync_step.sleep("nap", "30ms")
        return [to, nobody]

    chosen: Any = (waits, sends) if face == "async" else (waits_plain, sends_plain)
    with serving(
        server, {"GET /wait": chosen[0], "GET /send": chosen[1]}, interface=interface
    ) as app:
        first = app.get("/wait")
        server.until(lambda: bool(server.run.waits))
        run_id = server.run.id
        other = app.get("/send")
        waited = app.get("/wait" + first.headers["location"])
        sent = app.get("/send" + other.headers["location"])

    assert ["go", {"by": ["me", None]}] == waited.json
    assert [run_id, None] == sent.json


def test_parallel_steps_run_while_attached(server: InngestServer) -> None:
    """Steps side by side are no reason for a handoff; each runs once."""
    import asyncio

    async def handler(request: Request) -> object:
        several = await asyncio.gather(*(step.run(n, called, n, n) for n in ("a", "b", "c")))
        return await step.run("join", called, "join", "".join(map(str, several)))

    with serving(server, {"GET /a": handler}) as app:
        got = app.get("/a")

    assert (200, "abc") == (got.status, got.json)
    assert {"a": 1, "b": 1, "c": 1, "join": 1} == CALLS


def test_parallel_steps_after_a_handoff(server: InngestServer) -> None:
    """They are planned together, and run in calls of their own; so does the join: each once."""
    import asyncio

    async def handler(request: Request) -> object:
        await step.sleep("nap", "10ms")
        several = await asyncio.gather(*(step.run(n, called, n, n) for n in ("a", "b", "c")))
        return await step.run("join", called, "join", "".join(map(str, several)))

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, "abc") == (got.status, got.json)
    assert {"a": 1, "b": 1, "c": 1, "join": 1} == CALLS
    planned = [line for line in server.run.history if "Planned" in line]
    assert [f"op StepPlanned {n}" for n in ("a", "b", "c", "join")] == list(dict.fromkeys(planned))


@pytest.mark.parametrize("sleeps", [False, True])
def test_several_that_cannot_go_on(server: InngestServer, sleeps: bool) -> None:
    """A failure and a sleep side by side are told in the answer to a call, and counted."""
    import asyncio

    async def handler(request: Request) -> object:
        other = step.sleep("nap", "20ms") if sleeps else step.run("g", fails, "g", 1)
        return await asyncio.gather(step.run("f", fails, "f", 2), other)

    with serving(server, {"GET /a": handler}, options={"retries": 2}) as app:
        got = app.follow("GET", "/a")

    assert (200, ["ok", None if sleeps else "ok"]) == (got.status, got.json)
    assert 3 == CALLS["f"]


def test_a_handler_that_fails_for_good(server: InngestServer) -> None:
    """Errors outside steps are counted by us: the run ends, as failed, after all attempts."""

    async def handler(request: Request) -> object:
        CALLS["handler"] += 1
        raise ValueError(f"boom #{CALLS['handler']}")

    with serving(server, {"GET /a": handler}, options={"retries": 2}) as app:
        got = app.follow("GET", "/a")

    assert (500, "ValueError: boom #3") == (got.status, got.json["detail"])
    assert "application/problem+json" == got.headers["content-type"]
    assert (3, "Failed") == (CALLS["handler"], server.run.status)
    assert b"Traceback" not in got.body


def test_a_step_that_fails_for_good(server: InngestServer) -> None:
    """The handler sees a StepError when the server has counted all attempts."""

    async def handler(request: Request) -> object:
        try:
            await step.run("bad", fails, "bad", 99)
        except StepError as error:
            return {"name": error.name, "message": error.message, "id": error.step_id}
        return None

    with serving(server, {"GET /a": handler}, options={"retries": 2}) as app:
        got = app.follow("GET", "/a")

    assert {"name": "ValueError", "message": "bad failure #3", "id": "bad"} == got.json
    assert 3 == CALLS["bad"]


def test_uncaught_it_fails_the_run(server: InngestServer) -> None:
    """A StepError that leaves the handler is final."""

    async def handler(request: Request) -> object:
        return await step.run("bad", fails, "bad", 99)

    with serving(server, {"GET /a": handler}, options={"retries": 1}) as app:
        got = app.follow("GET", "/a")

    assert (500, "Failed") == (got.status, server.run.status)
    assert "step 'bad' failed: ValueError: bad failure #2" in got.json["detail"]


def test_no_retry(server: InngestServer) -> None:
    """Errors that are final are not tried again, in a step and outside."""

    def refuses() -> None:
        CALLS["refuses"] += 1
        raise NonRetriableError("nope")

    async def in_step(request: Request) -> object:
        try:
            return await step.run("bad", refuses)
        except StepError as error:
            return error.name

    async def outside(request: Request) -> object:
        await step.run("first", called, "first")
        raise NonRetriableError("fatal")

    with serving(server, {"GET /in": in_step, "GET /out": outside}) as app:
        caught = app.follow("GET", "/in")
        direct = app.get("/out")

    assert ("NonRetriableError", 1) == (caught.json, CALLS["refuses"])
    assert (500, "NonRetriableError: fatal") == (direct.status, direct.json["detail"])
    assert ["Completed", "Failed"] == [run.status for run in server.runs.values()]


def test_retry_after_is_kept_while_attached(server: InngestServer) -> None:
    """A delay of the error's own cannot be told at a checkpoint: it becomes a sleep."""

    def later() -> str:
        CALLS["later"] += 1
        if CALLS["later"] < 3:
            raise RetryAfterError("not yet", 0.03)
        return "now"

    async def handler(request: Request) -> object:
        return await step.run("later", later)

    with serving(server, {"GET /a": handler}, options={"retries": 2}) as app:
        got = app.follow("GET", "/a")

    assert ("now", 3) == (got.json, CALLS["later"])
    assert "checkpoint Sleep retry 1 of later after RetryAfterError: not yet" in server.run.history


def test_events_are_sent(server: InngestServer) -> None:
    """step.send_event and Durable.send give the ids of the server."""

    async def handler(request: Request) -> object:
        return await step.send_event("emit", [Event("a/b", {"z": 1}), Event("c", {}, "own")])

    with serving(server, {"GET /a": handler}) as app:
        got = app.get("/a")
        sent = app.durable.send(Event("d"))

    run_id = server.run.id
    assert [f"{run_id}:{server.seen[1].json['steps'][0]['id']}:0", "own"] == got.json
    assert 1 == len(sent)


def test_events_need_a_key() -> None:
    """Away from a development server: who sends is told what to set, and nothing goes out."""
    key = "signkey-test-0123456789abcdef0123456789abcdef"
    with inngest_server(signing_key=key) as server:
        engine = {"is_dev": False, "signing_key": key}
        with (
            serving(server, {"GET /a": two_steps}, engine=engine) as app,
            pytest.raises(ConfigurationError, match="INNGEST_EVENT_KEY"),
        ):
            app.durable.send(Event("d"))
        assert [] == server.seen
        with serving(server, {"GET /a": two_steps}, engine={**engine, "event_key": "k/1"}) as app:
            assert 1 == len(app.durable.send(Event("d")))
        assert ["/e/k%2F1"] == [each.path for each in server.seen]


def test_the_proxy(server: InngestServer) -> None:
    """The proxy gives the response untouched, with CORS; a wrong token opens nothing."""
    options = {"async_redirect_url": "/proxy"}
    with serving(server, {"GET /a": flaky}, options=options) as app:
        got = app.follow("GET", "/a")
        refused = app.get("/proxy?runId=x&token=y")
        missing = app.get("/proxy?runId=x")

    assert (201, "yes", "*") == (
        got.status,
        got.headers["x-own"],
        got.headers["access-control-allow-origin"],
    )
    assert (403, 400) == (refused.status, missing.status)


def test_what_the_server_cannot_hold(server: InngestServer) -> None:
    """Binary bodies, repeated headers, and headers that are lost on the way, come through."""

    async def handler(request: Request) -> Response:
        await step.sleep("nap", "10ms")
        headers = (("set-cookie", "a=1"), ("set-cookie", "b=2"), ("vary", "accept"))
        return Response(status=203, headers=headers, body=bytes(range(256)))

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (203, bytes(range(256)), "accept") == (got.status, got.body, got.headers["vary"])


def test_the_body_is_there_again(server: InngestServer) -> None:
    """A replayed handler reads the body, the query and the path; other headers it cannot."""
    seen: list[object] = []

    async def handler(request: Request) -> object:
        seen.append((request.body, request.query["q"], dict(request.path_params), request.method))
        await step.sleep("nap", "10ms")
        return request.headers.get("x-user")

    with serving(server, {"POST /a/{id}": handler}, options={"retries": 0}) as app:
        body = b"\x00\xff raw"
        headers = {"content-type": "application/octet-stream", "x-user": "me"}
        got = app.follow("POST", "/a/7?q=1", body=body, headers=headers)

    assert [(body, "1", {"id": "7"}, "POST")] * 2 == seen
    assert (500, "HeaderNotStoredError") == (got.status, got.json["error"]["name"])
    assert "POST /a/{id}" == server.run.event["data"]["fn"]


def app_of(server: InngestServer, handler: Any) -> Any:
    return serving(server, {"GET /a": handler})


@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
def test_connections_are_kept(server: InngestServer, interface: str) -> None:
    """One after the other, clients need one connection to the server."""
    with serving(server, {"GET /a": two_steps}, interface=interface) as app:
        answers = [app.get("/a") for _ in range(5)]

    assert [200] * 5 == [got.status for got in answers]
    # Of the first run it is asked whether it has taken what it was told.
    assert (11, 1) == (len(server.seen), server.accepted)


def test_the_servers_own_output_url(server: InngestServer) -> None:
    """Clients can be sent there: it has the handler's response, and problems of failed runs."""

    async def fails_late(request: Request) -> None:
        await step.sleep("nap", "10ms")
        raise NonRetriableError("boom")

    engine = {"is_dev": True, "server_output_url": True}
    routes = {"GET /a": flaky, "GET /b": fails_late}
    with serving(server, routes, engine=engine) as app:
        sent = [app.get(path).headers["location"] for path in ("/a", "/b")]
        assert [f"{server.url}/v1/http/runs/{id}/output?token=jwt.{id}" for id in server.runs] == (
            sent
        )
        done, failed = (App(server.url, app.durable).get(url[len(server.url) :]) for url in sent)

    assert (201, "yes", [1, "ok", 3]) == (done.status, done.headers["x-own"], done.json)
    assert (500, "NonRetriableError: boom") == (failed.status, failed.json["detail"])
    assert b"Traceback" not in failed.body


def test_the_token_answer(server: InngestServer) -> None:
    """The token is the server's, and opens its output URL."""
    options = {"async_response": "token"}
    with serving(server, {"GET /a": flaky}, options=options) as app:
        got = app.get("/a")

    assert {"run_id": server.run.id, "token": f"jwt.{server.run.id}"} == got.json
    assert isinstance(app, App)
