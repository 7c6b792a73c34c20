"""Views on a real server: streams, and processes that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

import flask
import httpx2

from durable_core import Durable, Event, stream
from durable_core.sync import step
from durable_flask import FlaskApp, endpoint_adapter, install
from durable_wsgi import create_endpoint_server
from support.harness import until


@contextmanager
def serving(durable: Durable[FlaskApp], app: flask.Flask) -> Iterator[httpx2.Client]:
    """Serve an application; yield a client of it that follows no redirect."""
    install(app, durable)
    with (
        create_endpoint_server(app, durable=durable).listen() as server,
        httpx2.Client(base_url=server.url, timeout=30) as client,
    ):
        yield client


def test_streams(tmp_path: Path) -> None:
    """A streamed response arrives whole; an event stream has what steps push."""
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    app = flask.Flask("shop")

    @app.get("/chunks")
    @durable.endpoint
    def chunks() -> flask.Response:
        step.run("first", lambda: None)
        lines = flask.stream_with_context(f"{flask.request.path}{n} " for n in range(3))
        return flask.Response(lines, 201)

    @app.get("/events")
    @durable.endpoint
    def events() -> str:
        step.run("write", lambda: stream.push("hello"))
        return "done"

    with serving(durable, app) as client:
        response = client.get("/chunks")
        assert (201, "/chunks0 /chunks1 /chunks2 ") == (response.status_code, response.text)
        text = client.get("/events", headers={"accept": "text/event-stream"}).text
        assert "hello" in text
        assert "done" in text


def test_a_client_that_leaves_a_streamed_response(tmp_path: Path) -> None:
    """The response is closed as without Durable, and is not made again; the run has failed."""
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    app = flask.Flask("shop")
    log: list[str] = []

    @app.get("/")
    @durable.endpoint
    def it() -> flask.Response:
        step.run("first", lambda: log.append("step"))
        response = flask.Response(repeat(b"x" * 100_000))
        response.call_on_close(lambda: log.append("closed"))
        return response

    with serving(durable, app) as client:
        with client.stream("GET", "/") as answer:
            next(answer.iter_bytes())
        (run,) = durable.runs.list()
        assert "failed" == durable.runs.wait(run.id, timeout=30).status
        until(lambda: "closed" in log)
    assert ["step", "closed"] == log


MODULE = """
from pathlib import Path
import flask
from durable_core import Durable
from durable_core import step as async_step
from durable_core.sync import step
from durable_flask import endpoint_adapter, install

folder = Path(__file__).parent
durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=folder / "db")
app = flask.Flask("shop")
install(app, durable)

def note():
    with open(folder / "log", "a") as log:
        log.write("once\\n")

@app.get("/threads/<name>")
@durable.endpoint
def in_thread(name):
    step.run("note", note)
    step.wait_for_event("go", event="go", timeout="1h")
    return f"done {name}"

@app.get("/tasks/<name>")
@durable.endpoint
async def in_task(name):
    await async_step.run("note", note)
    await async_step.wait_for_event("go", event="go", timeout="1h")
    return f"done {name} at {flask.request.path}"

def serve():
    from durable_wsgi import create_endpoint_server
    with create_endpoint_server(app, durable=durable).listen() as server:
        print(server.url, flush=True)
        server.serve_forever()
"""
SERVE = [sys.executable, "-c", "import shop; shop.serve()"]
WORK = [sys.executable, "-m", "durable_core", "worker", "shop:durable"]


@contextmanager
def process(folder: Path, command: list[str]) -> Iterator[str]:
    """Run a program; yield its first line, and kill it in the end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as running:
        try:
            assert running.stdout is not None
            yield running.stdout.readline().strip()
        finally:
            os.kill(running.pid, signal.SIGKILL)


def test_kill(tmp_path: Path) -> None:
    """Runs outlive their process: a worker, which serves nobody, ends them; each step ran once."""
    (tmp_path / "shop.py").write_text(MODULE)
    durable = Durable(id="shop", store=tmp_path / "db")
    waiting = []
    with process(tmp_path, SERVE) as url:
        for kind in ("threads", "tasks"):
            handed_off = httpx2.get(f"{url}/{kind}/ann", timeout=30)
            assert handed_off.is_redirect, handed_off.text
            waiting.append((kind, handed_off.headers["location"]))
    durable.send(Event("go"))
    with process(tmp_path, WORK):
        for run in durable.runs.list():
            assert "completed" == durable.runs.wait(run.id, timeout=30).status
    with process(tmp_path, SERVE) as url:
        answers = [
            httpx2.get(f"{url}/{kind}/ann{location}", timeout=30).text for kind, location in waiting
        ]
    durable.stop()
    assert ["done ann", "done ann at /tasks/ann"] == answers
    assert "once\nonce\n" == (tmp_path / "log").read_text()
