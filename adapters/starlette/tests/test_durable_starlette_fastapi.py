"""FastAPI's own features in durable endpoints: first in one execution, then over a replay.

Most tests ask for the same thing twice: at first the handler runs once, on the connection; then,
with ``?replay=1``, it waits for an event, is suspended, and the framework calls it again.
"""
# Without "from __future__ import annotations", for FastAPI evaluates the annotations of local
# functions, which may name local dependencies.

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
import httpx2
import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Request,
    Response,
    UploadFile,
)
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel

from durable_core import Durable, Event, Settings, step
from durable_core.engines import EmbeddedEngine
from durable_core.errors import ConfigurationError
from durable_core.sync import step as sync_step
from durable_inngest import InngestEngine
from durable_starlette import StarletteApp, endpoint_adapter, install
from support.harness import until

#: Without a replay, and with one.
TWICE = pytest.mark.parametrize("replay", [False, True], ids=["at-once", "replayed"])


class OrderIn(BaseModel):
    items: list[str]


class OrderOut(BaseModel):
    shop: str
    count: int


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass
class World:
    """An application, and what has happened in it."""

    durable: Durable[StarletteApp]
    app: FastAPI
    log: list[object] = field(default_factory=list)

    def ask(
        self,
        method: str,
        url: str,
        replay: bool,
        *,
        then: Callable[[], object] = lambda: True,
        **options: Any,
    ) -> Any:
        """Return the response, after a replay if one is wanted.

        The application does not stop before ``then`` is true.
        """
        with TestClient(self.app, follow_redirects=False) as client:
            params = {**options.pop("params", {}), "replay": int(replay)}
            response = client.request(method, url, params=params, **options)
            if replay:
                assert response.is_redirect, response.text
                self.durable.send(Event("go"))
                response = client.get(response.headers["location"])
            until(then)
        return response


@pytest.fixture
def world(tmp_path: Path) -> World:
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    return World(durable, FastAPI(lifespan=durable.lifespan))


async def pause(replay: bool) -> None:
    """Do a step, and wait for an event if the client wants a replay."""
    await step.run("first", lambda: None)
    if replay:
        await step.wait_for_event("go", event="go", timeout="1h")


@TWICE
def test_path_query_header_cookie_and_body(world: World, replay: bool) -> None:
    """The parameters of a handler are what FastAPI makes of the request."""

    @world.app.post("/{shop}/{number}", response_model=OrderOut, status_code=201)
    @world.durable.endpoint
    async def order(
        shop: str,
        number: int,
        order: OrderIn,
        replay: bool,
        x_trace: Annotated[str, Header()],
        size: Size = Size.SMALL,
        tag: Annotated[str | None, Cookie()] = None,
    ) -> dict[str, Any]:
        await pause(replay)
        world.log.append((shop, number, order, x_trace, size, tag))
        return {"shop": shop, "count": len(order.items), "secret": "left out by the model"}

    response = world.ask(
        "POST",
        "/corner/7",
        replay,
        params={"size": "large"},
        json={"items": ["a", "b"]},
        headers={"x-trace": "t1", "cookie": "tag=blue"},
    )
    assert 201 == response.status_code
    assert {"shop": "corner", "count": 2} == response.json()
    # Cookies are not stored with a run unless it is asked for.
    cookie = None if replay else "blue"
    assert [("corner", 7, OrderIn(items=["a", "b"]), "t1", Size.LARGE, cookie)] == world.log


@TWICE
def test_a_cookie_that_is_stored(world: World, replay: bool) -> None:
    """``store_headers`` keeps cookies for replays."""

    @world.app.get("/")
    @world.durable.endpoint(store_headers=("cookie",))
    async def show(replay: bool, tag: Annotated[str, Cookie()]) -> str:
        await pause(replay)
        return tag

    assert "blue" == world.ask("GET", "/", replay, headers={"cookie": "tag=blue"}).json()


