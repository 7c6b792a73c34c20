"""An application whose clients wait, for tests of how servers bear and stop them: ASGI and WSGI.

``python -m support.stopping_app SERVER PORT [THREADS]`` serves it by a server that is started from
Python.
The store is named by the environment.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import durable_asgi
import durable_asyncio
import durable_wsgi
from durable_asgi import ASGIApp
from durable_asyncio import AsyncioApp
from durable_core import Durable, Request, Response, step
from durable_core.adapters import AppAdapter
from durable_core.routing import Target
from durable_core.sync import step as sync_step
from durable_core.sync import stream as sync_stream
from durable_wsgi import WSGIApp

__all__ = ["STORE", "asgi", "wsgi"]

#: The environment variable that names the store.
STORE = "DURABLE_TEST_STORE"


def _routes(durable: Durable[Any]) -> dict[str, Target]:
    def nap(request: Request) -> Response:
        sync_step.sleep("nap", "1 hour")
        return Response.text("awake")

    def soon(request: Request) -> Response:
        sync_step.sleep("nap", "1 second")
        return Response.text("awake")

    def flood(request: Request) -> Response:
        for number in range(8):
            sync_step.run(f"push-{number}", _push_megabytes)
        sync_step.sleep("nap", "1 hour")
        return Response.text("awake")

    async def gated(request: Request) -> Response:
        await step.run("gate", _pass_gate, request.query["gate"])
        await step.run("after", lambda: None)
        return Response.text("through")

    def sync_gated(request: Request) -> Response:
        sync_step.run("gate", _pass_gate_sync, request.query["gate"])
        sync_step.run("after", lambda: None)
        return Response.text("through")

    def health(request: Request) -> dict[str, object]:
        return durable.health()

    return {
        "GET /nap": durable.endpoint(nap),
        "GET /soon": durable.endpoint(soon),
        "GET /flood": durable.endpoint(flood),
        "GET /gated": durable.endpoint(gated),
        "GET /sync-gated": durable.endpoint(sync_gated),
        "GET /health": health,
    }


def _push_megabytes() -> None:
    for _ in range(30):
        sync_stream.push("x" * 100_000)


async def _pass_gate(gate: str) -> None:
    Path(f"{gate}.reached").touch()
    while not Path(gate).exists():
        await asyncio.sleep(0.005)


def _pass_gate_sync(gate: str) -> None:
    Path(f"{gate}.reached").touch()
    while not Path(gate).exists():
        time.sleep(0.005)


def _durable(adapter: AppAdapter[Any]) -> Durable[Any]:
    return Durable(id="stopping", endpoint_adapter=adapter, store=os.environ[STORE])


def asgi() -> ASGIApp:
    """Return the application for ASGI servers."""
    durable = _durable(durable_asgi.endpoint_adapter)
    return durable_asgi.app(durable, _routes(durable))


def wsgi() -> WSGIApp:
    """Return the application for WSGI servers."""
    durable = _durable(durable_wsgi.endpoint_adapter)
    return durable_wsgi.app(durable, _routes(durable))


def asyncio_app() -> AsyncioApp:
    """Return the application for the asyncio server."""
    durable = _durable(durable_asyncio.endpoint_adapter)
    return durable_asyncio.app(durable, _routes(durable))


def main(server: str, port: int, threads: int = 8) -> None:
    """Serve until a signal comes."""
    if server == "asgi":
        durable_asgi.serve_endpoint(asgi(), port)
    elif server == "asyncio":
        durable_asyncio.serve_endpoint(asyncio_app(), port)
    elif server == "wsgi":
        durable_wsgi.serve_endpoint(wsgi(), port)
    else:
        from durable_wsgi.waitress import serve

        serve(wsgi(), listen=f"127.0.0.1:{port}", threads=threads)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
