"""Stored requests, as a server calls an ASGI application with them."""

from __future__ import annotations

import asyncio
from urllib.parse import unquote, urlsplit

from durable_asgi._types import Message, Receive, Scope
from durable_core import Request

__all__ = ["replay_scope", "replayed_receive"]


def replay_scope(request: Request) -> Scope:
    """Return the scope that sends a stored request through an application again.

    There is no client, and nothing that a server or another application had put into the scope.
    """
    url = urlsplit(request.url)
    port = url.port or (443 if url.scheme == "https" else 80)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": url.scheme,
        "path": unquote(url.path),
        "raw_path": url.path.encode("ascii"),
        "query_string": url.query.encode("ascii"),
        "root_path": request.root_path,
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in request.headers.items()
        ],
        "client": None,
        "server": (url.hostname or "localhost", port),
        "state": {},
        "extensions": {},
    }


def replayed_receive(body: bytes) -> Receive:
    """Return what gives the body of a stored request; its client never goes away."""
    message: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def receive() -> Message:
        nonlocal message
        first, message = message, None
        return first or await asyncio.get_running_loop().create_future()

    return receive
