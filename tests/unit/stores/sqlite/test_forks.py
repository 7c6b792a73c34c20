"""No SQLite connection lives through a fork, and nothing is lost by one."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from support.source_tree import ROOT

PRELUDE = """
import os, sys, threading
from durable_core.errors import StoreError
from durable_core.stores.sqlite import SQLiteStore
from durable_conformance.store_values import *

store = SQLiteStore(sys.argv[1])
store.open()
commit(store, created("before"))
store.change_counter()
store.workers()
"""


def run_script(path: Path, script: str) -> str:
    """Run a program that uses a store and forks; return what it prints."""
    code = PRELUDE + textwrap.dedent(script)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT / "tests",
        timeout=60,
    )
    assert (0, "") == (result.returncode, result.stderr)
    return result.stdout


def test_what_a_child_commits_survives_the_parent(tmp_path: Path) -> None:
    """The parent's last close must not delete the log that the child writes to."""
    printed = run_script(
        tmp_path / "store.db",
        """
        closed, closes = os.pipe()
        pid = os.fork()
        if pid == 0:
            commit(store, created("child1"))
            os.read(closed, 1)
            commit(store, created("child2"))
            os._exit(0)
        commit(store, created("parent"))
        store.close()
        os.write(closes, b"x")
        assert os.waitpid(pid, 0)[1] == 0
        store.open()
        print(*sorted(each.run.id for each in store.list("app", limit=9)))
        store.close()
        """,
    )

    assert "before child1 child2 parent\n" == printed


def test_a_fork_in_the_middle_of_everything_hurts_nobody(tmp_path: Path) -> None:
    """Threads that commit and read meanwhile go on; each child has a working store."""
    printed = run_script(
        tmp_path / "store.db",
        """
        stop = threading.Event()

        def write():
            number = 1
            while not stop.is_set():
                number += 1
                commit(store, memo_write("before", number))

        def read():
            while not stop.is_set():
                store.get("app", "before")
                store.change_counter()
                store.run_maintenance()

        threads = [threading.Thread(target=target) for target in (write, read, read)]
        for thread in threads:
            thread.start()
        for number in range(20):
            pid = os.fork()
            if pid == 0:
                try:
                    commit(store, created(f"child{number}", owner="c"), wait=20)
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
        stop.set()
        for thread in threads:
            thread.join()
        numbers = [memo.completion_no for memo in store.get("app", "before").memos]
        assert numbers == list(range(1, len(numbers) + 1))
        print(sum(store.get("app", f"child{number}") is not None for number in range(20)))
        store.close()
        """,
    )

    assert "20\n" == printed


def test_a_store_that_was_in_use_during_the_fork_is_refused_in_the_child(tmp_path: Path) -> None:
    """Where the fork could not wait for it, an error is better than lost commits."""
    printed = run_script(
        tmp_path / "store.db",
        """
        from durable_core.stores.sqlite import store as module

        module._FORK_PATIENCE = 0.0
        used, free = threading.Event(), threading.Event()

        def use(db):
            used.set()
            free.wait(30)

        thread = threading.Thread(target=lambda: store._read(use))
        thread.start()
        used.wait(30)
        pid = os.fork()
        if pid == 0:
            for name in ("workers", "open", "workers", "close", "open", "workers"):
                try:
                    getattr(store, name)()
                except StoreError as error:
                    print(name, "forked while in use" if "was in use" in str(error) else error)
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        free.set()
        thread.join()
        print(len(store.workers()))
        store.close()
        """,
    )

    refused = [f"{name} forked while in use" for name in ("workers", "workers", "open")]
    *lines, after_close, in_parent = printed.splitlines()
    assert refused == lines
    assert after_close.endswith("is not open")
    assert "0" == in_parent


def test_a_child_does_not_take_over_the_locks_of_its_parent(tmp_path: Path) -> None:
    """The parent is alive to the child, whatever the child does, until it dies."""
    printed = run_script(
        tmp_path / "store.db",
        """
        from durable_core.ports import Register, WorkerRecord

        def peer(id_):
            return WorkerRecord(id=id_, host="h", pid=os.getpid(), expires_at=9)

        commit(store, Register(worker=peer("parent")))
        died, dies = os.pipe()
        said, says = os.pipe()
        pid = os.fork()
        if pid == 0:
            store.close()
            store.open()
            commit(store, Register(worker=peer("child")))
            os.write(says, str(store.dead_workers(store.workers())).encode() + b"\\n")
            os.close(dies)
            store.close()
            os._exit(0)
        os.waitpid(pid, 0)
        print(os.read(said, 99).decode(), store.dead_workers(store.workers()))
        store.close()
        """,
    )

    assert "[]\n ['child']\n" == printed
