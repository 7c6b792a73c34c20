"""Servers of others in processes of their own, which serve ``support.stopping_app``."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.harness import until
from support.ports import ReservedPort
from support.stopping_app import STORE

__all__ = ["GUNICORN", "OWN", "Answer", "Server", "serving"]

TESTS = Path(__file__).resolve().parents[1]
#: Commands for Python; PORT and FOLDER are replaced.
GUNICORN = ("-m", "gunicorn", "--bind=127.0.0.1:PORT", "--no-control-socket")
OWN = ("-m", "support.stopping_app")
HOOKS = "from durable_wsgi.gunicorn import post_worker_init, worker_exit\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got, and when (``time.monotonic``)."""

    status: int
    location: str
    body: str
    at: float


class Server:
    """A server in a process of its own."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port = port
        self.process = process
        self.log = log
        self._clients = ThreadPoolExecutor(16)

    def get(
        self, target: str, headers: dict[str, str] | None = None, *, timeout: float = 60.0
    ) -> Answer:
        """Make a request on a connection of its own, and read the whole answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with closing(connection):
            connection.request("GET", target, headers=headers or {})
            response = connection.getresponse()
            body = response.read().decode()
            return Answer(
                response.status, response.headers.get("location", ""), body, time.monotonic()
            )

    def start(self, target: str, headers: dict[str, str] | None = None) -> Future[Answer]:
        """Make a request in a thread."""
        return self._clients.submit(self.get, target, headers)

    def all_serve(self, processes: int) -> bool:
        """Return whether so many processes serve; one that still starts may miss a signal."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            return len({each["pid"] for each in self.health()}) == processes
        except (OSError, http.client.HTTPException):
            return False

    def wait_url(self, path: str = "/nap") -> str:
        """Return the wait URL of a run that sleeps."""
        answer = self.get(path)
        assert 302 == answer.status
        return f"{path}{answer.location}"

    def health(self) -> list[dict[str, Any]]:
        """Return what its processes say of themselves; most likely all of them are asked."""
        return [json.loads(self.get("/health").body) for _ in range(20)]

    def waiting_clients(self) -> int:
        """Return how many clients wait in all processes together."""
        return sum({each["pid"]: each["waiting_clients"] for each in self.health()}.values())

    def terminate(self) -> float:
        """Send SIGTERM; return when."""
        at = time.monotonic()
        self.process.terminate()
        return at


@contextmanager
def serving(folder: Path, command: tuple[str, ...], config: str = "") -> Iterator[Server]:
    """Serve by a command, until the process ends; it must have been told to.

    Args:
        folder: for its store, its log and what the command needs.
        command: arguments of Python.
        config: what gunicorn's configuration has besides our hooks.
    """
    log = folder / "log"
    (folder / "gunicorn.conf.py").write_text(HOOKS + config)
    variables = {**os.environ, "PYTHONPATH": str(TESTS), STORE: str(folder / "db")}
    with ReservedPort() as port, log.open("a") as out:
        words = [
            each.replace("PORT", str(port.number)).replace("FOLDER", str(folder))
            for each in command
        ]
        with subprocess.Popen(
            [sys.executable, *words], env=variables, stdout=out, stderr=out
        ) as process:
            server = Server(port.number, process, log)
            try:
                until(lambda: server.all_serve(2 if "workers=2" in " ".join(words) else 1))
                yield server
                assert process.wait(30) in (0, -signal.SIGTERM), log.read_text()
            finally:
                process.kill()
