"""What surrounds handlers: a database, context variables, a proxy, websockets, lifespans."""
# Without "from __future__ import annotations", for FastAPI evaluates the annotations of local
# functions.

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import QueuePool

from durable_core import Durable, Event, step
from durable_core.errors import ConfigurationError
from durable_core.sync import step as sync_step
from durable_starlette import StarletteApp, endpoint_adapter
from support.harness import until

USER: ContextVar[str] = ContextVar("user", default="nobody")


@pytest.fixture
def durable(tmp_path: Path) -> Durable[StarletteApp]:
    return Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")


class Base(DeclarativeBase):
    """The base of the tables."""


class Order(Base):
    """A row that a step writes."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.mark.parametrize("kind", ["async def", "def"])
def test_a_session_for_each_step(durable: Durable[StarletteApp], tmp_path: Path, kind: str) -> None:
    """A step has a session of its own; a run that is suspended holds no connection."""
    database = create_engine(f"sqlite:///{tmp_path}/shop.db", poolclass=QueuePool)
    Base.metadata.create_all(database)
    app = FastAPI(lifespan=durable.lifespan)
    sessions: list[int] = []

    def session() -> Iterator[Session]:
        with Session(database) as session:
            sessions.append(session.scalar(select(func.count(Order.id))) or 0)
            yield session

    def save(name: str) -> int:
        with Session(database) as session, session.begin():
            order = Order(name=name)
            session.add(order)
            session.flush()
            return order.id

    @app.get("/async/{name}")
    @durable.endpoint
    async def order(name: str, reading: Annotated[Session, Depends(session)]) -> str | None:
        number = await step.run("save", save, name)
        await step.wait_for_event("go", event="go", timeout="1h")
        return reading.scalar(select(Order.name).where(Order.id == number))

    @app.get("/def/{name}")
    @durable.endpoint
    def order_in_thread(name: str, reading: Annotated[Session, Depends(session)]) -> str | None:
        number = sync_step.run("save", save, name)
        sync_step.wait_for_event("go", event="go", timeout="1h")
        return reading.scalar(select(Order.name).where(Order.id == number))

    pool = database.pool
    assert isinstance(pool, QueuePool)
    with TestClient(app, follow_redirects=False) as client:
        handed_off = client.get(f"/{kind.split()[0]}/ann")
        until(lambda: [each.status for each in durable.runs.list()] == ["suspended"])
        until(lambda: pool.checkedout() == 0)
        durable.send(Event("go"))
        assert "ann" == client.get(handed_off.headers["location"]).json()
    assert [0, 1] == sessions  # one for each execution, and the row is written once
    until(lambda: pool.checkedout() == 0)
    database.dispose()


def test_context_variables_in_steps(durable: Durable[StarletteApp]) -> None:
    """What middleware and the handler set is seen in steps, also in their threads, and replayed."""
    app = FastAPI(lifespan=durable.lifespan)
    seen: list[tuple[str, str]] = []

    @app.middleware("http")
    async def user(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
        USER.set("ann")
        return await call_next(request)

    def in_thread() -> None:
        seen.append(("thread", USER.get()))

    async def in_task() -> None:
        seen.append(("task", USER.get()))

    @app.get("/async")
    @durable.endpoint
    async def it() -> str:
        await step.wait_for_event("go", event="go", timeout="1h")
        await step.run("thread", in_thread)
        USER.set("ben")
        await asyncio.gather(step.run("task", in_task), step.run("other", in_thread))
        return USER.get()

    @app.get("/def")
    @durable.endpoint
    def in_pool() -> str:
        sync_step.wait_for_event("go", event="go", timeout="1h")
        USER.set("ben")
        sync_step.run("thread", in_thread)
        return USER.get()

    with TestClient(app, follow_redirects=False) as client:
        for path, expected in (
            ("/async", [("thread", "ann"), ("task", "ben"), ("thread", "ben")]),
            ("/def", [("thread", "ben")]),
        ):
            seen.clear()
            handed_off = client.get(path)
            durable.send(Event("go"))
            assert "ben" == client.get(handed_off.headers["location"]).json()
            assert sorted(expected) == sorted(seen)


def test_the_prefix_of_a_proxy(durable: Durable[StarletteApp]) -> None:
    """Behind a proxy that takes a prefix away, the wait URL and ``url_for`` have it."""
    app = FastAPI(lifespan=durable.lifespan)

    @app.get("/orders/{name}", name="order")
    @durable.endpoint
    async def order(name: str, request: Request) -> list[str]:
        await step.wait_for_event("go", event="go", timeout="1h")
        return [request.scope["root_path"], request.url_for("order", name="x").path]

    with TestClient(app, root_path="/shop", follow_redirects=False) as client:
        handed_off = client.get("/orders/ann")
        target = str(handed_off.headers["location"])
        durable.send(Event("go"))
        assert target.startswith(("?durable-run=", "/shop/orders/ann?durable-run="))
        response = client.get(f"/orders/ann?{target.partition('?')[2]}")
    assert ["/shop", "/shop/orders/x"] == response.json()
    assert "/orders/x" == app.url_path_for("order", name="x")


def test_websockets(durable: Durable[StarletteApp]) -> None:
    """They work beside durable routes; a durable endpoint cannot be one, or be called by one."""
    app = FastAPI(lifespan=durable.lifespan)

    @app.get("/")
    @durable.endpoint
    async def it() -> int:
        return await step.run("first", lambda: 1)

    @app.websocket("/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text)
        with pytest.raises(ConfigurationError, match="In a websocket"):
            await it()

    @app.websocket("/durable")
    @durable.endpoint
    async def never(socket: WebSocket) -> None:
        """Never be called."""

    with TestClient(app) as client, client.websocket_connect("/echo") as socket:
        for text in ("one", "two"):
            socket.send_text(text)
            assert text == socket.receive_text()
            assert 1 == client.get("/").json()
        with pytest.raises(ConfigurationError, match="In a websocket"):
            client.websocket_connect("/durable").__enter__()


@pytest.mark.parametrize("when", ["before", "inside", "at its end", "after"])
def test_a_lifespan_that_fails(durable: Durable[StarletteApp], when: str) -> None:
    """The server is told the error, and the engine has stopped: another one may start."""
    fails = True

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if fails and when == "before":
            raise LookupError(when)
        async with durable.lifespan(app):
            if fails and when == "inside":
                raise LookupError(when)
            yield
            if fails and when == "at its end":
                raise LookupError(when)
        if fails and when == "after":
            raise LookupError(when)

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    @durable.endpoint
    async def it() -> int:
        return await step.run("first", lambda: 1)

    with pytest.raises(LookupError, match=when), TestClient(app) as client:
        assert 1 == client.get("/").json()
    assert not durable.health()["started"]
    fails = False
    with TestClient(app) as client:
        assert 1 == client.get("/").json()
