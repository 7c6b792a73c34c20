"""From a path to a connection on a file that is known to be a store."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from durable_core.errors import StoreBusyError, StoreError, StoreVersionError
from durable_core.stores.sqlite import opening
from durable_core.stores.sqlite.opening import APPLICATION_ID, VERSION, connect, prepare
from durable_core.stores.sqlite.sql import SCHEMA


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store.db")


def execute(path: str, *statements: str) -> list[object]:
    """Run statements on the file with plain SQL; return the first value of each one's answer."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        return [(db.execute(statement).fetchone() or [None])[0] for statement in statements]


def test_an_empty_file_becomes_a_store(path: str) -> None:
    """With our mark, the newest version and a write-ahead log."""
    prepare(path)

    found = execute(path, "PRAGMA application_id", "PRAGMA user_version", "PRAGMA journal_mode")
    assert [APPLICATION_ID, VERSION, "wal"] == found
    assert [32] == execute(path, "SELECT length(value) FROM secret")


def test_a_store_is_accepted_as_it_is(path: str) -> None:
    """Preparing again changes nothing."""
    prepare(path)
    secret = execute(path, "SELECT value FROM secret")

    prepare(path)

    assert secret == execute(path, "SELECT value FROM secret")


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["CREATE TABLE theirs (x)"], "another application"),
        (["PRAGMA application_id = 77"], "another application"),
        (["PRAGMA user_version = 1"], "another application"),
        (
            [f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {VERSION + 1}"],
            f"version {VERSION + 1}, made by a newer release.*up to {VERSION}",
        ),
        (
            [f"PRAGMA application_id = {APPLICATION_ID}", "CREATE TABLE meta (name, value)"],
            f"version 0, which this release cannot bring up to {VERSION}",
        ),
        (
            [f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = -3"],
            f"version -3, which this release cannot bring up to {VERSION}",
        ),
    ],
)
def test_what_is_not_ours_to_change_is_left_alone(
    path: str, statements: list[str], message: str
) -> None:
    """Other applications' files and newer stores are refused, byte for byte as they were."""
    execute(path, "PRAGMA journal_mode = DELETE", *statements)
    before = Path(path).read_bytes()

    with pytest.raises(StoreVersionError, match=message):
        prepare(path)

    assert before == Path(path).read_bytes()


def test_a_store_that_lacks_columns_is_refused(path: str) -> None:
    """Whatever its version says: requests would fail one after the other."""
    prepare(path)
    execute(path, "PRAGMA journal_mode = DELETE", "DROP TABLE step", "ALTER TABLE run DROP handoff")
    before = Path(path).read_bytes()

    message = r"version 1, but lacks run\.handoff, step\.arguments, step\.attempts: no published"
    with pytest.raises(StoreVersionError, match=message):
        prepare(path)

    assert before == Path(path).read_bytes()


@pytest.mark.parametrize("content", [b"no database " * 100, b"\x00" * 4096, b"SQLite format 3"])
def test_what_is_no_database_is_left_alone(path: str, content: bytes) -> None:
    """The error says what the file is not."""
    Path(path).write_bytes(content)

    with pytest.raises(StoreVersionError, match="not a SQLite database"):
        prepare(path)

    assert content == Path(path).read_bytes()


def test_a_directory_is_no_store(tmp_path: Path) -> None:
    """What cannot be opened is a StoreError."""
    with pytest.raises(StoreError, match="cannot be opened"):
        prepare(str(tmp_path))


def test_an_interrupted_creation_leaves_an_empty_file(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schema is there as a whole or not at all, so the next attempt succeeds."""
    monkeypatch.setattr(opening, "SCHEMA", SCHEMA + "CREATE TABLE broken (;\n")
    with pytest.raises(StoreError):
        prepare(path)
    assert [0, 0] == execute(path, "SELECT count(*) FROM sqlite_schema", "PRAGMA user_version")
    monkeypatch.setattr(opening, "SCHEMA", SCHEMA)

    prepare(path)

    assert [VERSION] == execute(path, "PRAGMA user_version")


def test_an_older_store_is_brought_up_to_date_step_by_step(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step runs once, in order, in one transaction."""
    prepare(path)
    monkeypatch.setattr(opening, "VERSION", 3)
    steps = {1: "CREATE TABLE a (x);\n", 2: "INSERT INTO a VALUES (2);\nINSERT INTO a VALUES (3);"}
    monkeypatch.setattr(opening, "_MIGRATIONS", steps)

    prepare(path)
    prepare(path)

    assert [3, "2,3"] == execute(path, "PRAGMA user_version", "SELECT group_concat(x) FROM a")


def test_a_file_without_a_write_ahead_log_is_refused(path: str) -> None:
    """SQLite answers with the mode it stays in; a memory database has no log."""
    with (
        closing(sqlite3.connect(":memory:")) as db,
        pytest.raises(StoreError, match="'memory'"),
    ):
        opening._use_wal(db, path)


def test_a_store_that_stays_locked_is_busy(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening gives up after a while instead of hanging."""
    monkeypatch.setattr(opening, "_OPEN_SECONDS", 0.0)
    execute(path, "PRAGMA journal_mode = DELETE")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")

        with pytest.raises(StoreBusyError, match="locked"):
            prepare(path)


def test_an_old_sqlite_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the version that is needed."""
    monkeypatch.setattr(opening, "_OLDEST_SQLITE", (99, 0, 0))

    with pytest.raises(StoreError, match=r"3\.37"):
        prepare(path)


def test_every_connection_waits_for_the_disk(path: str) -> None:
    """FULL is 2: a commit has returned only when it is on the disk."""
    prepare(path)

    with closing(connect(path, "query_only = ON", busy_seconds=1)) as db:
        pragmas = ("synchronous", "wal_autocheckpoint", "query_only", "busy_timeout")
        found = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]

    assert [2, 10_000, 1, 1000] == found
