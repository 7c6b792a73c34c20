"""A run in the memory store; what stores do with it is in their contract."""

from __future__ import annotations

from dataclasses import replace

import pytest

from durable_conformance.store_values import (
    REQUEST,
    ended,
    event,
    memo,
    pending,
    result,
    run,
    suspended,
    wait,
)
from durable_core.model.event import StoredEvent
from durable_core.ports import Checkpoint
from durable_core.stores.memory_run import StoredRun

STORED = StoredEvent(seq=1, event=event("1", items=[1]), received_at=9)


@pytest.fixture
def row() -> StoredRun:
    return StoredRun(run=run(), request=REQUEST, owner="o1")


@pytest.mark.parametrize(
    "write", [None, suspended(), ended(), replace(suspended(), result=result())]
)
def test_a_run_is_held_or_due_or_ended(row: StoredRun, write: Checkpoint | None) -> None:
    """Exactly one of the three, whatever happened."""
    if write is not None:
        row.settle(write)

    record = row.record()

    assert 2 == [record.owner, record.due_at, record.ended_at].count(None)


def test_ops_are_in_order(row: StoredRun) -> None:
    """Finished ones by number, unfinished ones by id."""
    row.memos = {2: memo(2), 1: memo(1)}
    row.pending = {op.op.id: op for op in (pending("b"), pending("a"))}

    assert ((memo(1), memo(2)), (pending("a"), pending("b"))) == row.ops()


def test_events_are_handed_out_as_copies(row: StoredRun) -> None:
    """What a handler does to the data does not reach the store."""
    op = replace(wait(), matched=STORED)
    row.pending[op.op.id] = op

    _, [first] = row.ops()
    assert first.matched is not None
    assert isinstance(first.matched.event.data, dict)
    first.matched.event.data.clear()

    _, [second] = row.ops()
    assert second.matched == STORED


def test_only_a_run_that_waits_can_be_woken(row: StoredRun) -> None:
    """Waking a held run changes nothing; waking never puts off."""
    row.wake(5)
    assert row.due_at is None
    row.settle(suspended(due_at=30))
    row.wake(40)
    assert (30, "r1") == row.due
    row.wake(10)
    assert (10, "r1") == row.due
