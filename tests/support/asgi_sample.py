"""An ASGI application with something of everything, for tests of servers.

Its gates are files: a step waits until the one it names is there.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from durable_asgi import ASGIApp, app, endpoint_adapter
from durable_core import Durable, HTTPError, Request, Response, Settings, step
from durable_core import stream as chunks
from durable_core.engines import EmbeddedEngine
from durable_core.ports import Clock
from durable_core.routing import Target
from durable_core.sync import step as sync_step

__all__ = ["ALL_BYTES", "CHUNKS", "FLOOD", "METHODS", "make_durable", "make_sample"]

ALL_BYTES = bytes(range(256))
CHUNKS = (b"one ", b"two ", b"three")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "QUERY")
#: How many chunks of 64 KiB ``/flood`` has.
FLOOD = 4096


def make_durable(store: str | os.PathLike[str], clock: Clock | None = None) -> Durable[ASGIApp]:
    """Return a ``Durable`` without endpoints."""
    settings = Settings()
    return Durable(
        id="sample",
        endpoint_adapter=endpoint_adapter,
        engine=EmbeddedEngine(store, clock=clock, settings=settings),
    )


def make_sample(store: str | os.PathLike[str]) -> ASGIApp:
    """Return the application."""
    durable = make_durable(store)
    floods: list[int] = []

    @durable.endpoint
    async def steps(request: Request) -> Response:
        doubled = await step.run("double", lambda: 2 * int(request.query["n"]))
        return Response.json({"doubled": doubled}, 201, {"x-own": "yes"})

    @durable.endpoint
    def sync_steps(request: Request) -> Response:
        thread = threading.current_thread() is threading.main_thread()
        doubled = sync_step.run("double", lambda: 2 * int(request.query["n"]))
        return Response.json({"doubled": doubled, "main": thread}, 201)

    @durable.endpoint(methods=METHODS)
    async def nap(request: Request) -> Response:
        await step.sleep("nap", 0.5)
        return Response(status=201, headers={"content-type": "x/y", "x-own": "é"}, body=ALL_BYTES)

    @durable.endpoint
    async def gated(request: Request) -> Response:
        await step.run("gate", _pass_gate, request.query["gate"])
        return Response.text("through")

    @durable.endpoint
    def sync_gated(request: Request) -> Response:
        sync_step.run("gate", _pass_gate_sync, request.query["gate"])
        return Response.text("through")

    @durable.endpoint
    async def told(request: Request) -> Response:
        await step.run("a", _tell, request.query["gate"])
        return Response.text("told")

    @durable.endpoint
    def sync_told(request: Request) -> Response:
        sync_step.run("a", _tell_sync, request.query["gate"])
        return Response.text("told")

    @durable.endpoint(methods=("GET", "HEAD"))
    async def stream(request: Request) -> Response:
        await step.run("first", lambda: None)
        return Response(headers={"content-type": "text/plain"}, body=_async_chunks())

    @durable.endpoint
    def sync_stream(request: Request) -> Response:
        sync_step.run("first", lambda: None)
        return Response(headers={"content-type": "text/plain"}, body=_chunks())

    @durable.endpoint
    async def flood(request: Request) -> Response:
        await step.run("first", lambda: None)
        return Response(body=_flood(floods))

    def runs(request: Request) -> list[dict[str, str]]:
        return [{"id": each.name, "status": each.status} for each in durable.runs.list()]

    routes: dict[str, Target] = {
        "GET /told": told,
        "GET /sync-told": sync_told,
        f"{','.join(METHODS)} /echo/{{rest:path}}": _echo,
        "GET,HEAD /binary": lambda request: ALL_BYTES,
        "GET /cookies": _cookies,
        "DELETE /empty": lambda request: Response(status=204),
        "GET /refused": _refuse,
        "GET /broken": lambda request: 1 / 0,
        "GET /torn": lambda request: Response(body=_torn()),
        "GET /health": lambda request: durable.health(),
        "GET /hop": lambda request: Response(headers={"connection": "x", "upgrade": "y"}),
        "GET /runs": runs,
        "GET /floods": lambda request: list(floods),
        "GET /steps": steps,
        "GET /sync-steps": sync_steps,
        f"{','.join(METHODS)} /nap": nap,
        "GET /gated": gated,
        "GET /sync-gated": sync_gated,
        "GET,HEAD /stream": stream,
        "GET /sync-stream": sync_stream,
        "GET /flood": flood,
        "POST /events": durable.events_endpoint(public=True),
    }
    return app(durable, routes)


def _echo(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": request.url,
        "path": request.path,
        "root_path": request.root_path,
        "query": request.query.items(),
        "headers": request.headers.items(),
        "body": request.body.hex(),
    }


def _cookies(request: Request) -> Response:
    fields = (("Set-Cookie", "a=1"), ("X-Own", "éü"), ("Set-Cookie", "b=2"))
    return Response(headers=fields, body=b"crumbs")


def _refuse(request: Request) -> Response:
    raise HTTPError(418, "no coffee", {"x-own": "yes"})


async def _tell(gate: str) -> None:
    chunks.push("first")
    await _pass_gate(gate)
    chunks.push("second")


def _tell_sync(gate: str) -> None:
    chunks.push("first")
    _pass_gate_sync(gate)
    chunks.push("second")


async def _pass_gate(gate: str) -> None:
    Path(f"{gate}.reached").touch()
    while not Path(gate).exists():
        await asyncio.sleep(0.005)


def _pass_gate_sync(gate: str) -> None:
    Path(f"{gate}.reached").touch()
    while not Path(gate).exists():
        time.sleep(0.005)


def _chunks() -> Iterator[bytes]:
    yield from CHUNKS


async def _async_chunks() -> AsyncIterator[bytes]:
    for chunk in CHUNKS:
        yield chunk


async def _torn() -> AsyncIterator[bytes]:
    yield b"the beginning"
    raise ZeroDivisionError


async def _flood(floods: list[int]) -> AsyncIterator[bytes]:
    produced = 0
    try:
        while produced < FLOOD:
            produced += 1
            yield bytes(65536)
    finally:
        floods.append(produced)
