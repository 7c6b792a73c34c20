"""``python3 dev.py soak``: four processes on one store, and everything that may happen to them."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from random import SystemRandom

from soak.chaos import Counts
from soak.mutants import MUTANTS
from soak.session import Soak
from soak.steady import Steadiness
from soak.verdict import Tally, Violation


def main() -> int:
    """Soak, print a report, and return the exit code: 1 if there was a violation."""
    options = _parse()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="durable-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    seed = options.seed if options.seed is not None else SystemRandom().randrange(10**6)
    print(f"soak: seed {seed}, in {folder}", flush=True)
    began = time.monotonic()
    steady = None
    with Soak(folder, seed, clients=options.clients, mutant=options.mutant) as soak:
        if options.steady:
            steady = soak.run_steadily(60 * options.steady)
        else:
            soak.run(kills=options.kills, limit=60 * options.minutes, notice=_show_progress)
        violations, tally = soak.judge()
    _report(soak.counts, tally, violations, time.monotonic() - began)
    faults = _report_steadiness(steady) if steady is not None else 0
    if violations or faults:
        print(f"soak: the evidence is in {folder}")
    elif options.folder is None:
        shutil.rmtree(folder)
    return 1 if violations or faults else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py soak", allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=300, help="end after so many SIGKILLs; 300")
    parser.add_argument("--seed", type=int, help="of the programs and of what is done; random")
    parser.add_argument("--clients", type=int, default=16, help="at the same time; 16")
    parser.add_argument("--minutes", type=float, default=60, help="end after so long; 60")
    parser.add_argument(
        "--steady",
        type=float,
        metavar="MINUTES",
        help="kill nothing; nothing may grow",
    )
    parser.add_argument("--folder", help="for the store, the journal and the logs; it is kept")
    parser.add_argument(
        "--mutant", choices=sorted(MUTANTS), default="", help="break the engine: must be caught"
    )
    return parser.parse_args()


def _show_progress(counts: Counts) -> None:
    if sys.stderr.isatty():
        print(f"\r{counts}", end="\x1b[K", file=sys.stderr, flush=True)


def _report(counts: Counts, tally: Tally, violations: list[Violation], seconds: float) -> None:
    done = ", ".join(f"{count} {name}" for name, count in asdict(counts).items())
    seen = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in asdict(tally).items())
    print(f"soak: {done} in {seconds:.0f} s")
    print(f"soak: {seen}")
    for violation in violations[:20]:
        print(f"soak: VIOLATION: {violation}")
    print(f"soak: {len(violations)} violations")


def _report_steadiness(steady: Steadiness) -> int:
    """Print what was measured; return how much of it is not steady."""
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"soak: by sixths of the time; load of the machine {load}")
    for line in steady.lines:
        print(f"soak: {line}")
    for fault in steady.faults:
        print(f"soak: NOT STEADY: {fault}")
    if not steady.faults:
        print("soak: steady: nothing grew, and nothing became slower")
    return len(steady.faults)


if __name__ == "__main__":
    sys.exit(main())
