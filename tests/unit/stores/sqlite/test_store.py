"""The SQLite store as a whole: its file, its faults, and processes that share it."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from durable_conformance.store_values import commit, created, memo, memo_write, pending
from durable_core.errors import (
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreVersionError,
)
from durable_core.ports import (
    CheckpointResult,
    ReapWorkers,
    Register,
    StoredRequest,
    Unregister,
    WorkerRecord,
)
from durable_core.stores.sqlite import SQLiteStore, reads
from durable_core.stores.sqlite import opening as files
from durable_core.stores.sqlite.opening import VERSION
from support.source_tree import ROOT


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "store.db")
    store.open()
    yield store
    store.close()


@pytest.fixture
def other(tmp_path: Path, store: SQLiteStore) -> Iterator[SQLiteStore]:
    """Return a second store object on the same file."""
    other = SQLiteStore(tmp_path / "store.db")
    other.open()
    yield other
    other.close()


def locked(store: SQLiteStore) -> closing[sqlite3.Connection]:
    """Return a connection that keeps everybody else from writing until it is closed."""
    db = sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)
    db.execute("BEGIN IMMEDIATE")
    return closing(db)


def peer(id_: str, *, host: str = "h") -> WorkerRecord:
    return WorkerRecord(id=id_, host=host, pid=1, expires_at=100)


def popen(script: str, *args: str) -> subprocess.Popen[str]:
    prelude = """
        import os, signal, sys
        from durable_core.ports import *
        from durable_core.stores.sqlite import SQLiteStore
        from durable_conformance.store_values import *
        store = SQLiteStore(sys.argv[1])
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(script), *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT / "tests",
    )


# The file


def test_construction_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is made absolute then, so a later change of directory does not matter."""
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("data/store.db")
    monkeypatch.chdir("/")

    assert str(tmp_path / "data" / "store.db") == store.path
    assert [] == list(tmp_path.iterdir())


def test_all_files_are_private(store: SQLiteStore) -> None:
    """The log and the index of it are as private as the database."""
    commit(store, created())
    commit(store, Register(worker=peer("o1")))

    paths = list(Path(store.path).parent.iterdir())

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths}
    expected = {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
    assert expected | {"store.db.locks": 0o700} == modes


def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    """Before opening and after closing, with its path; opening makes it usable again."""
    store = SQLiteStore(tmp_path / "store.db")
    with pytest.raises(StoreError, match=r"store\.db is not open"):
        store.workers()
    store.open()
    store.open()
    commit(store, created())
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is not open"):
        commit(store, memo_write())

    store.open()

    commit(store, memo_write())
    store.close()


def test_a_network_file_system_is_refused_unless_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusal leaves no file behind."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text("1 0 0:1 / / rw - nfs4 host:/ rw\n")
    monkeypatch.setattr(files, "_MOUNTINFO", str(mounts))

    with pytest.raises(StoreError, match="nfs4"):
        SQLiteStore(tmp_path / "store.db").open()
    assert [mounts] == list(tmp_path.iterdir())

    store = SQLiteStore(tmp_path / "store.db", unsafe_filesystem=True)
    store.open()
    store.close()


def test_a_newer_store_is_refused(store: SQLiteStore) -> None:
    """The message names both versions."""
    store.close()
    with closing(sqlite3.connect(store.path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")

    with pytest.raises(StoreVersionError, match=f"version {VERSION + 1}.*up to {VERSION}"):
        store.open()


def test_a_directory_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    """Not an OSError."""
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match="cannot be made"):
        SQLiteStore(tmp_path / "file" / "store.db").open()


def test_processes_that_open_a_new_file_at_once_all_succeed(tmp_path: Path) -> None:
    """One makes the store, the others find it, and all have the same secret."""
    script = (
        "sys.stdin.readline(); store.open(); print(store.secrets()[0].value.hex()); store.close()"
    )
    processes = [popen(script, str(tmp_path / "store.db")) for _ in range(6)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    secrets = {process.communicate(timeout=60)[0] for process in processes}

    assert [0] * 6 == [process.returncode for process in processes]
    assert 1 == len(secrets)


# Faults


def test_a_locked_store_is_busy_and_nothing_is_done(store: SQLiteStore) -> None:
    """With no wait it says so at once; afterwards the same write succeeds."""
    with locked(store), pytest.raises(StoreBusyError, match="locked"):
        store.commit([created()], wait=0)

    assert store.get("app", "r1") is None
    commit(store, created())


def test_a_commit_waits_for_a_lock(store: SQLiteStore) -> None:
    """It succeeds as soon as the other one is done."""
    with locked(store) as db:
        timer = threading.Timer(0.05, db.close)
        timer.start()

        commit(store, created(), wait=30)

        timer.join()


def test_reads_do_not_wait_for_a_writer(store: SQLiteStore) -> None:
    """Somebody's open transaction does not hold them up."""
    commit(store, created())

    with locked(store):
        assert store.get("app", "r1") is not None
        store.run_maintenance()
        store.change_counter()


