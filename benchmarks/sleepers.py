"""10,000 runs asleep at once: what they cost while they sleep, and how fast they wake."""

from __future__ import annotations

import argparse
import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, sleep, time

from _inprocess import make_request
from _measure import arguments, machine, save_json, show, work_folder

from durable_core import Durable, Request, endpoint_adapter, step
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
    """Two endpoints that sleep until the same moment: ``def`` and ``async def``."""

    def __init__(self, folder: Path) -> None:
        self.deadline = datetime.now(UTC)
        self.woken = 0
        self._lock = threading.Lock()
        self.durable: Durable[HTTPHandler] = Durable(
            id="sleepers", endpoint_adapter=endpoint_adapter, store=folder / "sleepers.db"
        )
        self.sync = self.durable.endpoint(function_id="def")(self._handler)
        self.asynchronous = self.durable.endpoint(function_id="async def")(self._handler_async)

    def _handler(self, request: Request) -> int:
        sync_step.sleep_until("nap", self.deadline)
        return sync_step.run("count", self._count)

    async def _handler_async(self, request: Request) -> int:
        await step.sleep_until("nap", self.deadline)
        return await step.run("count", self._count)

    def _count(self) -> int:
        with self._lock:
            self.woken += 1
            return self.woken

    def put_to_sleep(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        """Start this many runs, half of each kind, and return when all are suspended."""
        with ThreadPoolExecutor(8) as pool:
            for response in pool.map(lambda _: self.sync.handle(make_request()), range(count // 2)):
                assert response.status == 302
        asyncio.run_coroutine_threadsafe(self._clients(count - count // 2), loop).result()
        node = embedded(self.durable.engine).worker
        while node is not None and len(node.live):
            sleep(0.01)

    async def _clients(self, count: int) -> None:
        left = iter(range(count))

        async def client() -> None:
            for _ in left:
                response = await self.asynchronous.handle_async(make_request())
                assert response.status == 302

        await asyncio.gather(*(client() for _ in range(_CLIENTS)))

    def all_ended(self, count: int) -> bool:
        """Return True if all runs have woken and ended."""
        runs = self.durable.runs
        return self.woken >= count and not any(
            runs.list(status=status, limit=1) for status in ("suspended", "running")
        )


def _measure(count: int, folder: Path, loop: asyncio.AbstractEventLoop) -> dict[str, object]:
    sleepers = Sleepers(folder)
    sleepers.durable.start()
    sleepers.deadline = datetime.fromtimestamp(time() + 5, UTC)
    sleepers.put_to_sleep(200, loop)
    _wait_for_all(sleepers, 200, loop)
    before = Usage.now(loop)
    began = perf_counter()
    sleepers.woken = 0
    sleepers.deadline = datetime.fromtimestamp(time() + 10 + count / 200, UTC)
    sleepers.put_to_sleep(count, loop)
    took = perf_counter() - began
    sleep(0.5)
    asleep = Usage.now(loop)
    early = sleepers.woken
    peak = _wait_for_all(sleepers, count, loop)
    late = time() - sleepers.deadline.timestamp()
    sleepers.durable.stop()
    if early or sleepers.woken != count:
        raise AssertionError(f"{early} runs woke too early, {sleepers.woken} of {count} in all")
    _print(count, (before, asleep, peak))
    print(f"put to sleep: {count / took:,.0f} runs/s; woken: {count / late:,.0f} runs/s")
    return {
        "count": count,
        "before": [before.threads, before.tasks, before.rss_mib],
        "asleep": [asleep.threads, asleep.tasks, asleep.rss_mib],
        "waking": [peak.threads, peak.tasks, peak.rss_mib],
        "asleep_per_second": count / took,
        "woken_per_second": count / late,
    }


def _wait_for_all(sleepers: Sleepers, count: int, loop: asyncio.AbstractEventLoop) -> Usage:
    """Wait until all runs have ended; return the maximum that was held meanwhile."""
    sleep(max(0.0, sleepers.deadline.timestamp() - time()))
    seen = [Usage.now(loop)]
    while not sleepers.all_ended(count):
        seen.append(Usage.now(loop))
        sleep(0.1)
    return Usage(*(max(getattr(each, name) for each in seen) for name in Usage.__slots__))


def _print(count: int, usages: Sequence[Usage]) -> None:
    rows = [
        [when, each.threads, each.tasks, each.rss_mib]
        for when, each in zip(("before", "asleep", "waking, at most"), usages, strict=True)
    ]
    show(f"{count:,} runs asleep", ("", "threads", "tasks", "RSS MiB"), rows)


def _parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, help="how many runs (default: 10,000; quick: 1,000)")
    return parser


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    options = _parser().parse_args()
    count = options.count or (1_000 if options.quick else 10_000)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    with work_folder(options.folder) as folder:
        facts = machine(folder)
        figures = _measure(count, folder, loop)
    save_json(options.json, {"machine": facts, "sleepers": figures})


if __name__ == "__main__":
    main()
