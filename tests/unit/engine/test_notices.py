"""What an engine notices on a SQLite file: its own commits at once, those of others by polling."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from durable_core.api.step import step
from durable_core.engine.scheduler import Scheduler
from durable_core.engine.worker import Worker
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import Phase
from durable_core.ports import Register, SendEvents, WorkerRecord
from durable_core.stores.sqlite import SQLiteStore, connections
from durable_core.stores.sqlite import events as sqlite_events
from durable_core.stores.wakeups import PolledWakeups
from support.harness import Lab, event, lab, request, until, until_async


class _Quiet(SQLiteStore):
    """A store in which nobody ever notices a commit by looking for it."""

    def wakeups(self) -> PolledWakeups:
        """Return what never changes."""
        return PolledWakeups(lambda: 0)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Lab]:
    with lab(_Quiet(tmp_path / "store.db")) as made:
        yield made


def worker_of(process: Lab) -> Worker:
    process.durable.start()
    worker = process.engine.worker
    assert worker is not None
    return worker


def phases(process: Lab) -> set[Phase]:
    return {record.run.phase for record in process.records.list()}


async def _while_busy(waiting: Awaitable[object]) -> object:
    """Wait beside a step that runs until then, so that the run is not suspended."""
    came = asyncio.Event()
    busy = asyncio.create_task(step.run("busy", came.wait))
    try:
        return await waiting
    finally:
        came.set()
        await busy


async def waits(asked: Request) -> object:
    came = await _while_busy(step.wait_for_event("w", event="go", timeout="1h"))
    return came is not None


async def waits_for_signal(asked: Request) -> object:
    came = await _while_busy(step.wait_for_signal("w", signal="go", timeout="1h"))
    return came is not None


async def sends(asked: Request) -> object:
    return await step.send_event("s", event("go", id="e1"))


async def _by_code(process: Lab) -> None:
    await process.durable.send_async(event("go", id="e1"))


async def _by_step(process: Lab) -> None:
    sender = process.endpoint(sends, function_id="sender")
    assert 200 == (await sender.handle_async(request())).status


async def _by_signal(process: Lab) -> None:
    assert await process.durable.signal_async("go", 1) is not None


@pytest.mark.parametrize(
    ("handler", "send"), [(waits, _by_code), (waits, _by_step), (waits_for_signal, _by_signal)]
)
def test_a_live_run_hears_of_what_was_sent_here(
    process: Lab, handler: Callable[[Request], Any], send: Callable[[Lab], Awaitable[None]]
) -> None:
    """It goes on where it waits, and is not claimed for that."""
    worker = worker_of(process)
    endpoint = process.endpoint(handler)

    async def main() -> None:
        await endpoint.handle_async(request())
        assert 1 == len(worker.live)
        await send(process)
        await until_async(lambda: not worker.live)

    asyncio.run(main())
    assert {Phase.COMPLETED} == phases(process)
    assert 0 == worker.scheduler.claimed


def test_a_live_run_hears_of_an_event_that_maintenance_brings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many runs wait for it, and the commit of the event has reached some of them only."""
    monkeypatch.setattr(sqlite_events, "_WAITS", 2)
    with lab(SQLiteStore(tmp_path / "store.db")) as process:
        worker = worker_of(process)
        endpoint = process.endpoint(waits)

        async def main() -> None:
            for _ in range(5):
                await endpoint.handle_async(request())
            assert 5 == len(worker.live)
            await process.durable.send_async(event("go", id="e1"))
            await until_async(lambda: not worker.live)

        asyncio.run(main())
        assert {Phase.COMPLETED} == phases(process)
        assert 0 == worker.scheduler.claimed


def test_two_applications_that_share_a_store_object_hear_of_each_other(tmp_path: Path) -> None:
    """The live run of one goes on where it waits when the other sends what it waits for."""
    store = SQLiteStore(tmp_path / "store.db")
    with lab(store) as sender, lab(store) as process:
        worker = worker_of(process)
        worker_of(sender)
        endpoint = process.endpoint(waits)

        async def main() -> None:
            await endpoint.handle_async(request())
            assert 1 == len(worker.live)
            await _by_code(sender)
            await until_async(lambda: not worker.live)

        asyncio.run(main())
        assert {Phase.COMPLETED} == phases(process)
        assert 0 == worker.scheduler.claimed