def test_a_full_store_says_so_and_stays_sound(store: SQLiteStore) -> None:
    """What was stored before can be read, and writes succeed once there is room."""
    commit(store, created())
    assert store._handles is not None
    assert store._handles._writer is not None
    db = store._handles._writer
    db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
    large = replace(created("r2"), request=StoredRequest(head="", body=bytes(100_000)))

    with pytest.raises(StoreFullError, match="no space"):
        store.commit([large], wait=0)

    record = store.get("app", "r1")
    assert record is not None
    assert (memo(1),) == record.memos
    assert store.get("app", "r2") is None
    db.execute("PRAGMA max_page_count = 100000")
    commit(store, large)
    assert [("ok",)] == db.execute("PRAGMA integrity_check").fetchall()


@pytest.mark.parametrize(("directory_mode", "file_mode"), [(0o555, 0o444), (0o755, 0o444)])
def test_a_store_that_may_only_be_read_refuses_writes(directory_mode: int, file_mode: int) -> None:
    """A file without write permission is a StoreReadOnlyError, for root too."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = Path(directory) / "store.db"
        store = SQLiteStore(path)
        store.open()
        commit(store, created())
        store.close()
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)  # as who it is read
        path.chmod(file_mode)
        os.chmod(directory, directory_mode)

        script = """
            import os, threading
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            try:
                store.open()
                commit(store, memo_write())
            except Exception as error:
                print(type(error).__name__)
        """
        printed, _ = popen(script, str(path)).communicate(timeout=60)

        assert StoreReadOnlyError.__name__ + "\n" == printed


def test_a_directory_that_may_only_be_read_takes_no_new_store() -> None:
    """It is a StoreReadOnlyError and leaves no file."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o555)
        script = """
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            try:
                store.open()
            except Exception as error:
                print(type(error).__name__)
        """
        printed, _ = popen(script, f"{directory}/store.db").communicate(timeout=60)

        assert StoreReadOnlyError.__name__ + "\n" == printed
        assert [] == os.listdir(directory)


