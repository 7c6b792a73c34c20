"""Coroutine functions as durable views, and both kinds of views under ASGI."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from durable_asgi import create_endpoint_server
from durable_core import Durable, Event, step, stream, sync
from durable_django import DjangoApp, endpoint_adapter, install
from support.asgi_exchange import http_scope
from support.harness import until, until_async
from support.raw_http import ask_and_leave

TWICE = pytest.mark.parametrize("replay", [False, True], ids=["at-once", "replayed"])


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[Durable[DjangoApp]]:
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    install(durable)
    yield durable
    durable.stop()


async def pause(request: HttpRequest) -> None:
    """Do a step, and wait for an event if the client wants a replay."""
    await step.run("first", lambda: None)
    if "replay" in request.GET:
        await step.wait_for_event("go", event="go", timeout="1h")


async def ask(durable: Durable[DjangoApp], method: str, url: str, replay: bool, **more: Any) -> Any:
    """Return the response, after a replay if one is wanted."""
    client = AsyncClient()
    response = await client.generic(method, url + ("?replay=1" if replay else ""), **more)
    if replay:
        assert 302 <= response.status_code <= 303, response.content
        await durable.send_async(Event("go"))
        response = await client.get(url + response.headers["location"])
    return response


@TWICE
def test_request_and_response(durable: Durable[DjangoApp], urls: ModuleType, replay: bool) -> None:
    """The request, the arguments of the path and the response are Django's own."""

    @durable.endpoint
    async def order(request: HttpRequest, shop: str) -> JsonResponse:
        await pause(request)
        response = JsonResponse({"shop": shop, "body": request.body.decode()}, status=201)
        response.set_cookie("seen", "yes")
        return response

    urls.urlpatterns.append(path("<slug:shop>/", order))
    sent = {"data": b"tea", "content_type": "text/plain"}
    response = asyncio.run(ask(durable, "POST", "/corner/", replay, **sent))
    assert (201, {"shop": "corner", "body": "tea"}) == (response.status_code, response.json())
    assert "yes" == response.cookies["seen"].value


@TWICE
def test_streamed_responses_and_errors(
    durable: Durable[DjangoApp], urls: ModuleType, replay: bool
) -> None:
    """An asynchronous body arrives whole; Django answers the errors of clients."""

    async def chunks() -> AsyncIterator[str]:
        for number in range(3):
            await asyncio.sleep(0)
            yield str(number)

    @durable.endpoint
    async def it(request: HttpRequest, name: str) -> StreamingHttpResponse:
        await pause(request)
        if name == "nothing":
            raise Http404
        return StreamingHttpResponse(chunks())

    async def both() -> tuple[bytes, int]:
        response = await ask(durable, "GET", "/it/", replay)
        whole = response.content if replay else b"".join([data async for data in response])
        return whole, (await ask(durable, "GET", "/nothing/", replay)).status_code

    urls.urlpatterns.append(path("<name>/", it))
    assert (b"012", 404) == asyncio.run(both())


@TWICE
def test_under_wsgi(durable: Durable[DjangoApp], urls: ModuleType, replay: bool) -> None:
    """A coroutine function works where Django has a thread for each request, too."""

    @durable.endpoint
    async def it(request: HttpRequest) -> HttpResponse:
        await pause(request)
        return HttpResponse("done")

    urls.urlpatterns.append(path("", it))
    client = Client()
    response: Any = client.get("/?replay=1" if replay else "/")
    if replay:
        durable.send(Event("go"))
        response = client.get("/" + response.headers["location"])
    assert b"done" == response.content


def test_the_loop_under_wsgi(durable: Durable[DjangoApp], urls: ModuleType) -> None:
    """It is no loop that Django makes for one request: replays of others would end with it."""
    loops: list[asyncio.AbstractEventLoop] = []

    @durable.endpoint
    async def it(request: HttpRequest) -> HttpResponse:
        loops.append(asyncio.get_running_loop())
        await pause(request)
        return HttpResponse("done")

    urls.urlpatterns.append(path("", it))
    client = Client()
    assert b"done" == client.get("/").content
    response: Any = client.get("/?replay=1")
    durable.send(Event("go"))
    assert b"done" == client.get("/" + response.headers["location"]).content
    assert ([loops[0]] * 3, False) == (loops, loops[0].is_closed())


