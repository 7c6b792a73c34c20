"""Requests on their way through an application of Starlette, on a real server."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio.from_thread
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

import durable_core as core
from durable_asgi import EndpointServer, replay_scope, replayed_receive
from durable_core import Durable, Event, step, stream
from durable_core.errors import ConfigurationError
from durable_core.sync import step as sync_step
from durable_starlette import StarletteApp, endpoint_adapter, install
from support.harness import until
from support.raw_http import ask_and_leave


@pytest.fixture
def durable(tmp_path: Path) -> Durable[StarletteApp]:
    return Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")


@contextmanager
def serving(
    durable: Durable[StarletteApp], *routes: Route | Mount, middleware: tuple[Middleware, ...] = ()
) -> Iterator[httpx2.Client]:
    """Serve routes on uvicorn; yield a client of it that follows no redirect."""
    app = Starlette(routes=list(routes), middleware=middleware, lifespan=durable.lifespan)
    with (
        EndpointServer(app).listen() as server,
        httpx2.Client(base_url=server.url, timeout=30) as client,
    ):
        yield client


def after_event(client: httpx2.Client, durable: Durable[StarletteApp], url: str) -> httpx2.Response:
    """Ask for a run that waits for an event; send the event, and return its response."""
    handed_off = client.get(url)
    assert handed_off.is_redirect, handed_off.text
    durable.send(Event("go"))
    return client.get(handed_off.headers["location"])


def test_bodies_that_handlers_read_themselves(durable: Durable[StarletteApp]) -> None:
    """``request.body()`` and ``request.stream()`` work in handlers of both kinds, and replayed."""

    @durable.endpoint
    async def whole(request: Request) -> Response:
        size = len(await request.body())
        await step.wait_for_event("go", event="go", timeout="1h")
        return JSONResponse(size)

    @durable.endpoint
    def threaded(request: Request) -> Response:
        size = len(anyio.from_thread.run(request.body))
        sync_step.wait_for_event("go", event="go", timeout="1h")
        return JSONResponse(size)

    @durable.endpoint
    async def pieces(request: Request) -> Response:
        sizes = [len(each) async for each in request.stream()]
        await step.wait_for_event("go", event="go", timeout="1h")
        return JSONResponse(sum(sizes))

    functions = {"/whole": whole, "/threaded": threaded, "/pieces": pieces}
    routes = [Route(path, each, methods=["POST"]) for path, each in functions.items()]
    with serving(durable, *routes) as client:
        for path in functions:
            handed_off = client.post(path, content=b"x" * 300_000)
            durable.send(Event("go"))
            assert 300_000 == client.get(handed_off.headers["location"]).json()


def test_a_body_over_the_limit(durable: Durable[StarletteApp]) -> None:
    """A body over the limit of the application is refused, and no handler runs."""
    called = []

    @durable.endpoint
    async def it(request: Request) -> Response:
        called.append(await request.body())
        return Response()

    most = durable.engine.limits.body
    with serving(durable, Route("/", it, methods=["POST"])) as client:
        assert 200 == client.post("/", content=b"x" * most).status_code
        assert 413 == client.post("/", content=b"x" * (most + 1)).status_code
    assert [most] == [len(each) for each in called]


def test_other_routes_are_left_alone(durable: Durable[StarletteApp]) -> None:
    """A route without a durable endpoint streams what it likes, and no run begins."""

    async def upload(request: Request) -> Response:
        return JSONResponse(sum([len(each) async for each in request.stream()]))

    async def broken(request: Request) -> Response:
        raise LookupError("its own error")

    @durable.endpoint
    async def it(request: Request) -> Response:
        return Response()

    routes = [
        Route("/upload", upload, methods=["POST"]),
        Route("/broken", broken),
        Route("/it", it),
    ]
    big = 2 * durable.engine.limits.body
    with serving(durable, *routes) as client:
        assert big == client.post("/upload", content=b"x" * big).json()
        assert 404 == client.get("/nothing").status_code
        assert 405 == client.post("/it").status_code
        assert 500 == client.get("/broken").status_code  # and the server closes the connection
    assert [] == list(durable.runs.list())


def test_a_wait_url_is_asked_by_get(durable: Durable[StarletteApp]) -> None:
    """Another method, as ``curl -L -X POST`` repeats it, gets 405 and begins no run."""

    @durable.endpoint
    async def it(request: Request) -> Response:
        await step.wait_for_event("go", event="go", timeout="1h")
        return Response()

    with serving(durable, Route("/", it, methods=["POST"])) as client:
        target = client.post("/").headers["location"]
        refused = client.post(target)
        assert (405, "GET, HEAD") == (refused.status_code, refused.headers["allow"])
    assert 1 == len(durable.runs.list())


def test_class_based_endpoints(durable: Durable[StarletteApp]) -> None:
    """A method of an ``HTTPEndpoint`` may be durable."""

    class Orders(HTTPEndpoint):
        @durable.endpoint
        async def get(self, request: Request) -> Response:
            await step.wait_for_event("go", event="go", timeout="1h")
            return PlainTextResponse(type(self).__name__)

    with serving(durable, Route("/", Orders)) as client:
        assert "Orders" == after_event(client, durable, "/").text


def test_a_client_that_goes_away(durable: Durable[StarletteApp]) -> None:
    """When the client closes its connection in a step, the run goes on and ends."""
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        go_on.wait(20)

    @durable.endpoint
    async def it(request: Request) -> Response:
        await step.run("wait", wait)
        return PlainTextResponse("done")

    with serving(durable, Route("/", it)) as client:
        ask_and_leave(client.base_url.port or 0, "/", begun.is_set)
        until(lambda: bool(durable.runs.list()))  # handed off
        go_on.set()
        until(lambda: ["completed"] == [run.status for run in durable.runs.list()])


@pytest.mark.parametrize("kind", ["async", "def"])
def test_a_request_that_is_cancelled(durable: Durable[StarletteApp], kind: str) -> None:
    """Where a server cancels the task of a request, the run goes on, and ends by a replay."""
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def wait() -> str:
        calls.append(durable.is_replaying())
        begun.set()
        go_on.wait(20)
        return "done"

    @durable.endpoint
    async def coroutine(request: Request) -> Response:
        return PlainTextResponse(await step.run("wait", wait))

    @durable.endpoint
    def function(request: Request) -> Response:
        return PlainTextResponse(sync_step.run("wait", wait))

    route = Route("/", coroutine if kind == "async" else function)
    app = Starlette(routes=[route], lifespan=durable.lifespan)
    scope = {**replay_scope(core.Request(method="GET", url="http://localhost/")), "state": {}}

    async def send(message: object) -> None:
        raise AssertionError(f"the client is gone: {message}")

    async def main() -> None:
        async with app.router.lifespan_context(app):
            serving = asyncio.create_task(app(scope, replayed_receive(b""), send))
            await asyncio.to_thread(begun.wait, 20)
            serving.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await serving
            await asyncio.to_thread(
                until, lambda: ["completed"] == [run.status for run in durable.runs.list()]
            )

    asyncio.run(main())
    assert [False] == calls


class Note(BaseHTTPMiddleware):
    """A middleware that runs what is inside it in a task of its own."""

    async def dispatch(self, request: Request, call_next: object) -> Response:
        assert callable(call_next)
        response: Response = await call_next(request)
        response.headers["x-note"] = "seen"
        return response


def _waits_for(durable: Durable[StarletteApp], event: str) -> bool:
    [run] = durable.runs.list()
    steps = durable.runs.get(run.id).steps
    return event in [each.event for each in steps if each.ended is None]


@pytest.mark.parametrize("kind", ["async", "def"])
def test_runs_that_wait_within_middleware(
    durable: Durable[StarletteApp], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Middleware that runs the rest of the application in a group of tasks does not hold them up.

    The run waits in its first execution and in a replay, within a middleware inside the durable
    layer and one around it.
    """

    @durable.endpoint
    async def coroutine(request: Request) -> Response:
        for name in ("first", "second"):
            await step.wait_for_event(name, event=name, timeout="1h")
        return PlainTextResponse("done")

    @durable.endpoint
    def function(request: Request) -> Response:
        for name in ("first", "second"):
            sync_step.wait_for_event(name, event=name, timeout="1h")
        return PlainTextResponse("done")

    route = Route("/", coroutine if kind == "async" else function)
    mount = Mount("/inner", routes=[route], middleware=[Middleware(Note)])
    with serving(durable, mount, middleware=(Middleware(Note),)) as client:
        handed_off = client.get("/inner/")
        assert handed_off.is_redirect, handed_off.text
        for name in ("first", "second"):
            until(partial(_waits_for, durable, name))
            durable.send(Event(name))
        assert "done" == client.get(f"/inner/{handed_off.headers['location']}").text
    gc.collect()
    assert [] == [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]


