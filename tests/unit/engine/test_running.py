"""What runs is live, and what is cut short is not lost."""

from __future__ import annotations

import pytest

from durable_conformance.store_values import run
from durable_core.api.step import sync_step
from durable_core.engine.worker import Worker
from durable_core.errors import LeaseLost
from durable_core.flow.env import Limits
from durable_core.http.request import Request
from durable_core.model.run import Phase
from durable_core.ports import Checkpoint, CheckpointResult, Release, RunFilter, Wakeups
from durable_core.stores.wakeups import PolledWakeups
from support.harness import (
    Lab,
    Ledger,
    WatchedStore,
    a_request,
    lab,
    request,
    until,
)


def test_claimed_run_that_has_not_begun_is_given_back_at_a_stop() -> None:
    """A run that was claimed as the stop came runs no step here any more."""
    ledger = Ledger()
    store = WatchedStore()
    process = Lab(store)

    def handler(request: Request) -> object:
        return sync_step.run("a", ledger.did, "a", 1)

    process.endpoint(handler)
    process.durable.start()
    node = process.engine.worker
    assert node is not None
    store.commit(
        [
            Checkpoint(
                run_id="r0",
                owner="nobody",
                epoch=1,
                now=0,
                create=run("r0", app="lab", key="it"),
                request=a_request(),
                release=Release(due_at=0),
            )
        ],
        wait=1.0,
    )
    node.stopping = True
    process.poke()
    until(lambda: store.list("lab", where=RunFilter(phases=(Phase.SUSPENDED,)), limit=1))
    process.stop()
    assert [] == ledger.calls
    [record] = store.list("lab", limit=10)
    assert record.due_at is not None


def test_abandoned_run_goes_on_when_the_store_is_back() -> None:
    """A run that was cut short by the store continues, and no stored step is repeated."""
    store, ledger = WatchedStore(), Ledger()

    def handler(request: Request) -> object:
        sync_step.run("a", ledger.did, "a", 1)
        sync_step.run("b", ledger.did, "b", 1)
        return "end"

    with lab(store) as process:
        process.durable.start()
        store.crash_after(1)
        endpoint = process.endpoint(handler)
        assert 503 == endpoint.handle(request()).status
        store.fault = None
        process.poke()
        until(lambda: all(each.run.phase.ended for each in process.records.list()))
        assert Phase.COMPLETED is process.records.list()[0].run.phase
    assert {"a": 1, "b": 2} == ledger.counts()


def test_a_checkpoint_that_always_breaks_is_no_progress(caplog: pytest.LogCaptureFixture) -> None:
    """Its step is not called again and again for ever: the run fails as one that crashes does."""
    ledger = Ledger()

    class Picky(WatchedStore):
        def wakeups(self) -> Wakeups:
            """Let the scheduler come only when all that has queued is committed or has failed."""
            return PolledWakeups(self._settled)

        def _settled(self) -> int:
            if node:
                until(lambda: not node[0].queue._queue)
            return 0

        def _write_run(self, write: Checkpoint) -> CheckpointResult | LeaseLost:
            if any(memo.op.name == "b" for memo in write.memos):
                raise ValueError("no b")
            return super()._write_run(write)

    def handler(request: Request) -> object:
        sync_step.run("a", ledger.did, "a", 1)
        sync_step.run("b", ledger.did, "b", 1)
        return sync_step.run("c", ledger.did, "c", 1)

    node: list[Worker] = []
    with lab(Picky(), limits=Limits(crashes=3)) as process:
        endpoint = process.endpoint(handler)
        process.durable.start()
        assert process.engine.worker is not None
        node.append(process.engine.worker)
        assert 503 == endpoint.handle(request()).status
        until(lambda: all(each.run.phase.ended for each in process.records.list()))
        assert [Phase.FAILED] == [each.run.phase for each in process.records.list()]
    assert {"a": 1, "b": 3} == ledger.counts()
    assert "no b" in caplog.text
