"""Ops on their way to a remote server."""

from __future__ import annotations

import asyncio
import threading

import pytest

from durable_core.engine.remote.ops import OpQueue, Ops, RunReporter
from durable_core.engine.remote.streams import StreamEmitter
from durable_core.errors import EngineUnavailableError


class Reporter(RunReporter):
    """Keeps what it was to send; the first call lasts until ``gate`` is set."""

    def __init__(self, room: int = 1_000) -> None:
        super().__init__(asyncio.get_running_loop())
        self.calls: list[list[str]] = []
        self.recorded_ops: list[str] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None
        self._room = room

    async def send(self, ops: list[str]) -> None:
        self.calls.append(ops)
        await self.gate.wait()
        if self.error is not None:
            raise self.error

    def recorded(self, ops: Ops, stream: StreamEmitter | None) -> None:
        self.recorded_ops.extend(ops.ops)

    @property
    def room(self) -> int:
        return self._room


async def submit(reporter: Reporter, *ops: str) -> list[object]:
    """Queue ops one by one, from a thread, and return what came of each."""
    queue = OpQueue()
    results: list[object] = []
    tickets = [queue.submit(Ops(reporter, (op,))) for op in ops[:1]]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tickets += [queue.submit(Ops(reporter, (op,))) for op in ops[1:]]
    reporter.gate.set()
    for ticket in tickets:
        try:
            await queue.wait_async(ticket)
        except EngineUnavailableError as error:
            results.append(error)
        else:
            results.append(None)
    return results


def test_what_gathers_goes_out_together() -> None:
    """While the first is on its way, the others wait, and go out in one call, in order."""
    asyncio.run(_what_gathers_goes_out_together())


async def _what_gathers_goes_out_together() -> None:
    reporter = Reporter()

    assert [None] * 3 == await submit(reporter, "a", "b", "c")
    assert [["a"], ["b", "c"]] == reporter.calls


def test_no_call_is_too_large() -> None:
    """As many ops go out together as there is room for, one at least."""
    asyncio.run(_no_call_is_too_large())


async def _no_call_is_too_large() -> None:
    reporter = Reporter(room=4)

    await submit(reporter, "a", "bb", "ccc", "dddddd", "é")

    assert [["a"], ["bb"], ["ccc"], ["dddddd"], ["é"]] == reporter.calls


def test_nothing_goes_out_after_a_failure() -> None:
    """What was queued behind it fails as well, and is not sent."""
    asyncio.run(_nothing_goes_out_after_a_failure())


async def _nothing_goes_out_after_a_failure() -> None:
    reporter = Reporter()
    reporter.error = EngineUnavailableError("away")

    results = await submit(reporter, "a", "b")

    assert [reporter.error, reporter.error] == results
    assert [["a"]] == reporter.calls


def test_a_thread_waits() -> None:
    """A thread blocks until its ops are recorded, and gets the error if they are not."""
    asyncio.run(_a_thread_waits())


async def _a_thread_waits() -> None:
    reporter, queue = Reporter(), OpQueue()
    seen: list[str] = []

    def work() -> None:
        queue.wait(queue.submit(Ops(reporter, ("a",))))
        seen.append("recorded")
        reporter.error = EngineUnavailableError("away")
        with pytest.raises(EngineUnavailableError, match="away"):
            queue.wait(queue.submit(Ops(reporter, ("b",))))
        seen.append("failed")

    thread = threading.Thread(target=work)
    thread.start()
    reporter.gate.set()
    await asyncio.to_thread(thread.join, 10)

    assert (["recorded", "failed"], [["a"], ["b"]]) == (seen, reporter.calls)
