"""Handlers that are called before anything of a run is made: what is the same as with a run."""
# Without "from __future__ import annotations", for FastAPI evaluates the annotations of local
# functions.

import asyncio
import gc
import threading
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import fastapi
import httpx2
import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from starlette.responses import StreamingResponse

from durable_asgi import EndpointServer, Receive, Scope, Send, replay_scope, replayed_receive
from durable_core import Durable, Event, Request, run, step
from durable_core.engine import deferred
from durable_core.sync import step as sync_step
from durable_starlette import StarletteApp, _passage, endpoint_adapter
from durable_starlette._request import plain_body
from support.harness import until
from support.raw_http import ask_and_leave

SEEN: ContextVar[str] = ContextVar("seen", default="nothing")


@pytest.fixture
def durable(tmp_path: Path) -> Durable[StarletteApp]:
    return Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")


class Client:
    """Asks an application on the current loop, as a server does, without following redirects."""

    def __init__(self, durable: Durable[StarletteApp], app: FastAPI) -> None:
        self.durable = durable
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx2.AsyncClient(transport=transport, base_url="http://localhost")

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        return await self._client.get(path, **options)

    def runs(self) -> list[str]:
        """Return the status of each recorded run."""
        return [each.status for each in self.durable.runs.list()]

    async def ended(self, status: str) -> None:
        """Wait until the only run has ended in this way."""
        await asyncio.to_thread(until, lambda: self.runs() == [status])


def play(durable: Durable[StarletteApp], app: FastAPI, part: Any) -> None:
    """Run a coroutine function of a client, with the application started."""

    async def main() -> None:
        app.router.lifespan_context = durable.lifespan
        async with app.router.lifespan_context(app), asyncio.timeout(30):
            await part(Client(durable, app))

    asyncio.run(main())


