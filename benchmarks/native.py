"""Requests per second, and processor time, of handlers that stay those of their framework.

Each handler is served twice by the same process, as it is and durable, and the two take turns.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

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
from _native_apps import FOLDER, STEPS

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


@contextmanager
def _served(framework: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Serve the application of a framework; yield the port, and the id of the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    folder.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        FOLDER: str(folder),
    }
    command = [sys.executable, *_SERVERS[framework].format(port=port).split()]
    process = subprocess.Popen(command, env=environment, cwd=folder)
    try:
        wait_for_server(port, patience=60)
        yield port, process.pid
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


def _turn(pid: int, spent: list[float], request: Callable[[], Burst]) -> Burst:
    """Take one turn, and note the server's processor time for a request."""
    before = _processor_seconds(pid)
    burst = request()
    spent.append((_processor_seconds(pid) - before) / len(burst.latencies))
    return burst


def _rows(
    kinds: Sequence[str], steps_of: Sequence[int], seconds: float, rounds: int, folder: Path
) -> Iterator[list[object]]:
    for framework in kinds:
        with _served(framework, folder / framework) as (port, pid):
            for of, handler, prefix in _KINDS:
                if of != framework:
                    continue
                for steps in steps_of:
                    for clients in (1, 16):
                        row = _row(port, pid, f"{prefix}/{{}}/{steps}", clients, seconds, rounds)
                        yield [framework, handler, steps, clients, *row]


def _row(
    port: int, pid: int, path: str, clients: int, seconds: float, rounds: int
) -> tuple[float, ...]:
    spent: dict[str, list[float]] = {"bare": [], "ours": []}
    bursts = interleaved(
        {
            name: partial(
                _turn, pid, times, partial(load, port, path.format(name), clients, seconds)
            )
            for name, times in spent.items()
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
