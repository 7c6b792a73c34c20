"""Views on a real server: streams, and processes that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import flask
import httpx2

from durable_core import Durable, Event, stream
from durable_core.sync import step
from durable_flask import FlaskApp, endpoint_adapter, install
from durable_wsgi import create_endpoint_server


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


PROGRAM = """
import sys
from pathlib import Path
import flask
from durable_core import Durable
from durable_core.sync import step
from durable_flask import endpoint_adapter, install
from durable_wsgi import create_endpoint_server

folder = Path(sys.argv[1])
durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=folder / "db")
app = flask.Flask("shop")
install(app, durable)

def note():
    with open(folder / "log", "a") as log:
        log.write("once\\n")

@app.get("/<name>")
@durable.endpoint
def it(name):
    step.run("note", note)
    step.wait_for_event("go", event="go", timeout="1h")
    return f"done {name}"

with create_endpoint_server(app, durable=durable).listen() as server:
    print(server.url, flush=True)
    server.serve_forever()
"""


@contextmanager
def process(folder: Path) -> Iterator[str]:
    """Run the program; yield its URL, and kill it in the end."""
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            yield running.stdout.readline().strip()
        finally:
            os.kill(running.pid, signal.SIGKILL)


def test_kill(tmp_path: Path) -> None:
    """A run outlives its process: the next one sends its request through the application again."""
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    with process(tmp_path) as url:
        handed_off = httpx2.get(f"{url}/ann")
        assert handed_off.is_redirect
    with process(tmp_path) as url:
        durable.send(Event("go"))
        path = httpx2.URL(handed_off.headers["location"]).raw_path.decode()
        assert "done ann" == httpx2.get(f"{url}{path}", timeout=30).text
    assert "once\n" == (tmp_path / "log").read_text()
