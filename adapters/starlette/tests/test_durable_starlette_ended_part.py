"""Runs whose handler has ended in its first part: they need no task of their own to end."""
# Without "from __future__ import annotations", for FastAPI evaluates the annotations of local
# functions.

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute

from durable_asgi import Message, Receive, Scope, Send
from durable_core import Durable, step
from durable_core.commit_queue import CommitQueue
from durable_core.engine.deferred import DeferredRun
from durable_core.engine.embedded import EmbeddedEngine
from durable_core.engine.runs import ClientAnswer
from durable_core.ports import Checkpoint, Write
from durable_core.stores.sqlite import SQLiteStore
from durable_starlette import StarletteApp, endpoint_adapter, install
from support.asgi_exchange import http_scope
from support.harness import until

Part = Callable[[httpx2.AsyncClient], Awaitable[None]]


@pytest.fixture
def durable(tmp_path: Path) -> Durable[StarletteApp]:
    return Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")


@pytest.fixture(autouse=True)
def expected(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Note of each run with a step whether it is expected to end so."""
    expected: list[bool] = []
    expect_end = DeferredRun.expect_end

    def noting(self: DeferredRun, *args: Any) -> Any:
        answer = expect_end(self, *args)
        expected.append(answer is not None)
        return answer

    monkeypatch.setattr(DeferredRun, "expect_end", noting)
    return expected


def play(durable: Durable[StarletteApp], app: FastAPI, part: Part) -> None:
    """Run a coroutine function of a client, while the application is started."""

    async def main() -> None:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        client = httpx2.AsyncClient(transport=transport, base_url="http://localhost")
        async with durable.lifespan(app), asyncio.timeout(30):
            await part(client)

    asyncio.run(main())


async def work() -> str:
    return "done"


async def ended(durable: Durable[StarletteApp], status: str) -> None:
    """Wait until the only run has this status."""

    def statuses() -> list[str]:
        return [each.status for each in durable.runs.list()]

    await asyncio.to_thread(until, lambda: statuses() == [status])


class Held:
    """A response that the framework begins to send when it may."""

    def __init__(self) -> None:
        self.is_reached, self.may_go_on = asyncio.Event(), asyncio.Event()
        held = self

        class Response(PlainTextResponse):
            async def __call__(self, *args: Any) -> None:
                held.is_reached.set()
                await held.may_go_on.wait()
                await super().__call__(*args)

        self.type = Response

    def serve(self, app: FastAPI, durable: Durable[StarletteApp]) -> None:
        """Add a handler of one step that gives this response."""

        @app.get("/")
        @durable.endpoint
        async def it() -> PlainTextResponse:
            return self.type(await step.run("one", work))


def test_a_request_that_is_cancelled_while_its_run_is_stored(
    durable: Durable[StarletteApp], monkeypatch: pytest.MonkeyPatch, expected: list[bool]
) -> None:
    """The run goes on in a task of its own, and the handler is not called again."""
    monkeypatch.setattr(CommitQueue, "commit_here", lambda self: None)  # as with other runs live
    app, calls = FastAPI(), []

    @app.get("/")
    @durable.endpoint
    async def it() -> str:
        calls.append(1)
        return await step.run("one", work)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(f"the client is gone: {message}")

    async def part(client: httpx2.AsyncClient) -> None:
        request = asyncio.create_task(app(http_scope("/"), receive, send))
        await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await ended(durable, "completed")

    play(durable, app, part)
    assert ([True], [1]) == (expected, calls)


class HeldStore(SQLiteStore):
    """A store that commits when it may."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may_commit = threading.Event()
        self.may_commit.set()

    def commit(self, writes: Sequence[Write[Any]], *, wait: float) -> Sequence[object]:
        self.may_commit.wait()
        return super().commit(writes, wait=wait)


@pytest.fixture
def held_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HeldStore:
    """Return a store that commits when it may, and never on the event loop."""
    monkeypatch.setattr("durable_core.commit_queue._INLINE_LIMIT", 0.0)
    return HeldStore(tmp_path / "db")


def test_a_client_that_leaves_while_its_run_is_stored(
    held_store: HeldStore, monkeypatch: pytest.MonkeyPatch, expected: list[bool]
) -> None:
    """The request ends with its run, although there is no answer any more."""
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=held_store)
    app, left = FastAPI(), asyncio.Event()
    client_left = ClientAnswer.client_left

    def leaving(self: ClientAnswer) -> None:
        client_left(self)
        left.set()

    monkeypatch.setattr(ClientAnswer, "client_left", leaving)

    @app.get("/")
    @durable.endpoint
    async def it() -> str:
        return await step.run("one", work)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise OSError("the client is gone")

    async def part(client: httpx2.AsyncClient) -> None:
        held_store.may_commit.clear()
        request = asyncio.create_task(app(http_scope("/"), receive, send))
        await left.wait()
        held_store.may_commit.set()
        await request
        await ended(durable, "completed")

    play(durable, app, part)
    assert [True] == expected


