"""Views that are called before anything of a run is made: what is the same as with a run."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import flask
import httpx2
import pytest

from durable_core import Durable, Event, run
from durable_core import step as async_step
from durable_core.sync import step
from durable_flask import FlaskApp, endpoint_adapter, install
from durable_wsgi import create_endpoint_server
from support.harness import until

SEEN: ContextVar[str] = ContextVar("seen", default="nothing")


@pytest.fixture
def app() -> flask.Flask:
    return flask.Flask("shop")


@pytest.fixture
def durable(tmp_path: Path, app: flask.Flask) -> Iterator[Durable[FlaskApp]]:
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    install(app, durable)
    yield durable
    durable.stop()


def runs(durable: Durable[FlaskApp]) -> list[str]:
    """Return the status of each recorded run."""
    return [each.status for each in durable.runs.list()]


def started(durable: Durable[FlaskApp], app: flask.Flask) -> Any:
    """Start the engine, as a server does; return a client."""
    durable.start()
    return app.test_client()


def test_a_view_without_a_step_has_no_run(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """It runs in this thread and a context of its own; nothing is live, and nothing recorded."""

    @app.get("/")
    @durable.endpoint
    def it() -> list[object]:
        SEEN.set("in the view")
        return [durable.health()["live_runs"], threading.get_ident()]

    assert [0, threading.get_ident()] == started(durable, app).get("/").json
    assert "nothing" == SEEN.get()
    assert [] == runs(durable)


def test_a_streamed_response_without_a_run(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """It is Flask's own: its generator is not run before the server asks for it."""
    made: list[int] = []

    def chunks() -> Iterator[str]:
        for number in range(3):
            made.append(number)
            yield f"{number}"

    @app.get("/")
    @durable.endpoint
    def it() -> flask.Response:
        return flask.Response(chunks())

    response = started(durable, app).get("/", buffered=False)
    assert [0] == made[:1]
    assert "012" == response.text
    assert [] == runs(durable)


def test_an_error_before_any_step_is_tried_again(
    durable: Durable[FlaskApp], app: flask.Flask
) -> None:
    """A run begins for an error that the application has no answer to; the next attempt ends it."""
    calls: list[bool] = []

    @app.get("/")
    @durable.endpoint
    def it() -> str:
        calls.append(durable.is_replaying())
        if len(calls) == 1:
            raise LookupError("not today")
        return "done"

    client = started(durable, app)
    handed_off = client.get("/")
    assert 302 == handed_off.status_code
    until(lambda: runs(durable) == ["completed"])
    assert "done" == client.get(handed_off.headers["location"]).text
    assert [False, True] == calls


@pytest.mark.parametrize("value", [None, {"it": object()}])
@pytest.mark.parametrize("has_step", [False, True])
def test_what_flask_cannot_send(
    durable: Durable[FlaskApp], app: flask.Flask, value: Any, has_step: bool
) -> None:
    """A view that returns nothing has failed, although it has no step; it is not called again."""
    calls: list[None] = []

    @app.get("/")
    @durable.endpoint
    def it() -> Any:
        calls.append(None)
        if has_step:
            step.run("it", lambda: None)
        return value

    assert 500 == started(durable, app).get("/").status_code
    assert ["failed"] * has_step == runs(durable)
    assert 1 == len(calls)


def test_an_error_that_the_application_answers(
    durable: Durable[FlaskApp], app: flask.Flask
) -> None:
    """The handlers for exceptions answer it, and there is no run."""

    @app.errorhandler(LookupError)
    def answer(error: LookupError) -> tuple[str, int]:
        return f"sorry, {error}", 409

    @app.get("/")
    @durable.endpoint
    def it() -> str:
        raise LookupError("not today")

    response = started(durable, app).get("/")
    assert (409, "sorry, not today") == (response.status_code, response.text)
    assert [] == runs(durable)


