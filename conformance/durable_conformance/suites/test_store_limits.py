"""Limits of endpoints: slots, queues, rates, and runs that are alone with their key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from durable_conformance.contract import Capability, StoreSubject
from durable_conformance.plugin import needs, requirement
from durable_conformance.store_values import (
    commit,
    created,
    ended,
    memo,
    peer,
    result,
    run,
    suspended,
)
from durable_conformance.suites.test_store_races import at_once, handles
from durable_core.errors import SingletonError
from durable_core.model.run import Phase
from durable_core.ports import (
    Begin,
    BeginRefused,
    Begun,
    Cancel,
    CancelOutcome,
    Claim,
    ClaimedRun,
    Delete,
    Fork,
    IdempotencyKey,
    LeaveQueue,
    RateRule,
    ReapWorkers,
    Register,
    Retry,
    Slots,
    Store,
)

Background = Callable[..., Future[Any]]

_ROUNDS = 15

ONE = Slots(endpoint_key="key", most=1)


def begin(
    store: Store,
    id_: str,
    *,
    slots: Slots | None = ONE,
    slot_key: str = "",
    singleton_key: str | None = None,
    owner: str = "o1",
    now: int = 10,
    key: str = "key",
    **limits: Any,
) -> Begun | BeginRefused:
    """Begin a run as an endpoint with limits does."""
    new = replace(run(id_, key=key), singleton_key=singleton_key, client=f"client of {id_}")
    if slots is not None:
        new = replace(new, slot_key=slot_key)
    checkpoint = replace(created(id_, owner=owner), create=new, memos=(), now=now)
    return commit(store, Begin(checkpoint=checkpoint, slots=slots, **limits))


def leave_queue(
    *,
    unlimited: tuple[str, ...] = (),
    limited: tuple[str, ...] = (),
    before: int = 0,
    limit: int = 10,
) -> LeaveQueue:
    """Return what takes runs out of the queue."""
    return LeaveQueue(app="app", unlimited=unlimited, limited=limited, before=before, limit=limit)


def cancel_of(run_id: str) -> Cancel:
    """Return what cancels a run for another one."""
    return Cancel(app="app", run_id=run_id, result=result(Phase.CANCELLED))


def is_queued(begun: Begun | BeginRefused) -> bool:
    """Tell whether a run that has begun waits for a slot."""
    assert isinstance(begun, Begun)
    assert begun.is_new
    return begun.is_queued


def claimed(
    store: Store,
    *slots: Slots,
    keys: Sequence[str] = ("key",),
    limit: int = 10,
    now: int = 5000,
    ahead: int = 0,
) -> list[str]:
    """Claim runs, and return their ids in order."""
    commit(store, Register(worker=peer("o2")))
    wanted = Claim(
        app="app",
        owner="o2",
        keys=tuple(keys),
        now=now,
        limit=limit,
        slots=slots or (ONE,),
        ahead=ahead,
    )
    return [each.run.id for each in commit(store, wanted) if isinstance(each, ClaimedRun)]


# Slots


@requirement("T38")
def test_a_run_without_a_slot_is_queued(store: Store) -> None:
    """It has no owner, and is due; it is claimable when a slot is free, and then goes on."""
    assert not is_queued(begin(store, "r1"))
    assert is_queued(begin(store, "r2"))
    record = store.get("app", "r2")
    assert record is not None
    assert (Phase.QUEUED, None, 10) == (record.run.phase, record.owner, record.due_at)
    assert store.next_due("app", ["key"], slots=[ONE]) is None
    assert [] == claimed(store)
    commit(store, ended("r1"))
    assert 10 == store.next_due("app", ["key"], slots=[ONE])
    assert ["r2"] == claimed(store)
    record = store.get("app", "r2")
    assert record is not None
    assert (Phase.SUSPENDED, "o2", 2) == (record.run.phase, record.owner, record.run.epoch)
    assert is_queued(begin(store, "r3"))


@requirement("T38")
def test_nobody_overtakes_those_in_line(store: Store) -> None:
    """A run that begins while a slot is free and others wait for it is queued behind them."""
    begin(store, "r1")
    begin(store, "r2")
    commit(store, ended("r1"))
    assert is_queued(begin(store, "r3"))
    assert ["r2"] == claimed(store)


@requirement("T38")
def test_those_in_line_go_in_order_and_keys_in_turns(store: Store) -> None:
    """Of each key the one that has waited longest; a key with many does not delay the others."""
    slots = Slots(endpoint_key="key", most=1, most_of_key=1)
    begin(store, "r1", slots=slots, slot_key="b")
    for now, id_ in enumerate(("b2", "b1", "a1", "c1", "c2"), start=20):
        assert is_queued(begin(store, id_, slots=slots, slot_key=id_[0], now=now))
    order, running = [], "r1"
    for _ in range(5):
        epoch = 1 if running == "r1" else 2
        commit(store, ended(running, owner="o1" if running == "r1" else "o2", epoch=epoch))
        [running] = claimed(store, slots)
        order.append(running)
    assert ["c1", "a1", "b2", "c2", "b1"] == order


@requirement("T38")
def test_a_key_has_slots_of_its_own(store: Store) -> None:
    """A key that has used up its slots is passed over; it does not use up those of the others."""
    slots = Slots(endpoint_key="key", most=2, most_of_key=1)
    for id_ in ("a1", "b1"):
        assert not is_queued(begin(store, id_, slots=slots, slot_key=id_[0]))
    for id_ in ("a2", "a3", "c1"):
        assert is_queued(begin(store, id_, slots=slots, slot_key=id_[0]))
    assert [] == claimed(store, slots)
    commit(store, ended("b1"))
    assert ["c1"] == claimed(store, slots)
    free = Slots(endpoint_key="key", most=None, most_of_key=1)
    assert not is_queued(begin(store, "d1", slots=free, slot_key="d"))
    assert is_queued(begin(store, "a4", slots=free, slot_key="a"))


@requirement("T38")
def test_keys_do_not_compete_without_a_limit_for_all(store: Store) -> None:
    """A run whose key has a free slot begins, though one of another key is queued and has one too;
    behind one of its own key it is queued.
    """
    slots = Slots(endpoint_key="key", most=None, most_of_key=1)
    for id_, slot_key in (("a1", "a"), ("b1", "b")):
        assert not is_queued(begin(store, id_, slots=slots, slot_key=slot_key))
        assert is_queued(begin(store, f"{id_}+", slots=slots, slot_key=slot_key))
    commit(store, ended("a1"))
    assert is_queued(begin(store, "a2", slots=slots, slot_key="a"))
    assert not is_queued(begin(store, "c1", slots=slots, slot_key="c"))
    assert ["a1+"] == claimed(store, slots)


@requirement("T38")
def test_a_run_that_was_put_away_waits_for_a_slot(store: Store) -> None:
    """It leaves its slot; when it is due it goes on after those that have waited longer.

    So does a failed run that is to go on, and one that was made by copying another.
    """
    begin(store, "r1")
    begin(store, "r2", now=60)
    commit(store, suspended("r1", due_at=50))
    assert 50 == store.next_due("app", ["key"], slots=[ONE])
    assert ["r1"] == claimed(store)
    failed = replace(ended("r1", owner="o2", epoch=2), result=result(Phase.FAILED))
    commit(store, failed)
    commit(store, Retry(app="app", run_id="r1", now=70))
    assert ["r2"] == claimed(store)
    copy = Fork(
        app="app", run_id="r2", op_id="id-step2", run=replace(run("r3"), slot_key=""), now=80
    )
    write = replace(ended("r2", owner="o2", epoch=2), result=None, memos=(memo(2),))
    commit(store, write)
    commit(store, copy)
    assert [] == claimed(store)
    commit(store, ended("r2", owner="o2", epoch=2))
    assert ["r1"] == claimed(store)


@requirement("T38")
def test_the_slots_of_a_dead_process_are_free(store: Store) -> None:
    """As soon as its runs are taken from it; these go to the end of the line."""
    commit(store, Register(worker=peer("o1")))
    begin(store, "r1")
    begin(store, "r2", now=20)
    commit(store, ReapWorkers(ids=("o1",), now=30))
    assert ["r2"] == claimed(store)
    assert [] == claimed(store)
    commit(store, ended("r2", owner="o2", epoch=2))
    assert ["r1"] == claimed(store)


@requirement("T38")
def test_a_queued_run_can_be_cancelled(store: Store) -> None:
    """It leaves the line, and does not come again. It is not deleted before."""
    begin(store, "r1")
    begin(store, "r2")
    assert not commit(store, Delete(app="app", run_id="r2"))
    commit(store, Cancel(app="app", run_id="r2", result=result(Phase.CANCELLED)))
    commit(store, ended("r1"))
    assert store.next_due("app", ["key"], slots=[ONE]) is None
    assert [] == claimed(store)


@requirement("T38")
def test_another_number_of_slots(store: Store) -> None:
    """The numbers are those of the code that claims; without any, runs leave the queue."""
    for id_ in ("r1", "r2", "r3", "r4"):
        begin(store, id_)
    assert ["r2"] == claimed(store, Slots(endpoint_key="key", most=2))
    commit(store, ended("r2", owner="o2", epoch=2))
    assert [] == claimed(store)
    assert 0 == commit(store, leave_queue(limited=("key",), before=999))
    assert 0 == commit(store, leave_queue(unlimited=("other",), before=10))  # nobody knows it here
    assert 1 == commit(store, leave_queue(unlimited=("key",), limit=1))
    assert 1 == len(claimed(store, Slots(endpoint_key="other", most=1)))
    assert 1 == commit(store, leave_queue(before=11))


@requirement("T38")
def test_a_broken_response_needs_no_slot(store: Store) -> None:
    """Its run cannot go on: it is claimed in its phase, so that it fails."""
    begin(store, "r1")
    state = replace(run("r1"), phase=Phase.RESPONDING)
    commit(store, replace(suspended("r1"), state=state))
    begin(store, "r2")
    assert ["r1"] == claimed(store)
    record = store.get("app", "r1")
    assert record is not None
    assert Phase.RESPONDING is record.run.phase


@requirement("T38")
def test_whoever_has_waited_longest_is_claimed_first(store: Store) -> None:
    """Runs of endpoints with slots and without them do not keep each other waiting."""
    for now in (10, 30, 50):
        commit(store, created(f"x{now}", key="other"))
        commit(store, suspended(f"x{now}", due_at=now))
    many = Slots(endpoint_key="key", most=10)
    begin(store, "r1")
    for now in (20, 40, 60):
        begin(store, f"q{now}", now=now)
    keys = ("other", "key")
    assert ["x10", "q20", "x30"] == claimed(store, many, keys=keys, limit=3)
    assert ["q40", "x50", "q60"] == claimed(store, many, keys=keys)


@requirement("T38")
def test_no_run_is_claimed_ahead_with_a_slot(store: Store) -> None:
    """While it waited in a process, another one could execute it; nor is one behind it."""
    commit(store, created("x1", key="other"))
    commit(store, suspended("x1", due_at=10))
    many = Slots(endpoint_key="key", most=10)
    begin(store, "r1")
    for now in (20, 30):
        begin(store, f"q{now}", now=now)
    commit(store, created("x2", key="other"))
    commit(store, suspended("x2", due_at=25))
    keys = ("other", "key")
    assert ["x1"] == claimed(store, many, keys=keys, limit=4, ahead=3)
    assert ["q20", "x2"] == claimed(store, many, keys=keys, limit=4, ahead=3)
    assert ["q30"] == claimed(store, many, keys=keys, limit=4, ahead=3)


@requirement("T38")
def test_a_queue_may_be_full(store: Store) -> None:
    """A run that would be queued behind too many is refused, and nothing of it is stored."""
    begin(store, "r1", queue_limit=1)
    assert is_queued(begin(store, "r2", queue_limit=1))
    assert BeginRefused(reason="queue-full") == begin(store, "r3", queue_limit=1)
    assert store.get("app", "r3") is None


@requirement("T38")
def test_a_begin_whose_answer_was_lost_is_not_begun_twice(store: Store) -> None:
    """It is answered as before; a run that somebody else holds meanwhile counts as queued."""
    rule = RateRule(key="", limit=2, period=60_000)
    for _ in range(2):
        assert not is_queued(begin(store, "r1", rate=rule, singleton_key="s"))
        assert is_queued(begin(store, "r2", rate=rule))
    commit(store, ended("r1"))
    assert ["r2"] == claimed(store)
    assert is_queued(begin(store, "r2", rate=rule))


@requirement("T40")
@needs(Capability.SHARED)
def test_one_of_those_that_want_the_last_slot_has_it(
    durable_subject: StoreSubject, store: Store, background: Background
) -> None:
    """The others are queued, whatever processes begin or claim at the same time."""
    with handles(durable_subject, store, 3) as those:
        commit(store, Register(worker=peer("o2")))
        for number in range(_ROUNDS):
            key = f"key{number}"
            slots = Slots(endpoint_key=key, most=2)
            begin(store, f"a{number}", key=key, slots=slots)
            commit(store, replace(suspended(f"a{number}"), now=1))
            begin(store, f"b{number}", key=key, slots=slots)
            wanted = Claim(app="app", owner="o2", keys=(key,), now=5000, limit=9, slots=(slots,))
            one, two, taken = at_once(
                background,
                number,
                partial(begin, those[0], f"c{number}", key=key, slots=slots),
                partial(begin, those[1], f"d{number}", key=key, slots=slots),
                partial(commit, those[2], wanted),
            )
            begun = [not is_queued(each) for each in (one, two)]

            assert 1 == sum(begun) + len(taken)


# Rates and singleton runs


@requirement("T39")
def test_so_many_runs_begin_in_a_period(store: Store) -> None:
    """A refused one does not count, and is told when the next may begin. Keys are apart."""
    rule = RateRule(key="a", limit=2, period=1000)
    assert not is_queued(begin(store, "r1", slots=None, rate=rule, now=1000))
    assert not is_queued(begin(store, "r2", slots=None, rate=rule, now=1000))
    refused = BeginRefused(reason="rate-limited", retry_at=1500)
    for now in (1000, 1400):
        assert refused == begin(store, "r3", slots=None, rate=rule, now=now)
    assert store.get("app", "r3") is None
    other = replace(rule, key="b")
    assert not is_queued(begin(store, "r4", slots=None, rate=other, now=1000))
    assert not is_queued(begin(store, "r5", slots=None, rate=rule, now=1500))


@requirement("T39")
def test_a_run_that_is_refused_uses_no_rate(store: Store) -> None:
    """Nor does a request that finds the run of an earlier one."""
    rule = RateRule(key="", limit=1, period=1000)
    key = IdempotencyKey(scope="s", key="k", fingerprint="f", expires_at=100)
    begin(store, "r1", slots=None, singleton_key="s")
    begin(store, "r2", key="key", slots=None)
    refused = begin(store, "r3", slots=None, singleton_key="s", rate=rule)
    assert BeginRefused(reason="singleton", run_id="r1", client="client of r1") == refused
    first = replace(created("r4"), memos=())
    assert Begun(run_id="r4", fingerprint="f", is_new=True) == commit(
        store, Begin(checkpoint=first, key=key, rate=rule)
    )
    second = replace(created("r5"), memos=())
    assert Begun(run_id="r4", fingerprint="f", is_new=False) == commit(
        store, Begin(checkpoint=second, key=key, rate=rule)
    )


@requirement("T39")
def test_a_run_is_alone_with_its_singleton_key(store: Store) -> None:
    """Until it has ended, also while it is put away. Endpoints are apart."""
    assert not is_queued(begin(store, "r1", slots=None, singleton_key="s"))
    commit(store, suspended("r1"))
    refused = BeginRefused(reason="singleton", run_id="r1", client="client of r1")
    assert refused == begin(store, "r2", slots=None, singleton_key="s")
    assert not is_queued(begin(store, "r3", slots=None, singleton_key="s", key="other"))
    assert not is_queued(begin(store, "r4", slots=None, singleton_key="t"))
    commit(store, Cancel(app="app", run_id="r1", result=result(Phase.CANCELLED)))
    assert not is_queued(begin(store, "r2", slots=None, singleton_key="s"))


@requirement("T39")
def test_a_run_takes_the_place_of_another_one(store: Store) -> None:
    """It cancels that one and has its slot, at once or not at all: another limit that refuses it,
    or another run that has the key meanwhile, leaves the old one as it is.
    """
    new: dict[str, Any] = {"singleton_key": "s", "replaces": cancel_of("r1")}
    rule = RateRule(key="", limit=1, period=1000)
    begin(store, "r1", singleton_key="s", rate=rule)
    begin(store, "r2")
    before = store.get("app", "r1")
    refused = begin(store, "r3", rate=rule, **new)
    assert BeginRefused(reason="rate-limited", retry_at=1010) == refused
    other = {**new, "replaces": cancel_of("r2")}
    refused = begin(store, "r3", **other)
    assert BeginRefused(reason="singleton", run_id="r1", client="client of r1") == refused
    assert before == store.get("app", "r1")
    commit(store, ended("r1"))
    begin(store, "r1b", slots=None, singleton_key="s")
    new["replaces"] = cancel_of("r1b")
    begun = begin(store, "r3", now=2000, rate=rule, **new)
    assert isinstance(begun, Begun)
    assert (True, CancelOutcome.ENDED) == (begun.is_queued, begun.replaced)  # r2 comes first
    old = store.get("app", "r1b")
    assert old is not None
    assert Phase.CANCELLED == old.run.phase
    assert ["r2"] == claimed(store)


@requirement("T39")
def test_a_run_with_the_slot_of_the_one_it_replaces(store: Store) -> None:
    """The slot of the run that is cancelled is free for the one that takes its place."""
    begin(store, "r1", singleton_key="s", queue_limit=0)
    assert BeginRefused(reason="queue-full") == begin(store, "r2", queue_limit=0)
    replaces = cancel_of("r1")
    assert not is_queued(begin(store, "r2", singleton_key="s", queue_limit=0, replaces=replaces))


@requirement("T39")
def test_a_run_that_must_be_undone_first(store: Store) -> None:
    """It is cancelled, and the new one is refused for as long as that takes; no rate is used."""
    rule = RateRule(key="", limit=1, period=1000)
    begin(store, "r1", slots=None, singleton_key="s")
    undoable = replace(run("r1"), undoable=True, singleton_key="s")
    commit(store, replace(created("r1"), create=None, request=None, memos=(), state=undoable))
    new: dict[str, Any] = {"slots": None, "singleton_key": "s", "rate": rule}
    for outcome in (CancelOutcome.UNDOING, CancelOutcome.NOTHING):
        refused = begin(store, "r2", replaces=cancel_of("r1"), **new)
        assert isinstance(refused, BeginRefused)
        assert ("singleton", "r1", outcome) == (refused.reason, refused.run_id, refused.replaced)
    assert ["r1"] == list(store.cancelled_runs("o1"))
    undone = replace(undoable, cancel_reason="")
    write = ended("r1")
    commit(store, replace(write, state=undone, result=result(Phase.CANCELLED)))
    assert not is_queued(begin(store, "r2", replaces=cancel_of("r1"), **new))


@requirement("T39")
def test_no_second_run_goes_on_with_a_singleton_key(store: Store) -> None:
    """A failed run, or a copy, is refused while another one has the key; then nothing changes."""
    begin(store, "r1", slots=None, singleton_key="s")
    commit(store, replace(created("r1"), create=None, request=None, memos=(memo(1),)))
    commit(store, replace(ended("r1"), result=result(Phase.FAILED)))
    begin(store, "r2", slots=None, singleton_key="s")
    before = store.get("app", "r1")
    copy = replace(run("r3"), singleton_key="s")
    for write in (
        Retry(app="app", run_id="r1", now=70),
        Fork(app="app", run_id="r1", op_id="id-step1", run=copy, now=70),
    ):
        with pytest.raises(SingletonError, match="r2"):
            commit(store, write)
    assert before == store.get("app", "r1")
    assert store.get("app", "r3") is None
    commit(store, ended("r2"))
    assert commit(store, Retry(app="app", run_id="r1", now=70))


@requirement("T40")
@needs(Capability.SHARED)
def test_one_of_those_with_a_singleton_key_begins(
    durable_subject: StoreSubject, store: Store, background: Background
) -> None:
    """The others are refused, whatever processes begin them at the same time."""
    with handles(durable_subject, store, 2) as (one, two):
        for number in range(_ROUNDS):
            begun = at_once(
                background,
                number,
                partial(begin, one, f"a{number}", slots=None, singleton_key=f"s{number}"),
                partial(begin, two, f"b{number}", slots=None, singleton_key=f"s{number}"),
            )

            assert [Begun, BeginRefused] == sorted(map(type, begun), key=lambda cls: cls.__name__)[
                ::-1
            ]
