"""The example of the Inngest engine, as it is, on an imitation of the server."""

from __future__ import annotations

import runpy

import pytest

from durable_asgi import create_endpoint_server
from support.docs_pages import run_page
from support.inngest_app import App
from support.inngest_server import inngest_server
from support.source_tree import ROOT


def test_on_inngest(monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts with nothing but INNGEST_DEV set; an order is approved over HTTP."""
    with inngest_server() as server:
        monkeypatch.setenv("INNGEST_DEV", server.url)
        program = runpy.run_path(str(ROOT / "examples" / "on_inngest.py"))
        with create_endpoint_server(program["application"]).listen() as listening:
            app = App(listening.url, program["durable"])
            first = app.get("/order?id=7&item=tea")
            server.until(lambda: bool(server.run.waits))
            event = b'{"name": "order/approved", "data": {"id": "7"}}'
            sent = app.ask("POST", "/events", body=event)
            got = app.get("/order" + first.headers["location"])

    assert (302, 200, 201) == (first.status, sent.status, got.status)
    assert {"reserved": {"item": "tea", "shelf": "A3"}, "approved": True} == got.json


@pytest.mark.parametrize("name", ["docs/howto/run-on-inngest.md", "adapters/inngest/README.md"])
def test_pages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint of each page runs, and is handed off at its sleep."""
    with inngest_server() as server:
        monkeypatch.setenv("INNGEST_DEV", server.url)
        names = run_page(ROOT / name)
        names["reserve_stock"] = len
        with create_endpoint_server(names["checkout"]).listen() as listening:
            got = App(listening.url, names["durable"]).get("/?item=tea&cart=1")

    assert 302 == got.status
    assert ["checkpoint StepRun", "checkpoint Sleep settle"] == [
        server.run.history[0].rpartition(" ")[0],
        server.run.history[-1],
    ]
