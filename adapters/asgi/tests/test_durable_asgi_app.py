"""The ASGI application, in this process: with handlers of a test's own, and with the core's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs

import pytest

from durable_asgi import ASGIApp, app
from durable_core import Durable, HTTPError, Limits, Request, Response, step
from durable_core.api.adapter import EngineLifecycle
from durable_core.engine.embedded import embedded
from durable_core.sync import step as sync_step
from support.asgi_exchange import Exchange, http_scope
from support.asgi_sample import make_durable
from support.harness import FakeClock, until_async

T = TypeVar("T")


class FakeEngine:
    """An engine that does nothing."""

    limits = Limits(body=8)

    def start(self, *, server_threads: int | None = None) -> None:
        pass

    def drain(self) -> None:
        pass

    def stop(self, timeout: float) -> None:
        pass

    def run_on_background_loop(self, awaitable: Any) -> Any:
        raise AssertionError("there is nothing to be awaited")


class FakeHandler:
    """A handler that does what it is told to."""

    def __init__(self, answer: Callable[[Request], Awaitable[Response]]) -> None:
        self.engine: EngineLifecycle = FakeEngine()
        self.calls: list[tuple[float, str | None]] = []
        self._answer = answer

    def handle(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        raise AssertionError("ASGI is asynchronous")

    async def handle_async(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        self.calls.append((max_wait, route))
        return await self._answer(request)


def answering(response: Response) -> FakeHandler:
    async def answer(request: Request) -> Response:
        return response

    return FakeHandler(answer)


def failing(error: BaseException) -> FakeHandler:
    async def answer(request: Request) -> Response:
        raise error

    return FakeHandler(answer)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run it on a loop; no task may be left there afterwards."""

    async def checked() -> T:
        value = await main
        for _ in range(3):  # callbacks of what has just ended
            await asyncio.sleep(0)
        assert {asyncio.current_task()} == asyncio.all_tasks()
        return value

    return asyncio.run(checked())


def call(application: ASGIApp, *body: bytes, **changes: Any) -> Exchange:
    """Return the finished exchange of one request."""

    async def main() -> Exchange:
        exchange = Exchange(http_scope(**changes), body or (b"",))
        return await exchange.run(application)

    return run(main())


def live(durable: Durable[ASGIApp], main: Coroutine[Any, Any, T]) -> T:
    """Run it while the application is started."""

    async def lived() -> T:
        async with durable.lifespan():
            return await main

    return run(lived())


async def pass_nap(durable: Durable[ASGIApp], clock: FakeClock) -> None:
    """Let an hour pass once the only run has been put away."""
    await until_async(lambda: durable.runs.list()[0].due is not None)
    clock.advance(3600)
    node = embedded(durable.engine).worker
    assert node is not None
    node.scheduler.wake()


# Translation


def test_answer_of_the_handler() -> None:
    """The handler's response is what the server gets."""
    handler = answering(Response.text("hello", 201, {"x-own": "1"}))
    exchange = call(ASGIApp(handler))

    assert (201, b"hello") == (exchange.status, exchange.body)
    assert (b"x-own", b"1") in exchange.headers
    assert [(25.0, None)] == handler.calls


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ((b"12345", b"6789"), [], 413),
        ((b"",), [(b"content-length", b"9")], 413),
        ((b"",), [(b"host", b"a/b")], 400),
    ],
)
def test_bad_request(body: tuple[bytes, ...], headers: list[Any], status: int) -> None:
    """What the adapter refuses never reaches the handler; the limit is the application's."""
    handler = answering(Response())
    exchange = call(ASGIApp(handler), *body, headers=headers)

    assert (status, []) == (exchange.status, handler.calls)
    assert (b"content-type", b"application/problem+json") in exchange.headers


def test_http_error() -> None:
    """An HTTPError that the handler lets pass becomes its response."""
    exchange = call(ASGIApp(failing(HTTPError(409, "no", {"x-own": "1"}))))

    assert 409 == exchange.status
    assert (b"x-own", b"1") in exchange.headers