def test_what_is_made_for_a_handler(
    durable: Durable[StarletteApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tasks of a handler are noted, and its body kept, once it asks for a step or a body."""
    app = FastAPI()
    made: list[str] = []
    for module, name in ((deferred, "RunTasks"), (_passage, "RequestBody")):
        kind = getattr(module, name)

        def make(*args: Any, kind: Any = kind, name: str = name) -> Any:
            made.append(name)
            return kind(*args)

        monkeypatch.setattr(module, name, make)

    @app.get("/")
    @durable.endpoint(function_id="it")
    async def it(request: fastapi.Request, does: str) -> str:
        match does:
            case "step":
                await step.run("first", lambda: 1)
            case "task":
                await asyncio.create_task(asyncio.sleep(0))
            case "body":
                await request.body()
        return does

    async def part(client: Client) -> None:
        for does, expected in (
            ("nothing", []),
            ("step", ["RequestBody", "RunTasks"]),
            ("task", ["RequestBody", "RunTasks"]),
            ("body", ["RequestBody"]),
        ):
            assert does == (await client.get("/", params={"does": does})).json()
            assert expected == sorted(made)
            made.clear()

    play(durable, app, part)


def test_a_handler_without_a_step_has_no_run(durable: Durable[StarletteApp]) -> None:
    """It runs in a task and a context of its own; nothing is live, and nothing is recorded."""
    app = FastAPI()
    tasks: list[object] = []

    @app.get("/")
    @durable.endpoint
    async def it() -> list[object]:
        tasks.append(asyncio.current_task())
        SEEN.set("in the handler")
        return [durable.health()["live_runs"]]

    async def part(client: Client) -> None:
        response = await client.get("/")
        assert [0] == response.json()
        assert tasks != [asyncio.current_task()]
        assert "nothing" == SEEN.get()
        assert [] == client.runs()

    play(durable, app, part)


def test_the_task_and_context_stay_the_same(durable: Durable[StarletteApp]) -> None:
    """What the first part of a handler sees and sets is there after its first step."""
    app = FastAPI()

    @app.get("/")
    @durable.endpoint
    async def it() -> list[object]:
        task = asyncio.current_task()
        token = SEEN.set("before")
        await step.run("first", lambda: None)
        same, seen = task is asyncio.current_task(), SEEN.get()
        SEEN.reset(token)
        return [same, seen, SEEN.get()]

    async def part(client: Client) -> None:
        assert [True, "before", "nothing"] == (await client.get("/")).json()

    play(durable, app, part)


async def in_group() -> list[object]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(step.run(f"{number}", lambda: 1)) for number in range(3)]
        waiting = group.create_task(step.wait_for_event("go", event="go", timeout="1h"))
    return [*(task.result() for task in tasks), waiting.result() is not None]


async def gathered() -> list[object]:
    steps = (step.run(f"{number}", lambda: 1) for number in range(3))
    *results, event = await asyncio.gather(
        *steps, step.wait_for_event("go", event="go", timeout="1h")
    )
    return [*results, event is not None]


async def waited() -> list[object]:
    names = ("one", "two")
    tasks = [
        asyncio.create_task(step.wait_for_event(name, event="go", timeout="1h")) for name in names
    ]
    await asyncio.wait(tasks)
    return [1, 1, 1, None not in [task.result() for task in tasks]]


@pytest.mark.parametrize("branches", [in_group, gathered, waited])
def test_tasks_of_the_first_part_belong_to_the_run(
    durable: Durable[StarletteApp], branches: Any
) -> None:
    """Branches that start before there is a run are branches of it: it is suspended with them."""
    app = FastAPI()
    calls: list[bool] = []

    @app.get("/")
    @durable.endpoint
    async def it() -> list[object]:
        calls.append(durable.is_replaying())
        return [*await branches(), durable.is_replaying()]

    async def part(client: Client) -> None:
        handed_off = await client.get("/")
        assert handed_off.is_redirect, handed_off.text
        await client.ended("suspended")
        await durable.send_async(Event("go"))
        response = await client.get(handed_off.headers["location"])
        assert [1, 1, 1, True, True] == response.json()
        assert [False, True] == calls

    play(durable, app, part)


@pytest.mark.parametrize("kind", ["asyncio", "wait_for"])
def test_a_time_out_that_began_before_the_run(durable: Durable[StarletteApp], kind: str) -> None:
    """It ends the function of a step; the handler goes on."""
    app = FastAPI()

    @app.get("/")
    @durable.endpoint
    async def it() -> str:
        async def long() -> None:
            await asyncio.sleep(30)

        try:
            if kind == "asyncio":
                async with asyncio.timeout(0.05):
                    await step.run("long", long)
            else:
                await asyncio.wait_for(step.run("long", long), 0.05)
        except TimeoutError:
            return "timed out"
        return "no time-out"

    async def part(client: Client) -> None:
        assert "timed out" == (await client.get("/")).json()

    play(durable, app, part)


def test_a_time_out_around_a_waiting_step(durable: Durable[StarletteApp]) -> None:
    """One that began before there was a run is refused as any is: it would not be kept."""
    app = FastAPI()

    @app.get("/")
    @durable.endpoint(retries=0)
    async def it() -> None:
        async with asyncio.timeout(0.1):
            await step.wait_for_event("go", event="go", timeout="1h")

    async def part(client: Client) -> None:
        await client.get("/")
        await client.ended("failed")
        [shown] = durable.runs.list()
        assert "a time-out ended around step 'go'" in str(durable.runs.get(shown.id).error)

    play(durable, app, part)


def test_a_middleware_that_responds_for_a_repeated_request(durable: Durable[StarletteApp]) -> None:
    """It goes on when the run that there was has answered the client; nothing is called here."""
    app = FastAPI()
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        begun.set()
        await may_end.wait()
        return "done"

    @app.get("/")
    @durable.endpoint
    async def it() -> str:
        return await step.run("one", work)

    route = app.routes[-1]
    assert isinstance(route, APIRoute)
    endpoint = route.app

    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(0.01):
                await endpoint(scope, receive, send)
        except TimeoutError:
            may_end.set()
            await PlainTextResponse("late", 504)(scope, receive, send)

    async def part(client: Client) -> None:
        headers = {"idempotency-key": "key"}
        first = asyncio.create_task(client.get("/", headers=headers))
        await begun.wait()
        route.app = impatient
        second = await client.get("/", headers=headers)
        assert ["done", "done"] == [(await first).json(), second.json()]

    play(durable, app, part)


def test_a_step_that_is_not_awaited(
    durable: Durable[StarletteApp], caplog: pytest.LogCaptureFixture
) -> None:
    """It is a mistake, although the handler has ended before there was a run."""
    app = FastAPI()

    @app.get("/")
    @durable.endpoint(retries=0)
    async def it() -> str:
        forgotten = step.run("first", lambda: None)
        forgotten.close()
        return "done"

    async def part(client: Client) -> None:
        response = await client.get("/")
        assert 500 == response.status_code
        assert "the handler has ended before step 'first'" in caplog.text

    play(durable, app, part)


def test_an_error_before_any_step_is_tried_again(durable: Durable[StarletteApp]) -> None:
    """A run begins for an error that the application has no answer to; the next attempt ends it."""
    app = FastAPI()
    calls: list[int] = []

    @app.get("/")
    @durable.endpoint
    async def it() -> str:
        calls.append(run.attempt if durable.is_replaying() else 1)
        if len(calls) == 1:
            raise LookupError("not today")
        return "done"

    async def part(client: Client) -> None:
        handed_off = await client.get("/")
        assert handed_off.is_redirect, handed_off.text
        await client.ended("completed")
        assert "done" == (await client.get(handed_off.headers["location"])).json()
        assert [1, 2] == calls

    play(durable, app, part)


async def raising() -> None:
    raise asyncio.CancelledError


async def cancelling(wait: Any) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await wait()


@pytest.mark.parametrize(
    "cancel",
    [
        raising,
        lambda: cancelling(lambda: asyncio.sleep(0)),
        lambda: cancelling(lambda: asyncio.sleep(30)),
        lambda: cancelling(lambda: step.run("first", lambda: None)),
    ],
    ids=["raised", "at a turn", "in a sleep", "at a step"],
)
def test_a_handler_that_cancels_itself(
    durable: Durable[StarletteApp], cancel: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The run fails, and the client gets an answer."""
    app = FastAPI()
    went_on: list[bool] = []

    @app.get("/")
    @durable.endpoint(retries=0)
    async def it() -> None:
        await cancel()
        went_on.append(True)

    async def part(client: Client) -> None:
        assert 500 == (await client.get("/")).status_code
        assert [] == went_on
        assert "the handler was cancelled by its own code" in caplog.text

    play(durable, app, part)


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("is_async", [True, False])
def test_a_handler_that_raises_what_is_no_exception(
    durable: Durable[StarletteApp], steps: int, is_async: bool
) -> None:
    """It is called again; the request that it was first called for does not wait for ever."""
    app = FastAPI()
    calls: list[None] = []
    ended: list[None] = []

    class Odd(BaseException):
        pass

    def finish() -> str:
        calls.append(None)
        if len(calls) == 1:
            raise Odd
        return "done"

    async def it_async() -> str:
        for number in range(steps):
            await step.run(f"step {number}", lambda: None)
        return finish()

    def it() -> str:
        for number in range(steps):
            sync_step.run(f"step {number}", lambda: None)
        return finish()

    app.get("/")(durable.endpoint(it_async if is_async else it))

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)
        ended.append(None)

    async def part(client: Client) -> None:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        request = Request(url="http://localhost/", method="GET")
        await outer(replay_scope(request), replayed_receive(b""), send)
        assert [None] == ended
        assert 302 == sent[0]["status"]
        await client.ended("completed")
        assert 2 == len(calls)

    play(durable, app, part)


def test_a_cancellation_that_the_handler_catches(durable: Durable[StarletteApp]) -> None:
    """The handler goes on after it, and may have steps."""
    app = FastAPI()

    @app.get("/")
    @durable.endpoint
    async def it() -> int:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            task.uncancel()
        return await step.run("first", lambda: 7)

    async def part(client: Client) -> None:
        assert 7 == (await client.get("/")).json()

    play(durable, app, part)


def test_an_error_that_the_application_answers(durable: Durable[StarletteApp]) -> None:
    """The handlers for exceptions answer it, and there is no run."""
    app = FastAPI()

    @app.exception_handler(LookupError)
    async def answer(request: object, error: LookupError) -> PlainTextResponse:
        return PlainTextResponse(f"sorry, {error}", 409)

    @app.get("/")
    @durable.endpoint
    async def it() -> None:
        raise LookupError("not today")

    async def part(client: Client) -> None:
        response = await client.get("/")
        assert (409, "sorry, not today") == (response.status_code, response.text)
        assert [] == client.runs()

    play(durable, app, part)


def test_an_event_of_the_handler_itself(durable: Durable[StarletteApp]) -> None:
    """What a handler sends before its first step comes after the beginning of its run."""
    app = FastAPI()

    @app.get("/")
    @durable.endpoint
    async def it() -> object:
        durable.send(Event("go", data={"n": 7}))
        event = await step.wait_for_event("go", event="go", timeout="1h")
        return None if event is None else event.data

    async def part(client: Client) -> None:
        durable.send(Event("go", data={"n": 1}))  # before it
        assert {"n": 7} == (await client.get("/", follow_redirects=True)).json()

    play(durable, app, part)


def test_a_handler_that_asks_for_its_run(durable: Durable[StarletteApp]) -> None:
    """It has the id that the run is recorded by."""
    app = FastAPI()

    @app.get("/")
    @durable.endpoint
    async def it(more: bool = False) -> str:
        run_id = run.id
        if more:
            await step.run("first", lambda: None)
            assert run_id == run.id
        return run_id

    async def part(client: Client) -> None:
        await client.get("/")
        assert [] == client.runs()
        run_id = (await client.get("/?more=1")).json()
        assert [run_id] == [each.id for each in durable.runs.list()]

    play(durable, app, part)


def test_a_client_that_leaves_a_handler_without_steps(durable: Durable[StarletteApp]) -> None:
    """The handler goes on, as a run that is recorded."""
    app = FastAPI(lifespan=durable.lifespan)
    begun, go_on = threading.Event(), threading.Event()

    @app.get("/")
    @durable.endpoint
    async def it() -> str:
        begun.set()
        await asyncio.to_thread(go_on.wait, 20)
        return "done"

    with EndpointServer(app).listen() as server:
        ask_and_leave(server.port, "/", begun.is_set)
        until(lambda: len(durable.runs.list()) == 1)
        go_on.set()
        until(lambda: ["completed"] == [each.status for each in durable.runs.list()])


def test_a_drain_hands_a_handler_without_steps_on(durable: Durable[StarletteApp]) -> None:
    """A handler that waits for something of its own is live, and its client is handed off."""
    app = FastAPI()
    begun, go_on = asyncio.Event(), asyncio.Event()

    @app.get("/")
    @durable.endpoint
    async def it() -> str:
        begun.set()
        await go_on.wait()
        return "done"

    async def part(client: Client) -> None:
        asking = asyncio.create_task(client.get("/"))
        await begun.wait()
        await asyncio.sleep(0)
        durable.drain()
        await asyncio.to_thread(until, lambda: len(client.runs()) == 1)
        go_on.set()
        await client.ended("completed")
        assert (await asking).is_redirect

    play(durable, app, part)


@pytest.mark.parametrize("when", ["in the handler", "in the response"])
def test_a_server_that_cancels_the_request(durable: Durable[StarletteApp], when: str) -> None:
    """The handler ends, in this execution or in a replay, although it has no step.

    That it could not end in this one is no failure of it.
    """
    app = FastAPI()
    reached, go_on = asyncio.Event(), asyncio.Event()
    attempts: list[int] = []

    class Slow(PlainTextResponse):
        async def __call__(self, *args: Any) -> None:
            reached.set()
            if len(attempts) == 1:
                await asyncio.Event().wait()
            await super().__call__(*args)

    @app.get("/")
    @durable.endpoint
    async def it() -> PlainTextResponse:
        attempts.append(run.attempt if durable.is_replaying() else 1)
        if when == "in the handler":
            reached.set()
            await go_on.wait()
            return PlainTextResponse("done")
        return Slow("done")

    scope = {**replay_scope(Request(method="GET", url="http://localhost/")), "state": {}}

    async def send(message: object) -> None:
        raise AssertionError(f"the client is gone: {message}")

    async def part(client: Client) -> None:
        serving = asyncio.create_task(app(scope, replayed_receive(b""), send))
        await reached.wait()
        await asyncio.sleep(0)
        serving.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await serving
        await client.ended("completed")

    play(durable, app, part)
    assert {1} == set(attempts)


def test_a_stream_that_breaks_without_a_run(durable: Durable[StarletteApp]) -> None:
    """The server sees the error of a response that it has begun to send, as without Durable."""
    app = FastAPI(lifespan=durable.lifespan)

    async def chunks() -> Any:
        yield b"0"
        raise LookupError("half way")

    @app.get("/")
    @durable.endpoint
    async def it() -> StreamingResponse:
        return StreamingResponse(chunks())

    with EndpointServer(app).listen() as server, pytest.raises(httpx2.RemoteProtocolError):
        httpx2.get(server.url)
    assert [] == list(durable.runs.list())


@pytest.mark.slow
def test_no_memory_waits_for_the_collector(durable: Durable[StarletteApp]) -> None:
    """Neither a request without a run nor one with a step leaves a cycle of references."""
    app = FastAPI()

    @app.get("/")
    @durable.endpoint
    async def it(more: bool = False) -> int:
        return await step.run("first", lambda: 1) if more else 0

    async def part(client: Client) -> None:
        for path in ("/", "/?more=1"):
            await client.get(path)
            gc.collect()
            gc.disable()
            try:
                for _ in range(5):
                    await client.get(path)
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                ours = [type(each).__name__ for each in gc.garbage if _is_ours(each)]
                assert [] == ours
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()

    play(durable, app, part)


def _is_ours(thing: object) -> bool:
    """Tell whether a thing is of a request, not of the scheduler's thread."""
    names = ("AttachedPassage", "DeferredRun", "StoredExecution", "Request")
    return type(thing).__name__ in names and type(thing).__module__.startswith("durable_")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"method": "HEAD"}, None),
        ({"query_string": b"a=1&b=%20"}, False),
        ({"query_string": b"durable-run=1"}, None),
        ({"query_string": b"durable%2Drun=1"}, None),
        ({"headers": [(b"host", b"a:65536")]}, None),
        ({"headers": [(b"host", b"a"), (b"host", b"b")]}, None),
        ({"headers": [(b"host", b"a"), (b"accept", b"text/event-stream")]}, None),
        ({"headers": [(b"host", b"a"), (b"accept", b"application/json")]}, False),
        ({"headers": [(b"idempotency-key", b"k")]}, None),
        ({"headers": [(b"last-event-id", b"1")]}, None),
        ({"headers": [(b"prefer", b"respond-async")]}, None),
        ({"headers": [(b"content-length", b"10")]}, True),
        ({"headers": [(b"transfer-encoding", b"chunked")]}, True),
        ({"http_version": "2"}, True),
        ({"headers": [(b"content-length", b"99999999999")]}, None),
        ({"headers": [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")]}, None),
        ({"headers": [(b"x", b"y" * 70_000)]}, None),
    ],
)
def test_requests_for_which_no_run_has_to_be_made_at_once(
    durable: Durable[StarletteApp], changes: dict[str, Any], expected: bool | None
) -> None:
    """Only a request for a new run, whose head is not to be refused, may; some have a body."""
    scope = replay_scope(Request(method="GET", url="http://localhost/"))
    assert expected is plain_body({**scope, **changes}, durable.engine.limits)
