"""``HTTPException`` in steps: they are not tried again, and the application answers as always."""
# Without "from __future__ import annotations", for FastAPI evaluates the annotations of local
# functions.

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.routing import Route

from durable_core import Durable, Event, step
from durable_core import Response as CoreResponse
from durable_core.errors import StepError
from durable_core.sync import step as sync_step
from durable_starlette import StarletteApp, endpoint_adapter

KINDS = pytest.mark.parametrize("kind", ["async", "def"])


@pytest.fixture
def durable(tmp_path: Path) -> Durable[StarletteApp]:
    return Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")


class Finder:
    """The function of a step that finds nothing."""

    def __init__(self, status: int = 404) -> None:
        self.calls = 0
        self.status = status

    def __call__(self) -> str:
        self.calls += 1
        raise HTTPException(self.status, {"missing": "order"}, {"x-own": "1"})


def application(durable: Durable[StarletteApp], find: Finder) -> FastAPI:
    """Return an application whose handlers find nothing: at once, or in a replay (``/later``)."""
    app = FastAPI(lifespan=durable.lifespan)

    @app.get("/async")
    @durable.endpoint(retries=1)
    async def in_task() -> str:
        return await step.run("find", find)

    @app.get("/def")
    @durable.endpoint(retries=1)
    def in_thread() -> str:
        return sync_step.run("find", find)

    @app.get("/async/later")
    @durable.endpoint
    async def in_task_later() -> None:
        try:
            await step.run("find", find)
        except StepError:
            await step.wait_for_event("go", event="go", timeout="1h")
            raise

    @app.get("/def/later")
    @durable.endpoint
    def in_thread_later() -> None:
        try:
            sync_step.run("find", find)
        except StepError:
            sync_step.wait_for_event("go", event="go", timeout="1h")
            raise

    return app


@KINDS
def test_it_is_the_answer(durable: Durable[StarletteApp], kind: str) -> None:
    """Detail and headers arrive after one attempt; the run has completed."""
    find = Finder()
    with TestClient(application(durable, find)) as client:
        response = client.get(f"/{kind}")
    assert (404, {"detail": {"missing": "order"}}) == (response.status_code, response.json())
    assert "1" == response.headers["x-own"]
    assert 1 == find.calls
    assert ["completed"] == [run.status for run in durable.runs.list()]


@KINDS
def test_handlers_for_it(durable: Durable[StarletteApp], kind: str) -> None:
    """The application's own handler answers it: at once, and where a replay raises it again."""
    find = Finder()
    app = application(durable, find)

    @app.exception_handler(HTTPException)
    async def answer(request: Request, error: HTTPException) -> PlainTextResponse:
        return PlainTextResponse(f"{request.url.path}: {error.detail}", error.status_code)

    with TestClient(app, follow_redirects=False) as client:
        at_once = client.get(f"/{kind}")
        assert (404, f"/{kind}: {{'missing': 'order'}}") == (at_once.status_code, at_once.text)
        handed_off = client.get(f"/{kind}/later")
        durable.send(Event("go"))
        later = client.get(handed_off.headers["location"])
    assert (404, f"/{kind}/later: {{'missing': 'order'}}") == (later.status_code, later.text)
    assert 2 == find.calls


@KINDS
@pytest.mark.parametrize("status", [429, 503])
def test_a_status_that_asks_for_another_attempt(
    durable: Durable[StarletteApp], kind: str, status: int
) -> None:
    """The step is tried again; when its attempts are used up, that is the answer."""
    find = Finder(status)
    with TestClient(application(durable, find)) as client:
        assert status == client.get(f"/{kind}").status_code
    assert 2 == find.calls


def test_in_starlette(durable: Durable[StarletteApp]) -> None:
    """It is Starlette's own there, which has a text."""

    def find() -> None:
        raise StarletteHTTPException(404, "no such order")

    @durable.endpoint
    async def it(request: StarletteRequest) -> Response:
        await step.run("find", find)
        raise AssertionError("not reached")

    app = Starlette(routes=[Route("/", it)], lifespan=durable.lifespan)
    with TestClient(app) as client:
        response = client.get("/")
    assert (404, "no such order") == (response.status_code, response.text)


