"""Applications as real processes: started, killed, frozen and stopped; clients that talk to them.

Nothing here sleeps for a fixed time: conditions are polled until a generous deadline.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

from support.ledger import Entry, Ledger
from support.ports import ReservedPort
from support.store_file import StoreFile

__all__ = ["App", "Reply", "World", "fetch", "until", "until_held"]

T = TypeVar("T")

#: So long may anything take on a busy machine, seconds, before a test gives up.
PATIENCE = 30.0
_TICK = 0.002
_TESTS = Path(__file__).resolve().parents[1]


def until(what: str, condition: Callable[[], T], timeout: float = PATIENCE) -> T:
    """Return the first true value of the condition; fail if there is none in time."""
    give_up = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > give_up:
            raise AssertionError(f"after {timeout:g} s still not: {what}")
        time.sleep(_TICK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a client got.

    Attributes:
        url: where it was got.
        status, headers, body: as sent.
        hops: the statuses of the redirects before it.
        at: when it was there, system-wide monotonic time in seconds.
    """

    url: str
    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes
    hops: tuple[int, ...] = ()
    at: float = 0.0

    def all(self, name: str) -> list[str]:
        """Return the values of a header field."""
        return [value for key, value in self.headers if key.lower() == name]

    @property
    def location(self) -> str:
        """The absolute URL of the ``Location`` field."""
        [location] = self.all("location")
        return urljoin(self.url, location)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8")


def fetch(
    url: str,
    method: str = "GET",
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    follow: bool = False,
    timeout: float = 2 * PATIENCE,
) -> Reply:
    """Make a request on a connection of its own; with ``follow``, go where redirects point.

    Raises:
        OSError, http.client.HTTPException: the connection broke.
    """
    hops: tuple[int, ...] = ()
    while True:
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        with closing(http.client.HTTPConnection(parts.netloc, timeout=timeout)) as connection:
            connection.request(method, target, body, dict(headers or {}))
            answer = connection.getresponse()
            content = answer.read()
            reply = Reply(
                url=url,
                status=answer.status,
                headers=answer.getheaders(),
                body=content,
                hops=hops,
                at=time.monotonic(),
            )
        if not follow or reply.status not in (302, 303):
            return reply
        url, method, body = reply.location, "HEAD" if method == "HEAD" else "GET", None
        hops = (*hops, reply.status)


class App:
    """One process that serves the application.

    Args:
        name: of its log and ready file.
        folder: where those lie.
        environ: its environment.
        command: what to run.
    """

    def __init__(
        self, name: str, folder: Path, environ: Mapping[str, str], command: Sequence[str]
    ) -> None:
        self._ready = folder / f"{name}.ready"
        self._log = folder / f"{name}.log"
        self._ready.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**environ, "CRASH_READY": str(self._ready)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pid = self._process.pid
        self.port = 0

    def wait_ready(self) -> App:
        """Wait until it serves."""
        until("the application serves", lambda: self._ready.exists() or self._has_ended())
        assert not self._has_ended(), f"it ended at its start:\n{self.log}"
        self.port = int(self._ready.read_text("utf-8"))
        return self

    def wait_serving(self, port: int) -> App:
        """Wait until it serves on a port that it was told."""
        self.port = port
        until("the application serves", lambda: self._has_ended() or self._answers())
        assert not self._has_ended(), f"it ended at its start:\n{self.log}"
        return self

    def _answers(self) -> bool:
        try:
            return fetch(self.url("/health")).status == 200
        except OSError:
            return False

    def _has_ended(self) -> bool:
        return self._process.poll() is not None

    def url(self, target: str) -> str:
        """Return the absolute URL of a path and query."""
        return f"http://127.0.0.1:{self.port}{target}"

    def accepts(self) -> bool:
        """Tell whether it still takes connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def here(self, url: str) -> str:
        """Return a URL of another process, asked here."""
        return urlsplit(url)._replace(netloc=f"127.0.0.1:{self.port}").geturl()

    @property
    def log(self) -> str:
        """All that it has logged so far."""
        return self._log.read_text("utf-8", "replace")

    def errors(self) -> list[str]:
        """Return the lines it has logged as errors."""
        return [line for line in self.log.splitlines() if line.startswith(("ERROR:", "CRITICAL:"))]

    def kill(self) -> float:
        """Kill it with SIGKILL; return when, monotonic seconds."""
        at = time.monotonic()
        self._process.kill()
        self._process.wait(PATIENCE)
        return at

    def freeze(self) -> None:
        """Stop it with SIGSTOP."""
        self.signal(signal.SIGSTOP)
        until("the process is stopped", lambda: _state(self.pid) == "T")

    def thaw(self) -> None:
        """Let it go on with SIGCONT."""
        self.signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to stop with SIGTERM."""
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; return its exit code."""
        return self._process.wait(timeout)

    def destroy(self) -> None:
        """Make sure that it is gone."""
        if not self._has_ended():
            self._process.kill()
            self._process.wait(PATIENCE)


def _inherited_path() -> list[str]:
    path = os.environ.get("PYTHONPATH")
    return [path] if path else []


def _state(pid: int) -> str:
    """Return the state letter of a process; see proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]


