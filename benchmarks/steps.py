"""One long run: 1,000 steps in sequence against 1,000 commits by hand, and 100 to 5,000 steps.

It also counts the commits and, if ``strace`` is installed, how often the log was forced to disk:
at most n + 1 times in a run of n steps.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from unittest.mock import patch

from _inprocess import make_request
from _measure import Burst, arguments, interleaved, machine, median, save_json, show, work_folder
from _subjects import Subjects

from durable_core import Response
from durable_core.ports import Checkpoint, Write
from durable_core.stores.sqlite import SQLiteStore


@contextmanager
def counted_checkpoints(store: SQLiteStore) -> Iterator[list[int]]:
    """Count the transactions that checkpoint a run, by their writes. This slows the store down."""
    counted: list[int] = []
    commit = store.commit

    def counting(
        writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        if any(isinstance(write, Checkpoint) for write in writes):
            counted.append(len(writes))
        return commit(writes, wait=wait)

    with patch.object(store, "commit", counting):
        yield counted


class Bench:
    """The subjects over a store that counts, and the loop for ``async def``."""

    def __init__(self, folder: Path) -> None:
        self.store = SQLiteStore(folder / "ours.db")
        self.subjects = Subjects.in_folder(folder, self.store)
        self.runner = asyncio.Runner()

    def close(self) -> None:
        """Stop the engine."""
        self.runner.run(self.subjects.durable.stop_async())
        self.subjects.close()
        self.runner.close()

    def runs(self, steps: int) -> dict[str, Callable[[], Response]]:
        """Return a function for each subject that executes one run of this many steps."""
        by_hand = self.subjects.sync("floor", steps)
        sync = self.subjects.sync("ours", steps)
        asynchronous = self.subjects.asynchronous("ours", steps)

        async def call() -> Response:
            return await asynchronous(make_request())

        return {
            "floor": lambda: by_hand(make_request()),
            "def": lambda: sync(make_request()),
            "async def": lambda: self.runner.run(call()),
        }


def _timed(run: Callable[[], Response]) -> Callable[[], Burst]:
    def turn() -> Burst:
        began = perf_counter()
        if run().status != 200:
            raise AssertionError("the run did not end as it should")
        took = perf_counter() - began
        return Burst((took,), took)

    return turn


def _compare(bench: Bench, sizes: Sequence[int], rounds: int) -> list[list[object]]:
    rows: list[list[object]] = []
    for steps in sizes:
        runs = bench.runs(steps)
        bursts = interleaved({name: _timed(run) for name, run in runs.items()}, rounds)
        for name in ("def", "async def"):
            pairs = zip(bursts[name], bursts["floor"], strict=True)
            seconds = median(burst.seconds for burst in bursts[name])
            floor = median(burst.seconds for burst in bursts["floor"])
            with counted_checkpoints(bench.store) as counted:
                runs[name]()
            ratio = median(ours.seconds / hand.seconds for ours, hand in pairs)
            rows.append([name, steps, floor, seconds, ratio, seconds / steps * 1e6, len(counted)])
    return rows


def _forced_writes(face: str, steps: int, folder: Path) -> int:
    """Return how often a process that executes one such run forces the log to disk."""
    trace = folder / "trace"
    program = [sys.executable, __file__, "--trace", face, str(steps), "--folder", str(folder)]
    subprocess.run(
        ["strace", "-f", "-y", "-e", "trace=fdatasync,fsync", "-o", str(trace), *program],
        check=True,
    )
    return len(re.findall(r"sync\(\d+<[^>]*ours\.db-wal>", trace.read_text("utf-8", "replace")))


def _trace(face: str, steps: int, parent: Path) -> None:
    """Execute one run under ``strace``."""
    with work_folder(parent) as folder:
        bench = Bench(folder)
        bench.runs(steps)[face]()
        bench.close()


def _parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--trace", nargs=2, metavar=("FACE", "STEPS"), help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    options = _parser().parse_args()
    if options.trace:
        _trace(options.trace[0], int(options.trace[1]), options.folder)
        return
    sizes, rounds = ((100, 1000), 2) if options.quick else ((100, 1000, 5000), 5)
    with work_folder(options.folder) as folder:
        facts = machine(folder)
        bench = Bench(folder)
        rows = _compare(bench, sizes, rounds)
        bench.close()
        head = ("", "steps", "floor s", "ours s", "o/f", "us per step", "commits")
        show("sequential steps", head, rows)
        forced: list[list[object]] = []
        if shutil.which("strace"):
            base = {face: _forced_writes(face, 0, folder) for face in ("def", "async def")}
            for face in base:
                forced.append([face, 100, _forced_writes(face, 100, folder) - base[face]])
            show("forced writes of the log (strace)", ("", "steps", "more than 0 steps"), forced)
    save_json(options.json, {"machine": facts, "steps": rows, "forced": forced})


if __name__ == "__main__":
    main()