def test_unexpected_exception(caplog: pytest.LogCaptureFixture) -> None:
    """Any other exception becomes a 500 without details, and is logged with its traceback."""
    with caplog.at_level(logging.ERROR, "durable.asgi"):
        exchange = call(
            ASGIApp(failing(ZeroDivisionError("secret"))), query_string=b"durable-token=secret"
        )

    assert 500 == exchange.status
    assert b"secret" not in exchange.body
    (record,) = caplog.records
    assert "GET /x failed" == record.message
    assert record.exc_info is not None
    assert ZeroDivisionError is record.exc_info[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_exits_pass(error: type[BaseException]) -> None:
    """What ends a process is no failed request."""
    with pytest.raises(error):
        asyncio.run(Exchange().run(ASGIApp(failing(error()))))


def test_head_has_no_body() -> None:
    """The body of the answer to HEAD is left out, also that of an error."""
    found = call(ASGIApp(answering(Response.text("long"))), method="HEAD")
    failed = call(ASGIApp(failing(HTTPError(404))), method="HEAD")

    assert (b"", 200) == (found.body, found.status)
    assert (b"content-length", b"4") in found.headers
    assert (b"", 404) == (failed.body, failed.status)


def test_stream_that_breaks() -> None:
    """The server learns that the response is not whole."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(ASGIApp(answering(Response(body=chunks()))))


# Other scopes


def test_websocket_is_closed() -> None:
    """A client that wants a websocket is refused in the protocol's own way."""
    exchange = run(
        Exchange({"type": "websocket", "path": "/x"}).run(ASGIApp(answering(Response())))
    )

    assert ["websocket.close"] == [message["type"] for message in exchange.sent]


def test_unknown_scope() -> None:
    """Anything else is an error that says what there is."""
    with pytest.raises(ValueError, match="http and lifespan, not 'mail'"):
        run(Exchange({"type": "mail"}).run(ASGIApp(answering(Response()))))


# Routes


def test_routes(tmp_path: Path) -> None:
    """``app`` answers by the core's router, below wherever it is mounted."""
    durable = make_durable(tmp_path / "db")
    routes = app(durable, {"GET /users/{id}": lambda request: request.path_params["id"]})

    async def main() -> None:
        for changes, status in (
            ({"path": "/users/7"}, 200),
            ({"path": "/shop/users/7", "root_path": "/shop"}, 200),
            ({"path": "/users/7", "root_path": "/shop"}, 200),
            ({"path": "/nobody"}, 404),
            ({"path": "/users/7", "method": "POST"}, 405),
        ):
            exchange = await Exchange(http_scope(**changes)).run(routes)
            assert status == exchange.status
            assert status != 200 or b'"7"' == exchange.body

    live(durable, main())


def test_label_of_a_framework_s_route(tmp_path: Path) -> None:
    """A run's label has the template by which a framework has found it, and its path parameters."""
    durable = make_durable(tmp_path / "db")

    @durable.endpoint
    async def show(request: Request) -> object:
        await step.run("one", lambda: 1)
        return request.path_params["id"]

    class FoundRoute:
        path_format, methods = "/users/{id}", {"GET"}

    async def main() -> None:
        found: dict[str, Any] = {
            "router": object(),
            "route": FoundRoute(),
            "path_params": {"id": 7},
        }
        scope = http_scope("/users/7", **found)
        assert b'"7"' == (await Exchange(scope).run(show)).body
        assert ["GET /users/{id}"] == [each.name for each in durable.runs.list()]

    live(durable, main())


# Clients that leave


def test_client_that_leaves_before_its_request_is_whole() -> None:
    """Nothing is answered, nothing is run."""
    handler = answering(Response())

    async def main() -> None:
        exchange = Exchange(body=())
        exchange.leave()
        await exchange.run(ASGIApp(handler))
        assert 499 == exchange.status  # which nobody gets

    run(main())
    assert [] == handler.calls


def test_client_that_leaves_cancels_the_handler() -> None:
    """The core learns of it by a cancellation; middleware gets an answer, for it needs one."""
    cancelled: list[str] = []

    async def answer(request: Request) -> Response:
        exchange.leave()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(request.path)
            raise
        raise AssertionError

    async def main() -> None:
        await exchange.run(ASGIApp(FakeHandler(answer)))
        assert 499 == exchange.status  # which nobody gets

    exchange = Exchange()
    run(main())
    assert ["/x"] == cancelled


def test_server_that_cancels_gets_its_cancellation() -> None:
    """A cancellation that is not ours goes where it belongs."""
    begun = asyncio.Event()

    async def answer(request: Request) -> Response:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> None:
        task = asyncio.create_task(Exchange().run(ASGIApp(FakeHandler(answer))))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_client_that_leaves_closes_the_stream() -> None:
    """The body is told, where it stands, once."""
    ends: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            exchange.leave()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        finally:
            ends.append("closed")

    async def main() -> None:
        await exchange.run(ASGIApp(answering(Response(body=chunks()))))

    exchange = Exchange()
    run(main())
    assert ["cancelled", "closed"] == ends


def test_client_that_leaves_while_the_server_is_full() -> None:
    """A stream that is held back ends when its client leaves."""
    ends: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        ends.append("begun")
        try:
            while True:
                yield b"a"
        finally:
            ends.append("closed")

    async def main() -> None:
        exchange = Exchange()
        exchange.flowing.clear()
        running = asyncio.create_task(exchange.run(ASGIApp(answering(Response(body=chunks())))))
        while not ends:
            await asyncio.sleep(0)
        exchange.leave()
        await running

    run(main())
    assert ["begun", "closed"] == ends


@pytest.mark.parametrize("face", ["async", "sync"])
def test_run_of_a_client_that_left(tmp_path: Path, face: str) -> None:
    """A client that leaves in the middle of a step ends neither the step nor the run."""
    durable = make_durable(tmp_path / "db")
    exchange = Exchange()
    begun, go_on = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def wait() -> str:
        begun.set()
        await go_on.wait()
        done.append("first")
        return "first"

    async def handler(request: Request) -> object:
        first = await step.run("first", wait)
        return [first, await step.run("second", lambda: done.append("second"))]

    def sync_wait() -> str:
        return asyncio.run_coroutine_threadsafe(wait(), loops[0]).result()

    def sync_handler(request: Request) -> object:
        first = sync_step.run("first", sync_wait)
        return [first, sync_step.run("second", lambda: done.append("second"))]

    async def until_phase(phase: str) -> None:
        await until_async(lambda: [phase] == [each.status for each in durable.runs.list()])

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        asking = asyncio.create_task(exchange.run(endpoint))
        await begun.wait()
        exchange.leave()
        await asking
        await until_phase("running")
        assert (499, []) == (exchange.status, done)
        go_on.set()
        await until_phase("completed")

    loops: list[asyncio.AbstractEventLoop] = []
    endpoint = durable.endpoint(handler if face == "async" else sync_handler)
    live(durable, main())
    assert ["first", "second"] == done


# The core below


def test_handoff_and_wait(tmp_path: Path) -> None:
    """A run that sleeps sends its client elsewhere, where the answer is, as often as asked."""
    clock = FakeClock()
    durable = make_durable(tmp_path / "db", clock)

    @durable.endpoint
    async def nap(request: Request) -> Response:
        await step.sleep("nap", "1h")
        return Response(status=201, headers=(("set-cookie", "a=1"), ("set-cookie", "b=2")))

    async def main() -> None:
        redirect = await Exchange(http_scope(method="POST")).run(nap)
        location = dict(redirect.headers)[b"location"]
        assert (303, b"?durable-run=") == (redirect.status, location[:13])
        await pass_nap(durable, clock)
        for _ in range(2):
            answer = await Exchange(http_scope(query_string=location[1:])).run(nap)
            assert 201 == answer.status
            assert [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")] == answer.headers[:2]

    live(durable, main())


def test_wait_route(tmp_path: Path) -> None:
    """The wait route for a URL of one's own is an application like any other."""
    clock = FakeClock()
    durable = make_durable(tmp_path / "db", clock)
    proxy = durable.endpoint_proxy()

    @durable.endpoint(async_redirect_url="/wait")
    async def nap(request: Request) -> str:
        await step.sleep("nap", "1h")
        return "rested"

    async def main() -> None:
        redirect = await Exchange().run(nap)
        path, _, query = dict(redirect.headers)[b"location"].partition(b"?")
        await pass_nap(durable, clock)
        assert (b"/wait", {b"runId", b"token"}) == (path, set(parse_qs(query)))
        answer = await Exchange(http_scope(path.decode(), query_string=query)).run(proxy)
        assert (200, b'"rested"') == (answer.status, answer.body)
        assert (b"access-control-allow-origin", b"*") in answer.headers

    live(durable, main())


def test_held_client_that_leaves(tmp_path: Path) -> None:
    """Nobody is held for a client that has left."""
    durable = make_durable(tmp_path / "db")

    @durable.endpoint
    async def nap(request: Request) -> str:
        await step.sleep("nap", "1h")
        return "rested"

    async def main() -> None:
        redirect = await Exchange().run(nap)
        query = dict(redirect.headers)[b"location"][1:]
        waiting = Exchange(http_scope(query_string=query))
        asking = asyncio.create_task(waiting.run(nap))
        await until_async(lambda: durable.health()["waiting_clients"] == 1)
        waiting.leave()
        await asking
        assert (0, 499) == (durable.health()["waiting_clients"], waiting.status)

    live(durable, main())


def test_many_at_once(tmp_path: Path) -> None:
    """A hundred clients get their own answers, and share commits."""
    durable = make_durable(tmp_path / "db")

    @durable.endpoint
    async def add(request: Request) -> object:
        first = await step.run("first", lambda: int(request.query["n"]))
        return await step.run("second", lambda: first + 1000)

    async def ask(number: int) -> bytes:
        scope = http_scope(query_string=b"n=%d" % number)
        return (await Exchange(scope).run(add)).body

    async def main() -> None:
        bodies = await asyncio.gather(*(ask(number) for number in range(100)))
        assert [b"%d" % (number + 1000) for number in range(100)] == bodies

    live(durable, main())


def test_first_request_starts_it(tmp_path: Path) -> None:
    """Without a lifespan, the first request does what it would have done."""
    durable = make_durable(tmp_path / "db")

    @durable.endpoint
    async def handler(request: Request) -> str:
        return await step.run("one", lambda: "done")

    async def main() -> None:
        assert b'"done"' == (await Exchange().run(handler)).body
        assert durable.health()["started"]
        await durable.stop_async()

    run(main())


def test_lifespan_of_the_application(tmp_path: Path) -> None:
    """The application starts and stops with its server."""
    durable = make_durable(tmp_path / "db")
    routes = app(durable, {})

    async def main() -> None:
        messages: asyncio.Queue[Any] = asyncio.Queue()
        sent: asyncio.Queue[Any] = asyncio.Queue()
        life = asyncio.create_task(routes({"type": "lifespan"}, messages.get, sent.put))
        await messages.put({"type": "lifespan.startup"})
        assert {"type": "lifespan.startup.complete"} == await sent.get()
        assert durable.health()["started"]
        await messages.put({"type": "lifespan.shutdown"})
        assert {"type": "lifespan.shutdown.complete"} == await sent.get()
        assert not durable.health()["started"]
        await life

    run(main())