@TWICE
def test_forms_and_uploads(world: World, replay: bool) -> None:
    """Form fields and uploaded files are there in a replay."""

    @world.app.post("/")
    @world.durable.endpoint
    async def upload(
        replay: bool, title: Annotated[str, Form()], file: Annotated[UploadFile, File()]
    ) -> dict[str, Any]:
        await pause(replay)
        return {"title": title, "name": file.filename, "text": (await file.read()).decode()}

    response = world.ask(
        "POST", "/", replay, data={"title": "notes"}, files={"file": ("a.txt", b"hello")}
    )
    assert {"title": "notes", "name": "a.txt", "text": "hello"} == response.json()


class Paging:
    """A class whose instances are a dependency."""

    def __init__(self, page: int = 1) -> None:
        self.page = page


@TWICE
def test_dependencies_run_once_in_each_execution(world: World, replay: bool) -> None:
    """Dependencies (with yield, cached, class-based, of the app and router) run once each time."""

    async def session() -> AsyncIterator[str]:
        world.log.append("open")
        try:
            yield "session"
        finally:
            world.log.append("close")

    def user(session: Annotated[str, Depends(session)]) -> str:
        world.log.append("user")
        return f"user of {session}"

    def of_app() -> None:
        world.log.append("app")

    def of_router() -> None:
        world.log.append("router")

    world.app.router.dependencies.append(Depends(of_app))
    router = APIRouter(prefix="/v1", dependencies=[Depends(of_router)])

    @router.get("/users")
    @world.durable.endpoint
    async def users(
        replay: bool,
        first: Annotated[str, Depends(user)],
        second: Annotated[str, Depends(user)],
        session: Annotated[str, Depends(session)],
        paging: Annotated[Paging, Depends()],
    ) -> list[Any]:
        await pause(replay)
        return [first, second, session, paging.page]

    world.app.include_router(router)
    response = world.ask("GET", "/v1/users", replay, params={"page": 3})
    assert ["user of session", "user of session", "session", 3] == response.json()
    once = ["app", "router", "open", "user", "close"]
    assert once * (2 if replay else 1) == world.log


@TWICE
def test_a_dependency_that_is_overridden(world: World, replay: bool) -> None:
    """``dependency_overrides`` holds in the first execution and in a replay."""

    def user() -> str:
        raise AssertionError("overridden")

    @world.app.get("/")
    @world.durable.endpoint
    async def show(replay: bool, user: Annotated[str, Depends(user)]) -> str:
        await pause(replay)
        return user

    world.app.dependency_overrides[user] = lambda: "somebody"
    assert "somebody" == world.ask("GET", "/", replay).json()


RETURNED: list[tuple[Callable[[], Any], int, bytes, str]] = [
    (lambda: {"a": 1}, 200, b'{"a":1}', "application/json"),
    (lambda: OrderOut(shop="x", count=1), 200, b'{"shop":"x","count":1}', "application/json"),
    (lambda: None, 200, b"null", "application/json"),
    (lambda: PlainTextResponse("text", 202), 202, b"text", "text/plain; charset=utf-8"),
    (lambda: Response(b"raw", media_type="image/png"), 200, b"raw", "image/png"),
    (lambda: JSONResponse({"b": 2}, 203), 203, b'{"b":2}', "application/json"),
    (lambda: StreamingResponse(iter([b"on", b"e"])), 200, b"one", ""),
    (lambda: Response(status_code=204), 204, b"", ""),
]


@TWICE
@pytest.mark.parametrize(("make", "status", "body", "kind"), RETURNED)
def test_what_a_handler_returns(
    world: World, replay: bool, make: Callable[[], Any], status: int, body: bytes, kind: str
) -> None:
    """Whatever FastAPI takes for a response is one."""

    @world.app.get("/")
    @world.durable.endpoint
    async def it(replay: bool) -> Any:
        await pause(replay)
        return make()

    response = world.ask("GET", "/", replay)
    assert (status, body) == (response.status_code, response.content)
    assert kind == response.headers.get("content-type", "")


