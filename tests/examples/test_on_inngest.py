"""The example of the Inngest engine, as it is, on an imitation of the server."""

from __future__ import annotations

import runpy

import pytest

from durable_asgi import create_endpoint_server
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
