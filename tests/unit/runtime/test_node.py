"""One process's part: serving, resuming, stopping."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import StoreError
from durable_core.model.request import Request
from durable_core.model.run import Phase
from durable_core.ports import Bury, Claim, Release, RunWrite, StoredRequest
from durable_core.runtime.loops import Loops
from durable_core.runtime.settings import Settings
from support.harness import QUICK, Lab, Ledger, WatchedStore, a_request, event, lab, request, until
from support.stores import run


def plant(store: WatchedStore, count: int, *, key: str = "it") -> None:
    """Store runs that are due."""
    for n in range(count):
        store.commit(
            [
                RunWrite(
                    run_id=f"r{n}",
                    owner="nobody",
                    epoch=1,
                    now=0,
                    create=run(f"r{n}", app="lab", key=key),
                    request=a_request(),
                    release=Release(due_at=n),
                )
            ],
            wait=1.0,
        )


@pytest.mark.parametrize("asynchronous", [False, True])
def test_no_more_runs_are_claimed_than_can_run(asynchronous: bool) -> None:
    """Due runs are claimed as workers get free, the earliest due first."""
    store = WatchedStore()
    plant(store, 7)
    live = threading.Semaphore(0)
    leave = threading.Event()

    def sync(request: Request) -> None:
        live.release()
        assert leave.wait(10)

    async def async_(request: Request) -> None:
        live.release()
        await asyncio.to_thread(leave.wait, 10)

    settings = Settings(settle_time=0.01, worker_threads=3, worker_tasks=3)
    with lab(store, settings=settings) as process:
        process.endpoint(async_ if asynchronous else sync)
        process.durable.start()
        for _ in range(3):
            assert live.acquire(timeout=10)
        process.poke()
        claims = [write for batch in store.batches for write in batch if isinstance(write, Claim)]
        assert all(claim.limit <= 3 for claim in claims)
        busy = [r.run.id for r in process.durable.runs.list() if r.owner is not None]
        assert ["r2", "r1", "r0"] == busy
        leave.set()
        until(lambda: all(each.run.phase.ended for each in process.durable.runs.list()))


def test_claimed_run_that_has_not_begun_is_given_back_at_a_stop() -> None:
    """A run that was claimed as the stop came runs no step here any more."""
    ledger = Ledger()
    store = WatchedStore()
    process = Lab(store)

    def handler(request: Request) -> object:
        return sync_step.run("a", ledger.did, "a", 1)

    process.endpoint(handler)
    process.durable.start()
    node = process.durable.engine.node
    assert node is not None
    plant(store, 1)
    node.stopping = True
    process.poke()
    until(lambda: store.list("lab", phase=Phase.SUSPENDED, before=None, limit=1))
    process.stop()
    assert [] == ledger.calls
    [record] = store.list("lab", phase=None, before=None, limit=10)
    assert record.due_at is not None


def test_run_that_cannot_be_read_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """A stored request that no one can read is logged; the runs claimed with it go on."""
    store = WatchedStore()
    plant(store, 3)
    store._runs["r1"].request = StoredRequest(head="from another version", body=b"")

    def handler(request: Request) -> str:
        return "end"

    with lab(store) as process:
        process.endpoint(handler)
        process.durable.start()
        ended = until(lambda: store.list("lab", phase=Phase.COMPLETED, before=None, limit=9)[1:])
        assert ended
    assert "r1" in caplog.text


def test_unreadable_store_refuses_a_request() -> None:
    """When the beginning of a run cannot be read from the store, the client gets 503."""

    class Unreadable(WatchedStore):
        def event_mark(self, app: str) -> int:
            raise StoreError("cannot read")

    def handler(request: Request) -> str:
        return "never"

    async def async_handler(request: Request) -> str:
        return "never"

    with lab(Unreadable()) as process:
        assert 503 == process.endpoint(handler, name="a").handle(request()).status
        assert 503 == process.endpoint(async_handler, name="b").handle(request()).status


def test_health() -> None:
    """Health says what is live."""
    with lab() as process:
        entered, leave = threading.Event(), threading.Event()

        def handler(request: Request) -> None:
            entered.set()
            assert leave.wait(10)

        endpoint = process.endpoint(handler)
        client = threading.Thread(target=endpoint.handle, args=(request(),))
        client.start()
        assert entered.wait(10)
        health = process.durable.health()
        leave.set()
        client.join(10)
    assert (1, True, ["it"]) == (health["live_runs"], health["keeper"], health["endpoints"])
    assert {"def": 0, "async def": 0} == health["replaying"]


def test_runs_asleep_hold_nothing() -> None:
    """A run that sleeps has no live handler, no task and no thread of its own."""

    async def handler(request: Request) -> None:
        await step.sleep("nap", "1h")

    with lab() as process:
        endpoint = process.endpoint(handler)
        for _ in range(20):
            assert 302 == endpoint.handle(request()).status
        until(lambda: process.durable.health()["live_runs"] == 0)
        assert threading.active_count() < 10


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
        until(lambda: all(each.run.phase.ended for each in process.durable.runs.list()))
        assert Phase.COMPLETED is process.durable.runs.list()[0].run.phase
    assert {"a": 1, "b": 2} == ledger.counts()


def test_lost_lease_sends_the_client_on() -> None:
    """When another process has taken the run, the client is sent to wait for that one's result."""
    store, ledger = WatchedStore(), Ledger()
    stolen: list[Any] = []

    def steals() -> int:
        owners = tuple(peer.id for peer in store.peers())
        stolen.extend(store.commit([Bury(ids=owners, now=0)], wait=1.0))
        return ledger.did("steals", 1)

    def handler(request: Request) -> object:
        sync_step.run("a", ledger.did, "a", 1)
        if not stolen:
            sync_step.run("steals", steals)
        return sync_step.run("b", ledger.did, "b", "end")

    with lab(store, settings=QUICK) as process:
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        assert 302 == first.status
        assert b'"end"' == process.follow(endpoint, first).body
    assert {"a": 1, "steals": 1, "b": 1} == ledger.counts()


