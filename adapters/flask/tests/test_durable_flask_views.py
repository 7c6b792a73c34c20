"""Flask's own features in durable views: first in one execution, then over a replay."""

from __future__ import annotations

import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import flask
import pytest

from durable_core import Durable, Event
from durable_core.errors import ConfigurationError
from durable_core.sync import step
from durable_flask import FlaskApp, endpoint_adapter, install
from support.harness import until

#: Without a replay, and with one.
TWICE = pytest.mark.parametrize("replay", [False, True], ids=["at-once", "replayed"])


@dataclass
class World:
    """An application, and what has happened in it."""

    durable: Durable[FlaskApp]
    app: flask.Flask
    log: list[object] = field(default_factory=list)

    def ask(self, method: str, url: str, replay: bool, **options: Any) -> Any:
        """Return the response, after a replay if one is wanted."""
        client = self.app.test_client(use_cookies="cookie" not in options.get("headers", {}))
        query = {**options.pop("query", {}), **({"replay": "1"} if replay else {})}
        response = client.open(url, method=method, query_string=query, **options)
        if replay:
            assert 302 <= response.status_code <= 303, response.text
            self.durable.send(Event("go"))
            response = client.get(response.headers["location"])
        return response


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    app = flask.Flask("shop")
    install(app, durable)
    yield World(durable, app)
    durable.stop()


def pause() -> None:
    """Do a step, and wait for an event if the client wants a replay."""
    step.run("first", lambda: None)
    if "replay" in flask.request.args:
        step.wait_for_event("go", event="go", timeout="1h")


@TWICE
def test_path_query_headers_and_json(world: World, replay: bool) -> None:
    """``request`` and the arguments of the path are what they always are."""

    @world.app.post("/<shop>/<int:number>")
    @world.durable.endpoint
    def order(shop: str, number: int) -> tuple[dict[str, Any], int, dict[str, str]]:
        pause()
        sent = flask.request.get_json()
        seen = [shop, number, flask.request.args["size"], flask.request.headers["x-trace"], sent]
        return (
            {"seen": seen, "url": flask.url_for("order", shop="a", number=1)},
            201,
            {"x-own": "1"},
        )

    response = world.ask(
        "POST",
        "/corner/7",
        replay,
        query={"size": "large"},
        json={"items": ["a"]},
        headers={"x-trace": "t1"},
    )
    assert (201, "1") == (response.status_code, response.headers["x-own"])
    expected = ["corner", 7, "large", "t1", {"items": ["a"]}]
    assert {"seen": expected, "url": "/a/1"} == response.json


@TWICE
@pytest.mark.parametrize("stored", [(), ("cookie",)], ids=["not-stored", "stored"])
def test_cookies(world: World, replay: bool, stored: tuple[str, ...]) -> None:
    """Those of the request are in a replay if they are stored; those of the response arrive."""

    @world.app.get("/")
    @world.durable.endpoint(store_headers=stored)
    def it() -> flask.Response:
        pause()
        response = flask.make_response({"user": flask.request.cookies.get("user")})
        response.set_cookie("seen", "yes")
        return response

    response = world.ask("GET", "/", replay, headers={"cookie": "user=ann"})
    assert {"user": None if replay and not stored else "ann"} == response.json
    assert response.headers["set-cookie"].startswith("seen=yes")


def test_what_a_view_is_called(world: World) -> None:
    """Name, docstring, signature and Flask's endpoint are those of the function."""

    @world.app.get("/<shop>")
    @world.durable.endpoint
    def order(shop: str) -> str:
        """Order something."""
        return shop

    facts = (order.__name__, order.__doc__, str(inspect.signature(order)))
    assert ("order", "Order something.", "(shop: 'str') -> 'str'") == facts
    assert order is world.app.view_functions["order"]


@TWICE
def test_forms_and_uploads(world: World, replay: bool) -> None:
    """Form fields and uploaded files are there, also where something read the form before."""

    @world.app.before_request
    def read_form() -> None:
        world.log.append(flask.request.form.get("title"))

    @world.app.post("/")
    @world.durable.endpoint
    def upload() -> dict[str, str | None]:
        pause()
        file = flask.request.files["file"]
        return {"title": flask.request.form["title"], "text": file.read().decode()}

    data = {"title": "notes", "file": (BytesIO(b"hello"), "a.txt")}
    response = world.ask("POST", "/", replay, data=data)
    assert {"title": "notes", "text": "hello"} == response.json


@TWICE
def test_hooks_run_once_in_each_execution(world: World, replay: bool) -> None:
    """``before_request`` and teardown run once for each execution; ``g`` is that of the request."""

    @world.app.before_request
    def before() -> None:
        world.log.append(("before", world.durable.is_replaying()))
        flask.g.user = "somebody"

    @world.app.get("/")
    @world.durable.endpoint
    def show() -> str:
        pause()
        world.log.append("view")
        inside = step.run("inside", lambda: flask.current_app.name)
        return f"{flask.g.user} {inside}"

    assert "somebody shop" == world.ask("GET", "/", replay).text
    expected = [("before", False), "view"]
    if replay:
        expected = [("before", False), ("before", True), "view"]
    assert expected == [each for each in world.log if each]


