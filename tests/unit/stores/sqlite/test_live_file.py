"""The file in which processes of one store tell each other what is not stored yet."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from durable_core.errors import StoreBusyError, StoreError
from durable_core.model.stream import Committed, Pushed, RolledBack, Streamed
from durable_core.ports import ChannelWrite
from durable_core.stores.sqlite.live_file import LiveFile
from durable_core.stores.sqlite.store import SQLiteStore

A = "a" * 40
EVENTS: Sequence[Streamed] = (
    Pushed(text='"é\\u0000"', index=7),
    Pushed(text="1", index=0, op_id=A, attempt=(2, 1)),
    RolledBack(op_id=A, attempt=(2, 1)),
    Committed(op_id=A, number=5),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db-live"


@pytest.fixture
def channel(path: Path) -> Iterator[LiveFile]:
    with closing(LiveFile(str(path))) as channel:
        yield channel


@pytest.fixture
def other(path: Path) -> Iterator[LiveFile]:
    """The channel, as another process has it."""
    with closing(LiveFile(str(path))) as channel:
        yield channel


def begin(channel: LiveFile, *events: Streamed, run_id: str = "r1", epoch: int = 2) -> list[bool]:
    write = ChannelWrite(run_id=run_id, epoch=epoch, events=events, done=3)
    return list(channel.write([write]))


def go_on(channel: LiveFile, *events: Streamed, run_id: str = "r1", epoch: int = 2) -> list[bool]:
    return list(channel.write([ChannelWrite(run_id=run_id, epoch=epoch, events=events)]))


def read(channel: LiveFile, after: int = 0, most: int = 99) -> list[tuple[int, Streamed]]:
    [execution] = channel.executions(["r1"])
    return list(channel.read(execution, after, most))


def test_events_come_out_as_they_went_in(channel: LiveFile, other: LiveFile) -> None:
    """For another process, from any position on."""
    begin(channel, *EVENTS[:2])
    go_on(channel, *EVENTS[2:])
    rows = read(other)
    [execution] = other.executions(["none", "r1"])

    assert list(EVENTS) == [event for _, event in rows]
    assert list(EVENTS[2:]) == [event for _, event in read(other, rows[1][0])]
    assert list(EVENTS[:3]) == [event for _, event in read(other, 0, 3)]
    assert ("r1", 2, 3) == (execution.run_id, execution.epoch, execution.done)


def test_who_begins_anew_is_another_execution(channel: LiveFile) -> None:
    """What it has told before is gone, also for who asks for the old one."""
    begin(channel, EVENTS[0])
    [before] = channel.executions(["r1"])
    begin(channel, EVENTS[1])
    [after] = channel.executions(["r1"])

    assert before != after
    assert [EVENTS[1]] == [event for _, event in channel.read(after, 0, 9)]


def test_the_last_epoch_counts(channel: LiveFile) -> None:
    """Whoever begins removes what those before have left; a later one stays."""
    begin(channel, epoch=1)
    begin(channel, epoch=3)
    begin(channel, epoch=2)
    found = [each.epoch for each in channel.executions(["r1"])]
    channel.remove([("r1", 3), ("none", 1)])

    assert [3] == found
    assert [2] == [each.epoch for each in channel.executions(["r1"])]


def test_nobody_goes_on_from_what_is_gone(channel: LiveFile) -> None:
    """Be it never begun, of another claim, or pruned: it must begin anew."""
    first = go_on(channel, EVENTS[0])
    begin(channel, epoch=1)
    second = go_on(channel, EVENTS[0])
    channel.prune(3600)
    third = go_on(channel, EVENTS[0], epoch=1)
    channel.prune(-10)
    fourth = go_on(channel, EVENTS[0], epoch=1)

    assert [[False], [False], [True], [False]] == [first, second, third, fourth]
    assert [] == channel.executions(["r1"])


def test_the_version_changes_when_others_write(
    channel: LiveFile, other: LiveFile, path: Path
) -> None:
    """And when they have replaced the file."""
    before = other.version()
    same = other.version()
    begin(channel)
    after = other.version()
    path.unlink()
    begin(channel)

    assert before == same
    assert 3 == len({before, after, other.version()})


def test_the_file_is_private(channel: LiveFile, path: Path) -> None:
    """As the store's own, whatever the umask."""
    umask = os.umask(0)
    try:
        begin(channel)
    finally:
        os.umask(umask)

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_a_deleted_file_is_made_again(channel: LiveFile, path: Path) -> None:
    """By whoever uses it next; positions in the old one mean nothing in the new one."""
    begin(channel, *EVENTS)
    [execution] = channel.executions(["r1"])
    path.unlink()
    gone = channel.read(execution, 0, 9)
    is_written = go_on(channel, EVENTS[0])
    begin(channel, EVENTS[0])

    assert ((), [False]) == (gone, is_written)
    assert () == channel.read(execution, 0, 9)
    assert [EVENTS[0]] == [event for _, event in read(channel)]


