"""Runs that begin in the first part of their handler, and how their clients are answered."""
# Without "from __future__ import annotations", for FastAPI evaluates the annotations of local
# functions.

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.responses import Response as StarletteResponse

from durable_asgi import ASGIApplication, Message, Receive, Scope, Send
from durable_core import Durable, step
from durable_core.errors import StoreError
from durable_core.flow.execution import StoredExecution
from durable_core.stores import SQLiteStore
from durable_core.sync import step as sync_step
from durable_starlette import StarletteApp, _passage, endpoint_adapter
from support.asgi_exchange import Exchange, http_scope
from support.harness import until


class Watched:
    """A middleware that notes in which tasks an application is called, and sends."""

    def __init__(self, application: ASGIApplication) -> None:
        self._application = application
        self.notes: list[object] = []
        self.messages: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting(message: Message) -> None:
            self.notes.append(asyncio.current_task())
            self.messages.append(message)
            await send(message)

        self.notes = [asyncio.current_task()]
        self.messages = []
        await self._application(scope, receive, noting)


@pytest.fixture
def durable(tmp_path: Path) -> Durable[StarletteApp]:
    return Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")


def play(durable: Durable[StarletteApp], app: FastAPI, part: Any) -> None:
    """Run a coroutine function of a client and what watches the application, which is started."""

    async def main() -> None:
        watched = Watched(app)
        transport = httpx2.ASGITransport(watched, raise_app_exceptions=False)
        client = httpx2.AsyncClient(transport=transport, base_url="http://localhost")
        async with durable.lifespan(app), asyncio.timeout(30):
            await part(client, watched)

    asyncio.run(main())


def statuses(durable: Durable[StarletteApp]) -> list[str]:
    return [each.status for each in durable.runs.list()]


