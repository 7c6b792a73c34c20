"""Mounted in applications of each kind, behind real servers; and by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flask
import httpx2
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import durable_asgi
import durable_asyncio
import durable_flask
import durable_starlette
import durable_wsgi
from durable_core import Durable, Request
from durable_core.sync import step
from durable_dashboard import create_dashboard_server
from durable_wsgi import EndpointServer
from support.source_tree import ROOT

ROUTE = "GET,HEAD,POST /tools/dashboard/{path:path}"


def order(request: Request) -> None:
    step.wait_for_event("answer", event="go", timeout="1h")


def _with_routes(adapter: Any) -> Callable[[Path], AbstractContextManager[Any]]:
    """Return what serves an application whose routes are those of the core."""

    def serve(store: Path) -> AbstractContextManager[Any]:
        durable = Durable(id="shop", store=store, endpoint_adapter=adapter.endpoint_adapter)
        routes = {"GET /order/": durable.endpoint(order), ROUTE: durable.dashboard()}
        server: AbstractContextManager[Any] = adapter.create_endpoint_server(
            adapter.app(durable, routes)
        )
        return server

    return serve


def _fastapi(store: Path) -> AbstractContextManager[Any]:
    durable = Durable(id="shop", store=store, endpoint_adapter=durable_starlette.endpoint_adapter)
    app = FastAPI(lifespan=durable.lifespan)

    @app.get("/order/")
    @durable.endpoint
    def handler() -> None:
        step.wait_for_event("answer", event="go", timeout="1h")

    app.mount("/tools/dashboard", durable.dashboard())
    return durable_asgi.create_endpoint_server(app)


def _starlette(store: Path) -> AbstractContextManager[Any]:
    durable = Durable(id="shop", store=store, endpoint_adapter=durable_asgi.endpoint_adapter)
    routes = [
        Mount("/order", app=durable.endpoint(order)),
        Mount("/tools", routes=[Mount("/dashboard", app=durable.dashboard())]),
    ]
    return durable_asgi.create_endpoint_server(Starlette(routes=routes, lifespan=durable.lifespan))


def _flask(store: Path) -> AbstractContextManager[Any]:
    durable = Durable(id="shop", store=store, endpoint_adapter=durable_flask.endpoint_adapter)
    app = flask.Flask("shop")

    @app.get("/order/")
    @durable.endpoint
    def handler() -> str:
        step.wait_for_event("answer", event="go", timeout="1h")
        return ""

    durable_flask.install(app, durable)
    app.wsgi_app = DispatcherMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, {"/tools/dashboard": durable.dashboard()}
    )
    return durable_wsgi.create_endpoint_server(app, durable=durable)


@contextmanager
def _django(store: Path) -> Iterator[SimpleNamespace]:
    command = [sys.executable, "-m", "support.dashboard_django", str(store)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield SimpleNamespace(url=process.stdout.readline().strip())
        finally:
            process.terminate()


MOUNTS = {
    "wsgi": _with_routes(durable_wsgi),
    "asgi": _with_routes(durable_asgi),
    "asyncio": _with_routes(durable_asyncio),
    "fastapi": _fastapi,
    "starlette": _starlette,
    "flask": _flask,
    "django": _django,
}


@pytest.fixture(params=MOUNTS)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[httpx2.Client]:
    """A client of an application with the dashboard below /tools/dashboard/."""
    with (
        MOUNTS[request.param](tmp_path / "shop.db") as server,
        httpx2.Client(base_url=server.url, timeout=20) as client,
    ):
        yield client


def test_it_works_wherever_it_is_mounted(client: httpx2.Client) -> None:
    """The page, its files, documents, streams and actions; the address of the client."""
    assert client.get("/order/").status_code in (302, 303)
    root = "/tools/dashboard/"

    page = client.get(root)
    assert (200, True) == (page.status_code, "app.js" in page.text)
    assert "text/javascript" in client.get(f"{root}app.js").headers["content-type"]
    head = client.head(root)
    assert (200, "") == (head.status_code, head.text)
    [run] = client.get(f"{root}_api/runs").json()["runs"]
    with client.stream("GET", f"{root}_api/run-live", params={"id": run["id"]}) as stream:
        lines = stream.iter_lines()
        assert ["retry: 1000", "", "id:", "event: run"] == [
            next(lines).partition(" ")[0] if number == 2 else next(lines) for number in range(4)
        ]
    assert 403 == client.post(f"{root}_api/cancel", json={"id": run["id"]}).status_code
    done = client.post(
        f"{root}_api/cancel", json={"id": run["id"]}, headers={"x-durable-action": "1"}
    )
    assert {"done": "cancelled"} == done.json()
    assert 404 == client.get(f"{root}nothing").status_code
    assert 405 == client.post(f"{root}_api/runs").status_code
    assert 403 == client.get(root, headers={"host": "evil.example"}).status_code
    assert 403 == client.get(root, headers={"x-forwarded-for": "10.0.0.7"}).status_code


@pytest.mark.parametrize("client", ["fastapi", "starlette", "flask"], indirect=True)
def test_the_last_slash_is_added(client: httpx2.Client) -> None:
    """Without it the URLs in the page would lead elsewhere."""
    page = client.get("/tools/dashboard", follow_redirects=True)

    assert (200, "/tools/dashboard/") == (page.status_code, page.url.path)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a run that waits, on which nobody works."""
    path = tmp_path / "shop.db"
    durable: Durable[Any] = Durable(
        id="shop", store=path, endpoint_adapter=durable_wsgi.endpoint_adapter
    )
    handler = durable.endpoint(order)
    with durable_wsgi.create_endpoint_server(handler) as server:
        httpx2.get(server.url)
    return path