def until_held(app: App, clients: int = 1) -> None:
    """Wait until so many clients are held at a process's wait URLs."""

    def held() -> bool:
        health = json.loads(fetch(app.url("/health")).body)
        return bool(health["waiting_clients"] == clients)

    until(f"{clients} clients are held", held)


class World:
    """A folder with a store, a ledger and gates, and all processes that work on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store_path = folder / "store" / "crash.db"
        self.store = StoreFile(self.store_path)
        self.ledger = Ledger(folder / "ledger")
        self._gates = folder / "gates"
        self._gates.mkdir()
        self._apps: list[App] = []
        self._ports: list[ReservedPort] = []
        self._clients = ThreadPoolExecutor(64)

    def start(self, name: str = "app", *, wait: bool = True, **options: object) -> App:
        """Start a process; ``retry_ms=5`` is passed to it as ``CRASH_RETRY_MS=5``.

        Its ``port`` is one that nobody else gets as long as this world lasts, or that of a
        process before it. With ``hold`` or ``lazy`` it is the host that embeds the core, else the
        WSGI server.
        """
        host = "core_host" if {"hold", "lazy"} & options.keys() else "wsgi_host"
        command = (sys.executable, "-W", "error", "-m", f"support.{host}")
        app = self.launch(name, command, **{"port": self.reserve_port(), **options})
        return app.wait_ready() if wait else app

    def reserve_port(self) -> int:
        """Return a port that nobody else gets as long as this world lasts."""
        port = ReservedPort()
        self._ports.append(port)
        return port.number

    def launch(self, name: str, command: Sequence[str], **options: object) -> App:
        """Start a process by a command line."""
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_TESTS), *_inherited_path()]),
            "PYTHONUNBUFFERED": "1",
            "CRASH_STORE": str(self.store_path),
            "CRASH_LEDGER": str(self.folder / "ledger"),
            "CRASH_GATES": str(self._gates),
            **{f"CRASH_{key.upper()}": str(value) for key, value in options.items()},
        }
        app = App(name, self.folder, environ, command)
        self._apps.append(app)
        return app

    def close_gate(self, trip: str, point: str, pid: int | None = None) -> None:
        """Keep whoever comes to the point there; with ``pid`` only that process."""
        self._gate(trip, point, pid).touch()

    def open_gate(self, trip: str, point: str, pid: int | None = None) -> None:
        """Let them go on."""
        self._gate(trip, point, pid).unlink()

    def _gate(self, trip: str, point: str, pid: int | None) -> Path:
        return self._gates / (f"{trip}.{point}" + ("" if pid is None else f"@{pid}"))

    def background(self, url: str, *, follow: bool = False, method: str = "GET") -> Future[Reply]:
        """Make a request in a thread."""
        return self._clients.submit(fetch, url, method, follow=follow)

    def reached(self, trip: str, point: str, mark: str = "begin", count: int = 1) -> Entry:
        """Wait until the ledger has so many entries of a kind; return the last of these."""
        found = until(
            f"{count} times {mark} {point} of {trip}",
            lambda: (entries := self.ledger.find(trip, point, mark))[count - 1 :] and entries,
        )
        return found[count - 1]

    def freeze(self, app: App) -> None:
        """Stop a process by SIGSTOP at a moment when it does not hold the lock of the store.

        One that does keeps everybody from writing until it goes on: so SQLite works.
        """

        def frozen() -> bool:
            app.freeze()
            if self.store.is_free():
                return True
            app.thaw()
            return False

        until("it is stopped without the store's lock", frozen)

    def destroy(self) -> None:
        """End all processes and clients."""
        for app in self._apps:
            app.destroy()
        self._clients.shutdown(cancel_futures=True)
        for port in self._ports:
            port.close()
