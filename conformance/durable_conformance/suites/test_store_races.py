"""Commits that meet each other, in several handles on the same data; and a process that dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from durable_conformance.contract import Capability, StoreSubject
from durable_conformance.plugin import needs, requirement
from durable_conformance.store_batches import snapshot
from durable_conformance.store_values import (
    claim,
    commit,
    created,
    delivery,
    ended,
    event,
    matched_seqs,
    memo_write,
    peer,
    result,
    send,
    suspended,
    wait,
)
from durable_core.errors import LeaseLost, StoreBusyError, StoreError
from durable_core.model.run import Phase
from durable_core.ports import (
    Begin,
    Cancel,
    Checkpoint,
    Claim,
    Deliver,
    Heartbeat,
    IdempotencyKey,
    Prune,
    ReapWorkers,
    Register,
    SendEvents,
    Store,
    Unregister,
    Write,
)

#: How often two commits are made to meet.
_ROUNDS = 25
_KILLS = 8

Background = Callable[..., Future[Any]]


@contextmanager
def handles(subject: StoreSubject, store: Store, count: int) -> Iterator[list[Store]]:
    with ExitStack() as stack:
        yield [stack.enter_context(subject.open_again(store)) for _ in range(count)]


def at_once(background: Background, turn: int, *actions: Callable[[], Any]) -> list[Any]:
    """Call them at the same moment, each in its thread; return what they return.

    The one that is started last is a moment ahead of the others: ``turn`` says which.
    """
    barrier = threading.Barrier(len(actions))

    def act(action: Callable[[], Any]) -> Any:
        barrier.wait(20)
        return action()

    count = len(actions)
    order = [(turn + place) % count for place in range(count)]
    running = {index: background(act, actions[index]) for index in order}
    return [running[index].result() for index in range(count)]


@requirement("T23")
@needs(Capability.SHARED)
def test_a_wait_and_an_event_that_meet_find_each_other(
    durable_subject: StoreSubject, store: Store, background: Background
) -> None:
    """Whichever is committed first: the wait finds the event, or the event the wait."""
    lost = []
    with handles(durable_subject, store, 2) as (one, two):
        for number in range(_ROUNDS):
            id_ = f"r{number:02}"
            commit(store, created(id_))
            awaited = wait(event=f"e{number}", mark=store.event_seq("app"))
            register = Checkpoint(run_id=id_, owner="o1", epoch=1, now=1, pending=(awaited,))
            sent = event(f"id{number}", f"e{number}")
            at_once(
                background,
                number,
                partial(commit, one, register),
                partial(send, two, sent),
            )
            if matched_seqs(store, id_) == [None]:
                lost.append(id_)

    assert [] == lost


@requirement("T31")
@needs(Capability.SHARED)
def test_one_of_those_that_begin_at_once_begins(
    durable_subject: StoreSubject, store: Store, background: Background
) -> None:
    """All are answered with the run of that one, and no other run is stored."""
    with handles(durable_subject, store, 3) as those:
        for number in range(_ROUNDS):
            key = IdempotencyKey(scope="s", key=f"k{number}", fingerprint="", expires_at=100)
            ids = [f"r{number:02}-{place}" for place in range(3)]
            begins = [Begin(key=key, checkpoint=created(id_)) for id_ in ids]
            acts = [
                partial(commit, handle, begin) for handle, begin in zip(those, begins, strict=True)
            ]
            begun = at_once(background, number, *acts)
            [winner] = [id_ for id_, each in zip(ids, begun, strict=True) if each.is_new]

            assert {winner} == {each.run_id for each in begun}
            assert [winner] == [id_ for id_ in ids if store.get("app", id_) is not None]


@requirement("T23")
@needs(Capability.SHARED)
def test_events_become_visible_in_the_order_of_their_numbers(
    durable_subject: StoreSubject, store: Store, background: Background
) -> None:
    """What a wait is answered with, or a watermark counts, has no lower number after it."""
    commit(store, created("watcher"))
    for id_ in ("r1", "r2"):
        commit(store, created(id_))

    def sender(handle: Store, id_: str, number: int) -> int:
        write = memo_write(id_, number + 2, events=(event(f"{id_}-{number}"),))
        [(_, seq)] = commit(handle, write).sent
        return seq

    def first(handle: Store, before: int, number: int) -> tuple[int, int]:
        """Return the first number that is visible, and the first one that is counted."""
        while (seq := handle.event_seq("app")) == before:
            time.sleep(0)  # lets the senders go on
        awaited = wait(f"w{number}", mark=before)
        write = Checkpoint(run_id="watcher", owner="o1", epoch=1, now=1, pending=(awaited,))
        [(_, stored)] = commit(handle, write).matched
        return stored.seq, seq

    with handles(durable_subject, store, 3) as (one, two, three):
        for number in range(_ROUNDS):
            before = store.event_seq("app")
            a, b, (seen, counted) = at_once(
                background,
                number,
                partial(sender, one, "r1", number),
                partial(sender, two, "r2", number),
                partial(first, three, before, number),
            )

            assert before < seen == min(a, b) <= counted


@requirement("T24")
@needs(Capability.SHARED)
def test_a_claim_and_a_cancellation_that_meet(
    durable_subject: StoreSubject, store: Store, background: Background
) -> None:
    """The run has ended as cancelled; a claim that came first is worth nothing any more."""
    take = Claim(app="app", owner="o2", keys=("key",), now=5000, limit=1)
    commit(store, Register(worker=peer("o2")))
    with handles(durable_subject, store, 2) as (one, two):
        for number in range(_ROUNDS):
            id_ = f"r{number:02}"
            commit(store, created(id_))
            commit(store, suspended(id_))
            cancel = Cancel(app="app", run_id=id_, result=result(Phase.CANCELLED))
            claimed, cancelled = at_once(
                background,
                number,
                partial(commit, one, take),
                partial(commit, two, cancel),
            )

            assert cancelled
            assert result(Phase.CANCELLED) == store.result("app", id_)
            assert {} == store.held("o2")
            for each in claimed:
                with pytest.raises(LeaseLost):
                    commit(one, memo_write(id_, owner="o2", epoch=each.run.epoch))


@requirement("T24")
@needs(Capability.SHARED)
def test_a_read_shows_a_pruned_run_whole_or_not_at_all(
    durable_subject: StoreSubject, store: Store, background: Background
) -> None:
    """Each read is of one moment, whatever is deleted meanwhile."""
    for number in range(_ROUNDS):
        id_ = f"r{number:02}"
        commit(store, created(id_))
        commit(store, memo_write(id_))
        commit(store, ended(id_))

    def prune(handle: Store) -> None:
        old = Prune(app="app", runs_before=1000, events_before=0, limit=1)
        while commit(handle, old):
            pass

    def read(handle: Store) -> set[int]:
        found = set[int]()
        for number in range(_ROUNDS):
            while (record := handle.get("app", f"r{number:02}")) is not None:
                found.add(len(record.memos))
        return found

    with handles(durable_subject, store, 2) as (one, two):
        _, found = at_once(background, 0, partial(prune, one), partial(read, two))

    assert {2} == found


@requirement("T25")
@pytest.mark.parametrize(
    "write",
    [
        SendEvents(app="app", events=(event("1"),), now=5),
        Deliver(app="app", delivery=delivery(run_id="r2"), now=5),
        Register(worker=peer("o3")),
        Heartbeat(id="o1", expires_at=200),
        ReapWorkers(ids=("o1",), now=70),
        Unregister(id="o1", now=70),
        Prune(app="app", runs_before=1000, events_before=1000, limit=9),
    ],
    ids=lambda write: type(write).__name__,
)
def test_what_is_repeatable_changes_nothing_the_second_time(
    store: Store, write: Write[object]
) -> None:
    """It may be committed again when nobody knows whether it was committed."""
    assert write.repeatable
    commit(store, Register(worker=peer("o1")))
    commit(store, replace(created("r1"), pending=(wait(),)))
    commit(store, created("r2"))
    commit(store, ended("r2"))
    commit(store, write)
    before = snapshot(store)

    commit(store, write)

    assert before == snapshot(store)


@requirement("T25")
def test_what_an_owner_holds_can_be_read(store: Store) -> None:
    """Also what it was given by a claim whose answer it never saw; with the epoch to end it."""
    for id_ in ("r1", "r2", "r3"):
        commit(store, created(id_))
    commit(store, suspended("r1"))
    assert {"r2": 1, "r3": 1} == store.held("o1")
    claim(store)
    commit(store, ended("r2"))

    assert ({"r3": 1}, {"r1": 2}, {}) == (store.held("o1"), store.held("o2"), store.held("o3"))


@requirement("T26")
def test_a_closed_store_raises_nothing_but_store_errors(store: Store) -> None:
    """Or answers, if it needs nothing to be open; opened again it is as it was."""
    commit(store, created())
    store.close()
    reads: list[Callable[[], object]] = [
        lambda: store.commit([memo_write()], wait=0),
        lambda: store.get("app", "r1"),
        lambda: store.result("app", "r1"),
        lambda: store.list("app", limit=9),
        lambda: store.event_seq("app"),
        lambda: store.next_due("app", ("key",)),
        lambda: store.workers(),
        lambda: store.held("o1"),
        lambda: store.matched_waits("o1"),
        lambda: store.cancelled_runs("o1"),
        lambda: store.abandoned_children("app"),
        lambda: store.which_ended("app", ("r1",)),
        lambda: store.stream_versions("app", ("r1",)),
        lambda: store.read_stream("app", "r1", done=0, outside=0, most=9),
        lambda: store.run_maintenance(),
        lambda: store.wakeups().changed(),
    ]
    for read in reads:
        try:
            read()
        except StoreError:
            continue

    store.close()
    store.open()
    store.open()
    record = store.get("app", "r1")
    assert record is not None
    assert 1 <= len(record.memos) <= 2


@requirement("T26")
@needs(Capability.LOCKS)
def test_a_locked_store_is_waited_for_as_long_as_asked(
    durable_subject: StoreSubject, store: Store
) -> None:
    """Not at all with 0; nothing is done then, and reads go on."""
    commit(store, created())
    for seconds in (0.0, 0.3):
        with durable_subject.lock(store):
            began = time.monotonic()
            with pytest.raises(StoreBusyError):
                store.commit([memo_write()], wait=seconds)
            took = time.monotonic() - began
            record = store.get("app", "r1")

        assert record is not None
        assert 1 == len(record.memos)
        assert seconds <= took < seconds + 2
    commit(store, memo_write())


@requirement("T26")
@needs(Capability.SHARED)
def test_who_lives_is_not_dead(durable_subject: StoreSubject, store: Store) -> None:
    """Death is proven or unknown: of a living process, or of another host, it is not proven."""
    commit(store, Register(worker=peer("o1")))
    with durable_subject.open_again(store) as other:
        commit(other, Register(worker=peer("o2")))
        elsewhere = replace(peer("o3"), host="elsewhere")
        commit(other, Register(worker=elsewhere))
        workers = other.workers()

        assert ["o1", "o2", "o3"] == sorted(each.id for each in workers)
        assert [] == [id_ for id_ in other.dead_workers(workers) if id_ != "o3"]
        assert [] == [id_ for id_ in store.dead_workers([elsewhere]) if id_ == "o3"]


@requirement("T27")
@needs(Capability.PROCESSES)
def test_what_a_killed_process_was_told_is_there(
    durable_subject: StoreSubject, store: Store
) -> None:
    """Each batch that was answered is stored, and of the one that was not all or nothing."""
    for kill in range(_KILLS):
        told = _killed_writer(durable_subject, store, f"k{kill}", 0.02 + 0.01 * kill)
        assert told
        stored = {record.run.id for record in store.list("app", limit=1000)}
        batches = _batches_of(stored, f"k{kill}")

        assert set(range(told)) <= set(batches)
        assert len(batches) <= told + 1
        assert {3} >= set(batches.values())


def _killed_writer(subject: StoreSubject, store: Store, name: str, seconds: float) -> int:
    """Let another process commit batches of three runs; kill it; return how many were answered."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with subject.open_again(store) as handle:
                for number in range(1000):
                    runs = [created(f"{name}-{number:03}-{part}") for part in range(3)]
                    handle.commit(list(runs), wait=5.0)
                    os.write(writing, b".")
        finally:
            os._exit(1)
    os.close(writing)
    try:
        told = os.read(reading, 1)  # it has begun
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        while more := os.read(reading, 1000):
            told += more
    finally:
        os.close(reading)
        os.waitpid(pid, 0)
    return len(told)


def _batches_of(ids: set[str], name: str) -> dict[int, int]:
    """Return how many runs there are of each batch."""
    batches: dict[int, int] = {}
    for id_ in ids:
        of, _, rest = id_.partition("-")
        if of == name:
            number = int(rest.partition("-")[0])
            batches[number] = batches.get(number, 0) + 1
    return batches
