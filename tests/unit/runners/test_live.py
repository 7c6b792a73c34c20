"""Live runs, and clients that wait."""

from __future__ import annotations

import threading
from typing import Any, cast

from durable_conformance.store_values import run
from durable_core.flow.execution import Execution
from durable_core.model.decision import HandoffReason
from durable_core.model.event import StoredEvent
from durable_core.runners.live import ActiveRuns, Waiters


class FakeActiveRun:
    """A live run that does nothing."""

    def __init__(self, run_id: str) -> None:
        self.ex = cast(Execution, type("Ex", (), {"run": run(run_id)})())

    def on_event(self, op_id: str, event: StoredEvent) -> None: ...
    def recheck_deadlines(self) -> None: ...
    def detach(self, reason: HandoffReason) -> None: ...
    def stop(self) -> None: ...
    def lease_lost(self) -> None: ...


def test_live_runs() -> None:
    """What is added can be found until it is removed."""
    live, one = ActiveRuns(), FakeActiveRun("r1")
    live[one.ex.run.id] = one
    assert (1, one, [one]) == (len(live), live.get("r1"), live.all())
    live.remove(one)
    assert (0, None) == (len(live), live.get("r1"))


def test_remove_leaves_a_later_execution_alone() -> None:
    """An execution that ends late does not drop the one that has taken its place."""
    live, old, new = ActiveRuns(), FakeActiveRun("r1"), FakeActiveRun("r1")
    live[old.ex.run.id] = old
    live[new.ex.run.id] = new
    live.remove(old)
    assert new is live.get("r1")
    assert not live.wait_until_empty(0.0)


def test_wait_until_empty() -> None:
    """A stop waits until nothing is live, and is told when that does not come."""
    live, one = ActiveRuns(), FakeActiveRun("r1")
    assert live.wait_until_empty(0.0)
    live[one.ex.run.id] = one
    assert not live.wait_until_empty(0.001)
    empty: list[bool] = []
    waiter = threading.Thread(target=lambda: empty.append(live.wait_until_empty(10)))
    waiter.start()
    live.remove(one)
    waiter.join(10)
    assert [True] == empty


def test_waiters() -> None:
    """Those who wait for a run are woken when it ends, and nobody else."""
    attended: list[int] = []
    waiters = Waiters(10, lambda: attended.append(1))
    woken: list[str] = []
    wakers: dict[str, Any] = {name: lambda name=name: woken.append(name) for name in "abc"}
    assert all(waiters.add("r1" if name < "c" else "r2", wakers[name]) for name in wakers)
    assert {"r1", "r2"} == set(waiters.run_ids())
    assert [1] == attended

    waiters.wake(["r1", "unknown"])
    assert ["a", "b"] == woken
    waiters.release_all()
    assert ["a", "b", "a", "b", "c"] == woken

    for name, wake in wakers.items():
        waiters.remove("r1" if name < "c" else "r2", wake)
    assert (0, []) == (len(waiters), waiters.run_ids())


def test_threads_of_a_server() -> None:
    """Clients get three in four threads, those of one run half of these; the rest stays free."""
    waiters, wake = Waiters(100, lambda: None), threading.Event().set
    assert all(waiters.add("r1", wake, in_thread=True) for _ in range(10))
    for _ in range(10):
        waiters.remove("r1", wake, in_thread=True)

    waiters.limit_threads(8)
    assert 3 == sum(waiters.add("r1", wake, in_thread=True) for _ in range(10))
    assert 3 == sum(waiters.add(f"r{number}", wake, in_thread=True) for number in range(2, 12))
    assert (False, True) == (waiters.has_thread_for("r99"), waiters.add("r1", wake))
    waiters.remove("r1", wake, in_thread=True)
    assert waiters.add("r1", wake, in_thread=True)


def test_hold_time() -> None:
    """A client is held for as long as it may be, after a release for a moment only."""
    waiters = Waiters(10, lambda: None)
    assert 25.0 == waiters.hold_time(25.0)
    waiters.release_all()
    assert (0.3, 0.1) == (waiters.hold_time(25.0), waiters.hold_time(0.1))


def test_waiters_have_a_limit() -> None:
    """No more than so many are taken; one that leaves makes room."""
    waiters = Waiters(1, lambda: None)
    wake = threading.Event().set
    assert waiters.add("r1", wake)
    assert not waiters.add("r2", wake)
    waiters.remove("r1", wake)
    assert waiters.add("r2", wake)
