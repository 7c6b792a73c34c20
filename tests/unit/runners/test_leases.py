"""A step begins only while the process holds the run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.http.request import Request
from durable_core.ports import Checkpoint
from support.harness import FakeClock, Ledger, WatchedStore, lab, request, until, until_async


@pytest.mark.parametrize("set_back", [0.0, 1.5, 2.0, 3600.0])
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_no_step_begins_after_a_cancellation_elsewhere(kind: str, set_back: float) -> None:
    """A process that was frozen between two steps, while another one cancelled the run, does not
    begin the second step, although no write of its own would tell it, and though the wall clock was
    set back meanwhile."""
    ledger, clock, store = Ledger(), FakeClock(), WatchedStore()

    def is_frozen() -> bool:
        [record] = other.records.list()
        assert other.durable.runs.cancel(record.run.id)
        clock.advance(2)
        clock.set_back(set_back)
        return True

    def sync(request: Request) -> None:
        sync_step.run("first", ledger.did, "first", 1)
        until(process.records.list)
        is_frozen()
        sync_step.run("second", ledger.did, "second", 2)

    async def async_(request: Request) -> None:
        await step.run("first", ledger.did, "first", 1)
        await until_async(process.records.list)
        await asyncio.to_thread(is_frozen)
        await step.run("second", ledger.did, "second", 2)

    handler: Callable[[Request], Any] = sync if kind == "def" else async_
    with lab(store, clock=clock) as process, lab(store, clock=clock) as other:
        process.endpoint(handler).handle(request())
    assert ["first"] == ledger.calls


def test_steps_that_follow_soon_need_no_check() -> None:
    """A run whose steps follow one another makes one checkpoint for each, and none to check."""
    ledger, store = Ledger(), WatchedStore()

    def handler(request: Request) -> None:
        for name in ("a", "b", "c"):
            sync_step.run(name, ledger.did, name, 1)

    with lab(store) as process:
        process.call(process.endpoint(handler))
    writes = [write for batch in store.batches for write in batch if isinstance(write, Checkpoint)]
    assert [1, 1, 1] == [len(each.memos) for each in writes]
