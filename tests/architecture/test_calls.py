"""A request stays short: few calls, in few files, and few frames above the handler.

``benchmarks/calls.py`` counts, and measures no time. Each limit is what Python 3.11 takes and 3 %
more; no file and no frame more. Python 3.12 and 3.13 take up to 4 % fewer calls, because they
inline comprehensions, so the limits hold there too. Lower a limit when a change makes it possible.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.source_tree import ROOT

Figures = tuple[int, ...]
FIGURES = ("all_calls", "library_calls", "files", "frames")

#: (kind of handler, steps) -> limits, in the order of FIGURES.
LIMITS: dict[tuple[str, int], Figures] = {
    ("def", 0): (110, 60, 12, 9),
    ("def", 1): (280, 146, 20, 9),
    ("def", 3): (504, 255, 20, 9),
    ("def", 10): (1276, 637, 20, 9),
    ("async def", 0): (177, 73, 14, 4),
    ("async def", 1): (356, 160, 22, 4),
    ("async def", 3): (569, 269, 22, 4),
    ("async def", 10): (1305, 651, 22, 4),
}

#: Other threads and slow commits only ever add calls, so one run within the limits is enough.
ATTEMPTS = 3


def count_calls(folder: Path) -> dict[tuple[str, int], Figures]:
    """Run the benchmark in a process of its own, which nothing else traces."""
    report = folder / "calls.json"
    program = [sys.executable, str(ROOT / "benchmarks" / "calls.py"), "--json", str(report)]
    subprocess.run(program, check=True)
    rows = json.loads(report.read_text("utf-8"))["figures"]
    return {(row["handler"], row["steps"]): tuple(row[name] for name in FIGURES) for row in rows}


def over_limits(
    counted: dict[tuple[str, int], Figures], limits: dict[tuple[str, int], Figures]
) -> list[str]:
    """Return what is over its limit, or was not counted at all."""
    return [
        f"{kind}, {steps} steps: {name} {figure}, limit {limit}"
        for (kind, steps), figures in counted.items()
        for name, figure, limit in zip(FIGURES, figures, limits[kind, steps], strict=True)
        if not 0 < figure <= limit
    ]


def test_a_request_stays_within_its_limits(tmp_path: Path) -> None:
    """No figure of any kind of handler is over its limit."""
    for _ in range(ATTEMPTS):
        counted = count_calls(tmp_path)
        over = over_limits(counted, LIMITS)
        if not over:
            break

    assert LIMITS.keys() == counted.keys()
    assert [] == over


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ((100, 50, 20, 10), []),
        ((101, 50, 20, 10), ["def, 1 steps: all_calls 101, limit 100"]),
        (
            (100, 50, 0, 11),
            ["def, 1 steps: files 0, limit 20", "def, 1 steps: frames 11, limit 10"],
        ),
    ],
)
def test_over_limits(figures: Figures, expected: list[str]) -> None:
    """A figure over its limit is named, and so is one that is zero; one at its limit is not."""
    assert expected == over_limits({("def", 1): figures}, {("def", 1): (100, 50, 20, 10)})