def test_streamed_responses(durable: Durable[StarletteApp]) -> None:
    """A ``StreamingResponse`` arrives whole: at once, after a replay, and through middleware."""

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number

    @durable.endpoint
    async def at_once(request: Request) -> Response:
        await step.run("first", lambda: None)
        return StreamingResponse(chunks(), 201, {"x-own": "yes"})

    @durable.endpoint
    async def later(request: Request) -> Response:
        await step.wait_for_event("go", event="go", timeout="1h")
        return StreamingResponse(chunks(), 201, {"x-own": "yes"})

    routes = (Route("/at-once", at_once), Route("/later", later))
    with serving(durable, *routes, middleware=(Middleware(Note),)) as client:
        for response in (client.get("/at-once"), after_event(client, durable, "/later")):
            assert (201, b"012") == (response.status_code, response.content)
            assert ("yes", "seen") == (response.headers["x-own"], response.headers["x-note"])


@pytest.mark.parametrize("inside", [False, True], ids=["around", "within"])
def test_a_replay_within_middleware_is_suspended(
    durable: Durable[StarletteApp], inside: bool
) -> None:
    """A replayed run that waits is suspended, although a middleware waits for its response."""

    @durable.endpoint
    async def it(request: Request) -> Response:
        await step.wait_for_event("first", event="first", timeout="1h")
        await step.wait_for_event("second", event="second", timeout="1h")
        return PlainTextResponse("done")

    def is_suspended() -> bool:
        [run] = durable.runs.list()
        return run.status == "suspended" and len(durable.runs.get(run.id).steps) == 2

    note = (Middleware(Note),)
    route = Route("/", it, middleware=note) if inside else Route("/", it)
    with serving(durable, route, middleware=() if inside else note) as client:
        handed_off = client.get("/")
        durable.send(Event("first"))
        until(is_suspended)
        durable.send(Event("second"))
        assert "done" == client.get(handed_off.headers["location"]).text