def test_replays_on_the_loop_that_serves() -> None:
    """Where an application's loop serves, handlers are replayed on that loop."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def handler(request: Request) -> str:
        loops.append(asyncio.get_running_loop())
        await step.wait_for_event("w", event="go", timeout="1h")
        return "end"

    async def main() -> None:
        process = Lab()
        endpoint = process.endpoint(handler)
        response = await endpoint.handle_async(request())
        async with asyncio.timeout(5):
            while process.durable.health()["live_runs"]:
                await asyncio.sleep(0.002)
        await process.durable.send_async(event("go"))
        while response.status == 302:
            response = await endpoint.handle_async(request("/it" + response.headers["location"]))
        assert b'"end"' == response.body
        assert [asyncio.get_running_loop()] * 2 == loops
        await process.durable.stop_async()

    asyncio.run(main())


def test_loop_that_closes_at_the_wrong_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was claimed for a loop that is closed by then is claimed again for another."""
    closed = asyncio.new_event_loop()
    closed.close()
    choices = [closed]

    class Fickle(Loops):
        @property
        def replaying(self) -> asyncio.AbstractEventLoop:
            return choices.pop() if choices else super().replaying

    monkeypatch.setattr("durable_core.runtime.node.Loops", Fickle)
    store = WatchedStore()
    plant(store, 1)

    async def handler(request: Request) -> str:
        return "end"

    with lab(store) as process:
        process.endpoint(handler)
        process.durable.start()
        until(lambda: process.durable.runs.get("r0").run.phase is Phase.COMPLETED)
        until(lambda: process.durable.health()["replaying"]["async def"] == 0)
    assert [] == choices


def test_one_own_loop_for_sync_callers() -> None:
    """Under a server with threads all ``async def`` handlers share one loop of the engine's."""
    loops: set[int] = set()

    async def handler(request: Request) -> None:
        loops.add(id(asyncio.get_running_loop()))
        await step.sleep("nap", 0.01)

    with lab() as process:
        endpoint = process.endpoint(handler)
        for _ in range(3):
            process.call(endpoint)
    assert 1 == len(loops)
