"""The open connections of one process to one store."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from durable_conformance.store_values import created, event, memo, memo_write, wait
from durable_core.errors import StoreBusyError, StoreError
from durable_core.ports import SendEvents, StoredRequest
from durable_core.stores.sqlite import connections as handles_module
from durable_core.stores.sqlite import events
from durable_core.stores.sqlite.connections import Connections, ConnectionsClosedError
from durable_core.stores.sqlite.opening import connect, prepare
from durable_core.stores.sqlite.writes import apply_batch
from support.harness import until


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "store.db")
    prepare(path)
    return path


@pytest.fixture
def handles(path: str) -> Iterator[Connections]:
    handles = Connections(path)
    yield handles
    handles.close()


def count_runs(db: sqlite3.Connection) -> int:
    count: int = db.execute("SELECT count(*) FROM run").fetchone()[0]
    return count


def itself(db: sqlite3.Connection) -> sqlite3.Connection:
    return db


def test_readers_see_what_was_committed(handles: Connections) -> None:
    """A commit is there for every read after it."""
    handles.commit([created()], 1.0)

    assert 1 == handles.read(count_runs)


def test_readers_are_used_again(handles: Connections) -> None:
    """Reading one after another needs one connection."""
    assert handles.read(itself) is handles.read(itself)


def test_reads_at_the_same_time_have_connections_of_their_own(handles: Connections) -> None:
    """No thread waits for another's read, and beyond a few the connections are not kept."""
    together = threading.Barrier(20)

    def meet(db: sqlite3.Connection) -> int:
        together.wait(30)
        return id(db)

    with ThreadPoolExecutor(20) as pool:
        ids = {future.result() for future in [pool.submit(handles.read, meet) for _ in range(20)]}

    assert 20 == len(ids)
    assert 16 == handles._readers == len(handles._free)


def test_a_reader_cannot_write(handles: Connections) -> None:
    """It says so as a StoreError, and can be used again."""
    with pytest.raises(StoreError, match="cannot be written"):
        handles.read(lambda db: db.execute("DELETE FROM run"))

    assert 0 == handles.read(count_runs)


def test_the_version_changes_with_commits_of_others(path: str, handles: Connections) -> None:
    """It stays while nobody commits."""
    others = Connections(path)
    before = handles.change_counter()
    assert before == handles.change_counter()

    others.commit([created()], 1.0)

    assert before != handles.change_counter()
    others.close()