def test_a_streamed_response_that_breaks(durable: Durable[StarletteApp]) -> None:
    """The client of a body that raises sees the connection cut; the run has failed."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"0"
        raise LookupError("half way")

    @durable.endpoint
    async def it(request: Request) -> Response:
        await step.run("first", lambda: None)
        return StreamingResponse(chunks())

    with serving(durable, Route("/", it)) as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            client.get("/")
        until(lambda: ["failed"] == [run.status for run in durable.runs.list()])


def test_event_streams(durable: Durable[StarletteApp]) -> None:
    """A client that accepts an event stream gets what steps push, and the response."""

    async def write() -> None:
        stream.push("hello")

    @durable.endpoint
    async def it(request: Request) -> Response:
        await step.run("write", write)
        return PlainTextResponse("done")

    with serving(durable, Route("/", it)) as client:
        text = client.get("/", headers={"accept": "text/event-stream"}).text
    assert "hello" in text
    assert "done" in text


PROGRAM = """
import sys
from pathlib import Path
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from durable_asgi import EndpointServer
from durable_core import Durable, step
from durable_starlette import endpoint_adapter

folder = Path(sys.argv[1])
durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=folder / "db")

def note():
    with open(folder / "log", "a") as log:
        log.write("once\\n")

@durable.endpoint
async def it(request):
    await step.run("note", note)
    await step.wait_for_event("go", event="go", timeout="1h")
    return PlainTextResponse("done")

app = Starlette(routes=[Route("/", it)], lifespan=durable.lifespan)
with EndpointServer(app).listen() as server:
    print(server.url, flush=True)
    server.serve_forever()
"""


@contextmanager
def process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the program; yield its process and URL, and kill it in the end."""
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            yield running, running.stdout.readline().strip()
        finally:
            os.kill(running.pid, signal.SIGKILL)


def test_kill(tmp_path: Path, durable: Durable[StarletteApp]) -> None:
    """A run outlives its process: the next one sends its request through the application again."""
    with process(tmp_path) as (_, url):
        handed_off = httpx2.get(url)
        assert handed_off.is_redirect
    with process(tmp_path) as (_, url):
        durable.send(Event("go"))
        path = httpx2.URL(handed_off.headers["location"]).raw_path.decode()
        assert "done" == httpx2.get(f"{url}{path}", timeout=30).text
    durable.stop()
    assert "once\n" == (tmp_path / "log").read_text()


def test_a_client_that_leaves_a_streamed_response(durable: Durable[StarletteApp]) -> None:
    """The response ends as without Durable, and is not made again; the run has failed."""
    log: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.01)
        finally:
            log.append("closed")

    @durable.endpoint
    async def it(request: Request) -> StreamingResponse:
        await step.run("first", lambda: log.append("step"))
        return StreamingResponse(chunks())

    with serving(durable, Route("/", it)) as client:
        with client.stream("GET", "/") as response:
            next(response.iter_bytes())
        (run,) = durable.runs.list()
        assert "failed" == durable.runs.wait(run.id, timeout=30).status
    assert ["step", "closed"] == log


def test_an_event_loop_of_another_kind(durable: Durable[StarletteApp]) -> None:
    """A server that runs the application on a loop such as trio's is told so."""

    @durable.endpoint
    async def it(request: Request) -> Response:
        return PlainTextResponse("never")

    app = Starlette(routes=[Route("/", it)])
    install(app, durable)
    durable.start()

    async def ignore(message: object) -> None:
        """Ignore the response."""

    scope = replay_scope(core.Request(method="GET", url="http://localhost/"))
    try:
        with pytest.raises(ConfigurationError, match="runs on asyncio's event loop"):
            app(scope, replayed_receive(b""), ignore).send(None)  # as a loop does
    finally:
        durable.stop()