@pytest.mark.parametrize("steps", [1, 3])
def test_a_quick_run_is_answered_in_the_task_of_its_request(
    durable: Durable[StarletteApp], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other task sends its response, which is stored by then."""
    monkeypatch.setattr(_passage, "LISTEN_AFTER", 60)  # however slow this machine is
    app = FastAPI()

    @app.get("/")
    @durable.endpoint
    async def it() -> list[int]:
        return [await step.run(f"{number}", lambda: 1) for number in range(steps)]

    async def part(client: httpx2.AsyncClient, watched: Watched) -> None:
        assert [1] * steps == (await client.get("/")).json()
        assert 1 == len(set(watched.notes))
        assert ["http.response.start", "http.response.body"] == [
            each["type"] for each in watched.messages
        ]
        assert ["completed"] == statuses(durable)

    play(durable, app, part)


@pytest.mark.parametrize("is_quick", [True, False])
def test_a_background_task_runs_after_the_response(
    durable: Durable[StarletteApp], is_quick: bool
) -> None:
    """It finds the run completed, and the response sent, whoever has sent it."""
    app = FastAPI()
    seen: list[object] = []

    async def work() -> None:
        await asyncio.sleep(0 if is_quick else 0.2)

    @app.get("/")
    @durable.endpoint
    async def it(tasks: BackgroundTasks) -> str:
        await step.run("work", work)
        tasks.add_task(lambda: seen.append(statuses(durable)))
        return "done"

    async def part(client: httpx2.AsyncClient, watched: Watched) -> None:
        assert "done" == (await client.get("/")).json()
        await asyncio.to_thread(until, lambda: seen)
        assert [["completed"]] == seen
        assert [200] == [each["status"] for each in watched.messages if "status" in each]

    play(durable, app, part)


def test_a_client_that_leaves_while_its_handler_goes_on(durable: Durable[StarletteApp]) -> None:
    """The run is completed, and the application goes on after its response."""
    app, went_on = FastAPI(), list[object]()
    exchange = Exchange(http_scope("/"))

    async def leave() -> None:
        exchange.leave()
        await asyncio.to_thread(until, lambda: statuses(durable))  # stored, for the client is gone

    @app.get("/")
    @durable.endpoint
    async def it(tasks: BackgroundTasks) -> str:
        await step.run("leave", leave)
        tasks.add_task(lambda: went_on.extend(statuses(durable)))
        return "done"

    async def part(client: httpx2.AsyncClient, watched: Watched) -> None:
        await exchange.run(app)
        assert ["completed"] == went_on

    play(durable, app, part)


class Sent(StarletteResponse):
    """A response that is these messages."""

    def __init__(self, *messages: Message) -> None:
        super().__init__()
        self._messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for each in self._messages:
            await send(each)


def head_of(status: int = 200, *fields: tuple[bytes, bytes], **more: Any) -> Message:
    headers = [(b"content-length", b"2"), *fields]
    return {"type": "http.response.start", "status": status, "headers": headers, **more}


WHOLE_BODY: Message = {"type": "http.response.body", "body": b"hi"}
TRAILERS: Message = {"type": "http.response.trailers", "headers": []}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([head_of(204), WHOLE_BODY], (204, {}, b"")),
        ([head_of(304), WHOLE_BODY], (304, {}, b"")),
        ([head_of(200), head_of(201), WHOLE_BODY], (201, {b"content-length": b"2"}, b"hi")),
        ([head_of(), WHOLE_BODY, WHOLE_BODY], (200, {b"content-length": b"2"}, b"hi")),
        (
            [head_of(), WHOLE_BODY, head_of(504), WHOLE_BODY],
            (200, {b"content-length": b"2"}, b"hi"),
        ),
        (
            [head_of(trailers=True), WHOLE_BODY, TRAILERS],
            (200, {b"content-length": b"2"}, b"hi"),
        ),
        (
            [head_of(200, (b"X-One", b" 1 ")), WHOLE_BODY],
            (200, {b"x-one": b"1", b"content-length": b"2"}, b"hi"),
        ),
    ],
)
@pytest.mark.parametrize("is_quick", [True, False])
def test_the_client_gets_one_response_that_a_server_can_send(
    durable: Durable[StarletteApp],
    messages: list[Message],
    expected: object,
    is_quick: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the application sends, and whoever sends it on: one head, and what belongs to it."""
    monkeypatch.setattr(_passage, "LISTEN_AFTER", 60 if is_quick else 0)
    app = FastAPI()

    @app.get("/")
    @durable.endpoint
    async def it() -> StarletteResponse:
        await step.run("one", asyncio.sleep, 0 if is_quick else 0.02)
        return Sent(*messages)

    async def part(client: httpx2.AsyncClient, watched: Watched) -> None:
        await client.get("/")
        (head, *bodies) = watched.messages
        assert {"type", "status", "headers"} == set(head)
        assert ["http.response.body"] * len(bodies) == [each["type"] for each in bodies]
        body = b"".join(each.get("body", b"") for each in bodies)
        assert expected == (head["status"], dict(head["headers"]), body)
        assert [False] == [each.get("more_body", False) for each in bodies]

    play(durable, app, part)


def test_a_body_before_its_head(
    durable: Durable[StarletteApp], caplog: pytest.LogCaptureFixture
) -> None:
    """It is an error of the application, and the log says so."""
    app = FastAPI()

    @app.get("/")
    @durable.endpoint
    async def it() -> StarletteResponse:
        await step.run("one", lambda: 1)
        return Sent(WHOLE_BODY)

    async def part(client: httpx2.AsyncClient, watched: Watched) -> None:
        await client.get("/")
        assert "ValueError: the application sent a body before the head" in caplog.text

    play(durable, app, part)


async def ask_and_be_gone(app: FastAPI) -> None:
    """Send a request whose response the server cannot send: its client is gone."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        async def gone(message: Message) -> None:
            raise OSError("the connection is closed")

        await app(scope, receive, gone)

    transport = httpx2.ASGITransport(application)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        with pytest.raises(AssertionError):  # of the transport: nothing has been sent
            await client.get("/")


@pytest.mark.parametrize("is_quick", [True, False])
def test_a_server_that_says_of_a_response_that_the_client_is_gone(
    durable: Durable[StarletteApp], is_quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has ended, so its background tasks run, and the server hears of no error."""
    monkeypatch.setattr(_passage, "LISTEN_AFTER", 60 if is_quick else 0)
    app, seen = FastAPI(), []

    @app.get("/")
    @durable.endpoint
    async def it(tasks: BackgroundTasks) -> str:
        await step.run("work", asyncio.sleep, 0 if is_quick else 0.02)
        tasks.add_task(lambda: seen.append(statuses(durable)))
        return "done"

    async def main() -> None:
        async with durable.lifespan(app):
            await ask_and_be_gone(app)
        assert [["completed"]] == seen

    asyncio.run(main())


@pytest.mark.parametrize("is_async", [True, False])
def test_a_stream_whose_head_cannot_be_sent(durable: Durable[StarletteApp], is_async: bool) -> None:
    """The application is told that nobody reads, although nobody has begun to; its request ends."""
    app = FastAPI()
    stream = Sent(head_of(200), {**WHOLE_BODY, "more_body": True}, WHOLE_BODY)

    async def it() -> Sent:
        await step.run("one", asyncio.sleep, 0)
        return stream

    def it_in_thread() -> Sent:
        sync_step.run("one", lambda: 1)
        return stream

    app.get("/", response_model=None)(durable.endpoint(it if is_async else it_in_thread))

    async def main() -> None:
        async with durable.lifespan(app), asyncio.timeout(10):
            await ask_and_be_gone(app)
            await asyncio.to_thread(until, lambda: statuses(durable) == ["failed"])

    asyncio.run(main())


def test_a_run_is_suspended_while_its_client_is_slow_to_take_the_answer(
    durable: Durable[StarletteApp],
) -> None:
    """What sends the answer is no task of the handler, though the answer arrives in one."""
    app = FastAPI()

    @app.get("/")
    @durable.endpoint
    async def it() -> None:
        await step.run("one", asyncio.sleep, 0)
        await step.wait_for_event("reply", event="reply", timeout=3600)

    async def part(client: httpx2.AsyncClient, watched: Watched) -> None:
        taken = asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            async def sent(message: Message) -> None:
                await taken.wait()
                await send(message)

            await app(scope, receive, sent)

        transport = httpx2.ASGITransport(slow)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as late:
            answer = asyncio.create_task(late.get("/"))
            await asyncio.to_thread(until, lambda: statuses(durable) == ["suspended"])
            taken.set()
            assert 302 == (await answer).status_code

    play(durable, app, part)


@pytest.mark.parametrize("has_left", [True, False])
def test_a_time_out_of_the_application_while_the_response_is_stored(
    tmp_path: Path, has_left: bool
) -> None:
    """The response of the run counts, and not what the application sends then; it goes on."""

    class Slow(SQLiteStore):
        def commit(self, writes: Any, *, wait: float) -> Any:
            if limits:
                end_time, loop = limits.pop()
                loop.call_soon_threadsafe(end_time, loop.time())
            time.sleep(0.2)
            return super().commit(writes, wait=wait)

    store = Slow(str(tmp_path / "db"))
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=store)
    app, sent = FastAPI(), list[Message]()
    #: The time-out, until the response is being stored.
    limits: list[tuple[Callable[[float], None], asyncio.AbstractEventLoop]] = []

    @app.get("/")
    @durable.endpoint
    async def it() -> int:
        return await step.run("one", lambda: 1)

    route: Any = app.router.routes[-1]
    inner = route.app

    async def in_time(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(None) as limit:
                limits.append((limit.reschedule, asyncio.get_running_loop()))
                await inner(scope, receive, send)
        except TimeoutError:
            await send(head_of(504))
            await send(WHOLE_BODY)

    route.app = in_time

    async def receive() -> Message:
        if not has_left:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def main() -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "http_version": "1.1",
            "scheme": "http",
            "asgi": {"version": "3.0"},
            "server": ("localhost", 80),
            "client": None,
        }
        async with durable.lifespan(app), asyncio.timeout(20):
            await app(scope, receive, send)
            assert ["completed"] == await asyncio.to_thread(statuses, durable)

    asyncio.run(main())
    assert has_left or [200] == [each["status"] for each in sent if "status" in each]


