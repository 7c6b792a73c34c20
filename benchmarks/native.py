"""Requests per second, and processor time, of handlers that stay those of their framework.

Each handler is served by two processes, as it is by one and durable by the other, and the two take
turns. The first one knows nothing of Durable.
FastAPI, and Django with coroutines, are served by uvicorn; Flask, and Django with plain views, by
waitress. Ratios are medians over the turns. The processor time is that of the server's process for
one request: unlike the rate, it hardly depends on what else the machine does. It is read from
``/proc``, and is zero where there is none.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from _load import load, wait_for_server
from _measure import (
    Burst,
    arguments,
    interleaved,
    machine,
    median,
    ratio,
    save_json,
    show,
    work_folder,
)
from _native_apps import FOLDER, IS_BARE, STEPS

_UVICORN = "-m uvicorn --port {port} --log-level warning --no-access-log --factory _native_apps:"
_WAITRESS = "-m waitress --threads=64 --listen=127.0.0.1:{port} --call _native_apps:"
_SERVERS = {
    "fastapi": f"{_UVICORN}fastapi_app",
    "flask": f"{_WAITRESS}flask_app",
    "django": f"{_WAITRESS}django_wsgi",
    "django-asgi": f"{_UVICORN}django_asgi",
}
#: What is compared: the framework, the kind of its handlers, and where they are.
_KINDS = (
    ("fastapi", "async def", ""),
    ("fastapi", "def", "/def"),
    ("flask", "def", ""),
    ("django", "def", ""),
    ("django-asgi", "async def", ""),
)
_HEAD = (
    *("framework", "handler", "steps", "clients", "bare/s", "ours/s"),
    *("bare us", "ours us", "rate o/b", "us b/o"),
)


class _Server(NamedTuple):
    """A server: its port, and the id of its process."""

    port: int
    pid: int


@contextmanager
def _served(framework: str, folder: Path, *, is_bare: bool) -> Iterator[_Server]:
    """Serve the application of a framework."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    folder.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        FOLDER: str(folder),
        IS_BARE: "yes" if is_bare else "no",
    }
    command = [sys.executable, *_SERVERS[framework].format(port=port).split()]
    process = subprocess.Popen(command, env=environment, cwd=folder)
    try:
        wait_for_server(port, patience=60)
        yield _Server(port, process.pid)
    finally:
        process.terminate()
        process.wait(20)


def _processor_seconds(pid: int) -> float:
    """Return the time that a process has spent on a processor; zero where that is not known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _turn(server: _Server, spent: list[float], path: str, clients: int, seconds: float) -> Burst:
    """Take one turn, and note the server's processor time for a request."""
    before = _processor_seconds(server.pid)
    burst = load(server.port, path, clients, seconds)
    spent.append((_processor_seconds(server.pid) - before) / len(burst.latencies))
    return burst


def _rows(
    kinds: Sequence[str], steps_of: Sequence[int], seconds: float, rounds: int, folder: Path
) -> Iterator[list[object]]:
    for framework in kinds:
        with (
            _served(framework, folder / f"{framework}-bare", is_bare=True) as bare,
            _served(framework, folder / framework, is_bare=False) as ours,
        ):
            for of, handler, prefix in _KINDS:
                if of != framework:
                    continue
                for steps in steps_of:
                    for clients in (1, 16):
                        servers = {"bare": bare, "ours": ours}
                        row = _row(servers, f"{prefix}/{steps}", clients, seconds, rounds)
                        yield [framework, handler, steps, clients, *row]


def _row(
    servers: Mapping[str, _Server], path: str, clients: int, seconds: float, rounds: int
) -> tuple[float, ...]:
    spent: dict[str, list[float]] = {name: [] for name in servers}
    bursts = interleaved(
        {
            name: partial(_turn, server, spent[name], path, clients, seconds)
            for name, server in servers.items()
        },
        rounds,
    )
    bare, ours = bursts["bare"], bursts["ours"]
    bare_us, ours_us = (median(times[1:]) * 1e6 for times in spent.values())
    return (
        median(burst.rate for burst in bare),
        median(burst.rate for burst in ours),
        bare_us,
        ours_us,
        ratio(ours, bare, lambda burst: burst.rate),
        bare_us / ours_us if ours_us else 0.0,
    )


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    parser = arguments(__doc__)
    parser.add_argument("--framework", choices=sorted(_SERVERS), nargs="+")
    parser.add_argument("--steps", type=int, choices=STEPS, nargs="+", default=STEPS)
    options = parser.parse_args()
    seconds, rounds = (0.5, 5) if options.quick else (1.0, 15)
    with work_folder(options.folder) as folder:
        facts = machine(folder)
        kinds = options.framework or sorted(_SERVERS)
        rows = list(_rows(kinds, options.steps, seconds, rounds, folder))
    show("native handlers (o: ours, b: bare)", _HEAD, rows)
    figures = [dict(zip(_HEAD, row, strict=True)) for row in rows]
    save_json(options.json, {"machine": facts, "figures": figures})


if __name__ == "__main__":
    main()