@contextmanager
def alone(store: Path, **options: Any) -> Iterator[tuple[httpx2.Client, Durable[Any]]]:
    durable: Durable[Any] = Durable(id="shop", store=store)
    server: EndpointServer = create_dashboard_server(durable, **options)
    with server, httpx2.Client(base_url=server.url, timeout=20) as client:
        yield client, durable


def test_by_itself_it_works_on_nothing(store: Path) -> None:
    """It is no process of the application, and a run that is due stays so; actions are stored."""
    with alone(store) as (client, durable):
        [run] = client.get("/_api/runs").json()["runs"]
        done = client.post(
            "/_api/send", json={"name": "go", "data": {}}, headers={"x-durable-action": "1"}
        )
        assert done.json()["id"]
        found = client.get("/_api/overview").json()
        assert ([], "suspended") == (found["processes"], durable.runs.get(run["id"]).status)
        assert found["oldestDue"] is not None
        assert not durable.health()["started"]


def test_a_server_by_itself_stops_at_once(store: Path) -> None:
    """Pages that are open do not keep it."""
    server = create_dashboard_server(Durable(id="shop", store=store)).listen()
    with httpx2.stream("GET", f"{server.url}/_api/runs-live", timeout=20) as stream:
        assert "retry: 1000" == next(stream.iter_lines())
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("options", [[], ["--app", "shop"]], ids=["one-app", "named"])
def test_the_command(store: Path, options: list[str]) -> None:
    """``durable dashboard --store PATH`` prints its address, serves, and stops at SIGTERM."""
    command = [sys.executable, "-m", "durable_core", "dashboard", "--store", str(store), "--port"]
    with subprocess.Popen(
        [*command, "0", "--read-only", *options], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            url = line.split()[-1]
            assert f"the dashboard of shop is at {url}\n" == line
            assert url.startswith("http://127.0.0.1:")
            assert httpx2.get(f"{url}_api/config").json()["readOnly"]
        finally:
            os.kill(process.pid, signal.SIGTERM)
        assert 0 == process.wait(20)
