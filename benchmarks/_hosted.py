"""One subject in a server's process: as a WSGI or ASGI application, or under our asyncio server.

Environment variables name the subject, its steps and its folder. ``/<steps>`` is the path.
For bare and floor, a hand-written application calls the handler. Under the asyncio server a plain
function of a route calls it, because that server takes nothing else.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from _subjects import Async, Subjects, Sync

import durable_asyncio
from durable_asgi import ASGIApp
from durable_core import Request
from durable_wsgi import WSGIApp

__all__ = ["FOLDER", "NAME", "STEPS", "asgi", "wsgi"]

FOLDER, NAME, STEPS = "BENCH_FOLDER", "BENCH_NAME", "BENCH_STEPS"

WSGI = Callable[[dict[str, Any], Any], Iterable[bytes]]
ASGI = Callable[[dict[str, Any], Any, Any], Awaitable[None]]

logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # no warning per queued request


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The WSGI application."""
    return _wsgi_apps()[environ["PATH_INFO"]](environ, start_response)


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The ASGI application; to be served without a lifespan."""
    await _asgi_apps()[scope["path"]](scope, receive, send)


@cache
def _subjects() -> Subjects:
    return Subjects.in_folder(Path(os.environ[FOLDER]))


def _steps() -> list[int]:
    return [int(steps) for steps in os.environ[STEPS].split(",")]


@cache
def _wsgi_apps() -> dict[str, WSGI]:
    subjects, name = _subjects(), os.environ[NAME]
    if name == "ours":
        return {f"/{n}": WSGIApp(subjects.endpoint(n)) for n in _steps()}
    return {f"/{n}": _wsgi_by_hand(subjects.sync(name, n)) for n in _steps()}


@cache
def _asgi_apps() -> dict[str, ASGI]:
    subjects, name = _subjects(), os.environ[NAME]
    if name == "ours":
        return {f"/{n}": ASGIApp(subjects.endpoint_async(n)) for n in _steps()}
    return {f"/{n}": _asgi_by_hand(subjects.asynchronous(name, n)) for n in _steps()}


def _wsgi_by_hand(handler: Sync) -> WSGI:
    """Return a hand-written WSGI application that calls a handler."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        names = [name for name in environ if name.startswith("HTTP_")]
        request = Request(
            method=environ["REQUEST_METHOD"],
            url=f"http://{environ['HTTP_HOST']}{environ['PATH_INFO']}?{environ['QUERY_STRING']}",
            headers=[(name[5:].replace("_", "-").lower(), environ[name]) for name in names],
            body=environ["wsgi.input"].read(length) if length else b"",
        )
        response = handler(request)
        assert isinstance(response.body, bytes)
        size = ("content-length", str(len(response.body)))
        start_response(f"{response.status} OK", [*response.headers.raw, size])
        return [response.body]

    return app


def _asgi_by_hand(handler: Async) -> ASGI:
    """Return a hand-written ASGI application that calls a handler."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        host, query = dict(headers)["host"], scope["query_string"].decode("latin-1")
        request = Request(
            method=scope["method"],
            url=f"http://{host}{scope['path']}?{query}",
            headers=headers,
            body=body,
        )
        response = await handler(request)
        assert isinstance(response.body, bytes)
        sent = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in response.headers.raw
        ]
        sent.append((b"content-length", b"%d" % len(response.body)))
        await send({"type": "http.response.start", "status": response.status, "headers": sent})
        await send({"type": "http.response.body", "body": response.body})

    return app


def _serve_asyncio(port: int) -> None:
    subjects, name = _subjects(), os.environ[NAME]
    routes: dict[str, Any] = {
        f"GET /{n}": subjects.endpoint_async(n)
        if name == "ours"
        else subjects.asynchronous(name, n)
        for n in _steps()
    }
    durable_asyncio.serve_endpoint(durable_asyncio.app(subjects.durable, routes), port)


if __name__ == "__main__":
    _serve_asyncio(int(sys.argv[1]))
