"""How few statements a checkpoint takes; what it does is in the stores' contract."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace

import pytest

from durable_core.errors import LeaseLost
from durable_core.ports import Release, RunWrite
from durable_core.runtime.sqlite.queries import SCHEMA
from durable_core.runtime.sqlite.runs import is_one_memo, write_run
from support.stores import created, ended, event, memo, memo_write, pending, put_away, result, run


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(SCHEMA)
    yield db
    db.close()


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (memo_write(), True),
        (replace(memo_write(), memos=()), False),
        (replace(memo_write(), memos=(memo(2), memo(3))), False),
        (replace(memo_write(), create=run()), False),
        (replace(memo_write(), state=run()), False),
        (replace(memo_write(), release=Release(due_at=1)), False),
        (replace(memo_write(), result=result()), False),
        (replace(memo_write(), pending=(pending(),)), False),
        (replace(memo_write(), sends=(event("1"),)), False),
    ],
)
def test_one_memo_and_nothing_else(write: RunWrite, expected: bool) -> None:
    """Whatever else a write may hold makes it another kind of write."""
    assert expected == is_one_memo(write)


@pytest.mark.parametrize(
    "write", [memo_write(owner="o2"), memo_write(epoch=2), memo_write("nobody")]
)
def test_a_refused_memo_has_changed_nothing(write: RunWrite, db: sqlite3.Connection) -> None:
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
        (replace(ended(), memos=(memo(2),)), 5),
        (put_away(), 1),
        (put_away("r1", pending()), 3),
        (replace(memo_write(), memos=(), state=run()), 1),
        (replace(memo_write(), memos=()), 1),
    ],
    ids=["memo", "first", "last", "release", "sleep", "state", "nothing"],
)
def test_a_checkpoint_takes_few_statements(
    write: RunWrite, count: int, db: sqlite3.Connection
) -> None:
    """Each costs some microseconds, on a path that every step takes."""
    write_run(db, created())
    traced: list[str] = []
    db.set_trace_callback(traced.append)

    write_run(db, write)

    assert count == len(traced), traced
