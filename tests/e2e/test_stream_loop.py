"""How much an event loop does in one round while many clients read a long stored stream."""

from __future__ import annotations

import asyncio
import resource
import time
from contextlib import suppress
from pathlib import Path

import pytest

from durable_core.api.step import sync_step
from durable_core.api.stream import sync_stream
from durable_core.flow.env import Limits
from durable_core.http.request import Request
from durable_core.stores.sqlite.store import SQLiteStore
from support.harness import FakeClock, Lab
from support.streams import Reading, asks_stream

pytestmark = pytest.mark.slow

READERS, CHUNKS, CHUNK = 200, 1000, "x" * 4000


def long_stream(request: Request) -> object:
    sync_step.run("a", _push)
    sync_step.sleep("nap", 3600)
    return "done"


def _push() -> None:
    for _ in range(CHUNKS):
        sync_stream.push(CHUNK)


class Rounds:
    """What the rounds of a loop take of the processor, in seconds: the longest, and all.

    The time that passes would tell what else the machine does, too.
    """

    def __init__(self) -> None:
        self.longest = self.total = 0.0

    async def watch(self) -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0.001)
            now = time.thread_time()
            self.longest = max(self.longest, now - before)
            self.total += now - before
            before = now


def test_a_loop_does_not_stand_still(tmp_path: Path) -> None:
    """200 clients begin to read 4 MB that one step has pushed, and some read to the end: no round
    of the loop does more than a fraction of all the work, and the 4 MB are in memory once.
    """

    async def exchange(process: Lab) -> tuple[Rounds, list[int]]:
        endpoint = process.endpoint(long_stream)
        first = Reading(await endpoint.handle_async(asks_stream()))
        async for _ in first:
            pass
        url = first.redirect.replace("&durable-from=handoff", "")
        rounds = Rounds()
        watching = asyncio.create_task(rounds.watch())
        responses = [await endpoint.handle_async(asks_stream(url)) for _ in range(READERS)]
        readings = [Reading(response) for response in responses]
        counts = await asyncio.gather(
            *(
                _chunks(reading, CHUNKS if number < 5 else 10)
                for number, reading in enumerate(readings)
            )
        )
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        for response in responses:
            await response.body.aclose()  # type: ignore[union-attr]
        await process.durable.stop_async(5.0)
        return rounds, counts

    before = _peak_memory()
    limits = Limits(run_clients=READERS, waiting_clients=2 * READERS)
    rounds, counts = asyncio.run(
        exchange(Lab(clock=FakeClock(), store=SQLiteStore(tmp_path / "s.db"), limits=limits))
    )

    assert [*[CHUNKS] * 5, *[10] * (READERS - 5)] == counts
    assert rounds.longest < rounds.total / 8
    assert _peak_memory() - before < 256 * 2**20


def _peak_memory() -> int:
    """Return the most bytes that the process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def _chunks(reading: Reading, count: int) -> int:
    """Read so many chunks of the step; return how many have come."""
    seen = 0
    async for event in reading:
        seen += event.startswith("a: ")
        if seen == count:
            break
    return seen