def test_an_option_in_its_place(durable: Durable[StarletteApp]) -> None:
    """``exception_to_response=`` of an endpoint decides alone; its response arrives unchanged."""
    app = FastAPI(lifespan=durable.lifespan)

    def refuse(error: Exception) -> CoreResponse | None:
        return CoreResponse(status=409, body=b"taken") if isinstance(error, LookupError) else None

    def find() -> None:
        raise LookupError("x")

    @app.get("/")
    @durable.endpoint(exception_to_response=refuse)
    async def it() -> None:
        await step.run("find", find)

    with TestClient(app) as client:
        response = client.get("/")
    assert (409, b"taken") == (response.status_code, response.content)


@pytest.mark.parametrize("sleeps", [False, True])
def test_a_step_that_is_returned_without_await(
    durable: Durable[StarletteApp], sleeps: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The run fails at once, and the log names the step; in a replay, too."""
    app = FastAPI(lifespan=durable.lifespan)

    @app.get("/")
    @durable.endpoint
    async def forgetful() -> object:
        if sleeps:
            await step.sleep("nap", 0.001)
        return step.run("find", str)

    with TestClient(app) as client:
        response = client.get("/")

    assert 500 == response.status_code
    assert "has returned step.run('find'), which it has not awaited: write 'await'" in caplog.text
    assert "is called again" not in caplog.text


@pytest.mark.parametrize("kind", ["async", "def"])
@pytest.mark.parametrize("wrap", [list, dict, None])
@pytest.mark.parametrize("replay", [False, True])
def test_an_endpoint_that_is_returned_without_await(
    durable: Durable[StarletteApp], kind: str, wrap: Any, replay: bool, caplog: Any
) -> None:
    """Another endpoint is a coroutine function: its coroutine in a result is named at once."""
    app = FastAPI(lifespan=durable.lifespan)

    @durable.endpoint
    async def inner() -> int:
        return 1

    def made() -> Any:
        return [inner()] if wrap is list else {"it": inner()} if wrap is dict else inner()

    @app.get("/async")
    @durable.endpoint
    async def in_task() -> Any:
        if replay:
            await step.sleep("nap", 0.001)
        return made()

    @app.get("/def")
    @durable.endpoint
    def in_thread() -> Any:
        if replay:
            sync_step.sleep("nap", 0.001)
        return made()

    with TestClient(app) as client:
        assert 500 == client.get(f"/{kind}").status_code
    advice = "write 'await'" if kind == "async" else "call another endpoint by step.invoke"
    assert "inner, which it has not awaited: " in caplog.text
    assert advice in caplog.text
    assert "is called again" not in caplog.text


@pytest.mark.parametrize("replay", [False, True])
def test_an_endpoint_calls_another(
    durable: Durable[StarletteApp], replay: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its steps are those of the run; of another kind, the error says what to do."""
    app = FastAPI(lifespan=durable.lifespan)

    @app.get("/task")
    @durable.endpoint
    async def in_task(number: int) -> int:
        return await step.run("task", lambda: number + 1)

    @app.get("/thread")
    @durable.endpoint
    def in_thread(number: int) -> int:
        return sync_step.run("thread", lambda: number + 1)

    @app.get("/{kind}")
    @durable.endpoint
    async def outer(kind: str) -> int:
        if replay:
            await step.wait_for_event("go", event="go", timeout="1h")
        inner: Any = in_task if kind == "same" else in_thread
        return int(await inner(1))

    with TestClient(app, raise_server_exceptions=False) as client:

        def ask(path: str) -> Any:
            response = client.get(path, follow_redirects=not replay)
            if replay:
                durable.send(Event("go"))
                response = client.get(response.headers["location"])
            return response

        assert 2 == ask("/same").json()
        assert 500 == ask("/other").status_code
    assert "Call it by step.invoke" in caplog.text