KILL = """
    store.open()
    commit(store, created())
    left = int(sys.argv[2])

    def count(text):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    store._handles._writer.set_trace_callback(count)
    store.commit([memo_write(), created("r2")], wait=1)
    store._handles._writer.set_trace_callback(None)
    print("committed", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_leaves_all_of_a_transaction_or_nothing(tmp_path: Path) -> None:
    """Killed before each of its statements in turn; what was acknowledged is there."""
    paths = [tmp_path / str(statement) / "store.db" for statement in range(1, 14)]
    processes = [popen(KILL, str(path), str(number)) for number, path in enumerate(paths, 1)]
    printed = [process.communicate(timeout=100)[0] for process in processes]
    outcomes = []
    for path in paths:
        with closing(SQLiteStore(path)) as store:
            store.open()
            first, second = store.get("app", "r1"), store.get("app", "r2")
            assert first is not None
            outcomes.append((len(first.memos), second is not None))

    assert {-signal.SIGKILL} == {process.returncode for process in processes}
    # BEGIN, two for the memo, four for the new run, and COMMIT.
    killed = 8
    assert [(1, False)] * killed + [(2, True)] * (13 - killed) == outcomes
    assert [""] * killed + ["committed\n"] * (13 - killed) == printed


# Several users


def test_two_stores_on_one_file_see_each_other(store: SQLiteStore, other: SQLiteStore) -> None:
    """Commits of one are there for the other, who notices that there was one."""
    before = other.change_counter()
    commit(store, created())

    assert before != other.change_counter()
    assert store.get("app", "r1") == other.get("app", "r1")
    assert list(store.secrets()) == list(other.secrets())


def test_many_threads_read_while_one_commits(store: SQLiteStore) -> None:
    """Each reader sees a state between two commits: the next op is the only unfinished one."""
    commit(store, replace(created(), pending=(pending("step2"),)))
    torn: list[object] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            record = store.get("app", "r1")
            assert record is not None
            if record.pending != (pending(f"step{len(record.memos) + 1}"),):
                torn.append(record)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2, 150):
        commit(store, memo_write(number=number, pending=(pending(f"step{number + 1}"),)))
    stop.set()
    for thread in threads:
        thread.join()

    assert [] == torn


def test_a_killed_process_is_proven_dead_by_the_others(store: SQLiteStore) -> None:
    """While it lives nothing is proven; what it held is taken over after its burial."""
    script = """
        store.open()
        commit(store, Register(worker=WorkerRecord(id="other", host="h", pid=1, expires_at=100)))
        commit(store, created(owner="other"))
        print("registered", flush=True)
        sys.stdin.read()
    """
    with popen(script, store.path) as process:
        assert process.stdout is not None
        assert "registered\n" == process.stdout.readline()
        commit(store, Register(worker=peer("o1")))
        assert [] == store.dead_workers(store.workers())

        process.kill()
        process.wait()

    assert ["other"] == store.dead_workers(store.workers())
    assert ("r1",) == commit(store, ReapWorkers(ids=("other",), now=70))
    assert ["o1"] == os.listdir(store.path + ".locks")


def test_processes_of_other_hosts_are_never_proven_dead(
    store: SQLiteStore, other: SQLiteStore
) -> None:
    """Their locks are not seen here; nor are any by a store without a process of its own."""
    commit(other, Register(worker=peer("o2", host="elsewhere")))
    commit(other, Register(worker=peer("o3")))
    other.close()

    assert [] == store.dead_workers(store.workers())
    commit(store, Register(worker=peer("o1")))

    assert ["o3"] == store.dead_workers(store.workers())


def test_a_lock_file_lives_as_long_as_its_process_is_registered(store: SQLiteStore) -> None:
    """Unregistering and burying remove it; being spared does not."""
    locks = Path(store.path + ".locks")
    for id_ in ("o1", "o2", "o3"):
        commit(store, Register(worker=peer(id_)))

    commit(store, Unregister(id="o1", now=1))
    commit(store, ReapWorkers(ids=("o2",), now=1, skip_if_renewed_after=99))
    commit(store, ReapWorkers(ids=("o3",), now=1))

    assert ["o2"] == os.listdir(locks)
    store.close()
    assert ["o2"] == os.listdir(locks)


def test_a_registration_that_fails_holds_no_lock(store: SQLiteStore) -> None:
    """Nobody is registered, so there is nothing to prove."""
    with locked(store), pytest.raises(StoreBusyError):
        store.commit([Register(worker=peer("o1"))], wait=0)

    assert [] == os.listdir(store.path + ".locks")


def test_the_representation_names_the_file(store: SQLiteStore) -> None:
    """For logs."""
    assert f"SQLiteStore({store.path!r})" == repr(store)


def test_a_store_has_one_set_of_lock_files_however_its_path_is_spelt(tmp_path: Path) -> None:
    """A link leads to the same ones: else each process would take the others for dead."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "linked.db").symlink_to("real/store.db")
    paths = ("real/store.db", "link/store.db", "linked.db")
    stores = [SQLiteStore(tmp_path / path) for path in paths]
    for number, store in enumerate(stores):
        store.open()
        commit(store, Register(worker=peer(f"o{number}")))
        assert (tmp_path / paths[number]) == Path(store.path)

    for store in stores:
        assert [] == store.dead_workers(store.workers())

    assert ["o0", "o1", "o2"] == sorted(os.listdir(tmp_path / "real" / "store.db.locks"))
    assert ["link", "linked.db", "real"] == sorted(os.listdir(tmp_path))
    for store in stores:
        store.close()


def test_a_commit_stands_although_lock_files_cannot_be_cleared_up(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is durable is answered with success, whatever housekeeping comes to."""
    commit(store, Register(worker=peer("o1")))

    def broken(db: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(reads, "workers", broken)
    buries = ReapWorkers(ids=("o1",), now=1)
    answers = store.commit([created(), buries], wait=1.0)

    assert [CheckpointResult(), ("r1",)] == list(answers)