def test_an_event_of_the_view_itself(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """What a view sends before its first step comes after the beginning of its run."""

    @app.get("/")
    @durable.endpoint
    def it() -> dict[str, Any]:
        durable.send(Event("go", data={"n": 7}))
        event = step.wait_for_event("go", event="go", timeout="1h")
        return {"data": None if event is None else event.data}

    client = started(durable, app)
    durable.send(Event("go", data={"n": 1}))  # before it
    assert {"data": {"n": 7}} == client.get("/", follow_redirects=True).json


def test_a_view_that_asks_for_its_run(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """It has the id that the run is recorded by."""

    @app.get("/<int:steps>")
    @durable.endpoint
    def it(steps: int) -> str:
        run_id = run.id
        for number in range(steps):
            step.run(f"{number}", lambda: None)
            assert run_id == run.id
        return run_id

    client = started(durable, app)
    client.get("/0")
    assert [] == runs(durable)
    run_id = client.get("/2").text
    assert [run_id] == [each.id for each in durable.runs.list()]


def test_branches_that_begin_the_run(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """Steps that several threads begin at the same time are those of one run."""

    @app.get("/")
    @durable.endpoint
    def it() -> list[int]:
        branches = [partial(step.run, f"{n}", int, n) for n in (1, 2, 3)]
        return list(step.parallel("all", *branches))

    assert [1, 2, 3] == started(durable, app).get("/").json
    assert ["completed"] == runs(durable)


def test_a_drain_before_the_first_step(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """The client of a view that had no run then is handed off at its first step."""

    @app.get("/")
    @durable.endpoint
    def it() -> str:
        if not durable.is_replaying():
            durable.drain()
        return step.run("first", lambda: "done")

    client = started(durable, app)
    handed_off = client.get("/")
    assert 302 == handed_off.status_code
    assert "done" == client.get(handed_off.headers["location"]).text


def test_a_stop_waits_for_a_view(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """A view without a run is waited for, and its first step hands the client off."""
    begun, go_on = threading.Event(), threading.Event()

    @app.get("/")
    @durable.endpoint
    def it() -> str:
        begun.set()
        go_on.wait(20)
        return step.run("first", lambda: "done")

    client = started(durable, app)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(client.get("/")))
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
    assert ["suspended"] == runs(durable)


def test_a_body_that_is_cut_off(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """A view does not see a part of a request."""
    called: list[int] = []

    @app.post("/")
    @durable.endpoint
    def it() -> str:
        called.append(len(flask.request.get_data()))
        return "done"

    client = started(durable, app)
    environ = {"CONTENT_LENGTH": "10", "wsgi.input": BytesIO(b"12345")}
    assert 400 == client.post("/", environ_overrides=environ).status_code
    assert 200 == client.post("/", data=b"1234567890").status_code
    assert [10] == called


def test_on_a_server(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """Requests with and without steps follow each other on one connection."""

    @app.post("/<int:steps>")
    @durable.endpoint
    def it(steps: int) -> dict[str, int]:
        done = sum(step.run(f"{number}", lambda: 1) for number in range(steps))
        return {"done": done, "size": len(flask.request.get_data())}

    with (
        create_endpoint_server(app, durable=durable).listen() as server,
        httpx2.Client(base_url=server.url) as client,
    ):
        for steps in (0, 2, 0, 1):
            response = client.post(f"/{steps}", content=b"x" * 70_000)
            assert {"done": steps, "size": 70_000} == response.json()
    assert ["completed"] * 2 == runs(durable)


@pytest.mark.slow
def test_no_memory_waits_for_the_collector(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """Neither a request without a run nor one with a step leaves a cycle of references."""

    @app.get("/<int:steps>")
    @durable.endpoint
    def it(steps: int) -> str:
        for number in range(steps):
            step.run(f"{number}", lambda: None)
        return "done"

    @app.get("/async/<int:steps>")
    @durable.endpoint
    async def in_task(steps: int) -> str:
        for number in range(steps):
            await async_step.run(f"{number}", lambda: None)
        return "done"

    client = started(durable, app)
    for path in ("/0", "/1", "/async/0", "/async/1"):
        client.get(path)
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                client.get(path)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            ours = [type(each).__name__ for each in gc.garbage if _is_ours(each)]
            assert [] == ours
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()


def _is_ours(thing: object) -> bool:
    """Tell whether a thing is of a request, not of the scheduler's thread."""
    names = ("View", "DeferredThreadRun", "StoredExecution", "Request")
    return type(thing).__name__ in names and type(thing).__module__.startswith("durable_")