@pytest.mark.parametrize("damage", [b"no database" * 100, b"SQLite format 3\0" + b"\xff" * 9000])
def test_a_damaged_file_is_replaced(channel: LiveFile, path: Path, damage: bytes) -> None:
    """It says so once, and the next use makes it anew."""
    path.write_bytes(damage)
    with pytest.raises(StoreError, match=r"is not a SQLite database|is damaged"):
        begin(channel)

    assert [True] == begin(channel)


def test_a_file_with_other_tables_is_replaced(channel: LiveFile, path: Path) -> None:
    """It has our version, and not our table."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 1")
    with pytest.raises(StoreError, match="no such table"):
        begin(channel)

    assert [True] == begin(channel)


def test_a_file_of_another_release_is_left_alone(channel: LiveFile, path: Path) -> None:
    """Processes of that one may use it."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 7")
    for _ in range(2):
        with pytest.raises(StoreError, match="another release"):
            begin(channel)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_a_plain_file_is_used(
    channel: LiveFile, path: Path, tmp_path: Path, kind: str
) -> None:
    """Nobody can have us read or write elsewhere, or wait for ever."""
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(StoreError, match="not a plain file of this user"):
        begin(channel)

    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_is_missing_is_an_error_of_the_store(tmp_path: Path) -> None:
    """As everything that the system refuses."""
    channel = LiveFile(str(tmp_path / "none" / "live"))
    with pytest.raises(StoreError, match="No such file"):
        channel.version()


def test_who_waits_too_long_is_told(
    channel: LiveFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that hangs holds nobody up for more than a moment; then it goes on."""
    monkeypatch.setattr("durable_core.stores.sqlite.live_file._BUSY_SECONDS", 0.05)
    begin(channel)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError):
            go_on(channel, EVENTS[0])
        other.execute("ROLLBACK")

    assert [True] == go_on(channel, EVENTS[0])


def test_a_full_disk_loses_only_what_is_told(channel: LiveFile) -> None:
    """The write that finds no room is undone as a whole; later ones have theirs."""
    begin(channel)
    assert channel._db is not None
    channel._db.execute("PRAGMA max_page_count = 8")
    with pytest.raises(StoreError, match="no space is left"):
        go_on(channel, *(Pushed(text=f'"{"x" * 9000}"', index=index) for index in range(9)))

    assert [] == read(channel)
    assert [True] == go_on(channel, EVENTS[0])


def test_a_store_closes_it(tmp_path: Path) -> None:
    """And the next use opens it again, in this process and in a child."""
    store = SQLiteStore(tmp_path / "store.db")
    store.open()
    begin(store.channel, EVENTS[0])
    store.close()
    closed = store.channel._db
    child = os.fork()
    if child == 0:
        is_written = store.channel._db is None and go_on(store.channel, EVENTS[1]) == [True]
        os._exit(0 if is_written else 1)
    status = os.waitpid(child, 0)[1]

    assert None is closed
    assert 0 == os.waitstatus_to_exitcode(status)
    assert list(EVENTS[:2]) == [event for _, event in read(store.channel)]
    store.close()


def test_a_fork_closes_it_first(tmp_path: Path) -> None:
    """Parent and child have connections of their own."""
    store = SQLiteStore(tmp_path / "store.db")
    begin(store.channel, EVENTS[0])
    child = os.fork()
    if child == 0:
        os._exit(0 if go_on(store.channel, EVENTS[1]) == [True] else 1)
    status = os.waitpid(child, 0)[1]
    go_on(store.channel, EVENTS[2])

    assert 0 == os.waitstatus_to_exitcode(status)
    assert list(EVENTS[:3]) == [event for _, event in read(store.channel)]
    store.close()
