"""10,000 runs asleep at once: what they cost while they sleep, and how fast they wake.

While they sleep the engine is stopped and started again over their store. With ``--count 100000
--rate 2500`` it shows how late they are if so many are due per second, for 40 seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from time import perf_counter, sleep, time

from _measure import arguments, machine, quantile, save_json, show, work_folder

from durable_core import Durable, Limits, Request, endpoint_adapter, step
from durable_core.api.adapter import HTTPHandler
from durable_core.engine.embedded import embedded
from durable_core.sync import step as sync_step

_CLIENTS = 64


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that the process holds at one moment."""

    threads: int
    tasks: int
    rss_mib: float

    @classmethod
    def now(cls, loop: asyncio.AbstractEventLoop) -> Usage:
        """Look, from another thread than the loop's."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        tasks = asyncio.run_coroutine_threadsafe(count(), loop).result()
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        return cls(threading.active_count(), tasks, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


class Sleepers:
    """Two endpoints that sleep until a time that the request names: ``def`` and ``async def``.

    Args:
        folder: where the store is.
        rate: how many are due per second from the deadline on; 0 for all at once.
    """

    def __init__(self, folder: Path, rate: int = 0) -> None:
        self.deadline = 0.0
        self.woken = 0
        self.lateness: list[float] = []
        self._lock = threading.Lock()
        self._asked = count()
        self._rate = rate
        self.durable: Durable[HTTPHandler] = Durable(
            id="sleepers",
            endpoint_adapter=endpoint_adapter,
            store=folder / "sleepers.db",
            limits=Limits(live_runs=10_000_000),
        )
        self.sync = self.durable.endpoint(function_id="def")(self._handler)
        self.asynchronous = self.durable.endpoint(function_id="async def")(self._handler_async)

    def _handler(self, request: Request) -> int:
        due = float(request.query["due"])
        sync_step.sleep_until("nap", datetime.fromtimestamp(due, UTC))
        return sync_step.run("count", self._count, due)

    async def _handler_async(self, request: Request) -> int:
        due = float(request.query["due"])
        await step.sleep_until("nap", datetime.fromtimestamp(due, UTC))
        return await step.run("count", self._count, due)

    def _count(self, due: float) -> int:
        with self._lock:
            self.woken += 1
            self.lateness.append(time() - due)
            return self.woken

    def begin(self, seconds: float) -> None:
        """Count from 0, and let the next runs be due after this time."""
        self.deadline = time() + seconds
        self.woken, self.lateness, self._asked = 0, [], count()

    def _request(self) -> Request:
        after = next(self._asked) / self._rate if self._rate else 0.0
        return Request(method="GET", url=f"http://127.0.0.1/nap?due={self.deadline + after}")

    def put_to_sleep(self, runs: int, loop: asyncio.AbstractEventLoop) -> None:
        """Start this many runs, half of each kind, and return when all are suspended."""
        left = iter(range(runs // 2))  # shared: a future for each run would count as memory of ours

        def client() -> None:
            for _ in left:
                assert self.sync.handle(self._request()).status == 302

        with ThreadPoolExecutor(8) as pool:
            for each in [pool.submit(client) for _ in range(8)]:
                each.result()
        asyncio.run_coroutine_threadsafe(self._clients(runs - runs // 2), loop).result()
        node = embedded(self.durable.engine).worker
        while node is not None and len(node.live):
            sleep(0.01)

    async def _clients(self, runs: int) -> None:
        left = iter(range(runs))

        async def client() -> None:
            for _ in left:
                response = await self.asynchronous.handle_async(self._request())
                assert response.status == 302

        await asyncio.gather(*(client() for _ in range(_CLIENTS)))

    def all_ended(self, runs: int) -> bool:
        """Return True if all runs have woken and ended."""
        found = self.durable.runs
        return self.woken >= runs and not any(
            found.list(status=status, limit=1) for status in ("suspended", "running")
        )

    def restarted(self, folder: Path) -> tuple[Sleepers, float]:
        """Stop, and start anew over the same store; return the seconds until a run has begun."""
        self.durable.stop()
        again = Sleepers(folder, self._rate)
        again.deadline = self.deadline
        began = perf_counter()
        again.durable.start()
        assert again.sync.handle(self._request()).status == 302
        return again, perf_counter() - began


def _measure(
    runs: int, rate: int, folder: Path, loop: asyncio.AbstractEventLoop
) -> dict[str, object]:
    sleepers = Sleepers(folder, rate)
    sleepers.durable.start()
    sleepers.begin(5)
    began = perf_counter()
    sleepers.put_to_sleep(200, loop)
    pace = (perf_counter() - began) / 200
    _wait_for_all(sleepers, 200, loop)
    before = Usage.now(loop)
    began = perf_counter()
    sleepers.begin(10 + 2 * runs * pace)
    sleepers.put_to_sleep(runs - 1, loop)
    took = perf_counter() - began
    sleep(0.5)
    asleep = Usage.now(loop)
    early = sleepers.woken
    sleepers, ready = sleepers.restarted(folder)
    peak = _wait_for_all(sleepers, runs, loop)
    late = time() - sleepers.deadline
    sleepers.durable.stop()
    if early or sleepers.woken != runs:
        raise AssertionError(f"{early} runs woke too early, {sleepers.woken} of {runs} in all")
    _print(runs, (before, asleep, peak))
    lateness = [quantile(sleepers.lateness, q) for q in (0.5, 0.99)]
    growth = asleep.rss_mib - before.rss_mib
    print(f"asleep: {growth:.1f} MiB of RSS, {asleep.threads - before.threads} threads more")
    print(f"put to sleep: {runs / took:,.0f} runs/s; woken: {runs / late:,.0f} runs/s")
    print(f"ready {ready:.2f} s after a restart")
    due = f"due at {rate:,} a second" if rate else "due at once"
    print(f"lateness, {due}: p50 {lateness[0]:.2f} s, p99 {lateness[1]:.2f} s")
    return {
        "count": runs,
        "rate": rate,
        "before": [before.threads, before.tasks, before.rss_mib],
        "asleep": [asleep.threads, asleep.tasks, asleep.rss_mib],
        "waking": [peak.threads, peak.tasks, peak.rss_mib],
        "asleep_per_second": runs / took,
        "woken_per_second": runs / late,
        "ready_seconds": ready,
        "lateness_seconds": lateness,
    }


def _wait_for_all(sleepers: Sleepers, runs: int, loop: asyncio.AbstractEventLoop) -> Usage:
    """Wait until all runs have ended; return the maximum that was held meanwhile."""
    sleep(max(0.0, sleepers.deadline - time()))
    seen = [Usage.now(loop)]
    while not sleepers.all_ended(runs):
        seen.append(Usage.now(loop))
        sleep(0.1)
    return Usage(*(max(getattr(each, name) for each in seen) for name in Usage.__slots__))


def _print(runs: int, usages: Sequence[Usage]) -> None:
    rows = [
        [when, each.threads, each.tasks, each.rss_mib]
        for when, each in zip(("before", "asleep", "waking, at most"), usages, strict=True)
    ]
    show(f"{runs:,} runs asleep", ("", "threads", "tasks", "RSS MiB"), rows)


def _parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, help="how many runs (default: 10,000; quick: 1,000)")
    parser.add_argument(
        "--rate", type=int, default=0, help="how many are due per second (default: all at once)"
    )
    return parser


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    options = _parser().parse_args()
    runs = options.count or (1_000 if options.quick else 10_000)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    with work_folder(options.folder) as folder:
        facts = machine(folder)
        figures = _measure(runs, options.rate, folder, loop)
    save_json(options.json, {"machine": facts, "sleepers": figures})


if __name__ == "__main__":
    main()