def without_length() -> PlainTextResponse:
    response = PlainTextResponse("text")
    del response.headers["content-length"]
    return response


def of_the_server() -> PlainTextResponse:
    return PlainTextResponse("text", headers={"Keep-Alive": "timeout=5"})


def of_another_length() -> PlainTextResponse:
    response = PlainTextResponse("text")
    response.headers["content-length"] = "3"
    return response


def with_two_lengths() -> PlainTextResponse:
    response = PlainTextResponse("text")
    response.headers.append("Content-Length", "4")
    return response


@pytest.mark.parametrize(
    "response", [without_length, of_the_server, of_another_length, with_two_lengths]
)
def test_what_the_server_sends_is_framed(durable: Durable[StarletteApp], response: Any) -> None:
    """The length is that of the body, and what only the server may say is left out."""
    app = FastAPI()

    @app.get("/")
    @durable.endpoint
    async def it() -> PlainTextResponse:
        await step.run("one", lambda: 1)
        made: PlainTextResponse = response()
        return made

    async def part(client: httpx2.AsyncClient, watched: Watched) -> None:
        assert "text" == (await client.get("/")).text
        headers = watched.messages[0]["headers"]
        assert [b"4"] == [value for name, value in headers if name == b"content-length"]
        assert b"keep-alive" not in {name.lower() for name, _ in headers}

    play(durable, app, part)


