"""What ``stream.py`` serves: chunks that carry their time, from a bare event stream and from ours.

The time is that of ``time.perf_counter_ns``, which all processes of a machine share on Linux.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from durable_core import Durable, Limits, Request, Response, endpoint_adapter, step, stream, sync
from durable_core.api.adapter import HTTPHandler
from durable_core.routing import Target

FOLDER = "BENCH_FOLDER"
SERVER = "BENCH_SERVER"

durable: Durable[HTTPHandler] = Durable(
    id="bench",
    endpoint_adapter=endpoint_adapter,
    store=Path(os.environ.get(FOLDER, ".")) / "ours.db",
    limits=Limits(stream_step=2**30, stream_run=2**30, waiting_clients=20_000, run_clients=10_000),
)

_PADDING = "x" * 80
_ENCODER = json.JSONEncoder(separators=(",", ":"))
_DONE = {"status": "succeeded", "response": {"body": '"done"', "statusCode": 200, "headers": {}}}


def _chunk() -> dict[str, object]:
    return {"t": time.perf_counter_ns(), "text": _PADDING}


async def _pushes(count: int, pause: float) -> int:
    for _ in range(count):
        stream.push(_chunk())
        await asyncio.sleep(pause)
    return count


@durable.endpoint
async def ours(request: Request) -> str:
    """Push this many chunks in a second step; the first one lets other clients follow early."""
    await step.run("first", int)
    await step.run("a", _pushes, int(request.query["count"]), float(request.query["pause"]))
    return "done"


@durable.endpoint
async def asleep(request: Request) -> str:
    """Sleep while clients follow the run."""
    await step.sleep("nap", 3600)
    return "done"


async def _events(count: int, pause: float) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield _event("inngest.stream", {"data": _chunk()})
        await asyncio.sleep(pause)
    yield _event("inngest.response", _DONE)


def _event(kind: str, data: object) -> bytes:
    return f"event: {kind}\ndata: {_ENCODER.encode(data)}\n\n".encode()


def bare(request: Request) -> Response:
    """The same chunks and response as a hand-written event stream."""
    body = _events(int(request.query["count"]), float(request.query["pause"]))
    return Response(headers={"content-type": "text/event-stream"}, body=body)


async def bare_asgi(scope: Any, receive: Any, send: Any) -> None:
    """The same for an ASGI server."""
    query = parse_qs(scope["query_string"].decode())
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for part in _events(int(query["count"][0]), float(query["pause"][0])):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _by_thread(count: int, pause: float) -> int:
    for _ in range(count):
        sync.stream.push(_chunk())
        time.sleep(pause)
    return count


def _events_by_thread(count: int, pause: float) -> Iterator[bytes]:
    for _ in range(count):
        yield _event("inngest.stream", {"data": _chunk()})
        time.sleep(pause)
    yield _event("inngest.response", _DONE)


def _wsgi() -> Callable[..., Any]:
    from durable_wsgi import app

    @durable.endpoint
    def ours_by_thread(request: Request) -> str:
        sync.step.run("first", int)
        query = request.query
        sync.step.run("a", _by_thread, int(query["count"]), float(query["pause"]))
        return "done"

    inner = app(durable, {"GET /ours": ours_by_thread})

    def both(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] != "/bare":
            return inner(environ, start_response)
        query = parse_qs(environ["QUERY_STRING"])
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return _events_by_thread(int(query["count"][0]), float(query["pause"][0]))

    return both


def _asgi() -> Callable[..., Any]:
    from durable_asgi import app

    inner = app(durable, {"GET /ours": ours, "GET /asleep": asleep})

    async def both(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/bare":
            await bare_asgi(scope, receive, send)
        else:
            await inner(scope, receive, send)

    return both


if os.environ.get(SERVER) == "uvicorn":
    asgi = _asgi()
elif os.environ.get(SERVER) == "waitress":
    wsgi = _wsgi()

if __name__ == "__main__":
    import sys

    from durable_asyncio import app, serve_endpoint

    routes: dict[str, Target] = {"GET /ours": ours, "GET /bare": bare, "GET /asleep": asleep}
    serve_endpoint(app(durable, routes), port=int(sys.argv[1]))
