"""What surrounds a view: context variables, contexts of Flask in threads, the prefix of a proxy."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import flask
import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from durable_core import Durable, Event
from durable_core.sync import step
from durable_flask import FlaskApp, endpoint_adapter, install

USER: ContextVar[str] = ContextVar("user", default="nobody")


@pytest.fixture
def app() -> flask.Flask:
    return flask.Flask("shop")


@pytest.fixture
def durable(tmp_path: Path, app: flask.Flask) -> Iterator[Durable[FlaskApp]]:
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    install(app, durable)
    durable.start()
    yield durable
    durable.stop()


@pytest.mark.parametrize("replay", [False, True], ids=["at-once", "replayed"])
def test_contexts_in_steps(durable: Durable[FlaskApp], app: flask.Flask, replay: bool) -> None:
    """Flask's contexts and context variables are those of the view, also in threads of branches."""

    @app.before_request
    def user() -> None:
        USER.set("ann")
        flask.g.user = "ann"

    def seen() -> list[str]:
        return [USER.get(), flask.g.user, flask.request.path, flask.current_app.name]

    @app.get("/it")
    @durable.endpoint
    def it() -> list[list[str]]:
        if replay:
            step.wait_for_event("go", event="go", timeout="1h")
        alone = step.run("alone", seen)
        branches = [partial(step.run, f"{number}", seen) for number in range(2)]
        return [alone, *step.parallel("both", *branches)]

    client = app.test_client()
    response = client.get("/it")
    if replay:
        durable.send(Event("go"))
        response = client.get(response.headers["location"])
    assert [["ann", "ann", "/it", "shop"]] * 3 == response.json


def test_the_prefix_of_a_mount(durable: Durable[FlaskApp], app: flask.Flask) -> None:
    """Where the application is mounted below a prefix, the wait URL and ``url_for`` have it."""

    @app.get("/orders/<name>")
    @durable.endpoint
    def order(name: str) -> list[str]:
        step.wait_for_event("go", event="go", timeout="1h")
        return [flask.request.script_root, flask.url_for("order", name="x")]

    client = Client(DispatcherMiddleware(flask.Flask("outer"), {"/shop": app}))
    handed_off = client.get("/shop/orders/ann")
    durable.send(Event("go"))
    response = client.get(f"/shop/orders/ann{handed_off.headers['location']}")
    assert handed_off.headers["location"].startswith("?")
    assert ["/shop", "/shop/orders/x"] == response.json
