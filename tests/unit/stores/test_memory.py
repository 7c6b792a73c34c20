"""What is the memory store's own; all else is in the stores' contract."""

from __future__ import annotations

import threading

from durable_conformance.store_values import commit, created, memo_write
from durable_core.ports import Register, WorkerRecord
from durable_core.stores.memory import MemoryStore


def test_it_keeps_everything_through_close() -> None:
    """A test may restart its application on the same object."""
    store = MemoryStore()
    store.open()
    commit(store, created())
    store.run_maintenance()
    store.close()

    store.open()

    assert store.get("app", "r1") is not None


def test_two_stores_share_nothing() -> None:
    """Neither runs nor secrets."""
    one, two = MemoryStore(), MemoryStore()
    commit(one, created())

    assert two.get("app", "r1") is None
    assert list(one.secrets()) != list(two.secrets())


def test_no_other_process_is_ever_noticed() -> None:
    """None can share it, so none dies and none commits."""
    store = MemoryStore()
    wakeups = store.wakeups()
    assert wakeups.changed()
    commit(store, Register(worker=WorkerRecord(id="o1", host="h", pid=1, expires_at=0)))

    assert [] == list(store.dead_workers(store.workers()))
    assert not wakeups.changed()


def test_threads_read_while_another_commits() -> None:
    """No reader meets a dictionary that changes under it."""
    store = MemoryStore()
    errors: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                store.list("app", limit=10)
                store.next_due("app", ["key"])
                store.matched_waits("o1")
                store.get("app", "r1")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 300):
        store.commit([created(f"r{number}"), memo_write(f"r{number}")], wait=0)
    stop.set()
    for thread in threads:
        thread.join()

    assert [] == errors
