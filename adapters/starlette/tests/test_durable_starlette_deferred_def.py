"""``def`` handlers that the framework's threads call before anything of a run is made."""
# Without "from __future__ import annotations", for FastAPI evaluates the annotations of local
# functions.

import asyncio
import gc
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi import Request as FastAPIRequest
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from starlette.responses import StreamingResponse

from durable_asgi import EndpointServer, replay_scope, replayed_receive
from durable_core import Durable, Event, RateLimit, Request, Singleton, run
from durable_core.sync import step
from durable_starlette import StarletteApp, endpoint_adapter
from support.harness import until
from support.raw_http import ask_and_leave

SEEN: ContextVar[str] = ContextVar("seen", default="nothing")


@pytest.fixture
def durable(tmp_path: Path) -> Durable[StarletteApp]:
    return Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")


@pytest.fixture
def app(durable: Durable[StarletteApp]) -> FastAPI:
    return FastAPI(lifespan=durable.lifespan)


def statuses(durable: Durable[StarletteApp]) -> list[str]:
    """Return the status of each recorded run."""
    return [each.status for each in durable.runs.list()]


def test_a_handler_without_a_step_has_no_run(durable: Durable[StarletteApp], app: FastAPI) -> None:
    """It runs in a thread of the framework; nothing is live, and nothing is recorded."""

    @app.get("/")
    @durable.endpoint
    def it() -> list[object]:
        return [durable.health()["live_runs"], threading.current_thread().name]

    with TestClient(app) as client:
        live, name = client.get("/").json()
        assert (0, [], []) == (live, statuses(durable), durable.engine.worker.live.names())  # type: ignore[attr-defined]
    assert name.startswith("AnyIO")


def test_thread_and_context_stay_the_same(durable: Durable[StarletteApp], app: FastAPI) -> None:
    """What the first part of a handler sees and sets is there after its first step."""

    @app.get("/")
    @durable.endpoint
    def it() -> list[object]:
        thread = threading.current_thread()
        token = SEEN.set("before")
        step.run("first", lambda: None)
        same, seen = thread is threading.current_thread(), SEEN.get()
        SEEN.reset(token)
        return [same, seen, SEEN.get()]

    with TestClient(app) as client:
        assert [True, "before", "nothing"] == client.get("/").json()
        assert ["completed"] == statuses(durable)


def test_an_error_before_any_step_is_tried_again(
    durable: Durable[StarletteApp], app: FastAPI
) -> None:
    """A run begins for an error that the application has no answer to; the next attempt ends it."""
    calls: list[int] = []

    @app.get("/")
    @durable.endpoint
    def it() -> str:
        calls.append(run.attempt if durable.is_replaying() else 1)
        if len(calls) == 1:
            raise LookupError("not today")
        return "done"

    with TestClient(app, follow_redirects=False) as client:
        handed_off = client.get("/")
        assert handed_off.is_redirect, handed_off.text
        until(lambda: statuses(durable) == ["completed"])
        assert "done" == client.get(handed_off.headers["location"]).json()
    assert [1, 2] == calls


@pytest.mark.parametrize("steps", [0, 1])
def test_an_error_that_the_application_answers(
    durable: Durable[StarletteApp], app: FastAPI, steps: int
) -> None:
    """The handlers for exceptions answer it: without a run, or as the response of the run."""

    @app.exception_handler(LookupError)
    def answer(request: FastAPIRequest, error: LookupError) -> PlainTextResponse:
        return PlainTextResponse(f"sorry, {error}", 409)

    @app.get("/")
    @durable.endpoint
    def it() -> None:
        for number in range(steps):
            step.run(f"{number}", lambda: None)
        raise LookupError("not today")

    with TestClient(app) as client:
        response = client.get("/")
        assert (409, "sorry, not today") == (response.status_code, response.text)
        assert ["completed"] * steps == statuses(durable)


def test_an_error_after_a_step_is_tried_again(durable: Durable[StarletteApp], app: FastAPI) -> None:
    """The run of a handler that fails after its first step is replayed, and the step is not."""
    done: list[str] = []
    calls: list[int] = []

    @app.get("/")
    @durable.endpoint
    def it() -> str:
        step.run("first", lambda: done.append("first"))
        calls.append(1)
        if len(calls) == 1:
            raise LookupError("not today")
        return "done"

    with TestClient(app) as client:
        assert "done" == client.get("/").json()
    assert (["first"], [1, 1]) == (done, calls)


def test_an_event_of_the_handler_itself(durable: Durable[StarletteApp], app: FastAPI) -> None:
    """What a handler sends before its first step comes after the beginning of its run."""

    @app.get("/")
    @durable.endpoint
    def it() -> object:
        durable.send(Event("go", data={"n": 7}))
        event = step.wait_for_event("go", event="go", timeout="1h")
        return None if event is None else event.data

    with TestClient(app) as client:
        durable.send(Event("go", data={"n": 1}))  # before it
        assert {"n": 7} == client.get("/").json()


