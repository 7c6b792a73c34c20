"""Stored requests, as a server calls a WSGI application with them."""

from __future__ import annotations

import sys
from io import BytesIO
from urllib.parse import unquote, urlsplit
from wsgiref.types import WSGIEnvironment

from durable_core import Request

__all__ = ["replay_environ"]


def replay_environ(request: Request) -> WSGIEnvironment:
    """Return the environ that sends a stored request through an application again.

    There is no client, and nothing that the server or another application had put into the environ.
    """
    url = urlsplit(request.url)
    root = request.root_path
    path = unquote(url.path, "latin-1")
    root_octets = root.encode().decode("latin-1")
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": root_octets,
        "PATH_INFO": path.removeprefix(root_octets),
        "QUERY_STRING": url.query,
        "REQUEST_URI": f"{url.path}?{url.query}" if url.query else url.path,
        "SERVER_NAME": url.hostname or "localhost",
        "SERVER_PORT": str(url.port or (443 if url.scheme == "https" else 80)),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": url.netloc,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": url.scheme,
        "wsgi.input": BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "CONTENT_LENGTH": str(len(request.body)),
    }
    for name, value in request.headers.items():
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_LENGTH", "HOST"):
            environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    return environ
