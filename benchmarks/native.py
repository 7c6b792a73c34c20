"""Requests per second, and processor time, of handlers that stay those of their framework.

Each handler is served by two processes, as it is by one and durable by the other, and they take
turns. The first one knows nothing of Durable. With ``--floor`` it stores its steps by hand (see
``_floor.py``); that is for the ``async def`` handlers of FastAPI. With ``--beside`` both are of one
application, in one process, for FastAPI and Flask: what Durable costs all handlers of an
application is left out.
``fastapi-route`` is no native handler of ours, but one of the core on a route of FastAPI.
With ``--freeze`` the applications of FastAPI call ``gc.freeze()`` when they have loaded, so that
full collections of cycles look at less.
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
from _native_apps import FOLDER, FORM, FREEZE, STEPS

_UVICORN = "-m uvicorn --port {port} --log-level warning --no-access-log --factory _native_apps:"
_WAITRESS = "-m waitress --threads=64 --listen=127.0.0.1:{port} --call _native_apps:"
_SERVERS = {
    "fastapi": f"{_UVICORN}fastapi_app",
    "fastapi-route": f"{_UVICORN}fastapi_route_app",
    "flask": f"{_WAITRESS}flask_app",
    "django": f"{_WAITRESS}django_wsgi",
    "django-asgi": f"{_UVICORN}django_asgi",
}
#: What is compared: the framework, the kind of its handlers, and where they are.
_KINDS = (
    ("fastapi", "async def", ""),
    ("fastapi", "def", "/def"),
    ("fastapi-route", "async def", ""),
    ("flask", "def", ""),
    ("django", "def", ""),
    ("django-asgi", "async def", ""),
)
#: Have handlers that store their steps by hand, too.
_WITH_FLOOR = frozenset({"fastapi", "fastapi-route"})
_HEAD = (
    *("framework", "handler", "steps", "clients", "bare/s", "ours/s"),
    *("bare us", "ours us", "rate o/b", "us b/o"),
)


class _Server(NamedTuple):
    """A server: its port, and the id of its process."""

    port: int
    pid: int


@contextmanager
def _served(framework: str, folder: Path, form: str) -> Iterator[_Server]:
    """Serve the application of a framework in one of its forms."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    folder.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        FOLDER: str(folder),
        FORM: form,
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
    kinds: Sequence[tuple[str, str, str]],
    steps_of: Sequence[int],
    seconds: float,
    rounds: int,
    folder: Path,
    *,
    other: str,
    is_beside: bool,
) -> Iterator[list[object]]:
    for framework in dict.fromkeys(of for of, _, _ in kinds):
        with (
            _served(framework, folder / f"{framework}-{other}", other) as bare,
            _served(framework, folder / framework, "ours") as ours,
        ):
            for of, handler, prefix in kinds:
                if of != framework:
                    continue
                for steps in steps_of:
                    path = f"{prefix}/{steps}"
                    subjects = {
                        "bare": (ours, f"/bare{path}") if is_beside else (bare, path),
                        "ours": (ours, path),
                    }
                    for clients in (1, 16):
                        row = _row(subjects, clients, seconds, rounds)
                        yield [framework, handler, steps, clients, *row]


def _row(
    subjects: Mapping[str, tuple[_Server, str]], clients: int, seconds: float, rounds: int
) -> tuple[float, ...]:
    spent: dict[str, list[float]] = {name: [] for name in subjects}
    bursts = interleaved(
        {
            name: partial(_turn, server, spent[name], path, clients, seconds)
            for name, (server, path) in subjects.items()
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
    parser.add_argument("--steps", type=int, choices=STEPS, nargs="+", default=STEPS[:3])
    parser.add_argument("--floor", action="store_true", help="against steps stored by hand")
    parser.add_argument("--beside", action="store_true", help="both in one process")
    parser.add_argument("--freeze", action="store_true", help="with gc.freeze(), for fastapi")
    options = parser.parse_args()
    if options.floor and not _WITH_FLOOR.issuperset(options.framework or _WITH_FLOOR):
        parser.error("--floor is for fastapi and fastapi-route")
    if options.beside and not {"fastapi", "flask"}.issuperset(options.framework or ["django"]):
        parser.error("--beside is for --framework fastapi and flask")
    if options.beside and options.floor:
        parser.error("either --floor or --beside")
    if options.freeze:
        os.environ[FREEZE] = "1"
    seconds, rounds = (0.5, 5) if options.quick else (1.0, 15)
    with work_folder(options.folder) as folder:
        facts = machine(folder)
        frameworks = options.framework or sorted(_WITH_FLOOR if options.floor else _SERVERS)
        kinds = [
            kind
            for kind in _KINDS
            if kind[0] in frameworks and (kind[1] == "async def" or not options.floor)
        ]
        other = "floor" if options.floor else "bare"
        how = options.steps, seconds, rounds, folder
        rows = list(_rows(kinds, *how, other=other, is_beside=options.beside))
    show(f"native handlers (o: ours, b: {other})", _HEAD, rows)
    figures = [dict(zip(_HEAD, row, strict=True)) for row in rows]
    save_json(options.json, {"machine": facts, "figures": figures})


if __name__ == "__main__":
    main()