RETURNED: list[tuple[Callable[[], Any], int, bytes, str | None]] = [
    (lambda: "text", 200, b"text", "text/html; charset=utf-8"),
    (lambda: {"a": 1}, 200, b'{"a":1}\n', "application/json"),
    (lambda: [1, 2], 200, b"[1,2]\n", "application/json"),
    (lambda: ("made", 201), 201, b"made", "text/html; charset=utf-8"),
    (lambda: (b"raw", {"content-type": "image/png"}), 200, b"raw", "image/png"),
    (lambda: flask.redirect("/other"), 302, None, "text/html; charset=utf-8"),  # type: ignore[list-item]
    (lambda: flask.Response(iter(["on", "e"])), 200, b"one", "text/html; charset=utf-8"),
    (lambda: ("", 204), 204, b"", None),
]


@TWICE
@pytest.mark.parametrize(("make", "status", "body", "kind"), RETURNED)
def test_what_a_view_returns(
    world: World,
    replay: bool,
    make: Callable[[], Any],
    status: int,
    body: bytes | None,
    kind: str | None,
) -> None:
    """Whatever Flask takes for a response is one."""

    @world.app.get("/")
    @world.durable.endpoint
    def it() -> Any:
        pause()
        return make()

    response = world.ask("GET", "/", replay)
    assert status == response.status_code
    assert body is None or body == response.data
    if kind is not None:
        assert kind == response.headers["content-type"]


class OutOfStockError(Exception):
    """An exception of the application."""


@TWICE
def test_errors_and_handlers_for_them(world: World, replay: bool) -> None:
    """``abort`` and the application's error handlers answer as always."""

    @world.app.errorhandler(OutOfStockError)
    def out_of_stock(error: OutOfStockError) -> tuple[str, int]:
        return "out of stock", 409

    @world.app.get("/<kind>")
    @world.durable.endpoint
    def it(kind: str) -> str:
        pause()
        if kind == "own":
            raise OutOfStockError
        flask.abort(418)

    own, teapot = world.ask("GET", "/own", replay), world.ask("GET", "/http", replay)
    assert (409, "out of stock") == (own.status_code, own.text)
    assert 418 == teapot.status_code
    runs = [run.status for run in world.durable.runs.list()]
    assert ["completed"] * len(runs) == runs


@TWICE
def test_a_view_that_calls_another_one(world: World, replay: bool) -> None:
    """It is a call of a function, and both are one run."""

    @world.app.get("/double/<int:number>")
    @world.durable.endpoint
    def double(number: int) -> dict[str, int]:
        return {"double": step.run("double", lambda: 2 * number)}

    @world.app.get("/")
    @world.durable.endpoint
    def index() -> list[dict[str, int]]:
        pause()
        return [double(1), double(number=2)]

    assert [{"double": 2}, {"double": 4}] == world.ask("GET", "/", replay).json
    assert 1 == len(list(world.durable.runs.list()))


def test_contexts_of_an_event_stream(world: World) -> None:
    """The view of a client that reads a stream has contexts, which end after it."""

    @world.app.teardown_appcontext
    def end(error: BaseException | None) -> None:
        world.log.append(("end", flask.g.pop("user", None)))

    @world.app.get("/")
    @world.durable.endpoint
    def index() -> flask.Response:
        flask.g.user = "ann"
        step.run("first", lambda: None)
        response = flask.Response(flask.request.headers["authorization"])
        response.call_on_close(lambda: world.log.append("closed"))
        return response

    headers = {"accept": "text/event-stream", "authorization": "Bearer t1"}
    response = world.app.test_client().get("/", headers=headers)
    assert "Bearer t1" in response.text
    until(lambda: len(world.log) == 3)
    assert [("end", None), "closed", ("end", "ann")] == world.log


@TWICE
def test_blueprints(world: World, replay: bool) -> None:
    """Under the prefix of a blueprint the wait URL is right."""
    blueprint = flask.Blueprint("inner", "inner", url_prefix="/inner")

    @blueprint.get("/deep/<name>")
    @world.durable.endpoint
    def deep(name: str) -> list[str]:
        pause()
        return [name, flask.request.path, flask.url_for(".deep", name="x")]

    world.app.register_blueprint(blueprint)
    response = world.ask("GET", "/inner/deep/a%20b", replay)
    assert ["a b", "/inner/deep/a b", "/inner/deep/x"] == response.json


