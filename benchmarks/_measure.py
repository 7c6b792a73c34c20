"""Measuring on a machine with other load: interleaved bursts, medians, ratios."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Burst",
    "arguments",
    "fsync_seconds",
    "interleaved",
    "machine",
    "median",
    "quantile",
    "ratio",
    "save_json",
    "show",
    "work_folder",
]

median = statistics.median


@dataclass(frozen=True, slots=True)
class Burst:
    """What one subject did in one turn.

    Attributes:
        latencies: of each request, seconds.
        seconds: how long the turn took.
        busy: share of a processor that the load generator needed, if it is another process.
    """

    latencies: Sequence[float]
    seconds: float
    busy: float = 0.0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds

    @property
    def p50(self) -> float:
        """Median latency, seconds."""
        return quantile(self.latencies, 0.5)

    @property
    def p99(self) -> float:
        """Latency that one request in a hundred exceeds, seconds."""
        return quantile(self.latencies, 0.99)


def quantile(values: Sequence[float], q: float) -> float:
    """Return the value that a share q of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * q))]


def interleaved(subjects: Mapping[str, Callable[[], Burst]], rounds: int) -> dict[str, list[Burst]]:
    """Run the subjects by turns, in another order each round. A first turn is discarded."""
    bursts: dict[str, list[Burst]] = {name: [] for name in subjects}
    names = list(subjects)
    for name in names:
        subjects[name]()
    for round_ in range(rounds):
        shift = round_ % len(names)
        for name in names[shift:] + names[:shift]:
            bursts[name].append(subjects[name]())
    return bursts


def ratio(
    ours: Sequence[Burst], others: Sequence[Burst], figure: Callable[[Burst], float]
) -> float:
    """Return the median, over the rounds, of our figure divided by the other's."""
    return median(figure(a) / figure(b) for a, b in zip(ours, others, strict=True))


def fsync_seconds(folder: Path, times: int = 300) -> float:
    """Return the median time of an append of 4 KiB and ``fdatasync`` in the folder."""
    block, taken = os.urandom(4096), []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(times):
            os.write(file.fileno(), block)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return median(taken)


def machine(folder: Path) -> dict[str, object]:
    """Return the properties of the machine that the figures depend on, and print them."""
    facts: dict[str, object] = {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "fsync_ms": round(fsync_seconds(folder) * 1000, 3),
    }
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    return facts


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; numbers are aligned right."""
    cells = [list(head), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    print(f"\n{title}")
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.2f}"
    return str(cell)


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument(
        "--folder", type=Path, help="where the databases go (default: the system's temporary one)"
    )
    return parser


@contextmanager
def work_folder(parent: Path | None) -> Iterator[Path]:
    """Make a folder for the databases, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="durable-bench-", dir=parent) as folder:
        yield Path(folder)


def save_json(path: Path | None, figures: object) -> None:
    """Write the figures, if a file was named."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