def test_on_a_server(durable: Durable[DjangoApp], urls: ModuleType) -> None:
    """Both kinds of views stream events, and go on when their client has left."""
    log: list[str] = []
    gate = threading.Event()

    @durable.endpoint
    async def tasks(request: HttpRequest) -> HttpResponse:
        await step.run("write", lambda: stream.push("of a task"))
        return HttpResponse("done")

    @durable.endpoint
    def threads(request: HttpRequest) -> HttpResponse:
        sync.step.run("write", lambda: sync.stream.push("of a thread"))
        return HttpResponse("done")

    @durable.endpoint
    async def left(request: HttpRequest) -> HttpResponse:
        await step.run("first", lambda: log.append("begun"))
        await step.run("second", gate.wait)
        log.append("ended")
        return HttpResponse("done")

    site: Any = get_asgi_application()  # its messages are plain dicts, to type checkers
    urls.urlpatterns.extend([path("tasks", tasks), path("threads", threads), path("left", left)])
    with (
        create_endpoint_server(site, durable=durable).listen() as server,
        httpx2.Client(base_url=server.url, timeout=30) as client,
    ):
        for name in ("task", "thread"):
            text = client.get(f"/{name}s", headers={"accept": "text/event-stream"}).text
            assert f'"of a {name}"' in text
            assert "done" in text
        ask_and_leave(server.port, "/left", lambda: log == ["begun"])
        until(lambda: len(durable.runs.list()) > 0)
        gate.set()
        until(lambda: log[-1] == "ended")


