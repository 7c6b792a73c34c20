"""Coroutine functions as views: their steps, Flask's contexts, errors and clients of streams."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import flask
import httpx2
import pytest

from durable_core import Durable, Event, step, sync
from durable_core.testing import harness
from durable_flask import FlaskApp, endpoint_adapter, install
from durable_wsgi import create_endpoint_server
from support.harness import until

#: Without a replay, and with one.
TWICE = pytest.mark.parametrize("replay", [False, True], ids=["at-once", "replayed"])
USER: ContextVar[str] = ContextVar("user", default="nobody")


@pytest.fixture
def app() -> flask.Flask:
    return flask.Flask("shop")


@pytest.fixture
def durable(tmp_path: Path, app: flask.Flask) -> Iterator[Durable[FlaskApp]]:
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    install(app, durable)
    yield durable
    durable.stop()


async def pause(replay: bool) -> None:
    """Do a step, and wait for an event if a replay is wanted."""
    await step.run("first", lambda: None)
    if replay:
        await step.wait_for_event("go", event="go", timeout="1h")


def ask(durable: Durable[FlaskApp], app: flask.Flask, url: str, replay: bool, **more: Any) -> Any:
    """Return the response, after a replay if one is wanted."""
    client = app.test_client()
    response = client.post(url, **more)
    if replay:
        assert 303 == response.status_code, response.text
        durable.send(Event("go"))
        response = client.get(f"{url}{response.headers['location']}")
    return response


@TWICE
def test_request_and_response(durable: Durable[FlaskApp], app: flask.Flask, replay: bool) -> None:
    """Arguments, request, ``g``, ``url_for`` and the return value are Flask's own."""

    @app.before_request
    def user() -> None:
        flask.g.user = "ann"
        USER.set("ann")

    @app.post("/<shop>")
    @durable.endpoint
    async def order(shop: str) -> tuple[dict[str, Any], int, dict[str, str]]:
        await pause(replay)
        sent = flask.request.get_json()
        seen = [shop, sent, flask.g.user, USER.get(), flask.url_for("order", shop="a")]
        return {"seen": seen}, 201, {"x-own": "1"}

    response = ask(durable, app, "/corner", replay, json={"items": ["a"]})
    assert (201, "1") == (response.status_code, response.headers["x-own"])
    assert {"seen": ["corner", {"items": ["a"]}, "ann", "ann", "/a"]} == response.json


@TWICE
def test_contexts_in_steps(durable: Durable[FlaskApp], app: flask.Flask, replay: bool) -> None:
    """Steps have the contexts of the view, in tasks and in threads."""

    def in_thread() -> str:
        return f"{flask.request.path} {flask.g.user} {threading.current_thread().name[:7]}"

    async def in_task() -> str:
        return f"{flask.request.path} {flask.g.user}"

    @app.post("/it")
    @durable.endpoint
    async def it() -> list[str]:
        flask.g.user = "ann"
        await pause(replay)
        return [
            await step.run("thread", in_thread),
            *await asyncio.gather(step.run("task", in_task), step.run("other", in_task)),
        ]

    expected = ["/it ann durable", "/it ann", "/it ann"]
    assert expected == ask(durable, app, "/it", replay).json


@TWICE
def test_contexts_end_after_the_view(
    durable: Durable[FlaskApp], app: flask.Flask, replay: bool
) -> None:
    """Hooks run once for each execution; teardown comes when the view has ended or is suspended."""
    log: list[str] = []

    @app.before_request
    def before() -> None:
        log.append("before")

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        if "durable-run" not in flask.request.args:
            log.append("teardown")

    @app.post("/it")
    @durable.endpoint
    async def it() -> str:
        log.append("view")
        try:
            await pause(replay)
        finally:
            log.append("left")
        return "done"

    assert "done" == ask(durable, app, "/it", replay).text
    once = ["before", "view", "left", "teardown"]
    until(lambda: once * (2 if replay else 1) == log)


@TWICE
@pytest.mark.parametrize("handler", ["none", "def", "async def"])
def test_errors(durable: Durable[FlaskApp], app: flask.Flask, replay: bool, handler: str) -> None:
    """``abort`` and error handlers of both kinds answer as always."""
    if handler == "def":

        @app.errorhandler(418)
        def in_thread(error: Any) -> tuple[str, int]:
            return f"{flask.request.path} def", 418

    if handler == "async def":

        @app.errorhandler(418)
        async def in_loop(error: Any) -> tuple[str, int]:
            await asyncio.sleep(0)
            return f"{flask.request.path} async def", 418

    @app.post("/it")
    @durable.endpoint
    async def it() -> str:
        await pause(replay)
        flask.abort(418)

    response = ask(durable, app, "/it", replay)
    assert 418 == response.status_code
    assert handler == "none" or f"/it {handler}" == response.text
    assert ["completed"] == [run.status for run in durable.runs.list()]


