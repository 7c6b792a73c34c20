"""ClaimedRun runs go on in workers."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from durable_conformance.store_values import created, run
from durable_core.api.step import step
from durable_core.flow.scope import HandlerKind
from durable_core.http.request import Request
from durable_core.model.run import Phase
from durable_core.ports import Checkpoint, Claim, Release, StoredRequest, StoredResult
from durable_core.runners.event_loops import Loops
from durable_core.runners.settings import Settings
from durable_core.runners.thread_pool import DaemonThreadPool
from durable_core.stores.sqlite import SQLiteStore
from support.harness import (
    Lab,
    WatchedStore,
    a_request,
    event,
    lab,
    request,
    until,
    until_async,
)


def plant(store: WatchedStore, count: int, *, key: str = "it") -> None:
    """Store runs that are due."""
    for n in range(count):
        store.commit(
            [
                Checkpoint(
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

    settings = Settings(worker_threads=3, worker_tasks=3)
    with lab(store, settings=settings) as process:
        process.endpoint(async_ if asynchronous else sync)
        process.durable.start()
        for _ in range(3):
            assert live.acquire(timeout=10)
        process.poke()
        claims = [write for batch in store.batches for write in batch if isinstance(write, Claim)]
        assert all(claim.limit <= 3 for claim in claims)
        busy = [r.run.id for r in process.records.list() if r.owner is not None]
        assert ["r2", "r1", "r0"] == busy
        leave.set()
        until(lambda: all(each.run.phase.ended for each in process.records.list()))


def test_the_scheduler_is_not_woken_for_each_task_that_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is woken when there is room for several, if due runs were left; the rest it finds soon."""
    store = WatchedStore()
    plant(store, 33)
    live, leave = threading.Semaphore(0), asyncio.Event()

    async def handler(request: Request) -> None:
        live.release()
        await leave.wait()

    with lab(store, settings=Settings(worker_tasks=32)) as process:
        process.endpoint(handler)
        process.durable.start()
        for _ in range(32):
            assert live.acquire(timeout=10)
        worker = process.engine.worker
        assert worker is not None
        woken: list[str] = []
        monkeypatch.setattr(worker.scheduler._wakeups, "notify", lambda: woken.append("woken"))
        for kind, free in (
            (HandlerKind.ASYNC_DEF, 7),
            (HandlerKind.DEF, 8),
            (HandlerKind.ASYNC_DEF, 8),
        ):
            woken.append(f"{kind.value} {free}")
            monkeypatch.setitem(worker.runs.capacity.busy, HandlerKind.ASYNC_DEF, 32 - free)
            worker.scheduler.claim_soon(kind)
        monkeypatch.undo()
        worker.loops.replay_loop.call_soon_threadsafe(leave.set)
        assert live.acquire(timeout=10)

    assert ["async def 7", "def 8", "async def 8", "woken"] == woken


def test_a_task_that_ends_makes_room_for_one_run() -> None:
    """A due run is claimed although there is room for no more than this one."""
    store = WatchedStore()
    plant(store, 5)
    live = threading.Semaphore(0)
    leave = [threading.Event() for _ in range(5)]

    async def handler(request: Request) -> None:
        live.release()
        await asyncio.to_thread(leave.pop().wait, 10)

    gates = list(leave)
    with lab(store, settings=Settings(worker_tasks=4)) as process:
        process.endpoint(handler)
        process.durable.start()
        for _ in range(4):
            assert live.acquire(timeout=10)
        gates[-1].set()
        assert live.acquire(timeout=10)
        for gate in gates:
            gate.set()


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
        await until_async(lambda: not process.durable.health()["live_runs"])
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
        def replay_loop(self) -> asyncio.AbstractEventLoop:
            return choices.pop() if choices else super().replay_loop

    monkeypatch.setattr("durable_core.runners.host.Loops", Fickle)
    store = WatchedStore()
    plant(store, 1)

    async def handler(request: Request) -> str:
        return "end"

    with lab(store) as process:
        process.endpoint(handler)
        process.durable.start()
        until(lambda: process.records.get("r0").run.phase is Phase.COMPLETED)
        until(lambda: process.durable.health()["replaying"]["async def"] == 0)
    assert [] == choices


def test_a_run_that_cannot_be_read_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    """It ends with a problem that says so, the log has the reason, and the others go on."""
    store = WatchedStore()
    plant(store, 2)
    broken = replace(created("bad", app="lab", key="it"), release=Release(due_at=0))
    store.commit([replace(broken, request=StoredRequest(head="{", body=b""))], wait=1.0)
    with lab(store) as process:
        process.endpoint(lambda request: "end")
        process.durable.start()
        until(lambda: all(each.run.phase.ended for each in process.records.list()))
    phases = {each.run.id: each.run.phase for each in store.list("lab", limit=10)}
    assert {"bad": Phase.FAILED, "r0": Phase.COMPLETED, "r1": Phase.COMPLETED} == phases
    result = store.result("lab", "bad")
    assert isinstance(result, StoredResult)
    assert result.body is not None
    assert "unreadable-record" in json.loads(result.body)["type"]
    assert "run bad: what is stored of the run cannot be read" in caplog.text
    assert "JSONDecodeError" in caplog.text


def test_a_wait_that_cannot_be_read_fails_its_run_when_the_event_comes(tmp_path: Path) -> None:
    """Sending succeeds, the other run gets the event, and the client of the first is told."""
    path = tmp_path / "db"

    async def handler(request: Request) -> object:
        got = await step.wait_for_event("w", event="go", timeout="1h")
        return got and dict(got.data)

    with lab(SQLiteStore(path)) as process:
        endpoint = process.endpoint(handler)
        handoffs = [endpoint.handle(request()) for _ in range(2)]
        until(lambda: all(each.due_at is not None for each in process.records.list()))
        first, _ = sorted(each.run.id for each in process.records.list())
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("UPDATE pending SET rule = '[' WHERE run_id = ?", (first,))
        process.durable.send(event("go", n=1))
        broken, whole = [process.follow(endpoint, each) for each in handoffs]
    assert (200, b'{"n":1}') == (whole.status, whole.body)
    assert isinstance(broken.body, bytes)
    told = json.loads(broken.body)
    assert (500, first) == (broken.status, told["run_id"])
    assert told["type"].endswith("unreadable-record")


def test_a_run_for_which_there_is_no_thread_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is no fault of the run's: it counts as no crash, and nothing of it stays behind."""
    run_soon, refused = DaemonThreadPool.run_soon, threading.Event()

    def refuse_once(pool: DaemonThreadPool, call: Callable[[], None]) -> None:
        if pool._name == "durable-worker" and not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        run_soon(pool, call)

    monkeypatch.setattr(DaemonThreadPool, "run_soon", refuse_once)
    store = WatchedStore()
    plant(store, 1)
    with lab(store) as process:
        process.endpoint(lambda request: "end")
        process.durable.start()
        until(lambda: process.records.get("r0").run.phase is Phase.COMPLETED)
        until(lambda: process.durable.health()["replaying"]["def"] == 0)
        assert refused.is_set()
        assert 0 == process.records.get("r0").run.crash_count
