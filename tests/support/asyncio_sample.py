"""An application with something of everything, for tests of the asyncio HTTP server.

As a program, ``python -m support.asyncio_sample STORE READY``, it is served until a signal comes;
the file READY gets the port. Its gates are files: a step waits until the one it names is there.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from durable_asyncio import AsyncioApp, app, create_endpoint_server, endpoint_adapter
from durable_core import Durable, Request, Response, step
from durable_core.engines import EmbeddedEngine
from durable_core.routing import Target
from durable_core.sync import step as sync_step
from support.processes import until

__all__ = ["ALL_BYTES", "Endless", "Sample", "main", "reached"]

ALL_BYTES = bytes(range(256))
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "QUERY")
_TICK = 0.005


class Endless:
    """Bodies that never end by themselves, and what became of them."""

    def __init__(self) -> None:
        self.made = 0
        self.ended: list[str] = []

    def plain(self) -> Iterator[bytes]:
        """Make chunks in a thread."""
        try:
            while True:
                self.made += 1
                yield bytes(65536)
        finally:
            self.ended.append("plain")

    async def asynchronous(self) -> AsyncIterator[bytes]:
        """Make chunks on the loop."""
        try:
            while True:
                self.made += 1
                yield bytes(65536)
        finally:
            self.ended.append("async")

    async def idle(self) -> AsyncIterator[bytes]:
        """Make one chunk, and wait."""
        try:
            self.made += 1
            yield b"first"
            await asyncio.get_running_loop().create_future()
        finally:
            self.ended.append("idle")


class Sample:
    """The application, and what its tests look at.

    Args:
        store: path of its store.
    """

    def __init__(self, store: Path) -> None:
        engine = EmbeddedEngine(store)
        self.durable: Durable[AsyncioApp] = Durable(
            id="sample", endpoint_adapter=endpoint_adapter, engine=engine
        )
        self.endless = Endless()
        endpoint = self.durable.endpoint
        routes: dict[str, Target] = {
            f"{','.join(METHODS)} /echo/{{rest:path}}": _echo,
            "POST /size": lambda request: len(request.body),
            "GET,HEAD /binary": lambda request: ALL_BYTES,
            "GET /broken": lambda request: 1 / 0,
            "GET /exit": _exit,
            "GET /steps": endpoint(_steps),
            "GET /sync-steps": endpoint(_sync_steps),
            "GET,POST /nap": endpoint(_nap),
            "GET /gated": endpoint(_gated),
            "GET /sync-gated": endpoint(_sync_gated),
            "GET /stream": endpoint(_stream),
            "GET /gated-stream": endpoint(_gated_stream),
            "GET /plain": lambda request: Response(body=self.endless.plain()),
            "GET /async": lambda request: Response(body=self.endless.asynchronous()),
            "GET /idle": lambda request: Response(body=self.endless.idle()),
            "GET /torn": lambda request: Response(body=_torn()),
            "POST /events": self.durable.events_endpoint(public=True),
        }
        self.app = app(self.durable, routes)


def _echo(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": request.url,
        "headers": request.headers.items(),
        "body": request.body.hex(),
    }


async def _exit(request: Request) -> Response:
    sys.exit("a handler wants to end the process")


async def _steps(request: Request) -> Response:
    doubled = await step.run("double", lambda: 2 * int(request.query["n"]))
    return Response.json({"doubled": doubled}, 201, {"x-own": "yes"})


def _sync_steps(request: Request) -> Response:
    doubled = sync_step.run("double", lambda: 2 * int(request.query["n"]))
    return Response.json({"doubled": doubled}, 201, {"x-own": "yes"})


async def _nap(request: Request) -> Response:
    await step.sleep("nap", 0.5)
    return Response(status=201, headers={"content-type": "x/y", "x-own": "é"}, body=ALL_BYTES)


def reached(gate: Path) -> None:
    """Wait until a step waits at the gate."""
    until("the step has begun", gate.with_suffix(".reached").exists)


async def _gated(request: Request) -> Response:
    await step.run("gate", _pass_gate, Path(request.query["gate"]))
    await step.run("after", lambda: None)
    return Response.text("through")


def _sync_gated(request: Request) -> Response:
    sync_step.run("gate", _pass_gate_sync, Path(request.query["gate"]))
    sync_step.run("after", lambda: None)
    return Response.text("through")


async def _pass_gate(gate: Path) -> None:
    gate.with_suffix(".reached").touch()
    while not gate.exists():
        await asyncio.sleep(_TICK)


def _pass_gate_sync(gate: Path) -> None:
    gate.with_suffix(".reached").touch()
    while not gate.exists():
        time.sleep(_TICK)


async def _stream(request: Request) -> Response:
    await step.run("first", lambda: None)
    return Response(body=iter([b"one ", b"two ", b"three"]))


async def _gated_stream(request: Request) -> Response:
    await step.run("first", lambda: None)
    return Response(body=_gated_chunks(Path(request.query["gate"])))


async def _gated_chunks(gate: Path) -> AsyncIterator[bytes]:
    yield b"first "
    await _pass_gate(gate)
    yield b"second"


async def _torn() -> AsyncIterator[bytes]:
    yield b"the beginning"
    raise ZeroDivisionError


def main(store: str, ready: str) -> None:
    """Serve until a signal comes."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    server = create_endpoint_server(Sample(Path(store)).app).listen()
    part = Path(ready).with_suffix(".part")
    part.write_text(str(server.port), "utf-8")
    part.rename(ready)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
