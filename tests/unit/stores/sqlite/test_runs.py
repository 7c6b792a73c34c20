"""How few statements a checkpoint takes; what it does is in the stores' contract."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace

import pytest

from durable_conformance.store_values import (
    created,
    ended,
    event,
    memo,
    memo_write,
    peer,
    pending,
    run,
    suspended,
    wait,
)
from durable_core.errors import LeaseLost
from durable_core.model.event import StoredEvent
from durable_core.model.run import Phase
from durable_core.model.step import Pending
from durable_core.ports import (
    Checkpoint,
    Claim,
    ClaimedRun,
    CorruptRun,
    Register,
    Release,
    SendEvents,
)
from durable_core.stores.sqlite.claims import claim, register
from durable_core.stores.sqlite.events import send_events
from durable_core.stores.sqlite.reads import load_memos
from durable_core.stores.sqlite.sql import SCHEMA
from durable_core.stores.sqlite.writes import write_run


def whole(run_id: str) -> Checkpoint:
    """Return the only write of a run."""
    first, last = created(run_id), ended(run_id)
    memos = (*first.memos, memo(2))
    return replace(first, memos=memos, state=last.state, result=last.result, no_pending_row=True)


def asleep(run_id: str, *ops: Pending) -> Checkpoint:
    """Return the write of a run that is released when it is first seen."""
    first, release = created(run_id), suspended(run_id, *ops)
    return replace(first, pending=release.pending, release=release.release, no_pending_row=True)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(SCHEMA)
    register(db, Register(worker=peer("o2")))
    yield db
    db.close()


@pytest.mark.parametrize(
    "write", [memo_write(owner="o2"), memo_write(epoch=2), memo_write("nobody")]
)
def test_a_refused_memo_has_changed_nothing(write: Checkpoint, db: sqlite3.Connection) -> None:
    """It needs no savepoint."""
    write_run(db, created())
    before = db.total_changes

    with pytest.raises(LeaseLost):
        write_run(db, write)

    assert before == db.total_changes


@pytest.mark.parametrize(
    ("write", "count"),
    [
        (memo_write(), 2),
        (created("r2"), 4),
        (replace(ended(), memos=(memo(2),)), 4),
        (whole("r2"), 5),
        (asleep("r2", pending()), 4),
        (asleep("r2", wait()), 7),
        (suspended(), 1),
        (suspended("r1", pending()), 3),
        (memo_write(memos=(), state=run()), 1),
        (memo_write(memos=()), 1),
    ],
    ids=[
        "memo",
        "first",
        "last",
        "whole",
        "asleep",
        "waits",
        "release",
        "sleep",
        "state",
        "nothing",
    ],
)
def test_a_checkpoint_takes_few_statements(
    write: Checkpoint, count: int, db: sqlite3.Connection
) -> None:
    """Each costs some microseconds, on a path that every step takes."""
    write_run(db, created())
    traced: list[str] = []
    db.set_trace_callback(traced.append)

    write_run(db, write)

    assert count == len(traced), traced


def test_a_run_that_ends_in_its_first_write() -> None:
    """It is stored as one that was stored before, in fewer statements."""
    dumps = []
    for writes in ((whole("r2"),), (created("r2"), replace(ended("r2"), memos=(memo(2),)))):
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.executescript(SCHEMA)
        for write in writes:
            write_run(db, write)
        dumps.append(list(db.iterdump()))
        db.close()

    assert dumps[0] == dumps[1]


@pytest.mark.parametrize("phase", [Phase.SYNC, Phase.SUSPENDED])
def test_a_run_that_is_released_in_its_first_write(phase: Phase) -> None:
    """It is stored as one that was stored before, in fewer statements."""
    dumps = []
    state = replace(run("r2"), phase=phase, failures=2)
    release = Release(due_at=1000, endpoint_key="other")
    last = replace(suspended("r2", pending("one"), pending("two")), state=state, release=release)
    first = replace(asleep("r2", *last.pending), state=state, release=release)
    for writes in ((first,), (created("r2"), last)):
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.executescript(SCHEMA)
        for write in writes:
            write_run(db, write)
        dumps.append(list(db.iterdump()))
        db.close()

    assert dumps[0] == dumps[1]


@pytest.mark.parametrize("op", [wait(), replace(pending(), address="a")])
def test_an_op_that_has_ended_makes_a_new_run_due(op: Pending, db: sqlite3.Connection) -> None:
    """A run that is released with its first write is due at once if its wait is over by then."""
    send_events(db, SendEvents(app="app", events=(event("1"),), now=5))
    matched = StoredEvent(seq=1, event=event("1"), received_at=5)
    op = op if op.event else replace(op, matched=matched)

    write_run(db, asleep("r2", op))

    [(due_at,)] = db.execute("SELECT due_at FROM run WHERE id = 'r2'")
    assert 10 == due_at


def test_a_run_cannot_begin_twice(db: sqlite3.Connection) -> None:
    """Not even in a write that ends or releases it."""
    write_run(db, whole("r2"))
    for again in (whole("r2"), created("r2"), asleep("r2", pending())):
        with pytest.raises(LeaseLost):
            write_run(db, again)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE run SET phase = 'no phase' WHERE id = 'r1'",
        "UPDATE run SET function_id = CAST(x'ff' AS TEXT) WHERE id = 'r1'",
        "DELETE FROM request WHERE seq = (SELECT seq FROM run WHERE id = 'r1')",
        "UPDATE request SET head = CAST(x'ff' AS TEXT) WHERE seq = 1",
        "UPDATE step SET kind = 'no kind' WHERE key >> 24 = (SELECT seq FROM run WHERE id = 'r1')",
        "UPDATE pending SET consumed_seqs = '[' WHERE run_id = 'r1'",
        "UPDATE pending SET event = 'e', rule = '[' WHERE run_id = 'r1'",
    ],
)
def test_a_run_that_cannot_be_read_is_claimed_as_that(damage: str, db: sqlite3.Connection) -> None:
    """It says why, has a lease under which it can be ended, and does not harm the others."""
    for id_ in ("r1", "r2"):
        write_run(db, created(id_))
        write_run(db, suspended(id_, pending()))
    db.execute(damage)

    due = Claim(app="app", owner="o2", keys=("key",), now=5000, limit=10)
    one, other = claim(db, due)

    assert isinstance(one, CorruptRun)
    assert ("r1", 2) == (one.run_id, one.epoch)
    assert one.reason
    assert isinstance(other, ClaimedRun)
    assert "r2" == other.run.id
    write_run(db, ended("r1", owner="o2", epoch=2))


def test_a_damaged_database_is_not_blamed_on_a_run(db: sqlite3.Connection) -> None:
    """An error of the database itself fails the claim."""
    write_run(db, created("r1"))
    write_run(db, suspended("r1"))
    db.execute("DROP TABLE step")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        claim(db, Claim(app="app", owner="o2", keys=("key",), now=5000, limit=10))


def test_a_run_has_so_many_numbers(db: sqlite3.Connection) -> None:
    """One more would be a step of the next run: it is refused, and nothing is stored."""
    for id_ in ("r1", "r2"):
        write_run(db, created(id_))
    write_run(db, memo_write("r1", 0xFFFFFF))

    with pytest.raises(OverflowError, match="16777215"):
        write_run(db, memo_write("r1", 0x1000000))

    assert [1, 0xFFFFFF] == [each.completion_no for each in load_memos(db, "r1")]
    assert [1] == [each.completion_no for each in load_memos(db, "r2")]
