"""Addresses: the one op that waits at each, and what is delivered there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from durable_conformance.contract import Capability, StoreSubject
from durable_conformance.plugin import needs, requirement
from durable_conformance.store_values import (
    addressed,
    claim,
    commit,
    created,
    delivery,
    ended,
    event,
    matched_seqs,
    memo,
    memo_write,
    pending_of,
    result,
    run,
    send,
    suspended,
    wait,
)
from durable_conformance.suites.test_store_races import at_once, handles
from durable_core.errors import LeaseLost
from durable_core.model.event import StoredEvent
from durable_core.model.run import Phase
from durable_core.model.step import Pending
from durable_core.ports import (
    Cancel,
    CancelOutcome,
    Checkpoint,
    CheckpointResult,
    Delete,
    Deliver,
    Delivered,
    Delivery,
    Prune,
    Retry,
    Store,
    Write,
)

Background = Callable[..., Any]

#: How often two commits are made to meet.
_ROUNDS = 25


def _deliver(store: Store, each: Delivery, *, now: int = 100) -> Delivered:
    return commit(store, Deliver(app="app", delivery=each, now=now))


def _register(id_: str, op: Pending, *replacing: str) -> Checkpoint:
    return Checkpoint(
        run_id=id_, owner="o1", epoch=1, now=20, pending=(op,), replacing=tuple(replacing)
    )


def _waiting(store: Store, id_: str, op: Pending) -> None:
    commit(store, created(id_))
    assert CheckpointResult() == commit(store, _register(id_, op))


@requirement("T34")
def test_a_delivery_ends_the_op_that_waits_at_the_address(store: Store) -> None:
    """The run is named with its owner, or is due; ops at other addresses go on waiting."""
    _waiting(store, "r1", addressed())
    _waiting(store, "r2", addressed(address="b"))
    commit(store, suspended("r2"))

    answers = [_deliver(store, delivery(address=address)) for address in ("a", "b", "c")]

    expected = [
        Delivered(run_id="r1", resumed_runs=(("r1", "o1"),)),
        Delivered(run_id="r2", resumed_runs=(("r2", None),)),
        Delivered(run_id=None),
    ]
    assert expected == answers
    stored = StoredEvent(seq=0, event=delivery().event, received_at=100)
    assert [("r1", "id-wait", stored)] == list(store.matched_waits("o1"))
    [claimed] = claim(store, now=100)
    assert [stored] == [op.matched for op in claimed.pending]


@requirement("T34")
def test_a_name_keeps_nothing_and_may_be_used_again(store: Store) -> None:
    """What is delivered before an op waits is lost; the next op waits for the next delivery."""
    assert Delivered(run_id=None) == _deliver(store, delivery())
    _waiting(store, "r1", addressed("w1"))
    assert "r1" == _deliver(store, delivery()).run_id
    assert CheckpointResult() == commit(store, _register("r1", addressed("w2")))
    assert [0, None] == matched_seqs(store)

    assert "r1" == _deliver(store, delivery("2")).run_id
    assert [0, 0] == matched_seqs(store)


@requirement("T34")
def test_one_id_is_delivered_once(store: Store) -> None:
    """A repeated delivery has the answer of the first, and ends no later op at the address."""
    _waiting(store, "r1", addressed("w1"))
    _deliver(store, delivery())
    commit(store, _register("r1", addressed("w2")))

    assert Delivered(run_id="r1") == _deliver(store, delivery())
    assert [0, None] == matched_seqs(store)


@requirement("T34")
def test_another_op_at_the_address_is_refused_or_replaces_the_first(store: Store) -> None:
    """The one that is replaced stays until its time-out; nothing is delivered to it any more."""
    _waiting(store, "r1", addressed())
    commit(store, created("r2"))

    refused = commit(store, _register("r2", addressed("w2")))
    assert CheckpointResult(refused=("id-w2",)) == refused
    assert () == pending_of(store, "r2")

    assert CheckpointResult() == commit(store, _register("r2", addressed("w2"), "id-w2"))
    assert "r2" == _deliver(store, delivery()).run_id
    assert [("", None)] == [(op.address, op.matched) for op in pending_of(store)]
    assert [0] == matched_seqs(store, "r2")


@requirement("T34")
@pytest.mark.parametrize(
    "end",
    [
        memo_write(memos=(replace(memo(2), op=addressed().op),)),
        ended(),
        Cancel(app="app", run_id="r1", result=result(Phase.CANCELLED)),
    ],
    ids=["the outcome", "the end of the run", "a cancellation"],
)
def test_whatever_ends_an_op_makes_its_address_free(store: Store, end: Write[object]) -> None:
    """Another run may wait there then."""
    _waiting(store, "r1", addressed())
    commit(store, end)
    _waiting(store, "r2", addressed())

    assert "r2" == _deliver(store, delivery()).run_id


@requirement("T13")
@pytest.mark.parametrize("held", [True, False], ids=["held", "suspended"])
def test_nothing_ends_a_wait_of_a_run_that_is_to_be_undone(store: Store, held: bool) -> None:
    """No event and no delivery, stored before or after the wait; the address is free."""
    own, late = addressed("own", address="own"), addressed("late", address="own2")
    waits = (wait("w1"), addressed(), own)
    state = replace(run(), phase=Phase.ASYNC, undoable=True)
    commit(store, created())
    commit(store, memo_write(pending=waits, state=state))
    assert "r1" == _deliver(store, delivery("0", address="own2", run_id="r1")).run_id
    if not held:
        commit(store, suspended(due_at=1000))
    cancel = Cancel(app="app", run_id="r1", result=result(Phase.CANCELLED))
    assert CancelOutcome.UNDOING is commit(store, cancel)

    assert () == send(store, event("1"))
    assert Delivered(run_id=None) == _deliver(store, delivery("2"))
    assert Delivered(run_id=None) == _deliver(store, delivery("3", address="own", run_id="r1"))
    if held:  # the owner does not know it
        later = replace(_register("r1", wait("w2")), pending=(wait("w2"), late))
        assert CheckpointResult() == commit(store, later)
        assert [] == list(store.matched_waits("o1"))
    assert {None} == set(matched_seqs(store))
    _waiting(store, "r2", addressed())
    assert "r2" == _deliver(store, delivery("4")).run_id


@requirement("T34")
def test_an_op_that_is_registered_again_keeps_what_it_has(store: Store) -> None:
    """A write whose answer was lost loses no delivery when it is made again."""
    _waiting(store, "r1", addressed())
    _deliver(store, delivery())

    again = commit(store, _register("r1", addressed()))

    stored = StoredEvent(seq=0, event=delivery().event, received_at=100)
    assert (("id-wait", stored),) == again.matched
    assert [0] == matched_seqs(store)


@requirement("T34")
def test_an_op_whose_time_is_over_gets_nothing_more(store: Store) -> None:
    """A delivery that came before is answered with the write that closes the address."""
    closing = Checkpoint(run_id="r1", owner="o1", epoch=1, now=20, closing=("id-wait",))
    _waiting(store, "r1", addressed())
    assert CheckpointResult() == commit(store, closing)
    assert Delivered(run_id=None) == _deliver(store, delivery())
    assert [None] == matched_seqs(store)

    _waiting(store, "r2", addressed())
    _deliver(store, delivery("2"))
    late = commit(store, replace(closing, run_id="r2"))

    stored = StoredEvent(seq=0, event=delivery("2").event, received_at=100)
    assert CheckpointResult(matched=(("id-wait", stored),)) == late


@requirement("T35")
def test_an_address_of_a_run_keeps_its_delivery(store: Store) -> None:
    """An op that waits later gets it at once, and so does the same op after a retry."""
    commit(store, created())
    assert Delivered(run_id="r1") == _deliver(store, delivery(run_id="r1"))
    stored = StoredEvent(seq=0, event=delivery().event, received_at=100)
    assert (("id-wait", stored),) == commit(store, _register("r1", addressed())).matched
    failed = Checkpoint(run_id="r1", owner="o1", epoch=1, now=50, result=result(Phase.FAILED))
    commit(store, failed)
    commit(store, Retry(app="app", run_id="r1", now=60))
    claim(store, "o1", now=60)

    again = commit(store, replace(_register("r1", addressed()), epoch=3))

    assert (("id-wait", stored),) == again.matched


@requirement("T35")
def test_an_address_of_a_run_is_used_once(store: Store) -> None:
    """A second delivery is refused; one that is repeated has the answer of the first."""
    _waiting(store, "r1", addressed())
    first = _deliver(store, delivery(run_id="r1"))
    assert Delivered(run_id="r1", resumed_runs=(("r1", "o1"),)) == first

    second = _deliver(store, delivery("2", run_id="r1"))
    assert Delivered(run_id=None, is_used=True) == second
    assert Delivered(run_id="r1") == _deliver(store, delivery(run_id="r1"))


@requirement("T35")
def test_nothing_is_kept_for_a_run_that_has_ended(store: Store) -> None:
    """Nor for one that is unknown, or of another application."""
    commit(store, created("r1", app="other"))
    commit(store, created("r2"))
    commit(store, ended("r2"))

    for run_id in ("r1", "r2", "r3"):
        answer = _deliver(store, delivery(address=run_id, run_id=run_id))
        assert Delivered(run_id=None) == answer


@requirement("T35")
@pytest.mark.parametrize(
    "write",
    [
        Prune(app="app", runs_before=1000, events_before=0, limit=9),
        Delete(app="app", run_id="r1"),
    ],
    ids=lambda write: type(write).__name__,
)
def test_deliveries_go_with_their_run(store: Store, write: Write[object]) -> None:
    """A run that gets the same id later does not find them."""
    commit(store, created())
    _deliver(store, delivery(run_id="r1"))
    commit(store, ended())
    commit(store, write)
    commit(store, created())

    assert CheckpointResult() == commit(store, _register("r1", addressed()))
    """The end of a run names the run that waits for it; a refused write delivers nothing."""


@requirement("T36")
def test_a_checkpoint_delivers_or_does_nothing(store: Store) -> None:
    """The end of a run names the run that waits for it; a refused write delivers nothing."""
    _waiting(store, "r1", addressed())
    commit(store, created("r2"))
    lost = replace(ended("r2", owner="o9"), deliveries=(delivery(run_id="r1"),))
    with pytest.raises(LeaseLost):
        commit(store, lost)
    assert [None] == matched_seqs(store)

    written = commit(store, replace(lost, owner="o1"))

    assert (("r1", "o1"),) == written.resumed_runs
    assert [0] == matched_seqs(store)


@requirement("T36")
def test_a_run_that_is_stored_when_it_has_ended_delivers(store: Store) -> None:
    """A checkpoint that creates a run may have its end, and what it delivers, too."""
    _waiting(store, "r1", addressed())
    whole = replace(created("r2"), result=result(), deliveries=(delivery(run_id="r1"),))

    assert (("r1", "o1"),) == commit(store, whole).resumed_runs
    assert [0] == matched_seqs(store)


@requirement("T36")
def test_a_run_may_deliver_to_itself(store: Store) -> None:
    """To an op of an earlier write; what the same write delivers comes before its ops wait."""
    _waiting(store, "r1", addressed())
    both = memo_write(
        deliveries=(delivery(), delivery(address="b")),
        pending=(addressed("w2", address="b"),),
    )

    written = commit(store, both)

    assert CheckpointResult(resumed_runs=(("r1", "o1"),)) == written
    assert [None, 0] == matched_seqs(store)


@requirement("T36")
def test_a_cancellation_delivers_once(store: Store) -> None:
    """That of a run that had ended already delivers nothing."""
    _waiting(store, "r1", addressed())
    commit(store, created("r2"))
    commit(store, ended("r2"))
    cancel = Cancel(
        app="app",
        run_id="r2",
        result=result(Phase.CANCELLED),
        deliveries=(delivery(run_id="r1"),),
    )
    assert CancelOutcome.NOTHING is commit(store, cancel)
    assert [None] == matched_seqs(store)

    commit(store, created("r3"))
    assert CancelOutcome.ENDED is commit(store, replace(cancel, run_id="r3"))
    assert [0] == matched_seqs(store)


@requirement("T37")
@needs(Capability.SHARED)
def test_a_wait_and_a_delivery_that_meet_find_each_other(
    durable_subject: StoreSubject, store: Store, background: Background
) -> None:
    """Whichever is committed first; and of two deliveries, one is the first."""
    with handles(durable_subject, store, 3) as (one, two, three):
        for number in range(_ROUNDS):
            id_, address = f"r{number:02}", f"a{number}"
            commit(store, created(id_))
            _, *answers = at_once(
                background,
                number,
                partial(commit, one, _register(id_, addressed(address=address))),
                partial(_deliver, two, delivery("1", address=address, run_id=id_)),
                partial(_deliver, three, delivery("2", address=address, run_id=id_)),
            )

            assert [False, True] == sorted(answer.is_used for answer in answers)
            [op] = pending_of(store, id_)
            assert op.matched is not None
            first = "1" if answers[1].is_used else "2"
            assert first == op.matched.event.id


@requirement("T37")
@needs(Capability.SHARED)
def test_one_of_those_that_want_to_wait_at_an_address_waits(
    durable_subject: StoreSubject, store: Store, background: Background
) -> None:
    """All others are refused, whatever processes they are in."""
    with handles(durable_subject, store, 2) as those:
        for number in range(_ROUNDS):
            ids = [f"r{number:02}-{place}" for place in range(2)]
            for id_ in ids:
                commit(store, created(id_))
            writes = [_register(id_, addressed(address=f"a{number}")) for id_ in ids]
            acts = [
                partial(commit, handle, write) for handle, write in zip(those, writes, strict=True)
            ]
            answers = at_once(background, number, *acts)

            assert [(), ("id-wait",)] == sorted(answer.refused for answer in answers)
            [waiting] = [id_ for id_ in ids if pending_of(store, id_)]
            assert waiting == _deliver(store, delivery(address=f"a{number}")).run_id
