"""The same endpoint on this library, on others, and written by hand: requests per second, in turns.

Each is an ``async def`` endpoint in a process of its own behind uvicorn, and makes each step
durable before the next one. Restate's clients ask its server, which calls the endpoint. What is
not installed is left out:

- ``dbos``: ``pip install -r benchmarks/peers.txt`` in this environment, or in that of
  ``--python``. It is measured over SQLite and, with ``--postgres URL`` (an empty database), over
  PostgreSQL.
- ``unhinged``: the same; over SQLite.
- ``restate``: the same, and ``--restate PATH`` with the ``restate-server`` of
  ``npm install @restatedev/restate-server``.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from _load import load, wait_for_server
from _measure import arguments, interleaved, machine, median, ratio, save_json, show, work_folder
from _server import served

_UVICORN = ("uvicorn", "--lifespan", "off", "--log-level", "warning", "--no-access-log", "--port")
_HERE = Path(__file__).parent


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def _running(command: list[str], port: int, folder: Path, **environment: str) -> Iterator[None]:
    """Run a program until the end; begin when it listens on the port."""
    variables = {**os.environ, "PYTHONPATH": str(_HERE), **environment}
    with open(folder / f"{port}.log", "wb") as log:
        process = subprocess.Popen(command, env=variables, cwd=folder, stdout=log, stderr=log)
        try:
            wait_for_server(port, 60.0)
            yield
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def _application(python: str, name: str, database: str, folder: Path) -> Iterator[int]:
    """Serve what is written for one of the others; yield its port."""
    port = _free_port()
    command = [python, "-m", *_UVICORN, str(port), f"_peer_{name}:asgi"]
    with _running(command, port, folder, BENCH_DATABASE=database):
        yield port


@contextmanager
def _restate(python: str, server: Path, folder: Path) -> Iterator[int]:
    """Serve the endpoint and start the server; yield the port that clients ask."""
    port, ingress, admin, node = (_free_port() for _ in range(4))
    endpoint = [python, "-m", "hypercorn", "--bind", f"127.0.0.1:{port}", "_peer_restate:app"]
    command = [str(server.resolve()), "--base-dir", str(folder), "--node-name", "bench"]
    settings = {
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
        "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
        "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
        "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{node}",
    }
    with (
        _running(endpoint, port, folder),
        _running(command, ingress, folder, **settings),
    ):
        wait_for_server(admin)
        deployment = json.dumps({"uri": f"http://127.0.0.1:{port}"}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{admin}/deployments",
            deployment,
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            assert response.status in (200, 201)
        yield ingress


def _has(python: str, module: str) -> bool:
    program = [python, "-c", f"import {module}, uvicorn"]
    return subprocess.run(program, stderr=subprocess.DEVNULL, check=False).returncode == 0


def _start(
    stack: ExitStack, options: argparse.Namespace, steps: list[int], folder: Path
) -> dict[str, int]:
    """Start all subjects that there are; return their ports."""
    ports = {
        name: stack.enter_context(served("uvicorn", name, steps, folder / name))
        for name in ("floor", "ours")
    }
    if _has(options.python, "dbos"):
        sqlite = f"sqlite:///{folder / 'dbos.db'}"
        dbos = _application(options.python, "dbos", sqlite, folder)
        ports["DBOS, SQLite"] = stack.enter_context(dbos)
        if options.postgres:
            dbos = _application(options.python, "dbos", options.postgres, folder)
            ports["DBOS, PostgreSQL"] = stack.enter_context(dbos)
    if _has(options.python, "unhinged"):
        path = str(folder / "unhinged.db")
        unhinged = _application(options.python, "unhinged", path, folder)
        ports["unhinged"] = stack.enter_context(unhinged)
    if options.restate and _has(options.python, "restate"):
        restate = _restate(options.python, options.restate, folder)
        ports["Restate"] = stack.enter_context(restate)
    return ports


def _compare(
    ports: Mapping[str, int], steps: int, clients: int, seconds: float, rounds: int
) -> Iterator[list[object]]:
    """Yield a row for each subject."""
    turns = {
        name: partial(load, port, "/bench/run", clients, seconds, body=b"%d" % steps)
        if name == "Restate"
        else partial(load, port, f"/{steps}", clients, seconds)
        for name, port in ports.items()
    }
    bursts = interleaved(turns, rounds)
    for name, each in bursts.items():
        rate = median(burst.rate for burst in each)
        p50 = median(burst.p50 for burst in each) * 1000
        ours_to_it = ratio(bursts["ours"], each, lambda burst: burst.rate)
        yield [name, steps, clients, rate, p50, ours_to_it]


def _parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the others")
    parser.add_argument("--postgres", metavar="URL", help="an empty database for DBOS")
    parser.add_argument("--restate", type=Path, metavar="PATH", help="the program restate-server")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 3, 10], metavar="N")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16], metavar="N")
    return parser


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    options = _parser().parse_args()
    seconds, rounds = (1.0, 3) if options.quick else (3.0, 7)
    with work_folder(options.folder) as folder, ExitStack() as stack:
        facts = machine(folder)
        ports = _start(stack, options, options.steps, folder)
        rows = [
            row
            for steps in options.steps
            for clients in options.clients
            for row in _compare(ports, steps, clients, seconds, rounds)
        ]
    head = ("", "steps", "clients", "runs/s", "p50 ms", "ours to it")
    show("the same endpoint, in turns", head, rows)
    save_json(options.json, {"machine": facts, "peers": rows})


if __name__ == "__main__":
    main()