def test_def_views_leave_the_loop_free(durable: Durable[DjangoApp], urls: ModuleType) -> None:
    """While they wait, in their own code and in a step, the loop and more of them serve others."""
    gate, waiting = threading.Event(), []

    def wait(where: str) -> str:
        waiting.append(where)
        assert gate.wait(20)
        return f"waited in {where}"

    @durable.endpoint
    def durable_view(request: HttpRequest, where: str) -> HttpResponse:
        if where == "its code":
            return HttpResponse(wait(where))
        return HttpResponse(sync.step.run("wait", wait, where))

    @durable.endpoint
    def quick(request: HttpRequest) -> HttpResponse:
        return HttpResponse(sync.step.run("quick", lambda: "in a thread"))

    async def plain(request: HttpRequest) -> HttpResponse:
        return HttpResponse("on the loop")

    places = ["its code", "a step"]
    site: Any = get_asgi_application()
    routes = [path("wait/<where>", durable_view), path("quick", quick), path("", plain)]
    urls.urlpatterns.extend(routes)
    with (
        create_endpoint_server(site, durable=durable).listen() as server,
        httpx2.Client(base_url=server.url, timeout=15) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        try:
            answers = [pool.submit(client.get, f"/wait/{where}") for where in places]
            until(lambda: sorted(places) == sorted(waiting))
            assert "on the loop" == client.get("/").text
            assert "in a thread" == client.get("/quick").text
            assert [False, False] == [each.done() for each in answers]
        finally:
            gate.set()
        assert [f"waited in {where}" for where in places] == [
            each.result().text for each in answers
        ]


def only_sync(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Make a middleware that Django cannot call on an event loop."""
    return lambda request: get_response(request)


def test_a_client_leaves_below_sync_middleware(durable: Durable[DjangoApp], urls: Any) -> None:
    """The thread of the request ends then, and the view still has one for what is not async."""
    log: list[str] = []
    gate = threading.Event()

    @sync_to_async
    def note(what: str) -> None:
        log.append(what)

    @durable.endpoint
    async def left(request: HttpRequest) -> HttpResponse:
        await note("begun")
        await step.run("gate", gate.wait)
        await step.run("in a step", note, "in a step")
        await note("ended")
        return HttpResponse("done")

    urls.only_sync = only_sync
    urls.urlpatterns.append(path("left", left))
    names = ["durable_django.DurableMiddleware", f"{urls.__name__}.only_sync"]
    with override_settings(MIDDLEWARE=names):
        site: Any = get_asgi_application()
    with create_endpoint_server(site, durable=durable).listen() as server:
        ask_and_leave(server.port, "/left", lambda: log == ["begun"])
        until(lambda: durable.runs.list())  # handed off
        gate.set()
        until(lambda: "ended" in log)
        (run,) = durable.runs.list()
        assert "completed" == durable.runs.wait(run.id, timeout=30).status
    assert ["begun", "in a step", "ended"] == log  # once each: nothing failed, or was replayed


def test_a_client_that_leaves_a_streamed_response(durable: Durable[Any], urls: ModuleType) -> None:
    """The response ends as without Durable, and is not made again; the run has failed."""
    log: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 100_000
                await asyncio.sleep(0.01)
        finally:
            log.append("closed")

    @durable.endpoint
    async def it(request: HttpRequest) -> StreamingHttpResponse:
        await step.run("first", lambda: log.append("step"))
        return StreamingHttpResponse(chunks())

    urls.urlpatterns.append(path("", it))
    site: Any = get_asgi_application()
    with create_endpoint_server(site, durable=durable).listen() as server:
        with httpx2.stream("GET", server.url) as answer:
            next(answer.iter_bytes())
        (run,) = durable.runs.list()
        assert "failed" == durable.runs.wait(run.id, timeout=30).status
        until(lambda: "closed" in log)
    assert ["step", "closed"] == log


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "def"])
@pytest.mark.parametrize("fails_at", ["http.response.start", "http.response.body"])
@pytest.mark.parametrize("how", ["server", "client"])
def test_a_stream_that_cannot_be_sent(
    durable: Durable[DjangoApp], urls: ModuleType, is_async: bool, fails_at: str, how: str
) -> None:
    """The run has failed at once, although Django closes nothing where the server fails.

    Nothing waits for the collector of cycles.
    """
    log: list[str] = []

    class Chunks(Iterator[bytes]):
        def __next__(self) -> bytes:
            return b"chunk"

        def close(self) -> None:
            log.append("closed")

    async def chunks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"chunk"
        finally:
            log.append("closed")

    async def in_task(request: HttpRequest) -> StreamingHttpResponse:
        await step.run("first", lambda: None)
        return StreamingHttpResponse(chunks())

    def in_thread(request: HttpRequest) -> StreamingHttpResponse:
        sync.step.run("first", lambda: None)
        return StreamingHttpResponse(Chunks())

    urls.urlpatterns.append(path("", durable.endpoint(in_task if is_async else in_thread)))
    site: Any = get_asgi_application()
    request = {"type": "http.request", "body": b"", "more_body": False}

    def other_tasks() -> set[str]:
        """Return what is left, beside the task that keeps the loop for the engine."""
        names = {task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}}
        return names - {"durable-guard"}

    async def main() -> None:
        messages, left = [request], asyncio.Event()

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] != fails_at:
                return
            if how == "server":
                raise OSError("the connection is closed")
            left.set()
            await asyncio.Event().wait()

        with suppress(OSError):
            await site(http_scope("/"), receive, send)
        await until_async(lambda: [run.status for run in durable.runs.list()] == ["failed"])
        await until_async(lambda: not other_tasks())
        await durable.stop_async()

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()
    assert ["closed"] == log


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "def"])
def test_a_stream_that_is_read_after_it_was_closed(
    durable: Durable[DjangoApp], urls: ModuleType, is_async: bool
) -> None:
    """It has ended: nobody waits for a chunk that will not come."""

    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"chunk"

    async def in_task(request: HttpRequest) -> StreamingHttpResponse:
        await step.run("first", lambda: None)
        return StreamingHttpResponse(chunks())

    def in_thread(request: HttpRequest) -> StreamingHttpResponse:
        sync.step.run("first", lambda: None)
        return StreamingHttpResponse(iter(lambda: b"chunk", b""))

    urls.urlpatterns.append(path("", durable.endpoint(in_task if is_async else in_thread)))

    async def main() -> None:
        response: Any = await AsyncClient().get("/")
        body = aiter(response)
        assert b"chunk" == await anext(body)
        response.close()
        assert [] == [chunk async for chunk in body]
        await until_async(lambda: [run.status for run in durable.runs.list()] == ["failed"])
        await durable.stop_async()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_threads_under_wsgi(durable: Durable[DjangoApp], urls: ModuleType) -> None:
    """Each view has a thread of its own for the ORM, which ends with it: none waits for another."""
    both = threading.Barrier(2, timeout=20)
    threads: list[threading.Thread] = []

    @sync_to_async
    def query() -> None:
        both.wait()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        threads.append(threading.current_thread())

    @durable.endpoint
    async def it(request: HttpRequest) -> HttpResponse:
        await query()
        await step.run("query", query)
        return HttpResponse("done")

    urls.urlpatterns.append(path("", it))
    clients = [threading.Thread(target=lambda: Client().get("/")) for _ in range(2)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    assert (4, 2) == (len(threads), len(set(threads)))
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


@TWICE
def test_a_view_calls_another(
    durable: Durable[DjangoApp],
    urls: ModuleType,
    replay: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its steps are those of the run; of another kind, the error says what to do."""

    @durable.endpoint
    async def in_task(request: HttpRequest) -> HttpResponse:
        return HttpResponse(await step.run("task", lambda: "task"))

    @durable.endpoint
    def in_thread(request: HttpRequest) -> HttpResponse:
        return HttpResponse(sync.step.run("thread", lambda: "thread"))

    @durable.endpoint
    async def from_task(request: HttpRequest, name: str) -> HttpResponse:
        await pause(request)
        response: Any = in_thread(request) if name == "thread" else await in_task(request)
        assert isinstance(response, HttpResponse)
        return response

    @durable.endpoint
    def from_thread(request: HttpRequest) -> HttpResponse:
        if replay:
            sync.step.wait_for_event("go", event="go", timeout="1h")
        response: Any = in_thread(request)
        assert isinstance(response, HttpResponse)
        return response

    urls.urlpatterns.extend([path("task/<name>/", from_task), path("thread/", from_thread)])

    async def answers() -> list[tuple[int, bytes]]:
        paths = ("/task/task/", "/thread/", "/task/thread/")
        all_of_them = [await ask(durable, "GET", each, replay) for each in paths]
        return [(each.status_code, each.content) for each in all_of_them]

    *same, other = asyncio.run(answers())
    assert [(200, b"task"), (200, b"thread")] == same
    assert 500 == other[0]
    durable.stop()  # The worker writes its line of the log after the response has left.
    assert "Call it by step.invoke" in caplog.text
