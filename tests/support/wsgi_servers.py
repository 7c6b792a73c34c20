"""Servers that serve ``support.wsgi_sample``: in this process, or in one of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.util import shift_path_info
from wsgiref.validate import validator

from durable_wsgi import create_endpoint_server
from support import raw_http
from support.raw_http import Reply
from support.wsgi_sample import STORE, make_sample

__all__ = ["GUNICORN_CONFIG", "SERVERS", "TESTS", "Server", "gunicorn"]

TESTS = Path(make_sample.__code__.co_filename).parents[1]
SAMPLE = "support.wsgi_sample:application"
GUNICORN_CONFIG = "from durable_wsgi.gunicorn import post_worker_init, worker_exit\n"
PREFIX = "/shop"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs, and how its application is reached."""

    port: int
    prefix: str = ""
    #: It calls the application when it has the whole body, and not before.
    reads_ahead: bool = False
    #: What it wrote to stderr; all of it when it has ended.
    said: list[str] = field(default_factory=list)

    def ask(
        self,
        method: str,
        target: str,
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes | None = None,
    ) -> Reply:
        """Send a request to the application; see ``raw_http.ask``."""
        return raw_http.ask(self.port, method, self.prefix + target, headers=headers, body=body)


def mounted(application: WSGIApplication) -> WSGIApplication:
    """Return the application below PREFIX."""

    def dispatch(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        assert PREFIX[1:] == shift_path_info(environ)
        return application(environ, start_response)

    return dispatch


@contextmanager
def own_server(folder: Path) -> Iterator[Server]:
    with create_endpoint_server(make_sample(folder / "db")).listen() as server:
        yield Server(server.port)


@contextmanager
def own_server_validated(folder: Path) -> Iterator[Server]:
    sample = make_sample(folder / "db")
    both_sides = validator(mounted(validator(sample)))
    with create_endpoint_server(both_sides).listen() as server:
        yield Server(server.port, PREFIX)
    sample.endpoint.engine.stop(10)


class QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def wsgiref_server(folder: Path) -> Iterator[Server]:
    sample = make_sample(folder / "db")
    with make_server("127.0.0.1", 0, sample, handler_class=QuietHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Server(server.server_port)
        finally:
            server.shutdown()
            thread.join()
            sample.endpoint.engine.stop(10)


@contextmanager
def process(folder: Path, *command: str, environment: Mapping[str, str]) -> Iterator[Server]:
    """Run a server in a process of its own, which says on which port it listens."""
    own = {"PYTHONPATH": str(TESTS), "PYTHONUNBUFFERED": "1", STORE: str(folder / "db")}
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, **own, **environment},
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    ) as running:
        assert running.stderr is not None
        try:
            yield Server(
                _port(running.stderr, said),
                prefix=environment.get("SCRIPT_NAME", ""),
                reads_ahead=command[0] == "waitress",
                said=said,
            )
        finally:
            running.terminate()
            said += running.stderr
    assert running.returncode in (0, -15), "".join(said)


def _port(lines: Iterable[str], said: list[str]) -> int:
    for line in lines:
        said.append(line)
        found = re.search(r"(?:Listening at|Serving on):? http://127\.0\.0\.1:(\d+)", line)
        if found is not None:
            return int(found[1])
    raise AssertionError("".join(said))


def waitress(folder: Path) -> AbstractContextManager[Server]:
    return process(folder, "waitress", "--listen=127.0.0.1:0", SAMPLE, environment={})


def gunicorn(
    worker: str, config: str = GUNICORN_CONFIG, **environment: str
) -> Callable[[Path], AbstractContextManager[Server]]:
    """Return how gunicorn is started, with such workers and such a configuration file."""

    def start(folder: Path) -> AbstractContextManager[Server]:
        file = folder / "gunicorn.conf.py"
        file.write_text(config)
        options = (f"--worker-class={worker}", "--threads=1" if worker == "sync" else "--threads=4")
        bind = ("--bind=127.0.0.1:0", "--no-control-socket")
        command = ("gunicorn", f"--config={file}", *bind, *options, SAMPLE)
        return process(folder, *command, environment=environment)

    return start


SERVERS: dict[str, Callable[[Path], AbstractContextManager[Server]]] = {
    "own": own_server,
    "own-validated": own_server_validated,
    "wsgiref": wsgiref_server,
    "waitress": waitress,
    "gunicorn-sync": gunicorn("sync"),
    "gunicorn-gthread": gunicorn("gthread", SCRIPT_NAME=PREFIX),
}
