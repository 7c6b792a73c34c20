"""``app.test_client()`` within ``durable_core.testing``, and errors of clients in steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flask
import pytest
from flask.views import MethodView
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import QueuePool

from durable_core import Durable, Request
from durable_core.errors import StepError
from durable_core.sync import step
from durable_core.testing import harness
from durable_flask import FlaskApp, endpoint_adapter, install


@pytest.fixture
def durable(tmp_path: Path) -> Durable[FlaskApp]:
    return Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")


@pytest.fixture
def app(durable: Durable[FlaskApp]) -> flask.Flask:
    app = flask.Flask("shop")
    install(app, durable)
    return app


def add_order(app: flask.Flask, durable: Durable[FlaskApp]) -> None:
    @app.post("/orders/<name>")
    @durable.endpoint
    def order(name: str) -> tuple[list[object], int]:
        number = step.run("save", lambda: f"order of {name}")
        step.sleep("pack", "24h")
        event = step.wait_for_event("sent", event="sent", timeout="2 days")
        return [number, "nobody" if event is None else event.data["by"]], 201


def test_a_test_without_waiting(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """The clock of the harness ends the sleep."""
    add_order(app, durable)
    with harness(durable) as t, app.test_client() as client:
        handed_off = client.post("/orders/ann")
        assert 303 == handed_off.status_code
        t.advance("24h")
        t.send("sent", {"by": "bike"})
        response = client.get(f"/orders/ann{handed_off.headers['location']}")
        assert (201, ["order of ann", "bike"]) == (response.status_code, response.json)
        assert ["save", "pack", "sent"] == [each.name for each in t.steps(t.runs()[0].id)]


def test_a_planned_crash(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """After a crash the run is replayed through the application, and the step is not repeated."""
    add_order(app, durable)
    with harness(durable) as t, app.test_client() as client:
        t.crash_after("save")
        client.post("/orders/ann")
        t.advance("24h")
        t.send("sent", {"by": "bike"})
        [run] = t.runs()
        assert "completed" == run.status
        assert [1, 0, 0] == [each.calls for each in t.steps(run.id)]


def test_authorize_and_a_hook(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """``authorize=`` is asked once, before the run; ``before_request`` in each execution."""
    log: list[str] = []

    def authorize(request: Request) -> str | bool:
        log.append("authorize")
        return request.headers.get("x-user") or False

    @app.before_request
    def check() -> None:
        log.append("hook")
        if "x-tenant" not in flask.request.headers:
            flask.abort(400)

    @app.get("/")
    @durable.endpoint(authorize=authorize)
    def it() -> str:
        step.sleep("nap", "1h")
        return flask.request.headers["x-tenant"]

    with harness(durable) as t, app.test_client() as client:
        assert 400 == client.get("/", headers={"x-user": "ann"}).status_code
        assert 403 == client.get("/", headers={"x-tenant": "shop"}).status_code
        assert (["hook", "hook", "authorize"], []) == (log, list(t.runs()))
        log.clear()
        handed_off = client.get("/", headers={"x-user": "ann", "x-tenant": "shop"})
        t.advance("1h")
        assert "shop" == client.get(handed_off.headers["location"]).text
    assert ["hook", "authorize", "hook"] == log


def test_who_it_is_in_a_replay(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """A hook lets a replay pass; the first step stores who it is, and the header is not stored."""

    @app.before_request
    def login() -> None:
        if not durable.is_replaying():
            flask.g.user = flask.request.headers["authorization"].removeprefix("Bearer ")

    @app.get("/")
    @durable.endpoint
    def it() -> str:
        user = step.run("who", lambda: str(flask.g.user))
        step.sleep("nap", "1h")
        return f"hello {user}"

    with harness(durable) as t, app.test_client() as client:
        handed_off = client.get("/", headers={"authorization": "Bearer ann"})
        t.advance("1h")
        assert "hello ann" == client.get(handed_off.headers["location"]).text


class Finder:
    """The function of a step that finds nothing."""

    def __init__(self, status: int) -> None:
        self.calls = 0
        self.status = status

    def __call__(self) -> str:
        self.calls += 1
        flask.abort(self.status, "no such order")


@pytest.mark.parametrize("later", [False, True], ids=["at once", "in a replay"])
@pytest.mark.parametrize("own", [False, True], ids=["flask's page", "own handler"])
def test_abort_in_a_step(
    durable: Durable[FlaskApp], app: flask.Flask, later: bool, own: bool
) -> None:
    """It is the answer after one attempt, made by the application's error handler."""
    find = Finder(404)

    if own:

        @app.errorhandler(404)
        def missing(error: Any) -> tuple[dict[str, str], int]:
            return {"error": error.description, "path": flask.request.path}, 404

    @app.get("/find")
    @durable.endpoint
    def it() -> str:
        try:
            return step.run("find", find)
        except StepError:
            if later:
                step.sleep("nap", "1h")
            raise

    with harness(durable) as t, app.test_client() as client:
        response = client.get("/find")
        if later:
            t.advance("1h")
            response = client.get(f"/find{response.headers['location']}")
        assert (404, 1) == (response.status_code, find.calls)
        assert "no such order" in response.text
        if own:
            assert {"error": "no such order", "path": "/find"} == response.json
        assert ["completed"] == [run.status for run in t.runs()]