def test_two_tasks_that_respond_while_the_run_is_stored(
    held_store: HeldStore, expected: list[bool]
) -> None:
    """The client gets one response: that of the run, which came first."""
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=held_store)
    app, sent = FastAPI(), []

    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        request = asyncio.ensure_future(endpoint(scope, receive, send))
        await asyncio.sleep(0)
        late = asyncio.ensure_future(PlainTextResponse("late", 504)(scope, receive, send))
        await asyncio.sleep(0)
        held_store.may_commit.set()
        await asyncio.gather(request, late)

    @app.get("/")
    @durable.endpoint
    async def it() -> str:
        return await step.run("one", work)

    route = app.routes[-1]
    assert isinstance(route, APIRoute)
    endpoint, route.app = route.app, impatient

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await asyncio.sleep(0)
        sent.append(message.get("status", message.get("body")))

    async def part(client: httpx2.AsyncClient) -> None:
        held_store.may_commit.clear()
        await app(http_scope("/"), receive, send)

    play(durable, app, part)
    assert ([200, b'"done"'], [True]) == (sent, expected)


def test_an_event_loop_that_ends_while_a_run_is_stored(
    held_store: HeldStore, expected: list[bool]
) -> None:
    """A request that is cancelled with the loop leaves no run live, which a stop would wait for."""
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=held_store)
    app = FastAPI()
    install(app, durable)

    @app.get("/")
    @durable.endpoint
    async def it() -> str:
        return await step.run("one", work)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(f"the client is gone: {message}")

    async def main() -> None:
        durable.start()
        held_store.may_commit.clear()
        request = asyncio.create_task(app(http_scope("/"), receive, send))
        await asyncio.sleep(0)
        request.cancel()  # the loop ends in the turn in which it hears of that
        threading.Timer(0.01, held_store.may_commit.set).start()

    asyncio.run(main())
    engine = durable.engine
    assert isinstance(engine, EmbeddedEngine)
    worker = engine.worker
    assert worker is not None
    live = worker.live.names()
    durable.stop()
    assert ([], [True]) == (live, expected)


def test_runs_of_one_turn_share_their_commits(
    durable: Durable[StarletteApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is committed alone, however quickly it could end: others may come after it."""
    monkeypatch.setattr("durable_core.commit_queue._INLINE_LIMIT", 60.0)  # commits may be slow
    app = FastAPI(lifespan=durable.lifespan)
    groups: list[int] = []
    commit = SQLiteStore.commit

    def counting(self: SQLiteStore, writes: Sequence[Write[object]], *, wait: float) -> Any:
        groups.append(sum(isinstance(write, Checkpoint) for write in writes))
        return commit(self, writes, wait=wait)

    @app.get("/")
    @durable.endpoint
    async def handler() -> str:
        await step.run("one", work)
        return await step.run("two", work)

    async def part(client: httpx2.AsyncClient) -> None:
        monkeypatch.setattr(SQLiteStore, "commit", counting)
        await asyncio.gather(*(client.get("/") for _ in range(8)))

    play(durable, app, part)
    assert max(groups) > 1


def test_a_drain_before_the_response(durable: Durable[StarletteApp], expected: list[bool]) -> None:
    """The client is handed off, and the run completes with what the framework sends later."""
    app = FastAPI()

    async def part(client: httpx2.AsyncClient) -> None:
        held = Held()
        held.serve(app, durable)
        request = asyncio.create_task(client.get("/"))
        await held.is_reached.wait()
        durable.drain()
        await ended(durable, "running")
        held.may_go_on.set()
        assert (await request).is_redirect
        await ended(durable, "completed")

    play(durable, app, part)
    assert [True] == expected


def test_a_stop_before_the_response(durable: Durable[StarletteApp], expected: list[bool]) -> None:
    """The run is suspended at once, although the framework goes on with its response."""
    app = FastAPI()

    async def part(client: httpx2.AsyncClient) -> None:
        held = Held()
        held.serve(app, durable)
        request = asyncio.create_task(client.get("/"))
        await held.is_reached.wait()
        await durable.stop_async(timeout=20)
        held.may_go_on.set()
        assert (await request).is_redirect

    play(durable, app, part)
    assert [True] == expected


@pytest.mark.parametrize("what", ["a step", "a task"])
def test_what_a_handler_leaves_behind_is_seen(
    durable: Durable[StarletteApp], expected: list[bool], what: str
) -> None:
    """A run whose handler has more to do when it has returned is ended in its task, as any is."""
    app = FastAPI()

    @app.get("/")
    @durable.endpoint(retries=0)
    async def it() -> str:
        one = await step.run("one", work)
        if what == "a task":
            tasks.append(asyncio.ensure_future(asyncio.sleep(0)))
        else:
            tasks.append(step.run("two", work))
        return one

    tasks: list[Any] = []

    async def part(client: httpx2.AsyncClient) -> None:
        response = await client.get("/")
        assert (200 if what == "a task" else 500) == response.status_code

    play(durable, app, part)
    assert [False] == expected
    if what == "a step":
        tasks[0].close()
