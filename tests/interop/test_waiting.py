"""Clients at the wait URL while the run goes on, and while the server cannot be asked."""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from durable_core import Request, step
from durable_core.engine.remote.waiting import Results
from durable_core.flow.wait_url import WaitRequest
from durable_core.http.response import Response
from support.inngest_app import App, serving
from support.inngest_server import Fault, InngestServer

pytestmark = pytest.mark.slow


async def rests(request: Request) -> None:
    await step.sleep("nap", "1h")


def asked(app: App, location: str, hop: int) -> Response:
    """Ask the engine as the wait URL does, held for a moment only."""
    query = parse_qs(urlsplit(location).query)
    return app.durable.engine.wait(
        WaitRequest(
            run_id=query["durable-run"][0],
            token=query["durable-token"][0],
            hop=hop,
            max_wait_ms=20,
            again=lambda token, hop: f"?{token}&{hop}",
            names=("durable-run", "durable-token"),
        )
    )


def test_it_is_held_and_sent_on(server: InngestServer) -> None:
    """To itself, with the server's token; after the fifth time it is told to come back later."""
    with serving(server, {"GET /a": rests}) as app:
        location = app.get("/a").headers["location"]
        hops = [asked(app, location, hop) for hop in range(6)]

    token = parse_qs(urlsplit(location).query)["durable-token"][0]
    assert [303] * 5 + [202] == [each.status for each in hops]
    assert [f"?{token}&{hop}" for hop in (1, 2, 3, 4, 5, 0)] == [
        each.headers["location"] for each in hops
    ]
    assert hops[5].headers["retry-after"].isdigit()
    assert isinstance(hops[5].body, bytes)
    assert "running" == json.loads(hops[5].body)["status"]


@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
@pytest.mark.parametrize("kind", ["drop", 500])
def test_a_server_that_cannot_be_asked(
    server: InngestServer, interface: str, kind: str | int, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is told to come back, and the log says why; the run is as it was."""
    caplog.set_level(logging.ERROR, "durable")
    with serving(server, {"GET /a": rests}, interface=interface) as app:
        location = app.get("/a").headers["location"]
        server.faults.append(Fault(r"/v1/http/runs/\w+/output", kind, times=2))
        got = app.get(f"/a{location}")

    assert (503, "1", "Running") == (got.status, got.headers["retry-after"], server.run.status)
    assert "a client that waits got no answer" in caplog.text
    assert server.run.id in caplog.text


def test_too_many_wait(server: InngestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than may be held is sent away at once."""
    with serving(server, {"GET /a": rests}) as app:
        location = app.get("/a").headers["location"]
        engine: Any = app.durable.engine
        monkeypatch.setattr(engine.host, "results", Results(0))
        got = asked(app, location, 0)

    assert isinstance(got.body, bytes)
    assert (503, True) == (got.status, b"too-many" in got.body)