def test_an_abort_that_asks_for_another_attempt(
    durable: Durable[FlaskApp], app: flask.Flask
) -> None:
    """With 503 the step is tried again; when its attempts are used up, that is the answer."""
    find = Finder(503)

    @app.get("/")
    @durable.endpoint(retries=1)
    def it() -> str:
        return step.run("find", find)

    with harness(durable) as t, app.test_client() as client:
        handed_off = client.get("/")
        t.advance("1h")
        assert 503 == client.get(handed_off.headers["location"]).status_code
    assert 2 == find.calls


def test_views_of_classes(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """A method of a ``MethodView`` may be durable, beside others that are not."""

    class Orders(MethodView):
        def get(self) -> str:
            return "plain"

        @durable.endpoint
        def post(self) -> str:
            step.sleep("nap", "1h")
            return f"made by {type(self).__name__}"

    app.add_url_rule("/orders", view_func=Orders.as_view("orders"))
    with harness(durable) as t, app.test_client() as client:
        assert "plain" == client.get("/orders").text
        handed_off = client.post("/orders")
        t.advance("1h")
        assert "made by Orders" == client.get(f"/orders{handed_off.headers['location']}").text


def test_nested_blueprints_and_names(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """Below nested prefixes the wait URL is right, and the endpoint has its name."""
    outer = flask.Blueprint("outer", "outer", url_prefix="/outer")
    inner = flask.Blueprint("inner", "inner", url_prefix="/inner")

    @inner.get("/<int:number>")
    @durable.endpoint
    def show(number: int) -> str:
        step.sleep("nap", "1h")
        return f"{flask.request.endpoint} {flask.url_for('outer.inner.show', number=2)} {number}"

    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    with harness(durable) as t, app.test_client() as client:
        handed_off = client.get("/outer/inner/1")
        t.advance("1h")
        response = client.get(handed_off.headers["location"])
    assert "outer.inner.show /outer/inner/2 1" == response.text


class Base(DeclarativeBase):
    """The base of the tables."""


class Order(Base):
    """A row that a step writes."""

    __tablename__ = "flask_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def test_a_session_for_each_step(
    durable: Durable[FlaskApp], app: flask.Flask, tmp_path: Path
) -> None:
    """A step has a session of its own; a run that is suspended holds no connection."""
    database = create_engine(f"sqlite:///{tmp_path}/shop.db", poolclass=QueuePool)
    pool = database.pool
    assert isinstance(pool, QueuePool)
    Base.metadata.create_all(database)

    def save(name: str) -> int:
        with Session(database) as session, session.begin():
            order = Order(name=name)
            session.add(order)
            session.flush()
            return order.id

    @app.teardown_request
    def close(error: BaseException | None) -> None:
        if (session := flask.g.pop("session", None)) is not None:
            session.close()

    @app.get("/<name>")
    @durable.endpoint
    def it(name: str) -> str:
        flask.g.session = Session(database)
        before = flask.g.session.scalar(select(func.count(Order.id)))
        number = step.run("save", save, name)
        step.sleep("nap", "1h")
        order = flask.g.session.get(Order, number)
        return f"{before} {order.name}"

    with harness(durable) as t, app.test_client() as client:
        handed_off = client.get("/ann")
        assert 0 == pool.checkedout()
        t.advance("1h")
        assert "1 ann" == client.get(f"/ann{handed_off.headers['location']}").text
    assert 0 == pool.checkedout()
    database.dispose()