@TWICE
def test_an_injected_response(world: World, replay: bool) -> None:
    """Headers and cookies of an injected response arrive."""

    @world.app.get("/")
    @world.durable.endpoint
    async def it(replay: bool, response: Response) -> str:
        await pause(replay)
        response.set_cookie("seen", "yes")
        response.headers["x-own"] = "1"
        response.status_code = 206
        return "done"

    response = world.ask("GET", "/", replay)
    assert 206 == response.status_code
    assert "seen=yes; Path=/; SameSite=lax" == response.headers["set-cookie"]
    assert "1" == response.headers["x-own"]


@TWICE
def test_background_tasks_run_once_after_the_run(world: World, replay: bool) -> None:
    """A background task runs once, when the run has completed; the client need not wait for it."""

    def after() -> None:
        world.log.append([run.status for run in world.durable.runs.list()])

    @world.app.get("/")
    @world.durable.endpoint
    async def it(replay: bool, tasks: BackgroundTasks) -> str:
        tasks.add_task(after)
        await pause(replay)
        return "done"

    assert "done" == world.ask("GET", "/", replay, then=lambda: world.log).json()
    assert [["completed"]] == world.log


@pytest.mark.parametrize("is_async", [True, False])
def test_a_background_task_of_a_replay_that_fails(
    world: World, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, with the id of the run, which has completed; asyncio says nothing."""

    def after() -> None:
        raise OutOfStockError("too late")

    async def it(tasks: BackgroundTasks) -> str:
        tasks.add_task(after)
        await pause(replay=True)
        return "done"

    def it_in_a_thread(tasks: BackgroundTasks) -> str:
        tasks.add_task(after)
        sync_step.wait_for_event("go", event="go", timeout="1h")
        return "done"

    world.app.get("/")(world.durable.endpoint(it if is_async else it_in_a_thread))

    def errors() -> list[Any]:
        return [each for each in caplog.records if each.levelname == "ERROR"]

    assert "done" == world.ask("GET", "/", True, then=errors).json()
    gc.collect()
    [run] = world.durable.runs.list()
    [record] = errors()
    assert "completed" == run.status
    expected = f"run {run.id}: the application failed after its response"
    assert ("durable", expected, run.id) == (record.name, record.message, record.run_id)
    assert isinstance(record.exc_info[1], OutOfStockError)


def test_a_streamed_body_of_a_replay_that_fails(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The run fails with the error; nothing else tells of it."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        raise OutOfStockError("in the middle")

    @world.app.get("/")
    @world.durable.endpoint
    async def it() -> StreamingResponse:
        await pause(replay=True)
        return StreamingResponse(chunks())

    assert 500 == world.ask("GET", "/", True).status_code
    gc.collect()
    assert ["failed"] == [run.status for run in world.durable.runs.list()]
    assert [] == [each for each in caplog.records if each.name == "asyncio"]


class OutOfStockError(Exception):
    """An exception of the application."""


@TWICE
def test_exceptions_and_handlers_for_them(world: World, replay: bool) -> None:
    """``HTTPException``, handlers of the application and validation answer as always."""

    @world.app.exception_handler(OutOfStockError)
    async def out_of_stock(request: Request, error: OutOfStockError) -> PlainTextResponse:
        return PlainTextResponse("out of stock", 409)

    @world.app.get("/{kind}")
    @world.durable.endpoint
    async def it(replay: bool, kind: str) -> None:
        await pause(replay)
        raise OutOfStockError if kind == "own" else HTTPException(418, "no coffee")

    assert (409, "out of stock") == _status_and_text(world.ask("GET", "/own", replay))
    assert (418, '{"detail":"no coffee"}') == _status_and_text(world.ask("GET", "/http", replay))
    runs = [run.status for run in world.durable.runs.list()]
    assert ["completed"] * len(runs) == runs


def test_a_request_that_is_not_valid_begins_no_run(world: World) -> None:
    """FastAPI answers 422 before there is a run."""

    @world.app.post("/")
    @world.durable.endpoint
    async def it(order: OrderIn) -> None:
        raise AssertionError("it is not called")

    response = world.ask("POST", "/", False, json={"items": 1})
    assert 422 == response.status_code
    assert [] == list(world.durable.runs.list())


def _status_and_text(response: Any) -> tuple[int, str]:
    return response.status_code, response.text


@TWICE
def test_def_handlers(world: World, replay: bool) -> None:
    """A ``def`` handler has its parameters and dependencies, and its steps."""

    def session() -> Iterator[str]:
        world.log.append("open")
        try:
            yield "session"
        finally:
            world.log.append("close")

    @world.app.post("/{shop}", response_model=OrderOut, status_code=201)
    @world.durable.endpoint
    def order(
        shop: str, order: OrderIn, replay: bool, session: Annotated[str, Depends(session)]
    ) -> dict[str, Any]:
        count = sync_step.run("count", len, order.items)
        if replay:
            sync_step.wait_for_event("go", event="go", timeout="1h")
        return {"shop": shop, "count": count, "session": session}

    response = world.ask("POST", "/corner", replay, json={"items": ["a"]})
    assert (201, {"shop": "corner", "count": 1}) == (response.status_code, response.json())
    assert ["open", "close"] * (2 if replay else 1) == world.log


def test_more_def_handlers_than_threads(tmp_path: Path) -> None:
    """Requests wait for a thread, and none holds one that another request needs to end."""
    engine = EmbeddedEngine(tmp_path / "db", settings=Settings(serving_threads=2))
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, engine=engine)
    app = FastAPI(lifespan=durable.lifespan)

    def session() -> Iterator[str]:
        yield "session"

    @app.get("/{shop}", response_model=OrderOut)
    @durable.endpoint
    def order(shop: str, session: Annotated[str, Depends(session)]) -> dict[str, Any]:
        return {"shop": shop, "count": sync_step.run("count", len, session)}

    async def main() -> list[httpx2.Response]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 2
        transport = httpx2.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client,
            asyncio.timeout(20),
        ):
            return await asyncio.gather(*(client.get(f"/{n}") for n in range(12)))

    answers = [response.json() for response in asyncio.run(main())]
    assert [{"shop": str(n), "count": 7} for n in range(12)] == answers


@TWICE
def test_middleware_passes_once_in_each_execution(world: World, replay: bool) -> None:
    """What a middleware puts into the request is there; it can tell a replay."""

    @world.app.middleware("http")
    async def note(request: Request, call_next: Callable[[Request], Any]) -> Any:
        if "durable-run" not in request.query_params:
            world.log.append(world.durable.is_replaying())
        request.state.user = "somebody"
        return await call_next(request)

    @world.app.get("/")
    @world.durable.endpoint
    async def show(replay: bool, request: Request) -> list[object]:
        await pause(replay)
        return [request.state.user, world.durable.is_replaying()]

    assert ["somebody", replay] == world.ask("GET", "/", replay).json()
    assert ([False, True] if replay else [False]) == world.log


def test_a_middleware_that_refuses_the_replay(world: World) -> None:
    """A run that cannot reach its handler again fails, and says what stood in its way."""

    @world.app.middleware("http")
    async def refuse(request: Request, call_next: Callable[[Request], Any]) -> Any:
        if "authorization" in request.headers or "durable-run" in request.query_params:
            return await call_next(request)
        return PlainTextResponse("who are you?", 401)

    @world.app.get("/")
    @world.durable.endpoint(retries=0)
    async def show(replay: bool) -> None:
        await pause(replay)

    response = world.ask("GET", "/", True, headers={"authorization": "Basic x"})
    assert 500 == response.status_code
    [run] = world.durable.runs.list()
    assert "answered 401 before it reached the endpoint" in str(
        world.durable.runs.get(run.id).error
    )


def test_a_replay_that_comes_to_another_endpoint(world: World) -> None:
    """It does not run that one: the run fails, and says what the routes lead to."""

    @world.durable.endpoint(retries=0)
    async def old() -> str:
        await pause(replay=True)
        return "old"

    @world.durable.endpoint
    async def new() -> str:
        return "new"

    async def dispatch() -> str:
        return str(await (new if world.durable.is_replaying() else old)())

    world.app.get("/")(dispatch)
    assert 500 == world.ask("GET", "/", True).status_code
    [run] = world.durable.runs.list()
    assert "leads to" in str(world.durable.runs.get(run.id).error)


def test_a_replay_without_a_response(world: World) -> None:
    """The run fails, and its error is not that the endpoint was not reached."""

    class Silent(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            """Send nothing."""

    @world.app.get("/")
    @world.durable.endpoint(retries=0)
    async def silent(replay: bool) -> Response:
        await pause(replay)
        return Silent()

    assert 500 == world.ask("GET", "/", True).status_code
    [run] = world.durable.runs.list()
    assert "sent no response" in str(world.durable.runs.get(run.id).error)


@TWICE
def test_prefixes_mounts_and_names(world: World, replay: bool) -> None:
    """Under prefixes and mounts the wait URL is right, and routes are found by name."""
    inner = FastAPI()

    @inner.get("/deep/{name}", name="deep")
    @world.durable.endpoint
    async def deep(replay: bool, name: str, request: Request) -> list[str]:
        await pause(replay)
        return [name, request.url.path, str(request.url_for("deep", name="x"))]

    world.app.mount("/inner", inner)
    response = world.ask("GET", "/inner/deep/a%20b", replay)
    expected = ["a b", "/inner/deep/a b", "http://testserver/inner/deep/x"]
    assert expected == response.json()


def test_openapi_is_that_of_the_handler(world: World) -> None:
    """The schema shows the handler's parameters and models."""

    def documented(app: FastAPI, wrap: Callable[[Any], Any]) -> dict[str, Any]:
        @app.post("/{shop}", response_model=OrderOut, status_code=201)
        @wrap
        async def order(shop: str, order: OrderIn, size: Size = Size.SMALL) -> Any:
            """Order things."""

        schema: dict[str, Any] = app.openapi()
        return schema

    assert documented(FastAPI(), lambda fn: fn) == documented(world.app, world.durable.endpoint)


def test_decorators_in_the_wrong_order(world: World) -> None:
    """A durable function that no route leads to is an error that shows the right order."""

    @world.durable.endpoint
    @world.app.get("/")
    async def it() -> None:
        """Do nothing."""

    with pytest.raises(ConfigurationError, match=r"@durable\.endpoint stands below @app\.get"):
        install(world.app, world.durable)


def test_an_application_that_does_not_know_durable(world: World) -> None:
    """Without the lifespan, an endpoint says what is missing; ``install`` is enough."""

    @world.app.get("/")
    @world.durable.endpoint
    async def it() -> str:
        return "done"

    client = TestClient(world.app)  # without "with" the lifespan does not run
    with pytest.raises(ConfigurationError, match=r"durable_starlette\.install\(app, durable\)"):
        client.get("/")
    install(world.app, world.durable)
    assert "done" == client.get("/").json()


def test_an_application_has_one_durable(world: World, tmp_path: Path) -> None:
    """A second one is refused; the same one may be installed again."""
    other = Durable(id="other", endpoint_adapter=endpoint_adapter, store=tmp_path / "other")
    install(world.app, world.durable)
    install(world.app, world.durable)
    with pytest.raises(ConfigurationError, match="has another Durable already"):
        install(world.app, other)


def test_an_engine_that_calls_endpoints_itself() -> None:
    """Its server would not call them as the framework does, so it is refused."""
    durable = Durable(id="x", endpoint_adapter=endpoint_adapter, engine=InngestEngine())
    with pytest.raises(ConfigurationError, match="use the embedded engine"):

        @durable.endpoint
        async def it() -> None:
            """Do nothing."""


def test_a_process_that_does_not_know_the_application(world: World) -> None:
    """It does not begin to work, so no run is harmed; with the application it does."""
    world.durable.start()  # without endpoints there is nothing to replay
    world.durable.stop()

    @world.app.get("/")
    @world.durable.endpoint
    async def it() -> None:
        """Do nothing."""

    for work in (world.durable.start, lambda: world.durable.run_due("1s")):
        with pytest.raises(ConfigurationError, match=r"durable_starlette\.install"):
            work()
    install(world.app, world.durable)
    world.durable.start()
    world.durable.stop()


def test_generators_are_refused(world: World) -> None:
    """A generator cannot be an endpoint."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b""

    with pytest.raises(TypeError, match="is a generator"):
        world.durable.endpoint(chunks)
