"""Latency and throughput of an endpoint of 0, 1, 3 and 10 steps: bare, written by hand, and ours.

The three take turns, in one run and on one disk. ``bare`` makes nothing durable; ``floor`` is what
an engineer would write by hand for this endpoint (``_floor.py``); ``ours`` is this library. They
are measured twice: called directly, which shows the engine, and behind a server, in a process of
their own: a WSGI server (``def``), an ASGI server or our asyncio server (``async def``). Ratios
are medians over the turns, so a busy machine disturbs them little.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from _inprocess import call_from_tasks, call_from_threads
from _load import load
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
from _server import SERVERS, served
from _subjects import NAMES, Async, Subjects

_HEAD = (
    *("steps", "clients", "bare ms", "floor ms", "ours ms", "floor p99", "ours p99"),
    *("bare/s", "floor/s", "ours/s", "ms o/f", "rate o/f", "rate o/b"),
)
#: One cell of the tables: what is measured, the steps, the clients, and a turn of each subject.
_Cell = tuple[str, int, int, dict[str, Callable[[], Burst]]]


def _called(subjects: Subjects, steps: Sequence[int], seconds: float) -> Iterator[_Cell]:
    """Yield the cells without a server: ``def`` from threads, ``async def`` from tasks."""
    for n in steps:
        sync = {name: subjects.sync(name, n) for name in NAMES}
        for clients in (1, 16):
            yield (
                "def",
                n,
                clients,
                {name: partial(call_from_threads, sync[name], clients, seconds) for name in NAMES},
            )
    with asyncio.Runner() as runner:
        for n in steps:
            handlers = {name: subjects.asynchronous(name, n) for name in NAMES}
            for clients in (1, 16, 64):
                yield (
                    "async def",
                    n,
                    clients,
                    {
                        name: partial(_run, runner, handlers[name], clients, seconds)
                        for name in NAMES
                    },
                )
        runner.run(subjects.durable.stop_async())


def _run(runner: asyncio.Runner, handler: Async, clients: int, seconds: float) -> Burst:
    return runner.run(call_from_tasks(handler, clients, seconds))


def _served(server: str, steps: Sequence[int], seconds: float, folder: Path) -> Iterator[_Cell]:
    """Yield the cells behind a server."""
    with ExitStack() as stack:
        ports = {
            name: stack.enter_context(served(server, name, steps, folder / server / name))
            for name in NAMES
        }
        for n in steps:
            for clients in (1, 16, 64):
                yield (
                    server,
                    n,
                    clients,
                    {name: partial(load, ports[name], f"/{n}", clients, seconds) for name in NAMES},
                )


def _measure(cells: Iterator[_Cell], rounds: int) -> list[dict[str, object]]:
    """Measure each cell; print a table for each kind, and return the figures."""
    figures: list[dict[str, object]] = []
    tables: dict[str, list[list[object]]] = {}
    for kind, steps, clients, turns in cells:
        bursts = interleaved(turns, rounds)
        row = _figures(bursts)
        tables.setdefault(kind, []).append([steps, clients, *row.values()])
        busy = max(burst.busy for each in bursts.values() for burst in each)
        figures.append({"kind": kind, "steps": steps, "clients": clients, **row, "busy": busy})
    for kind, rows in tables.items():
        show(f"{kind} (o: ours, f: floor, b: bare)", _HEAD, rows)
    return figures


def _figures(bursts: dict[str, list[Burst]]) -> dict[str, float]:
    bare, floor, ours = (bursts[name] for name in NAMES)
    return {
        "bare_p50_ms": median(burst.p50 for burst in bare) * 1000,
        "floor_p50_ms": median(burst.p50 for burst in floor) * 1000,
        "ours_p50_ms": median(burst.p50 for burst in ours) * 1000,
        "floor_p99_ms": median(burst.p99 for burst in floor) * 1000,
        "ours_p99_ms": median(burst.p99 for burst in ours) * 1000,
        "bare_rate": median(burst.rate for burst in bare),
        "floor_rate": median(burst.rate for burst in floor),
        "ours_rate": median(burst.rate for burst in ours),
        "p50_to_floor": ratio(ours, floor, lambda burst: burst.p50),
        "rate_to_floor": ratio(ours, floor, lambda burst: burst.rate),
        "rate_to_bare": ratio(ours, bare, lambda burst: burst.rate),
    }


def _parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    servers = sorted(SERVERS)
    parser.add_argument("--server", choices=servers, nargs="+", default=["waitress"])
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 1, 3, 10], metavar="N")
    parser.add_argument("--only", choices=("called", "served"), help="leave the other half out")
    return parser


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    options = _parser().parse_args()
    seconds, rounds = (0.3, 3) if options.quick else (1.0, 7)
    figures: list[dict[str, object]] = []
    with work_folder(options.folder) as folder:
        facts = machine(folder)
        if options.only != "served":
            subjects = Subjects.in_folder(folder)
            figures += _measure(_called(subjects, options.steps, seconds), rounds)
            subjects.close()
        if options.only != "called":
            behind: list[dict[str, object]] = []
            for server in options.server:
                cells = _served(server, options.steps, seconds, folder)
                behind += _measure(cells, rounds)
            busy = max(float(str(each["busy"])) for each in behind)
            print(f"load generator: benchmarks/_load.py, at most {busy:.0%} of a processor")
            figures += behind
    save_json(options.json, {"machine": facts, "figures": figures})


if __name__ == "__main__":
    main()