def test_a_function_that_runs_out_of_memory_at_once(durable: Durable[StarletteApp]) -> None:
    """The run is cut short before its task has begun: there is an answer, and no record of it."""
    app = FastAPI()

    async def hungry() -> int:
        raise MemoryError

    @app.get("/")
    @durable.endpoint
    async def it() -> int:
        return await step.run("hungry", hungry)

    async def part(client: httpx2.AsyncClient, watched: Watched) -> None:
        assert 500 == (await client.get("/")).status_code
        assert [] == statuses(durable)

    play(durable, app, part)


def test_a_first_step_under_a_lease_that_may_have_expired(
    durable: Durable[StarletteApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until the lease is renewed, and the client gets the response."""
    app, looks = FastAPI(), []
    held_lately = StoredExecution.was_held_lately

    def was_held_lately(self: StoredExecution) -> bool:
        looks.append(1)
        return len(looks) > 1 and held_lately(self)

    monkeypatch.setattr(StoredExecution, "was_held_lately", was_held_lately)

    @app.get("/")
    @durable.endpoint
    async def it() -> int:
        return await step.run("one", lambda: 1)

    async def part(client: httpx2.AsyncClient, watched: Watched) -> None:
        assert 1 == (await client.get("/")).json()
        assert looks

    play(durable, app, part)


def test_an_application_that_fails_after_its_handler_has_ended(
    durable: Durable[StarletteApp],
) -> None:
    """The run is tried again, as if its function had raised that."""
    app, calls = FastAPI(), []

    class Answer(JSONResponse):
        def render(self, content: Any) -> bytes:
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("not this time")
            return super().render(content)

    @app.get("/", response_class=Answer)
    @durable.endpoint(retries=3)
    async def it() -> Any:
        return Answer({"one": await step.run("one", lambda: 1)})

    async def part(client: httpx2.AsyncClient, watched: Watched) -> None:
        response = await client.get("/")
        assert 302 == response.status_code
        assert {"one": 1} == (await client.get(response.headers["location"])).json()

    play(durable, app, part)


def test_a_store_that_fails_when_the_response_is_to_be_stored(tmp_path: Path) -> None:
    """The client gets 503 in place of the response, and the application goes on."""
    failing = [False]

    class Failing(SQLiteStore):
        def commit(self, writes: Any, *, wait: float) -> Any:
            if failing[0]:
                raise StoreError("the disk is full")
            return super().commit(writes, wait=wait)

    durable = Durable(
        id="shop", endpoint_adapter=endpoint_adapter, store=Failing(str(tmp_path / "db"))
    )
    app, went_on = FastAPI(), []

    @app.get("/")
    @durable.endpoint
    async def it(tasks: BackgroundTasks) -> int:
        one = await step.run("one", lambda: 1)
        tasks.add_task(lambda: went_on.append(1))
        failing[0] = True
        return one

    async def part(client: httpx2.AsyncClient, watched: Watched) -> None:
        response = await client.get("/")
        failing[0] = False
        assert 503 == response.status_code, response.text
        assert [503] == [each["status"] for each in watched.messages if "status" in each]
        await asyncio.to_thread(until, lambda: went_on)

    play(durable, app, part)
