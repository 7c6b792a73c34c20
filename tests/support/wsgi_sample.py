"""A WSGI application with something of everything, for tests of servers.

As ``support.wsgi_sample:application`` it takes its store from the environment, for servers that
run in a process of their own.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from durable_core import Durable, HTTPError, Request, Response
from durable_core import step as async_step
from durable_core.routing import Target
from durable_core.sync import step, stream
from durable_wsgi import WSGIApp, app, endpoint_adapter

__all__ = ["ALL_BYTES", "CHUNKS", "METHODS", "STORE", "greet", "make_durable", "make_sample"]

#: The environment variable that names the store of ``application``.
STORE = "DURABLE_TEST_STORE"
ALL_BYTES = bytes(range(256))
CHUNKS = (b"one ", b"two ", b"three")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "QUERY")


def greet(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the size of the body, which is read, and some of the environ."""
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{size} {environ['PATH_INFO']} {environ['HTTP_HOST']}".encode("latin-1")]


def make_durable(store: str | os.PathLike[str]) -> Durable[WSGIApp]:
    """Return a ``Durable`` without endpoints."""
    return Durable(id="sample", endpoint_adapter=endpoint_adapter, store=store)


def make_sample(store: str | os.PathLike[str]) -> WSGIApp:
    """Return the application."""
    durable = make_durable(store)

    @durable.endpoint
    def steps(request: Request) -> Response:
        doubled = step.run("double", lambda: 2 * int(request.query["n"]))
        return Response.json({"doubled": doubled}, 201, {"x-own": "yes"})

    @durable.endpoint(methods=METHODS)
    def nap(request: Request) -> Response:
        # Longer than a slow commit takes: else it is over when it is stored, and no handoff.
        step.sleep("nap", float(request.query.get("seconds") or 0.5))
        return Response(status=201, headers={"content-type": "x/y", "x-own": "é"}, body=ALL_BYTES)

    @durable.endpoint
    async def async_stream(request: Request) -> Response:
        await async_step.run("first", lambda: None)
        return Response(headers={"content-type": "text/plain"}, body=_async_chunks())

    @durable.endpoint(function_id="stream")
    def stream_(request: Request) -> Response:
        step.run("first", lambda: None)
        return Response(headers={"content-type": "text/plain"}, body=_chunks())

    @durable.endpoint
    def told(request: Request) -> Response:
        step.run("a", _tell, Path(request.query["gate"]))
        return Response.text("told")

    @durable.endpoint
    async def async_told(request: Request) -> Response:
        await async_step.run("a", _tell, Path(request.query["gate"]))
        return Response.text("told")

    routes: dict[str, Target] = {
        f"{','.join(METHODS)} /echo/{{rest:path}}": _echo,
        "GET,HEAD /binary": lambda request: ALL_BYTES,
        "GET /cookies": _cookies,
        "DELETE /empty": lambda request: Response(status=204),
        "GET /refused": _refuse,
        "GET /broken": lambda request: 1 / 0,
        "GET /health": lambda request: durable.health(),
        "GET /hop": lambda request: Response(headers={"connection": "x", "status": "1"}),
        "GET /steps": steps,
        f"{','.join(METHODS)} /nap": nap,
        "GET,HEAD /stream": stream_,
        "GET /async-stream": async_stream,
        "GET /told": told,
        "GET /async-told": async_told,
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
    fields = (("Set-Cookie", "a=1"), ("X-Own", "é\tü"), ("Set-Cookie", "b=2"))
    return Response(headers=fields, body=b"crumbs")


def _refuse(request: Request) -> Response:
    raise HTTPError(418, "no coffee", {"x-own": "yes"})


def _tell(gate: Path) -> None:
    """Push, and go on when the gate, a file, is there."""
    stream.push("first")
    give_up = time.monotonic() + 30
    while not gate.exists():
        if time.monotonic() > give_up:
            raise TimeoutError("nobody has opened the gate")
        time.sleep(0.002)
    stream.push("second")


def _chunks() -> Iterator[bytes]:
    yield from CHUNKS


async def _async_chunks() -> AsyncIterator[bytes]:
    for chunk in CHUNKS:
        yield chunk


def __getattr__(name: str) -> object:
    if name != "application":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = made = make_sample(os.environ[STORE])
    return made
