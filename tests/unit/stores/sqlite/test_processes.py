"""Lock files prove that a process is dead, and never that a live one is."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from durable_core.stores.sqlite.processes import LockFiles

HOLD = """
import sys
import textwrap
from durable_core.stores.sqlite.processes import LockFiles
locks = LockFiles(sys.argv[1])
locks.acquire("other")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "store.db.locks")


@contextmanager
def other_process(directory: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds the file ``other`` until its input ends."""
    command = [sys.executable, "-c", HOLD, directory]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert "held\n" == process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_a_killed_process_is_proven_dead_at_once(directory: str) -> None:
    """While it lives nothing is proven, however often one looks."""
    locks = LockFiles(directory)
    with other_process(directory) as process:
        assert not locks.owner_is_dead("other")
        assert not locks.owner_is_dead("other")

        process.kill()
        process.wait()

        assert locks.owner_is_dead("other")


def test_a_process_that_nobody_knows_is_not_proven_dead(directory: str) -> None:
    """A file that is missing proves nothing."""
    assert not LockFiles(directory).owner_is_dead("nobody")


def test_processes_of_this_process_are_alive(directory: str) -> None:
    """Two stores in one process see each other's files as held, and looking lets none go."""
    ours, others = LockFiles(directory), LockFiles(directory)
    ours.acquire("a")

    assert not others.owner_is_dead("a")
    assert not ours.owner_is_dead("a")

    assert not proven_by_another_process(directory, "a")
    ours.close()
    assert proven_by_another_process(directory, "a")
    assert others.owner_is_dead("a")


def proven_by_another_process(directory: str, id_: str) -> bool:
    code = (
        "import sys; from durable_core.stores.sqlite.processes import LockFiles; "
        "print(LockFiles(sys.argv[1]).owner_is_dead(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, directory, id_]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout == "True\n"


def test_leaving_in_good_order_removes_the_file(directory: str) -> None:
    """Nothing is left to prove; another store's file is not touched."""
    ours, others = LockFiles(directory), LockFiles(directory)
    ours.acquire("a")
    others.acquire("b")

    ours.release("a")
    ours.release("b")

    assert ["b"] == os.listdir(directory)
    others.close()


def test_holding_twice_is_holding_once(directory: str) -> None:
    """A second registration does not let go of the first."""
    locks = LockFiles(directory)
    locks.acquire("a")
    locks.acquire("a")

    assert not proven_by_another_process(directory, "a")
    locks.close()


def test_who_was_buried_by_mistake_gets_a_new_file(directory: str) -> None:
    """The old file is gone, so the lock on it proves nothing to others any more."""
    locks = LockFiles(directory)
    locks.acquire("a")
    locks.remove("a")

    locks.acquire("a")

    assert ["a"] == os.listdir(directory)
    assert not proven_by_another_process(directory, "a")
    locks.close()


def test_an_id_is_one_file_name(directory: str) -> None:
    """Slashes in it do not lead out of the directory."""
    locks = LockFiles(directory)
    locks.acquire("../a/b")

    assert [Path(directory)] == list(Path(directory).parent.iterdir())
    assert 1 == len(os.listdir(directory))
    locks.release("../a/b")


def test_without_a_place_for_files_nothing_is_held(tmp_path: Path) -> None:
    """Registration goes on; death is then seen by the end of the lease."""
    (tmp_path / "file").write_text("")
    locks = LockFiles(str(tmp_path / "file" / "locks"))

    locks.acquire("a")

    assert not locks.owner_is_dead("a")


def test_a_fork_while_files_are_looked_at_is_no_deadlock(directory: str) -> None:
    """The child has no thread that would let go of what another thread of its parent held."""
    code = """
        import os, sys, threading
        from durable_core.stores.sqlite import processes
        entered, leave = threading.Event(), threading.Event()
        def hold():
            with processes._held_lock:
                entered.set()
                leave.wait()
        thread = threading.Thread(target=hold)
        thread.start()
        entered.wait()
        pid = os.fork()
        if pid == 0:
            ours = processes.LockFiles(sys.argv[1])
            ours.acquire("child")
            os._exit(os.listdir(sys.argv[1]) != ["child"])
        leave.set()
        thread.join()
        sys.exit(os.waitpid(pid, 0)[1] >> 8)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), directory]
    assert 0 == subprocess.run(command, timeout=60).returncode


def test_files_that_nobody_knows_are_removed(directory: str) -> None:
    """Those of processes that died before they were known; not young, locked or known ones."""
    locks = LockFiles(directory)
    locks.acquire("mine")
    old = time.time() - 3600
    for id_ in ("orphan", "known", "young"):
        Path(directory, id_).touch()
    for id_ in ("orphan", "known", "mine"):
        os.utime(Path(directory, id_), (old, old))

    locks.remove_orphans({"known"})

    assert ["known", "mine", "young"] == sorted(os.listdir(directory))
    locks.close()
    locks.remove_orphans({"known"})
    assert ["known", "young"] == sorted(os.listdir(directory))


def test_without_a_directory_there_are_no_orphans(directory: str) -> None:
    """Nothing was registered there yet."""
    LockFiles(directory).remove_orphans(set())

    assert not os.path.exists(directory)