def test_a_handler_that_asks_for_its_run(durable: Durable[StarletteApp], app: FastAPI) -> None:
    """It has the id that the run is recorded by."""

    @app.get("/")
    @durable.endpoint
    def it(more: bool = False) -> str:
        run_id = run.id
        if more:
            step.run("first", lambda: None)
            assert run_id == run.id
        return run_id

    with TestClient(app) as client:
        client.get("/")
        assert [] == statuses(durable)
        run_id = client.get("/?more=1").json()
        assert [run_id] == [each.id for each in durable.runs.list()]


def test_branches_that_begin_the_run(durable: Durable[StarletteApp], app: FastAPI) -> None:
    """Steps that several threads begin at the same time are those of one run."""

    @app.get("/")
    @durable.endpoint
    def it() -> list[int]:
        branches = [partial(step.run, f"{number}", int, number) for number in range(8)]
        return list(step.parallel("all", *branches))

    with TestClient(app) as client:
        assert list(range(8)) == client.get("/").json()
        assert ["completed"] == statuses(durable)


def test_a_request_that_no_run_can_be_made_of(
    durable: Durable[StarletteApp], app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused at the first step."""
    ended: list[str] = []

    @app.put("/")
    @durable.endpoint
    def it() -> str:
        try:
            return step.run("first", lambda: "done")
        finally:
            ended.append("handler")

    with TestClient(app) as client:
        response = client.put("/", content=b"abc", headers={"content-length": "10"})
        assert (400, []) == (response.status_code, statuses(durable))
    assert ["handler"] == ended
    assert [] == [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]


def test_a_drain_before_the_first_step(durable: Durable[StarletteApp], app: FastAPI) -> None:
    """The client of a handler that had no run then is handed off once it has one."""
    handed_off = threading.Event()

    def wait() -> str:
        handed_off.wait(20)
        return "done"

    @app.get("/")
    @durable.endpoint
    def it() -> str:
        if not durable.is_replaying():
            durable.drain()
        return step.run("first", wait)

    with EndpointServer(app).listen() as server, httpx2.Client(base_url=server.url) as client:
        response = client.get("/")  # in mid-step
        handed_off.set()
        assert response.is_redirect, response.text
        assert "done" == client.get(response.headers["location"]).json()


def test_a_stop_waits_for_a_handler(durable: Durable[StarletteApp], app: FastAPI) -> None:
    """A handler without a run is waited for, and its first step hands the client off."""
    begun, go_on = threading.Event(), threading.Event()

    @app.get("/")
    @durable.endpoint
    def it() -> str:
        begun.set()
        go_on.wait(20)
        return step.run("first", lambda: "done")

    async def main() -> httpx2.Response:
        transport = httpx2.ASGITransport(app)
        async with (
            durable.lifespan(app),
            httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            asking = asyncio.create_task(client.get("/"))
            await asyncio.to_thread(begun.wait, 20)
            stopping = asyncio.create_task(asyncio.to_thread(durable.stop))
            worker = durable.engine.worker  # type: ignore[attr-defined] # the embedded engine's
            await asyncio.to_thread(until, lambda: worker.stopping)
            go_on.set()
            response = await asking
            await stopping
            return response

    assert 302 == asyncio.run(main()).status_code
    assert ["suspended"] == statuses(durable)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_server_that_cancels_the_request(
    durable: Durable[StarletteApp], app: FastAPI, steps: int
) -> None:
    """The run ends by a replay, although its handler had no step when the request was cancelled."""
    begun, go_on = threading.Event(), threading.Event()
    calls: list[bool] = []
    done: list[int] = []

    @app.get("/")
    @durable.endpoint
    def it() -> str:
        calls.append(durable.is_replaying())
        begun.set()
        if len(calls) == 1:
            go_on.wait(20)
        for number in range(steps):
            step.run(f"{number}", done.append, number)
        return "done"

    scope = {**replay_scope(Request(method="GET", url="http://localhost/")), "state": {}}

    async def send(message: object) -> None:
        raise AssertionError(f"the client is gone: {message}")

    async def main() -> None:
        async with app.router.lifespan_context(app):
            serving = asyncio.create_task(app(scope, replayed_receive(b""), send))
            await asyncio.to_thread(begun.wait, 20)
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
            await asyncio.to_thread(until, lambda: statuses(durable) == ["completed"])
            go_on.set()

    asyncio.run(main())
    assert [False, True] == calls
    assert list(range(steps)) == done


def test_a_client_that_leaves_before_the_first_step(
    durable: Durable[StarletteApp], app: FastAPI
) -> None:
    """The run begins all the same, goes on without the client, and ends."""
    begun, go_on = threading.Event(), threading.Event()

    @app.get("/")
    @durable.endpoint
    def it() -> str:
        begun.set()
        go_on.wait(20)
        step.run("first", lambda: None)
        return "done"

    with EndpointServer(app).listen() as server:
        ask_and_leave(server.port, "/", begun.is_set)
        go_on.set()
        until(lambda: statuses(durable) == ["completed"])


@pytest.mark.parametrize("steps", [0, 1])
def test_dependencies_and_background_tasks(
    durable: Durable[StarletteApp], app: FastAPI, steps: int
) -> None:
    """A dependency is closed once, after the handler; tasks run once, when the run has ended."""
    log: list[object] = []

    def session() -> Iterator[str]:
        log.append("open")
        try:
            yield "session"
        finally:
            log.append("close")

    def after() -> None:
        log.append(statuses(durable))

    @app.get("/")
    @durable.endpoint
    def it(tasks: BackgroundTasks, session: Annotated[str, Depends(session)]) -> str:
        tasks.add_task(after)
        for number in range(steps):
            step.run(f"{number}", lambda: None)
        log.append("handler")
        return session

    with TestClient(app) as client:
        assert "session" == client.get("/").json()
        until(lambda: len(log) == 4)
    assert {"open", "close", "handler"} == {each for each in log if isinstance(each, str)}
    assert ["completed"] * steps in log
    assert 4 == len(log)
    assert log.index("handler") < log.index("close")


@pytest.mark.parametrize("steps", [0, 1])
def test_streamed_responses(durable: Durable[StarletteApp], app: FastAPI, steps: int) -> None:
    """A ``StreamingResponse`` arrives whole, with a run and without one."""

    def chunks() -> Iterator[bytes]:
        for number in range(3):
            yield b"%d" % number

    @app.get("/")
    @durable.endpoint
    def it() -> StreamingResponse:
        for number in range(steps):
            step.run(f"{number}", lambda: None)
        return StreamingResponse(chunks(), 201)

    with EndpointServer(app).listen() as server:
        response = httpx2.get(server.url)
    assert (201, b"012") == (response.status_code, response.content)
    assert ["completed"] * steps == statuses(durable)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_middleware_that_waits_for_the_client_to_leave(
    durable: Durable[StarletteApp], app: FastAPI, steps: int
) -> None:
    """It learns that the client has left, also where it asks while the handler runs."""
    begun, go_on = threading.Event(), threading.Event()
    left: list[str] = []

    class Watch:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                asking = asyncio.create_task(self._ask(receive))
                await self.inner(scope, receive, send)
                await asking
            else:
                await self.inner(scope, receive, send)

        async def _ask(self, receive: Any) -> None:
            await asyncio.to_thread(begun.wait, 20)
            asyncio.get_running_loop().call_later(0.05, go_on.set)
            left.append((await receive())["type"])

    router = app.router
    router.middleware_stack = Watch(router.middleware_stack)

    @app.post("/")
    @durable.endpoint
    def it(data: dict[str, int]) -> dict[str, int]:
        begun.set()
        go_on.wait(20)
        for number in range(steps):
            step.run(f"{number}", lambda: None)
        return data

    with TestClient(app) as client:
        assert {"a": 1} == client.post("/", json={"a": 1}).json()
    assert ["http.disconnect"] == left


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 1},
        {"singleton": Singleton()},
        {"rate_limit": RateLimit(limit=9, period="1h")},
        {"record": "always"},
        {"max_sync_runtime": "20s"},
        {"allow_cancel": True},
        {"run_timeout": "1h"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_for_which_a_run_begins_at_once(
    durable: Durable[StarletteApp], app: FastAPI, options: dict[str, Any]
) -> None:
    """They act before the first step, so a handler without one has a run, too."""

    @app.get("/plain")
    @durable.endpoint
    def plain() -> object:
        return durable.health()["live_runs"]

    @app.get("/")
    @durable.endpoint(**options)
    def it() -> object:
        return durable.health()["live_runs"]

    with TestClient(app) as client:
        assert (0, 1) == (client.get("/plain").json(), client.get("/").json())
        headers = {"idempotency-key": "k1"}
        assert 1 == client.get("/plain", headers=headers).json()
        assert 1 == client.get("/plain", headers=headers).json()  # of the same run, which is kept


@pytest.mark.parametrize("query", ["", "?more=1", "?more=1&slow=1"])
@pytest.mark.slow
def test_no_memory_waits_for_the_collector(
    durable: Durable[StarletteApp], app: FastAPI, query: str
) -> None:
    """A request leaves no cycle of references: without a run, with one, and if it takes long."""

    @app.get("/")
    @durable.endpoint
    def it(more: bool = False, slow: bool = False) -> int:
        return step.run("first", threading.Event().wait, 0.05 if slow else 0) if more else 0

    async def main() -> list[str]:
        transport = httpx2.ASGITransport(app)
        async with (
            durable.lifespan(app),
            httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            await client.get(f"/{query}")
            gc.collect()
            gc.disable()
            try:
                for _ in range(5):
                    await client.get(f"/{query}")
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                return [type(each).__name__ for each in gc.garbage if _is_ours(each)]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()

    assert [] == asyncio.run(main())


def _is_ours(thing: object) -> bool:
    """Tell whether a thing is of a request, not of the scheduler's thread."""
    names = ("AttachedPassage", "DeferredPoolRun", "StoredExecution", "Request")
    return type(thing).__name__ in names and type(thing).__module__.startswith("durable_")