def test_the_version_does_not_change_with_its_own_commits(
    handles: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor when they are refused, alone or in a group, nor when the log is moved or begun anew."""
    monkeypatch.setattr(handles_module, "_WAL_BYTES", 0)
    monkeypatch.setattr(handles_module, "_COMMITS_BETWEEN_CHECKPOINTS", 0)
    before = handles.change_counter()
    for number in range(3):
        handles.commit([created(f"r{number}")], 1.0)
        handles.commit([memo_write("unknown")], 1.0)
        handles.commit([memo_write("unknown"), created(f"s{number}")], 1.0)
        handles.checkpoint()

    assert before == handles.change_counter()
    assert 6 == handles.read(count_runs)


def test_the_version_changes_with_its_own_commits_for_those_who_ask_for_that(
    handles: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes no earlier than the commit is there to be read."""
    handles.change_counter()
    seen: list[tuple[int, ...]] = []

    def applies(*args: Any) -> Any:
        seen.append(handles.change_counter(with_own=True))
        return apply_batch(*args)

    monkeypatch.setattr(handles_module, "_COUNTER_PATIENCE", 0.001)
    monkeypatch.setattr(handles_module, "apply_batch", applies)
    handles.commit([created()], 1.0)

    assert seen[0] != handles.change_counter(with_own=True)


def test_a_commit_tells_the_version_to_whoever_has_asked(path: str, handles: Connections) -> None:
    """While this process commits, nobody else holds its commits up to ask."""
    others = Connections(path)
    first = handles.change_counter()
    handles.commit([created("r1")], 1.0)
    with handles._write_lock:
        assert first == handles.change_counter()
    handles.commit([created("r2")], 1.0)
    assert first == handles.change_counter()
    others.commit([created("r3")], 1.0)
    handles.commit([created("r4")], 1.0)

    assert first != handles.change_counter()
    others.close()


def test_the_version_changes_with_what_maintenance_has_matched(
    handles: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait may be that of a live run here; once there is nothing left to match, it stays."""
    monkeypatch.setattr(events, "_WAITS", 2)
    ids = ("r1", "r2", "r3")
    handles.commit([replace(created(each), pending=(wait(),)) for each in ids], 1.0)
    handles.commit([SendEvents(app="app", events=(event("1"),), now=1)], 1.0)
    before = handles.change_counter()
    handles.match_part()
    after = handles.change_counter()
    handles.match_part()

    assert before != after
    assert after == handles.change_counter()


def test_while_a_commit_takes_long_the_version_changes(
    handles: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others have committed cannot be told then."""
    monkeypatch.setattr(handles_module, "_COUNTER_PATIENCE", 0.001)
    before = handles.change_counter()
    with handles._write_lock:
        during = handles.change_counter()

    assert before != during
    assert during == handles.change_counter()


def test_a_commit_that_does_not_wait_is_refused_at_once(path: str, handles: Connections) -> None:
    """Somebody else writes, and that undoes nothing of what is asked for later."""
    handles.commit([created()], 0.0)
    with closing(connect(path, busy_seconds=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError):
            handles.commit([memo_write(number=2)], 0.0)
        other.execute("ROLLBACK")
    handles.commit([memo_write(number=2)], 0.0)


def test_a_commit_waits_for_as_long_as_it_is_told(path: str, handles: Connections) -> None:
    """And no longer."""
    handles.commit([created()], 0.0)
    with closing(connect(path, busy_seconds=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(StoreBusyError):
            handles.commit([memo_write(number=2)], 0.2)
    assert 0.2 <= time.monotonic() - began < 2


def test_a_commit_is_done_as_soon_as_nobody_else_writes(
    path: str, handles: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks all the time, also after it has waited for long.

    SQLite's own way to wait looks ten times a second by then. Beside a process that commits all
    the time, on a disk that takes 50 ms, it finds the lock held for seconds.
    """
    handles.commit([created()], 0.0)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(seconds)

    patient = SimpleNamespace(monotonic=time.monotonic, sleep=pause)
    monkeypatch.setattr(handles_module, "time", patient)
    with closing(connect(path, busy_seconds=0)) as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN IMMEDIATE")
        done = pool.submit(handles.commit, [memo_write(number=2)], 60.0)
        until(lambda: len(pauses) > 100)
        other.execute("ROLLBACK")
        looks = len(pauses)
        done.result(20)

    assert len(pauses) - looks <= 1  # it may have looked while the other one wrote
    assert max(pauses) <= 0.005


def test_a_closed_set_of_handles_opens_nothing(handles: Connections) -> None:
    """Who comes late is told to look for the new ones."""
    handles.commit([created()], 1.0)
    handles.read(count_runs)
    handles.change_counter()

    assert handles.close()

    with pytest.raises(ConnectionsClosedError):
        handles.commit([created("r2")], 1.0)
    with pytest.raises(ConnectionsClosedError):
        handles.read(count_runs)
    with pytest.raises(ConnectionsClosedError):
        handles.change_counter()


def test_a_reader_in_use_is_closed_when_it_is_given_back(handles: Connections) -> None:
    """Closing does not pull the connection from under a read."""

    def close_and_count(db: sqlite3.Connection) -> int:
        assert not handles.close()
        return count_runs(db)

    assert 0 == handles.read(close_and_count)

    assert 0 == handles._readers
    assert handles.close()


def test_the_log_is_moved_into_the_database_once_it_has_grown(
    path: str, handles: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small log is left alone; commits never do it themselves."""
    handles.commit([created()], 1.0)
    before = Path(path).read_bytes()
    handles.checkpoint()
    assert before == Path(path).read_bytes()

    monkeypatch.setattr(handles_module, "_WAL_BYTES", 4096)
    handles.checkpoint()

    assert before != Path(path).read_bytes()


def test_the_log_of_a_linked_file_is_found(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite keeps it beside the file that the link leads to."""
    monkeypatch.setattr(handles_module, "_WAL_BYTES", 4096)
    link = tmp_path / "elsewhere.db"
    link.symlink_to(path)
    handles = Connections(str(link))
    handles.commit([created()], 1.0)
    before = Path(path).read_bytes()

    handles.checkpoint()

    assert before != Path(path).read_bytes()
    handles.close()


def test_an_idle_log_is_not_looked_at_again(
    handles: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log keeps its size, so size alone is no reason."""
    monkeypatch.setattr(handles_module, "_WAL_BYTES", 4096)
    handles.commit([created()], 1.0)
    handles.checkpoint()
    statements: list[str] = []
    assert handles._checkpointer is not None
    handles._checkpointer.set_trace_callback(statements.append)

    handles.checkpoint()
    assert [] == statements

    for number in range(2, 752):
        handles.commit([memo_write(number=number)], 1.0)
    handles.checkpoint()
    assert 2 == len(statements)


def test_the_log_is_written_anew_although_commits_keep_coming(
    path: str, handles: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed while the log is moved is moved too, or it would grow for ever."""
    monkeypatch.setattr(handles_module, "_WAL_BYTES", 4096)
    handles.commit([created()], 1.0)
    for number in range(2, 50):
        handles.commit([memo_write(number=number)], 1.0)
    move, reader = handles_module._move_log, connect(path, busy_seconds=0)

    def move_while_a_commit_comes(db: sqlite3.Connection) -> None:
        if handles._write_lock.locked():
            move(db)
            return
        reader.execute("BEGIN")
        count_runs(reader)  # from here on it is as if the move had begun before the commit
        handles.commit([memo_write(number=50)], 1.0)
        move(db)
        reader.execute("COMMIT")

    monkeypatch.setattr(handles_module, "_move_log", move_while_a_commit_comes)
    handles.checkpoint()
    handles.commit([memo_write(number=51)], 1.0)
    reader.close()

    other = connect(path, busy_seconds=0)
    _, frames, moved = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    other.close()
    assert 0 < frames == moved < 5


def test_a_file_that_cannot_be_opened_is_a_store_error(tmp_path: Path) -> None:
    """Not an error of sqlite3's."""
    handles = Connections(str(tmp_path))

    with pytest.raises(StoreError, match="cannot be opened"):
        handles.read(count_runs)
    with pytest.raises(StoreError, match="cannot be opened"):
        handles.commit([created()], 1.0)
    with pytest.raises(StoreError, match="cannot be opened"):
        handles.change_counter()


def test_closing_during_a_checkpoint_is_no_deadlock(
    handles: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may fork, which closes all, while the log is being moved."""
    moving, closing = threading.Event(), threading.Event()

    def move_some(db: sqlite3.Connection) -> None:
        moving.set()
        assert closing.wait(10)

    @contextmanager
    def told(lock: threading.Lock) -> Iterator[None]:
        closing.set()
        with lock:
            yield

    monkeypatch.setattr(handles_module, "_WAL_BYTES", 0)
    monkeypatch.setattr(handles_module, "_move_log", move_some)
    handles.commit([created()], wait=1.0)
    checkpoint = threading.Thread(target=handles.checkpoint, daemon=True)
    checkpoint.start()
    assert moving.wait(10)
    monkeypatch.setattr(handles, "_keep_lock", told(handles._keep_lock))
    close = threading.Thread(target=handles.close, daemon=True)
    close.start()
    for thread in (checkpoint, close):
        thread.join(10)
        assert not thread.is_alive()
    monkeypatch.undo()


def test_a_step_changes_one_page(path: str, handles: Connections) -> None:
    """It goes to the end of its table, so that hardly any commit writes a second page."""
    handles.commit([created("r1")], 1.0)
    before = log_pages(path)
    step = memo_write(no_pending_row=True)
    for number in range(2, 402):
        handles.commit([replace(step, memos=(memo(number),))], 1.0)

    assert 400 <= log_pages(path) - before < 440


def log_pages(path: str) -> int:
    return (Path(path + "-wal").stat().st_size - 32) // (4096 + 24)


def test_a_reader_whose_query_broke_shows_no_old_state(handles: Connections) -> None:
    """Whoever holds the error holds the query that is half read, and with it the state it saw."""

    def breaks(db: sqlite3.Connection) -> None:
        rows = db.execute("SELECT id FROM run ORDER BY id")
        raise KeyError(rows.fetchone())

    handles.commit([created("r1"), created("r2")], 1.0)
    with pytest.raises(KeyError) as held:
        handles.read(breaks)
    handles.commit([created("r3")], 1.0)

    assert 3 == handles.read(count_runs)
    del held


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_gone_takes_no_more_writes(
    path: str, handles: Connections, replaced: bool
) -> None:
    """What is written to a file that has no name any more is lost; and no new one is made."""
    handles.commit([created("r1")], 1.0)
    other = path + ".other"
    prepare(other)
    os.unlink(path)
    if replaced:
        os.rename(other, path)

    with pytest.raises(StoreError, match="was removed or replaced while it was in use"):
        handles.change_counter()
    with pytest.raises(StoreError, match="was removed or replaced while it was in use"):
        handles.commit([created("r2")], 1.0)
    with pytest.raises(StoreError, match="was removed or replaced while it was in use"):
        handles.read(count_runs)

    assert replaced == os.path.exists(path)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_log_that_is_gone_takes_no_more_writes(
    path: str, handles: Connections, replaced: bool
) -> None:
    """The last commits are in it: those that follow would be lost with them."""
    handles.commit([created("r1")], 1.0)
    handles.change_counter()
    os.unlink(path + "-wal")
    if replaced:
        Path(path + "-wal").write_bytes(b"")

    with pytest.raises(StoreError, match="or its log beside it, was removed or replaced"):
        handles.change_counter()
    with pytest.raises(StoreError, match="or its log beside it, was removed or replaced"):
        handles.commit([created("r2")], 1.0)


def test_a_file_that_cannot_be_looked_at_for_a_moment_is_not_gone(
    handles: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A permission that is missing for a while says nothing about the file."""
    handles.commit([created("r1")], 1.0)
    handles.change_counter()

    def refuse(path: str) -> os.stat_result:
        raise PermissionError(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", refuse)
        handles.change_counter()
    handles.change_counter()
    handles.commit([created("r2")], 1.0)

    assert 2 == handles.read(count_runs)


def test_nobody_commits_during_a_checkpoint_that_follows_on_another(
    path: str, handles: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in other processes either, whose commit might begin the log anew."""
    monkeypatch.setattr(handles_module, "_WAL_BYTES", 1)
    others = Connections(path)
    move, busy = handles_module._move_log, list[bool]()

    def moving(db: sqlite3.Connection) -> None:
        try:
            others.commit([created(f"r{len(busy)}")], 0.0)
            busy.append(False)
        except StoreBusyError:
            busy.append(True)
        move(db)

    monkeypatch.setattr(handles_module, "_move_log", moving)
    handles.commit([created("r9")], 1.0)
    handles.checkpoint()
    others.close()

    assert [False, True] == busy
    handles.commit([created("r8")], 1.0)
    assert 3 == handles.read(count_runs)


def test_a_checkpoint_leaves_its_end_to_the_next_round_if_somebody_commits(
    path: str, handles: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for nobody."""
    monkeypatch.setattr(handles_module, "_WAL_BYTES", 1)
    handles.commit([created("r1")], 1.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        handles.checkpoint()
        assert (0, 0) == handles._checkpointed
        other.execute("ROLLBACK")
    handles.checkpoint()
    assert (0, 0) != handles._checkpointed


def test_a_log_that_a_long_reader_made_long_is_cut(path: str, handles: Connections) -> None:
    """Once the reader has gone, and the log is begun anew."""
    large = StoredRequest(head="GET /", body=b"x" * 2_000_000)
    handles.commit([created("r0")], 1.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM run").fetchone()
        for number in range(1, 11):
            handles.commit([replace(created(f"r{number}"), request=large)], 1.0)
            handles.checkpoint()
        grown = os.stat(path + "-wal").st_size
        reader.execute("ROLLBACK")
    handles._checkpointed = (0, 0)
    handles.checkpoint()
    handles.commit([created("last")], 1.0)

    assert os.stat(path + "-wal").st_size <= handles_module._MOST_WAL_BYTES < grown
