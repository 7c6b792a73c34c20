"""One subject as a WSGI application, and the server process that serves it."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _load import wait_for_server
from _subjects import Subjects, Sync

from durable_core import Request
from durable_wsgi import WSGIApp

__all__ = ["SERVERS", "served"]

#: The WSGI servers to choose from, and how each is started on a port.
SERVERS = {
    "gunicorn": "-m gunicorn -k gthread --threads 64 --keep-alive 60 -b 127.0.0.1:{port} "
    "--log-level warning _server:application",
    "waitress": "-m waitress --threads=64 --listen=127.0.0.1:{port} _server:application",
}
logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it warns of each queued request
_FOLDER, _NAME, _STEPS = "BENCH_FOLDER", "BENCH_NAME", "BENCH_STEPS"

WSGI = Callable[[dict[str, Any], Any], Iterable[bytes]]


def by_hand(handler: Sync) -> WSGI:
    """Return a WSGI application as one writes it by hand around a handler."""

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


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer ``/<steps>`` by the subject that the environment variables name."""
    if not _APPS:
        _make_apps()
    return _APPS[environ["PATH_INFO"]](environ, start_response)


_APPS: dict[str, WSGI] = {}


def _make_apps() -> None:
    subjects, name = Subjects.in_folder(Path(os.environ[_FOLDER])), os.environ[_NAME]
    for steps in map(int, os.environ[_STEPS].split(",")):
        if name == "ours":
            _APPS[f"/{steps}"] = WSGIApp(subjects.endpoint(steps))
        else:
            _APPS[f"/{steps}"] = by_hand(subjects.sync(name, steps))


@contextmanager
def served(server: str, name: str, steps: Iterable[int], folder: Path) -> Iterator[int]:
    """Serve a subject from a process of its own; yield the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir()
    here = str(Path(__file__).parent)
    environment = {
        **os.environ,
        "PYTHONPATH": here,
        _FOLDER: str(folder),
        _NAME: name,
        _STEPS: ",".join(map(str, steps)),
    }
    command = [sys.executable, *SERVERS[server].format(port=port).split()]
    process = subprocess.Popen(command, env=environment, cwd=folder)
    try:
        wait_for_server(port)
        yield port
    finally:
        process.terminate()
        process.wait(20)
