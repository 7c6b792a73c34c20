"""How many runs are claimed, and what becomes of those that wait for a thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from durable_conformance.store_values import created, pending, suspended
from durable_core.api.step import sync_step
from durable_core.engine import capacity, scheduler
from durable_core.engine.capacity import Capacity
from durable_core.errors import StoreError
from durable_core.flow.scope import HandlerKind
from durable_core.http.request import Request
from durable_core.machine.step_ids import hash_step_id
from durable_core.model.run import Phase
from durable_core.ports import Checkpoint, Claim, Store, Write
from durable_core.runners.settings import Settings
from durable_core.stores.sqlite import SQLiteStore
from support.harness import Lab, WatchedStore, a_request, until

DEF, ASYNC_DEF = HandlerKind.DEF, HandlerKind.ASYNC_DEF


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the monotonic time of capacities, which stands still."""
    now = [100.0]
    clock: Any = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(capacity, "time", clock)
    return now


def capacity_of(*, busy: int = 0, ended: int = 0, threads: int = 4, tasks: int = 8) -> Capacity:
    """Return one with so many busy threads, after so many runs have ended just now."""
    made = Capacity(threads, tasks)
    for _ in range(busy):
        made.take(DEF)
    for _ in range(ended):
        made.thread_ended()
    return made


@pytest.mark.parametrize(
    ("busy", "ended", "free", "room"),
    [(0, 0, 4, 4), (4, 0, 0, 0), (4, 3, 0, 3), (4, 99, 0, 8), (7, 5, 0, 2), (12, 99, 0, 0)],
)
def test_as_many_runs_are_claimed_ahead_as_ended_lately(
    seconds: list[float], busy: int, ended: int, free: int, room: int
) -> None:
    """Up to two for each thread; those that wait already count."""
    it = capacity_of(busy=busy, ended=ended)
    assert (free, room, min(busy, 4)) == (it.free(DEF), it.room(DEF), it.replaying(DEF))


def test_none_is_claimed_ahead_of_handlers_that_take_long(seconds: list[float]) -> None:
    """What ended 50 ms ago is no reason; tasks have none ahead of them."""
    it = capacity_of(busy=4, ended=8)
    assert (8, 8) == (it.room(DEF), it.room(ASYNC_DEF))
    seconds[0] += 0.06
    assert 0 == it.room(DEF)


@pytest.mark.parametrize(
    ("busy", "ended", "is_worth_it"),
    [(3, 0, True), (4, 0, False), (4, 1, True), (9, 8, False), (8, 8, True)],
)
def test_a_claim_is_worth_it_for_half_of_what_may_wait(
    seconds: list[float], busy: int, ended: int, is_worth_it: bool
) -> None:
    """Or for a free thread, where no run may wait."""
    assert is_worth_it is capacity_of(busy=busy, ended=ended).is_worth_a_claim(DEF)


def test_only_what_has_not_begun_is_taken_back(seconds: list[float]) -> None:
    """And only what has waited for long enough; it does not begin any more."""
    it, runs = capacity_of(), [object() for _ in range(3)]
    waiting: list[Any] = list(runs)
    for run in waiting:
        it.add_waiting(run)
        seconds[0] += 1
    assert it.begin(waiting[0])
    assert [runs[1]] == list(it.take_back(1.5))
    assert not it.begin(waiting[1])
    assert [runs[2]] == list(it.take_back(0.0))


# In a process


IDS = ["r1", "r2", "r3"]


