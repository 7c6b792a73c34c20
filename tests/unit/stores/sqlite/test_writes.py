"""Group commit: many writes, one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace

import pytest

from durable_conformance.store_values import created, memo, memo_write, pending
from durable_core.errors import LeaseLost, StoreBusyError, StoreError, StoreFullError
from durable_core.ports import Checkpoint, CheckpointResult, StoredRequest, Write
from durable_core.stores.sqlite import writes as runs_module
from durable_core.stores.sqlite.opening import connect, prepare
from durable_core.stores.sqlite.reads import load_memos
from durable_core.stores.sqlite.writes import apply_batch

#: More than fits into the few pages that a full store has left.
LARGE = StoredRequest(head="", body=bytes(1_000_000))


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("store") / "store.db")
    prepare(path)
    return path


@pytest.fixture
def db(path: str) -> Iterator[sqlite3.Connection]:
    db = connect(path, busy_seconds=0)
    yield db
    db.close()


def trace(db: sqlite3.Connection) -> list[str]:
    """Return a list that fills with the first two words of each statement."""
    statements: list[str] = []
    db.set_trace_callback(lambda text: statements.append(" ".join(text.split()[:2])))
    return statements


def runs(db: sqlite3.Connection) -> list[str]:
    return [row[0] for row in db.execute("SELECT id FROM run ORDER BY id")]


def numbers(db: sqlite3.Connection) -> list[int]:
    return [row[0] for row in db.execute("SELECT key & 0xFFFFFF FROM step ORDER BY 1")]


def make_full(db: sqlite3.Connection, spare_pages: int) -> None:
    [pages] = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages + spare_pages}")


def apply(db: sqlite3.Connection, *writes: Write[object]) -> list[object]:
    return list(apply_batch(db, writes, "the path"))


ONE_MEMO = memo_write()
DIRECT = replace(ONE_MEMO, no_pending_row=True)


def test_one_direct_memo_is_one_guarded_insert(path: str, db: sqlite3.Connection) -> None:
    """The most frequent write is one statement, which is a transaction by itself."""
    apply(db, created())
    statements = trace(db)

    [answer] = apply(db, DIRECT)

    assert CheckpointResult() == answer
    assert ["-- The"] == statements  # the comment that insert-step begins with
    other = connect(path, busy_seconds=0)
    assert [1, 2] == numbers(other)
    other.close()


@pytest.mark.parametrize(
    "write", [replace(DIRECT, owner="o2"), replace(DIRECT, epoch=2), replace(DIRECT, run_id="r2")]
)
def test_a_direct_memo_is_refused_without_the_lease(
    write: Checkpoint, db: sqlite3.Connection
) -> None:
    """That it is one statement makes no difference to its guard."""
    apply(db, created())

    [answer] = apply(db, write)

    assert isinstance(answer, LeaseLost)
    assert [1] == numbers(db)
    assert not db.in_transaction


def test_a_direct_memo_that_cannot_be_stored_says_so(db: sqlite3.Connection) -> None:
    """A number that is taken, too large, or a value that is no text: the error is the answer."""
    apply(db, created())
    broken = (memo(1), memo(2**70), memo(2, value="\ud800"))

    answers = [apply(db, replace(DIRECT, memos=(each,)))[0] for each in broken]

    assert [StoreError, OverflowError, UnicodeEncodeError] == [type(each) for each in answers]
    assert [1] == numbers(db)
    assert not db.in_transaction


def test_a_direct_memo_fails_with_the_disk_and_the_lock(path: str, db: sqlite3.Connection) -> None:
    """What no write could do raises, and nothing is left behind."""
    apply(db, created())
    make_full(db, 10)
    with pytest.raises(StoreFullError, match=r"the path.*no space"):
        apply(db, replace(DIRECT, memos=(memo(2, value="x" * 1_000_000),)))
    other = connect(path, busy_seconds=0)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError, match=r"the path.*locked"):
        apply(db, DIRECT)
    other.close()

    assert [1] == numbers(db)
    assert not db.in_transaction


def test_one_memo_that_was_pending_takes_its_record_away(db: sqlite3.Connection) -> None:
    """It has no savepoint, no update and no separate guard."""
    apply(db, created())
    statements = trace(db)

    apply(db, ONE_MEMO)

    assert ["BEGIN IMMEDIATE", "INSERT INTO", "DELETE FROM", "COMMIT"] == [
        text.replace("-- The", "INSERT INTO") for text in statements
    ]


def test_members_with_one_memo_need_no_savepoint(db: sqlite3.Connection) -> None:
    """In a group too, two statements each are enough."""
    apply(db, created())
    statements = trace(db)

    apply(db, *(replace(ONE_MEMO, memos=(memo(number),)) for number in range(2, 10)))

    assert 2 + 8 * 2 == len(statements)
    assert not any("SAVEPOINT" in text for text in statements)


def test_a_memo_that_is_refused_is_refused_alone(db: sqlite3.Connection) -> None:
    """Those of other runs in the same group, before it and after it, are stored."""
    apply(db, created(), created("r2"), created("r3"))
    lost = replace(DIRECT, run_id="r2", epoch=2)

    answers = apply(db, DIRECT, lost, replace(DIRECT, run_id="r3"))

    assert [CheckpointResult, LeaseLost, CheckpointResult] == [type(each) for each in answers]
    assert [2, 1, 2] == [len(load_memos(db, run_id)) for run_id in ("r1", "r2", "r3")]


def test_a_batch_that_is_refused_as_a_whole_costs_no_commit(db: sqlite3.Connection) -> None:
    """The only write of a transaction is rolled back, and the connection free again."""
    [answer] = apply(db, memo_write("nobody"))

    assert isinstance(answer, LeaseLost)
    assert not db.in_transaction


@pytest.mark.parametrize(
    "broken",
    [
        replace(created("broken"), memos=(memo(1), memo(1, name="twin"))),
        replace(created("broken"), memos=(memo(2**70),)),
        replace(created("broken"), memos=(memo(1, value="\ud800"),)),
        replace(created("broken"), request=None),
        replace(ONE_MEMO, memos=(memo(2**70),)),
        replace(ONE_MEMO, memos=(memo(1),)),
    ],
    ids=["twice", "number", "surrogate", "request", "one-number", "one-twice"],
)
def test_a_member_that_cannot_be_stored_fails_alone(
    broken: Checkpoint, db: sqlite3.Connection
) -> None:
    """What it did before is undone, the others are stored."""
    apply(db, created("r1"))

    answers = apply(db, created("r2"), broken, replace(ONE_MEMO, memos=(memo(9),)))

    assert [False, True, False] == [isinstance(answer, Exception) for answer in answers]
    assert ["r1", "r2"] == runs(db)
    assert [1, 1, 9] == numbers(db)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_full_disk_fails_the_whole_batch(
    position: int, path: str, db: sqlite3.Connection
) -> None:
    """SQLite undoes the transaction, so no member may pass for stored; later ones may succeed."""
    make_full(db, 40)
    batch = [created("r1"), created("r2")]
    batch.insert(position, replace(created("large"), request=LARGE))

    with pytest.raises(StoreFullError, match=r"the path.*no space"):
        apply(db, *batch)

    other = connect(path, busy_seconds=0)
    assert [] == runs(other)
    apply(db, created("r1"), created("r2"))
    assert ["r1", "r2"] == runs(other)
    other.close()


def test_the_only_write_that_does_not_fit_leaves_nothing(db: sqlite3.Connection) -> None:
    """It may be tried again once there is room."""
    make_full(db, 10)
    large = replace(created("large"), request=LARGE)

    with pytest.raises(StoreFullError):
        apply(db, large)
    assert [] == runs(db)

    db.execute("PRAGMA max_page_count = 100000")
    assert not isinstance(apply(db, large)[0], BaseException)


def test_a_group_of_memos_that_does_not_fit_fails_together(db: sqlite3.Connection) -> None:
    """Members without savepoints are no exception."""
    apply(db, created("r1"))
    make_full(db, 10)
    large = replace(ONE_MEMO, memos=(memo(3, value="x" * 1_000_000),))

    with pytest.raises(StoreFullError):
        apply(db, ONE_MEMO, large, replace(ONE_MEMO, memos=(memo(4),)))

    assert [1] == numbers(db)
    assert not db.in_transaction


def test_a_lost_transaction_fails_everybody(db: sqlite3.Connection) -> None:
    """When SQLite gives up the whole transaction, nobody is told that it succeeded."""

    db.execute(
        "CREATE TEMP TRIGGER t BEFORE INSERT ON main.request WHEN new.head = 'bad' "
        "BEGIN SELECT raise(ROLLBACK, 'gone'); END"
    )
    bad = replace(created("r2"), request=StoredRequest(head="bad", body=b""))

    with pytest.raises(StoreError, match="gone"):
        apply(db, created("r1"), bad, created("r3"))

    assert [] == runs(db)
    with pytest.raises(StoreError, match="gone"):
        apply(db, bad)
    assert not db.in_transaction


def test_a_commit_that_fails_fails_everybody(db: sqlite3.Connection) -> None:
    """Nothing is stored, and the connection can be used again."""
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("CREATE TABLE parent (id PRIMARY KEY)")
    db.execute("CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
    db.execute(
        "CREATE TEMP TRIGGER t AFTER INSERT ON main.pending BEGIN INSERT INTO child VALUES (1); END"
    )

    with pytest.raises(StoreError, match="FOREIGN KEY"):
        apply(db, created("r1"), replace(created("r2"), pending=(pending(),)))
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        apply(db, replace(created("r2"), pending=(pending(),)))

    assert [] == runs(db)
    assert not isinstance(apply(db, created("r1"))[0], BaseException)


def test_an_interruption_undoes_the_batch(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle is not an answer but ends everything, and the lock is let go."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs_module, "_update_run", interrupt)
    final = replace(created("r2"), state=created().create)

    for batch in ([final], [created("r1"), final]):
        with pytest.raises(KeyboardInterrupt):
            apply(db, *batch)

    assert [] == runs(db)
    assert not db.in_transaction


def test_a_locked_store_is_busy(path: str, db: sqlite3.Connection) -> None:
    """Nothing was done; once it is free the same batch succeeds."""
    other = connect(path, busy_seconds=0)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreBusyError, match=r"the path.*locked"):
        apply(db, created())

    other.execute("ROLLBACK")
    other.close()
    assert not isinstance(apply(db, created())[0], BaseException)