def test_abort_in_a_step(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """It is the answer after one attempt, made by the application's error handler."""
    calls: list[int] = []

    def find() -> None:
        calls.append(1)
        flask.abort(404, "no such order")

    @app.errorhandler(404)
    def missing(error: Any) -> tuple[dict[str, str], int]:
        return {"error": error.description}, 404

    @app.post("/it")
    @durable.endpoint
    async def it() -> str:
        await step.run("find", find)
        raise AssertionError("not reached")

    response = app.test_client().post("/it")
    assert (404, {"error": "no such order"}) == (response.status_code, response.json)
    assert [1] == calls


def test_a_failure_is_tried_again(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """An error that the application has no answer to makes a run that is replayed."""
    calls: list[int] = []

    @app.get("/")
    @durable.endpoint
    async def it() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise LookupError("not today")
        return "done"

    with harness(durable) as t, app.test_client() as client:
        handed_off = client.get("/")
        t.advance("1h")
        assert "done" == client.get(handed_off.headers["location"]).text
    assert [1, 1] == calls


@TWICE
def test_streamed_responses(durable: Durable[FlaskApp], app: flask.Flask, replay: bool) -> None:
    """A response of a generator arrives whole."""

    @app.post("/it")
    @durable.endpoint
    async def it() -> flask.Response:
        await pause(replay)
        return flask.Response(iter([b"on", b"e"]), 201)

    response = ask(durable, app, "/it", replay)
    assert (201, b"one") == (response.status_code, response.data)


@pytest.mark.parametrize("client", ["stream", "prefer"])
def test_clients_that_are_answered_early(
    durable: Durable[FlaskApp], app: flask.Flask, client: str
) -> None:
    """The view has a request of its own, which ends after it."""
    go_on = threading.Event()
    log: list[str] = []

    def wait() -> str:
        go_on.wait(20)
        return flask.request.path

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        log.append("teardown")

    @app.get("/it")
    @durable.endpoint
    async def it() -> str:
        path = await step.run("wait", wait)
        log.append("view")
        return f"{path} {flask.request.headers['x-own']}"

    headers = {"accept": "text/event-stream"} if client == "stream" else {"prefer": "wait=0"}
    with create_endpoint_server(app, durable=durable).listen() as server:
        headers["x-own"] = "mine"
        with httpx2.stream("GET", f"{server.url}/it", headers=headers) as response:
            until(lambda: log[:1] == ["teardown"])  # of the client's request
            go_on.set()
            if client == "stream":
                assert "/it mine" in response.read().decode()
            else:
                assert 202 == response.status_code
        until(lambda: ["teardown", "view", "teardown"] == log)
        until(lambda: ["completed"] == [run.status for run in durable.runs.list()])


def test_a_view_that_calls_another_one(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """It is a call of a coroutine function, and both are one run."""

    @app.get("/inner")
    @durable.endpoint
    async def inner() -> str:
        return await step.run("inner", lambda: "inner")

    @app.get("/")
    @durable.endpoint
    async def outer() -> str:
        await step.sleep("nap", "1h")
        return f"outer {await inner()}"

    with harness(durable) as t, app.test_client() as client:
        handed_off = client.get("/")
        t.advance("1h")
        assert "outer inner" == client.get(handed_off.headers["location"]).text
        assert 1 == len(t.runs())


def test_a_hook_that_refuses_the_replay(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """The run fails, and says what stood in its way."""

    @app.before_request
    def check() -> None:
        if "authorization" not in flask.request.headers:
            flask.abort(401)

    @app.get("/")
    @durable.endpoint(retries=0)
    async def it() -> str:
        await step.sleep("nap", "1h")
        return "done"

    with harness(durable) as t, app.test_client() as client:
        client.get("/", headers={"authorization": "Basic x"})
        t.advance("1h")
        [run] = t.runs()
        assert "answered '401 UNAUTHORIZED' before it reached the view" in str(t.run(run.id).error)


def test_a_stop_suspends_a_view(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """A view whose step ends after the stop has begun is suspended, and its client handed off."""
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        go_on.wait(20)

    @app.get("/")
    @durable.endpoint
    async def it() -> str:
        await step.run("first", wait)
        await step.run("second", lambda: None)
        return "done"

    durable.start()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(app.test_client().get("/")))
    asking.start()
    assert begun.wait(20)
    stopping = threading.Thread(target=durable.stop)
    stopping.start()
    worker = durable.engine.worker  # type: ignore[attr-defined] # the embedded engine's
    until(lambda: worker.stopping)
    go_on.set()
    stopping.join(20)
    asking.join(20)
    assert [302] == [response.status_code for response in answers]
    assert ["suspended"] == [run.status for run in durable.runs.list()]


@TWICE
@pytest.mark.parametrize("kind", ["task", "thread"])
def test_a_view_calls_another(
    durable: Durable[FlaskApp],
    app: flask.Flask,
    replay: bool,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its steps are those of the run; of another kind, the error says what to do."""

    @durable.endpoint
    async def in_task() -> str:
        return await step.run("task", lambda: "task")

    @durable.endpoint
    def in_thread() -> str:
        return sync.step.run("thread", lambda: "thread")

    inner: dict[str, Any] = {"task": in_task, "thread": in_thread}

    @app.post("/task/<name>")
    @durable.endpoint
    async def from_task(name: str) -> str:
        await pause(replay)
        return str(await inner[name]())

    @app.post("/thread/<name>")
    @durable.endpoint
    def from_thread(name: str) -> str:
        if replay:
            sync.step.wait_for_event("go", event="go", timeout="1h")
        return str(inner[name]())

    assert kind == ask(durable, app, f"/{kind}/{kind}", replay).text
    other = "thread" if kind == "task" else "task"
    assert 500 == ask(durable, app, f"/{kind}/{other}", replay).status_code
    durable.stop()  # The worker writes its line of the log after the response has left.
    assert "Call it by step.invoke" in caplog.text
