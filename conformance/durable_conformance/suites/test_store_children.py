"""Runs that other runs start."""

from __future__ import annotations

from dataclasses import replace

import pytest

from durable_conformance.plugin import requirement
from durable_conformance.store_values import (
    REQUEST,
    claim,
    commit,
    created,
    ended,
    memo,
    memo_write,
    pending,
    pending_of,
    result,
    run,
)
from durable_core.errors import LeaseLost
from durable_core.machine.addresses import child_address
from durable_core.model.run import Phase
from durable_core.ports import (
    Cancel,
    CancelOutcome,
    Checkpoint,
    Delete,
    NewRun,
    Store,
)


def _starts(*ids: str, parent: str = "r1") -> Checkpoint:
    """Return the checkpoint by which a run starts others, and has a step for each."""
    children = tuple(
        NewRun(replace(run(id_), parent=parent, depth=1, phase=Phase.SUSPENDED), REQUEST)
        for id_ in ids
    )
    steps = tuple(replace(pending(id_), address=child_address(id_)) for id_ in ids)
    return Checkpoint(run_id=parent, owner="o1", epoch=1, now=30, pending=steps, children=children)


def _abandoned(store: Store, *parents: str) -> list[str]:
    found = store.abandoned_children("app", parents or None)
    return [record.run.id for record in found]


@requirement("T41")
def test_a_child_is_stored_with_the_step_that_waits_for_it(store: Store) -> None:
    """It is due at once, as a run that nobody has executed, and knows its parent."""
    commit(store, created())
    commit(store, _starts("r2"))

    [claimed] = claim(store, now=30)

    assert ("r2", "r1", 1, 2) == (
        claimed.run.id,
        claimed.run.parent,
        claimed.run.depth,
        claimed.run.epoch,
    )
    assert (REQUEST, (), ()) == (claimed.request, claimed.memos, claimed.pending)


@requirement("T41")
def test_a_child_that_exists_refuses_all(store: Store) -> None:
    """Nothing is stored, also of one twice in a write, and of children of another's run."""
    commit(store, created())
    commit(store, created("r2"))

    with pytest.raises(LeaseLost):
        commit(store, _starts("r3", "r2"))
    with pytest.raises(LeaseLost):
        commit(store, replace(_starts("r3"), owner="o2"))
    with pytest.raises(LeaseLost):
        commit(store, _starts("r3", "r3"))
    with pytest.raises(LeaseLost):
        commit(store, replace(created("r3"), children=_starts("r3").children))

    assert store.get("app", "r3") is None
    assert () == pending_of(store)


@requirement("T41")
def test_children_are_counted_at_the_topmost_run(store: Store) -> None:
    """Also those of its children; one beyond the limit is not stored, nor is the op that waits."""
    commit(store, created())
    assert () == commit(store, replace(_starts("r2"), child_limit=3)).refused
    [claimed] = claim(store, now=30)
    below = replace(_starts("r3", "r4", "r5", parent="r2"), owner="o2")
    below = replace(below, epoch=claimed.run.epoch, child_limit=3)

    assert ("id-r5",) == commit(store, below).refused

    assert store.get("app", "r4") is not None
    assert store.get("app", "r5") is None
    assert ["id-r3", "id-r4"] == sorted(each.op.id for each in pending_of(store, "r2"))
    assert ("id-r6",) == commit(store, replace(_starts("r6"), child_limit=3)).refused
    assert () == commit(store, replace(_starts("r6"), child_limit=4)).refused
    commit(store, created("s1"))
    assert () == commit(store, replace(_starts("s2", parent="s1"), child_limit=1)).refused


@requirement("T41")
def test_children_of_a_run_that_has_ended_are_found(store: Store) -> None:
    """Also of one that was cancelled and is being undone, or is gone; not those that have ended."""
    for id_ in ("a1", "b1", "c1"):
        commit(store, created(id_))
        children = tuple(id_.replace("1", each) for each in "23")
        commit(store, _starts(*children, parent=id_))
    commit(store, Cancel(app="app", run_id="a3", result=result(Phase.CANCELLED)))
    assert [] == _abandoned(store)

    commit(store, ended("a1"))
    assert ["a2"] == _abandoned(store)

    undoable = replace(run("b1"), phase=Phase.ASYNC, undoable=True)
    commit(store, memo_write("b1", state=undoable))
    cancel = Cancel(app="app", run_id="b1", result=result(Phase.CANCELLED))
    assert CancelOutcome.UNDOING is commit(store, cancel)
    assert ["a2", "b2", "b3"] == _abandoned(store)
    assert ["b2", "b3"] == _abandoned(store, "b1", "c1")
    commit(store, memo_write("c1", memos=(replace(memo(3), op=pending("c2").op),)))
    assert ["c2"] == _abandoned(store, "c1")  # its step has ended: nobody waits for it

    commit(store, ended("c1"))
    commit(store, Delete(app="app", run_id="c1"))
    assert ["a2", "b2", "b3", "c2", "c3"] == _abandoned(store)
    assert [] == list(store.abandoned_children("other"))