def test_a_live_run_is_stopped_when_it_is_cancelled_here(process: Lab) -> None:
    """Its handler is unwound at once."""
    worker = worker_of(process)
    endpoint = process.endpoint(waits)

    async def main() -> None:
        await endpoint.handle_async(request())
        [run_id] = worker.live
        assert await process.durable.runs.cancel_async(run_id)
        await until_async(lambda: not worker.live)

    asyncio.run(main())
    assert {Phase.CANCELLED} == phases(process)


@pytest.mark.parametrize("end", ["completed", "cancelled"])
def test_a_client_that_waits_hears_of_the_end(process: Lab, end: str) -> None:
    """Whether the run has ended by itself or was cancelled."""
    worker = worker_of(process)
    endpoint = process.endpoint(waits)

    async def main() -> Response:
        first = await endpoint.handle_async(request())
        [run_id] = worker.live
        url = "/it" + first.headers["location"]
        waiting = asyncio.create_task(endpoint.handle_async(request(url), max_wait=20.0))
        await until_async(lambda: len(worker.waiters))
        if end == "completed":
            await process.durable.send_async(event("go", id="e1"))
        else:
            await process.durable.runs.cancel_async(run_id)
        return await waiting

    assert (200 if end == "completed" else 410) == asyncio.run(main()).status


def test_a_run_that_is_deleted_here_is_looked_at(process: Lab) -> None:
    """Clients may read its stream, and nothing else tells them that it is gone."""
    scheduler = worker_of(process).scheduler
    endpoint = process.endpoint(sends)
    asyncio.run(endpoint.handle_async(request()))
    [record] = process.records.list()
    scheduler.stop()
    scheduler._look = False
    assert process.durable.runs.delete(record.run.id)

    assert scheduler._look


def test_its_own_commits_are_nothing_to_look_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has its store to itself looks once, and reads the number of events once."""
    looks, rounds, reads = list[None](), list[None](), list[None]()
    _count(monkeypatch, Scheduler, "_poll_others", looks)
    _count(monkeypatch, Scheduler, "_notice_others", rounds)
    _count(monkeypatch, SQLiteStore, "event_seq", reads)
    monkeypatch.setattr(connections, "_COUNTER_PATIENCE", 20.0)  # the machine may be busy

    with lab(SQLiteStore(tmp_path / "store.db")) as process:
        worker_of(process)
        until(lambda: looks)

        async def handler(asked: Request) -> int:
            return sum([await step.run(f"s{n}", int) for n in range(5)])

        endpoint = process.endpoint(handler)

        async def call_often() -> None:
            until_round = len(rounds) + 3
            while len(rounds) < until_round:
                answers = await asyncio.gather(
                    *[endpoint.handle_async(request()) for _ in range(5)]
                )
                assert {200} == {each.status for each in answers}

        asyncio.run(call_often())
        assert 1 == len(looks)
        assert 1 >= len(reads)


def _count(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, calls: list[None]) -> None:
    """Add to the list with each call of a method."""
    method = getattr(owner, name)

    def counted(self: Any, *args: Any) -> Any:
        calls.append(None)
        return method(self, *args)

    monkeypatch.setattr(owner, name, counted)


def test_a_worker_that_has_started_knows_that_it_is_alone(process: Lab) -> None:
    """Before its first request: runs and steps need not ask the store for the newest event."""
    worker = worker_of(process)
    worker.scheduler.stop()

    assert not worker.event_watermark._is_shared


def test_the_commits_of_another_process_are_noticed(tmp_path: Path) -> None:
    """Its registration, and what it sends to a live run."""
    path = tmp_path / "store.db"
    other = SQLiteStore(path)
    with lab(SQLiteStore(path)) as process:
        worker = worker_of(process)
        other.open()
        peer = WorkerRecord(id="p", host="h", pid=1, expires_at=2**50, app="lab")
        other.commit([Register(worker=peer)], wait=1.0)
        until(lambda: worker.event_watermark._is_shared)
        endpoint = process.endpoint(waits)

        async def main() -> None:
            await endpoint.handle_async(request())
            assert 1 == len(worker.live)
            sent = SendEvents(app="lab", events=(event("go", id="e"),), now=1)
            other.commit([sent], wait=1.0)
            await until_async(lambda: not worker.live)

        asyncio.run(main())
        assert {Phase.COMPLETED} == phases(process)
    other.close()
