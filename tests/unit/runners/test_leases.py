"""A step begins only while the process holds the run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.http.request import Request
from durable_core.ports import Checkpoint, Write
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


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_no_step_begins_if_its_process_was_frozen_behind_the_commit_of_the_last_one(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has taken that write, but another process may have had the run since."""
    ledger, clock, store = Ledger(), FakeClock(), WatchedStore()
    commit = store.commit

    def cancel() -> None:
        [record] = other.records.list()
        assert other.durable.runs.cancel(record.run.id)

    def commit_and_freeze(writes: Sequence[Write[Any]], *, wait: float) -> Sequence[Any]:
        answers = commit(writes, wait=wait)
        if any(isinstance(each, Checkpoint) and each.memos for each in writes):
            monkeypatch.setattr(store, "commit", commit)
            elsewhere = threading.Thread(target=cancel)
            elsewhere.start()
            elsewhere.join()
            clock.advance(2)
        return answers

    def sync(request: Request) -> None:
        sync_step.run("first", ledger.did, "first", 1)
        sync_step.run("second", ledger.did, "second", 2)

    async def async_(request: Request) -> None:
        await step.run("first", ledger.did, "first", 1)
        await step.run("second", ledger.did, "second", 2)

    monkeypatch.setattr(store, "commit", commit_and_freeze)
    handler: Callable[[Request], Any] = sync if kind == "def" else async_
    with lab(store, clock=clock) as process, lab(store, clock=clock) as other:
        process.endpoint(handler).handle(request())
    assert ["first"] == ledger.calls


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_slow_store_is_asked_once_more_for_each_step(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that takes long is not checked again."""
    ledger, clock, store = Ledger(), FakeClock(), WatchedStore()
    commit = store.commit

    def commit_slowly(writes: Sequence[Write[Any]], *, wait: float) -> Sequence[Any]:
        answers = commit(writes, wait=wait)
        clock.advance(2)
        return answers

    def sync(request: Request) -> None:
        for name in ("a", "b", "c"):
            sync_step.run(name, ledger.did, name, 1)

    async def async_(request: Request) -> None:
        for name in ("a", "b", "c"):
            await step.run(name, ledger.did, name, 1)

    monkeypatch.setattr(store, "commit", commit_slowly)
    handler: Callable[[Request], Any] = sync if kind == "def" else async_
    with lab(store, clock=clock) as process:
        process.call(process.endpoint(handler))
    writes = [write for batch in store.batches for write in batch if isinstance(write, Checkpoint)]
    assert (["a", "b", "c"], 3) == (ledger.calls, sum(len(each.memos) for each in writes))
    assert 2 == sum(each.result is None and not each.memos for each in writes)


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