def test_a_hook_that_refuses_the_replay(world: World) -> None:
    """A run that cannot reach its view again fails, and says what stood in its way."""

    @world.app.before_request
    def check() -> str | None:
        if "authorization" in flask.request.headers:
            return None
        flask.abort(401)

    @world.app.get("/")
    @world.durable.endpoint(retries=0)
    def show() -> str:
        pause()
        return "done"

    headers = {"authorization": "Basic x"}
    client = world.app.test_client()
    handed_off = client.get("/?replay=1", headers=headers)
    world.durable.send(Event("go"))
    assert 500 == client.get(handed_off.headers["location"]).status_code
    [run] = world.durable.runs.list()
    error = str(world.durable.runs.get(run.id).error)
    assert "answered '401 UNAUTHORIZED' before it reached the view" in error


def test_head_and_what_runs_are_shown_by(world: World) -> None:
    """HEAD works where Flask serves it; a run is shown by the template of its route."""

    @world.app.get("/orders/<int:number>")
    @world.durable.endpoint
    def show(number: int) -> str:
        pause()
        return "done"

    client = world.app.test_client()
    assert (200, b"") == (client.head("/orders/7").status_code, client.head("/orders/7").data)
    client.get("/orders/7")
    assert {"GET /orders/{number}"} == {run.name for run in world.durable.runs.list()}


def test_a_wait_url_is_asked_by_get(world: World) -> None:
    """Another method, as ``curl -L -X POST`` repeats it, gets 405 and begins no run."""

    @world.app.post("/")
    @world.durable.endpoint
    def it() -> str:
        pause()
        return "done"

    client = world.app.test_client()
    refused = client.post(client.post("/?replay=1").headers["location"])
    assert (405, "GET, HEAD") == (refused.status_code, refused.headers["allow"])
    assert 1 == len(world.durable.runs.list())


def test_decorators_in_the_wrong_order(world: World) -> None:
    """A durable view that no route leads to is an error that shows the right order."""

    @world.durable.endpoint
    @world.app.get("/")
    def it() -> str:
        return "done"

    with pytest.raises(ConfigurationError, match=r"@durable\.endpoint stands below @app\.route"):
        world.app.test_client().get("/")


def test_an_application_that_does_not_know_durable(world: World) -> None:
    """A durable view in another application says what is missing."""
    app = flask.Flask("other")
    app.testing = True

    @app.get("/")
    @world.durable.endpoint
    def it() -> str:
        return "done"

    with pytest.raises(ConfigurationError, match=r"durable_flask\.install\(app, durable\)"):
        app.test_client().get("/")
    with pytest.raises(ConfigurationError, match="works in applications of Flask"):
        endpoint_adapter.install(object(), world.durable.engine)


def test_an_application_has_one_durable(world: World, tmp_path: Path) -> None:
    """A second one is refused; the same one may be installed again."""
    other = Durable(id="other", endpoint_adapter=endpoint_adapter, store=tmp_path / "other")
    install(world.app, world.durable)
    with pytest.raises(ConfigurationError, match="has another Durable already"):
        install(world.app, other)


def test_a_process_that_does_not_know_the_application(tmp_path: Path) -> None:
    """It does not begin to work, so no run is harmed."""
    durable = Durable(id="x", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")

    @durable.endpoint
    def it() -> str:
        return "done"

    with pytest.raises(ConfigurationError, match=r"durable_flask\.install"):
        durable.start()


def test_views_that_cannot_be_durable(world: World) -> None:
    """Generators are refused."""

    async def async_generator() -> AsyncIterator[str]:
        yield ""

    def generator() -> Iterator[str]:
        yield ""

    for view in (async_generator, generator):
        with pytest.raises(TypeError, match="is a generator"):
            world.durable.endpoint(view)


def test_a_body_over_the_limit(world: World) -> None:
    """A body over the limit of the application is refused, and the view does not run."""

    @world.app.post("/")
    @world.durable.endpoint
    def it() -> str:
        world.log.append(len(flask.request.get_data()))
        return "done"

    most = world.durable.engine.limits.body
    client = world.app.test_client()
    assert 200 == client.post("/", data=b"x" * most).status_code
    assert 413 == client.post("/", data=b"x" * (most + 1)).status_code
    assert [most] == world.log


def test_a_client_that_waits_for_a_limited_time(world: World) -> None:
    """It is handed off in mid-step; the view has contexts of its own, which end after it."""
    opened = threading.Event()

    def work() -> str:
        opened.wait(20)
        return flask.request.path

    @world.app.post("/film")
    @world.durable.endpoint(max_sync_runtime="50ms")
    def film() -> dict[str, str]:
        value = step.run("render", work)
        world.log.append("view")
        return {"path": value}

    @world.app.teardown_request
    def teardown(error: BaseException | None) -> None:
        world.log.append("teardown")

    client = world.app.test_client()
    response = client.post("/film")
    world.log.append("answered")
    assert 303 == response.status_code
    opened.set()
    until(lambda: ["view", "teardown"] == world.log[world.log.index("answered") + 1 :])
    final = client.get(f"/film{response.headers['location']}")
    assert {"path": "/film"} == final.get_json()
