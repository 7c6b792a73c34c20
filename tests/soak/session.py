"""One soak: processes, clients and chaos, and what the judge says about them."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

from soak.chaos import STOP_TIMEOUT, Chaos, Counts, Process
from soak.clients import Clients
from soak.clock import ShiftedClock
from soak.host import ADAPTERS
from soak.journal import Journal, read_lines
from soak.programs import Program
from soak.steady import Sampler, Steadiness
from soak.verdict import StoreFacts, Tally, Violation, judge
from support.processes import until
from support.store_file import StoreFile

__all__ = ["Soak"]

#: All runs must have ended after this, seconds, once nothing happens to the processes any more.
_LAST_RUNS = 120.0
#: Leases are renewed so often while they last, so that freezes need not take long.
_RENEWALS = 5
#: Seconds between two requests whose time is measured.
_BETWEEN_STEPS = 0.02


class Soak:
    """A context: the processes are started at its beginning, and gone at its end.

    Args:
        folder: for the store, the journal, the clocks and the logs.
        seed: of the programs and of what is done to the processes.
        clients: how many ask at the same time.
        mutant: see :mod:`soak.mutants`.
        kinds: of the processes.
        actions: see :class:`Chaos`.
        lease: of the processes, seconds.
        program: of each run, instead of random ones.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        clients: int = 12,
        mutant: str = "",
        kinds: tuple[str, ...] = tuple(ADAPTERS),
        actions: dict[str, float] | None = None,
        lease: float = 3.0,
        program: Program | None = None,
    ) -> None:
        self._store = folder / "soak.db"
        self._journal = Journal(folder / "journal")
        environ = {
            "SOAK_MUTANT": mutant,
            "SOAK_HEARTBEAT": str(lease / _RENEWALS),
            "SOAK_LEASE": str(lease),
        }
        self._processes = [Process(kind, folder, self._journal, environ) for kind in kinds]
        urls = [each.url for each in self._processes if each.kind != "worker"]
        self._clients = Clients(seed, urls, self._journal, clients, program)
        self._chaos = Chaos(
            seed,
            self._processes,
            self._store,
            ShiftedClock(folder / "clock"),
            self._journal,
            lease=lease,
            actions=actions,
        )
        self._ended = threading.Event()
        self._follower = threading.Thread(target=self._follow_journal, daemon=True)

    @property
    def counts(self) -> Counts:
        """How often each thing was done."""
        return self._chaos.counts

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        for process in self._processes:
            until(f"{process.kind} serves", process.is_ready)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.close()
        self._ended.set()
        self._journal.close()

    def run(self, *, kills: int, limit: float, notice: Callable[[Counts], object]) -> None:
        """Soak until so many kills; then let all runs end and stop the processes."""
        self._begin()
        self._chaos.run(kills, notice, limit)
        self._chaos.calm()
        self._finish()

    def run_steadily(self, seconds: float) -> Steadiness:
        """Let the clients ask, do nothing to the processes, and measure; then as :meth:`run`."""
        sampler = Sampler({process.kind: process.pid for process in self._processes})
        latencies: list[tuple[float, float]] = []
        self._begin()
        sampler.start()
        begin = time.monotonic()
        while (now := time.monotonic()) < begin + seconds:
            latencies.append((now, self._clients.ask_for_steps(len(latencies))))
            time.sleep(_BETWEEN_STEPS)
        sampler.stop()
        self._finish()
        return Steadiness.of(sampler.samples, latencies, begin, begin + seconds)

    def _begin(self) -> None:
        self._follower.start()
        self._clients.start()

    def _finish(self) -> None:
        self._clients.stop_asking()
        self._wait_for_runs()
        self._clients.finish()
        self._stop_processes()

    def judge(self) -> tuple[list[Violation], Tally]:
        """Return what is wrong, and what the soak amounted to."""
        lines = [line for _, line in read_lines(self._journal.path)]
        return judge(lines, read_store(self._store))

    def _follow_journal(self) -> None:
        offset = 0
        while not self._ended.wait(0.02):
            for end, line in list(read_lines(self._journal.path, offset)):
                self._clients.on_line(line)
                offset = end

    def _wait_for_runs(self) -> None:
        """Wait for the end of all runs; the judge names those that are stuck."""
        store, give_up = StoreFile(self._store), time.monotonic() + _LAST_RUNS
        while not store.all_ended() and time.monotonic() < give_up:
            time.sleep(0.2)

    def _stop_processes(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            if process.wait(STOP_TIMEOUT) is None:
                process.note_stuck()


def read_store(path: Path) -> StoreFacts:
    """Read what is in the store, with plain SQL."""
    store = StoreFile(path)
    notes: dict[tuple[str, str], list[str]] = defaultdict(list)
    steps: dict[str, list[str]] = defaultdict(list)
    with closing(store.connect()) as db:
        rows = db.execute(
            "SELECT id, json_extract(data, '$.trip'), json_extract(data, '$.path') FROM event "
            "WHERE name = 'note' ORDER BY seq"
        )
        for event_id, trip, point in rows:
            notes[trip, point].append(event_id)
        rows = db.execute(
            "SELECT run.id, step.name FROM step JOIN run ON run.seq = step.key >> 24 "
            "WHERE step.ok ORDER BY step.key"
        )
        for run, name in rows:
            steps[run].append(name)
        parents = dict(db.execute("SELECT id, parent FROM run WHERE parent IS NOT NULL"))
    return StoreFacts(
        phases=store.runs(),
        results={run: body for run, (_, body) in store.results().items()},
        notes=notes,
        steps=steps,
        parents=parents,
    )
