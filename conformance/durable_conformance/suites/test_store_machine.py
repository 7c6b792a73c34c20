"""A store as a whole: against the memory store, past its own reads, and with other handles."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import pytest

from durable_conformance.contract import Capability, StoreSubject
from durable_conformance.plugin import needs, requirement
from durable_conformance.store_batches import BATCHES, snapshot
from durable_conformance.store_machine import check_store
from durable_conformance.store_values import (
    claim,
    commit,
    created,
    ended,
    event,
    memo_write,
    send,
    suspended,
    wait,
)
from durable_core.errors import LeaseLost
from durable_core.ports import Prune, Store
from durable_core.stores.memory import MemoryStore

_EXAMPLES = 60


@requirement("T16")
def test_it_does_what_the_memory_store_does(durable_subject: StoreSubject) -> None:
    """Whatever is written to both, in whatever order, all answers and all reads are the same."""
    check_store(durable_subject, _EXAMPLES)


@requirement("T17")
def test_what_is_stored_is_what_is_read(durable_subject: StoreSubject, store: Store) -> None:
    """Looking past the store's own reads finds as much, and no more."""
    commit(store, created())
    commit(store, suspended("r1", wait()))
    commit(store, created("r2"))
    send(store, event("1", "other"), event("2", "other"))
    first = dict(durable_subject.peek(store))
    commit(store, ended("r2"))
    commit(store, Prune(app="app", runs_before=1000, events_before=1000, limit=9))

    assert {"runs": 2, "steps": 2, "pending": 1, "events": 2} == first
    assert {"runs": 1, "steps": 1, "pending": 1, "events": 0} == dict(durable_subject.peek(store))


@requirement("T18")
@needs(Capability.SHARED)
def test_another_handle_sees_what_was_committed(
    durable_subject: StoreSubject, store: Store
) -> None:
    """At once, and its version tells; the first handle is never closed."""
    with durable_subject.open_again(store) as other:
        wakeups = other.wakeups()
        assert wakeups.changed()
        assert not wakeups.changed()
        commit(store, created())
        send(store, event("1"))

        assert wakeups.changed()
        assert store.get("app", "r1") == other.get("app", "r1")
        assert 1 == other.event_seq("app")
        assert list(store.secrets()) == list(other.secrets())


@requirement("T18")
@needs(Capability.SHARED)
def test_a_stale_owner_commits_nothing(durable_subject: StoreSubject, store: Store) -> None:
    """Once another handle has claimed the run, the first one's writes are refused."""
    commit(store, created())
    commit(store, suspended())
    with durable_subject.open_again(store) as other:
        assert 1 == len(claim(other))
        [answer] = store.commit([memo_write()], wait=1.0)

        assert isinstance(answer, LeaseLost)
        assert 1 == durable_subject.peek(store)["steps"]


@requirement("T22")
@needs(Capability.CRASH_POINTS)
@pytest.mark.parametrize("name", BATCHES)
def test_a_commit_is_whole_or_not_at_all(
    durable_subject: StoreSubject, store: Store, name: str
) -> None:
    """Whichever statement a process dies in, nothing of the commit is there, or all of it."""
    before, batch = BATCHES[name]
    reference = MemoryStore()
    for each in (store, reference):
        assert [] == [one for one in each.commit(before, wait=1.0) if _is_error(one)]
    nothing = snapshot(reference)
    reference.commit(batch, wait=1.0)
    all_of_it = snapshot(reference)

    left = []
    for crashed in durable_subject.crash_points(store, lambda: store.commit(batch, wait=1.0)):
        with crashed as found:
            left.append(snapshot(found))

    assert nothing != all_of_it
    assert len(left) > 1
    assert (nothing, all_of_it) == (left[0], left[-1])
    committed = left.index(all_of_it)
    assert [nothing] * committed + [all_of_it] * (len(left) - committed) == left


def _is_error(answer: object) -> bool:
    return isinstance(answer, BaseException)


@requirement("T19")
@needs(Capability.SHARED)
def test_each_run_is_claimed_once(
    durable_subject: StoreSubject, store: Store, background: Callable[..., Future[Any]]
) -> None:
    """However many handles claim at the same moment."""
    runs = [f"r{number:02}" for number in range(40)]
    for id_ in runs:
        store.commit([created(id_), suspended(id_)], wait=1.0)
    barrier = threading.Barrier(4)

    def claim_all(handle: Store, owner: str) -> list[str]:
        barrier.wait(20)
        claimed: list[str] = []
        while found := claim(handle, owner):
            claimed += [each.run.id for each in found]
        return claimed

    with ExitStack() as stack:
        handles = [stack.enter_context(durable_subject.open_again(store)) for _ in range(4)]
        waiting = [background(claim_all, handle, f"o{n}") for n, handle in enumerate(handles)]
        claimed = [id_ for each in waiting for id_ in each.result()]

    assert runs == sorted(claimed)