class OneThread:
    """An application with one thread, whose first run blocks it while the others wait.

    Args:
        kind: ``"memory"`` or ``"sqlite"``.
        folder: where the file is.
        monkeypatch: makes two runs wait, however few have ended.
    """

    def __init__(self, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 2
        monkeypatch.setattr(Capacity, "_ahead", lambda *_: self.ahead)
        self.begun: list[str] = []
        self.leave = threading.Event()
        self.slow = ""  # the run whose handler waits for this, too
        self.leave_slow = threading.Event()
        self.store: Store = WatchedStore() if kind == "memory" else SQLiteStore(folder / "it.db")
        self.store.open()
        nap = pending(due_at=1000)
        nap = replace(nap, op=replace(nap.op, id=hash_step_id(nap.op.name)))
        for id_ in IDS:
            new = replace(created(id_, app="lab", key="it"), request=a_request(), memos=())
            self.store.commit([new, suspended(id_, nap)], wait=1.0)
        self.process = Lab(self.store, settings=Settings(worker_threads=1))
        self.process.endpoint(self._handler)
        self.process.durable.start()
        until(lambda: self.owned() == IDS and self.begun == ["r1"])

    def _handler(self, request: Request) -> None:
        sync_step.sleep("nap", "1h")
        run = self.process.durable.current_run()
        assert run is not None
        self.begun.append(run.id)
        assert self.leave.wait(10)
        if run.id == self.slow:
            assert self.leave_slow.wait(10)

    def owned(self) -> list[str]:
        """Return the runs that the process has claimed."""
        return [each.run.id for each in self.process.records.list()[::-1] if each.owner is not None]

    def released(self) -> list[tuple[Phase, int | None, int]]:
        """Return the phase, the due time and the crash count of the two runs that have waited."""
        records = [self.process.records.get(id_) for id_ in IDS[1:]]
        return [(each.run.phase, each.due_at, each.run.crash_count) for each in records]

    def all_have_ended(self) -> bool:
        """Tell whether all runs have."""
        return all(each.run.phase.ended for each in self.process.records.list())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_run_that_waits_for_a_slow_handler_is_released(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have room for it. It is as it was, and begins in its turn."""
    it = OneThread(kind, tmp_path, monkeypatch)
    try:
        it.ahead = 0
        monkeypatch.setattr(scheduler, "_STALE", 0.0)
        it.process.poke()
        until(lambda: it.owned() == ["r1"])
        assert [(Phase.SYNC, 1000, 0)] * 2 == it.released()
        it.leave.set()
        until(it.all_have_ended)
        assert IDS == it.begun
    finally:
        it.leave.set()
        it.process.stop()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_process_that_stops_releases_what_waits_at_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not begin, although the handler before it takes its time."""
    it = OneThread(kind, tmp_path, monkeypatch)
    stopping = threading.Thread(target=it.process.stop)
    try:
        stopping.start()
        until(lambda: it.owned() == ["r1"])
        assert [(Phase.SYNC, 1000, 0)] * 2 == it.released()
    finally:
        it.leave.set()
        stopping.join()
    assert ["r1"] == it.begun


def test_the_ends_of_runs_are_committed_together_while_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread goes on to the next run; each is live until its end is durable."""
    it = OneThread("memory", tmp_path, monkeypatch)
    seen: list[object] = []
    watched = it.process.watched

    def fault(writes: Sequence[Write[Any]]) -> None:
        ended = [w.run_id for w in writes if isinstance(w, Checkpoint) and w.result is not None]
        if ended:
            seen.append((ended, it.begun[:], it.process.durable.health()["live_runs"]))

    watched.fault = fault
    monkeypatch.setattr("durable_core.commit_queue._LINGER", 60.0)
    it.leave.set()
    try:
        until(it.all_have_ended)
        until(lambda: it.process.durable.health()["live_runs"] == 0)
    finally:
        it.process.stop()
    assert [(IDS, IDS, 3)] == seen


def test_an_end_that_cannot_be_stored_is_not_lost_with_those_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is released, and continues when the store takes writes; the others end."""
    it = OneThread("memory", tmp_path, monkeypatch)
    failed: list[str] = []

    def fault(writes: Sequence[Write[Any]]) -> None:
        ended = [w.run_id for w in writes if isinstance(w, Checkpoint) and w.result is not None]
        if ended and not failed:
            failed.extend(ended)
            raise StoreError("no space left")

    it.process.watched.fault = fault
    it.leave.set()
    try:
        until(it.all_have_ended)
    finally:
        it.process.stop()
    assert failed
    assert sorted([*IDS, *failed]) == sorted(it.begun)
    assert [0, 0, 0] == [each.run.crash_count for each in it.process.records.list()]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_an_end_that_cannot_be_stored_is_released_while_the_next_handler_runs(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that takes: another process may store the end."""
    it = OneThread(kind, tmp_path, monkeypatch)
    refused: list[str] = []
    commit = it.store.commit

    def refuse_once(writes: Sequence[Write[Any]], *, wait: float) -> Sequence[Any]:
        ended = [w.run_id for w in writes if isinstance(w, Checkpoint) and w.result is not None]
        if ended and not refused:
            refused.extend(ended)
            raise StoreError("no space left")
        return commit(writes, wait=wait)

    monkeypatch.setattr(it.store, "commit", refuse_once)
    it.slow = "r2"
    it.leave.set()
    try:
        until(lambda: "r2" in it.begun)
        it.ahead = 0
        monkeypatch.setattr(scheduler, "_STALE", 0.0)
        it.process.poke()
        until(lambda: it.owned() == ["r2"])
        assert (["r1"], ["r1", "r2"]) == (refused, it.begun)
        assert not it.process.records.get("r1").run.phase.ended
        it.leave_slow.set()
        until(it.all_have_ended)
    finally:
        it.leave_slow.set()
        it.process.stop()
    assert 0 == it.process.records.get("r1").run.crash_count


def test_runs_that_wait_end_in_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that has ended one begins the next, without a claim in between."""
    it = OneThread("memory", tmp_path, monkeypatch)
    it.leave.set()
    try:
        until(it.all_have_ended)
    finally:
        it.process.stop()
    claims = [
        write.limit
        for batch in it.process.watched.batches
        for write in batch
        if isinstance(write, Claim)
    ]
    assert IDS == it.begun
    assert [3] == claims
