"""Applications of one process that work with one store object."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable_core.api.adapter import endpoint_adapter
from durable_core.api.durable import Durable
from durable_core.api.step import step, sync_step
from durable_core.errors import StoreError
from durable_core.http.request import Request
from durable_core.model.event import Event
from durable_core.ports import Register, Store, Unregister
from durable_core.stores.encrypted import EncryptedStore
from durable_core.stores.memory import MemoryStore
from durable_core.stores.sqlite import SQLiteStore
from support.harness import request


class Plain:
    """A cipher that leaves everything as it is."""

    def encrypt(self, data: bytes, /) -> bytes:
        """Return the data."""
        return data

    def decrypt(self, token: bytes, /) -> bytes:
        """Return the data."""
        return token


class CountingStore(MemoryStore):
    """A store in memory that must be open, and knows whether it is."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False
        self.refuses = False

    def open(self) -> None:
        """Open it."""
        self.is_open = True

    def close(self) -> None:
        """Close it."""
        self.is_open = False

    def commit(self, writes: Any, *, wait: float) -> Any:
        """Commit if it is open."""
        if not self.is_open:
            raise StoreError("it is not open")
        if self.refuses and any(isinstance(write, Register) for write in writes):
            raise StoreError("no further process")
        return super().commit(writes, wait=wait)


def encrypted(inner: Store | str) -> EncryptedStore:
    return EncryptedStore(inner, keys={"1": Plain()}, match_key=bytes(16))


def application(name: str, store: Store) -> tuple[Durable[Any], Callable[[], int]]:
    """Return an application that is started, and what calls its endpoint for the status."""
    durable = Durable(id=name, endpoint_adapter=endpoint_adapter, store=store)

    @durable.endpoint(function_id="it")
    def handler(request: Request) -> Any:
        return sync_step.run("one", lambda: 1)

    durable.start()
    return durable, lambda: int(handler.handle(request()).status)


STORES = {
    "memory": lambda folder: CountingStore(),
    "sqlite": lambda folder: SQLiteStore(folder / "store.db"),
    "encrypted": lambda folder: encrypted(str(folder / "store.db")),
}


@pytest.mark.parametrize("make", STORES.values(), ids=STORES.keys())
def test_the_last_application_closes_the_store(
    make: Callable[[Path], Store], tmp_path: Path
) -> None:
    """The stop of one application does not take the store from the other one."""
    store = make(tmp_path)
    first, call_first = application("first", store)
    second, call_second = application("second", store)
    assert (200, 200) == (call_first(), call_second())
    first.stop()
    assert 200 == call_second()
    first.start()
    second.stop()
    assert 200 == call_first()
    first.stop()
    with pytest.raises(StoreError, match="not open"):
        store.commit([Unregister(id="nobody", now=0)], wait=0)


@pytest.mark.parametrize("make", STORES.values(), ids=STORES.keys())
def test_who_never_started_closes_the_store(make: Callable[[Path], Store], tmp_path: Path) -> None:
    """An event was sent, and runs were looked at: the stop ends what that has opened."""
    store = make(tmp_path)
    sender = Durable(id="sender", store=store)
    sender.send(Event("go"))
    assert [] == list(sender.runs.list())
    sender.stop()
    with pytest.raises(StoreError, match="not open"):
        store.commit([Unregister(id="nobody", now=0)], wait=0)

    worker, call = application("worker", store)
    assert 200 == call()
    sender.send(Event("go"))
    sender.stop()
    assert 200 == call()
    worker.stop()


@pytest.mark.parametrize("make", STORES.values(), ids=STORES.keys())
def test_who_never_started_keeps_the_store_open(
    make: Callable[[Path], Store], tmp_path: Path
) -> None:
    """Who looks at runs goes on with that when another application stops."""
    store = make(tmp_path)
    worker, _ = application("worker", store)
    worker.stop()
    reader = Durable(id="reader", store=store)
    assert [] == list(reader.runs.list())
    worker.start()
    worker.stop()
    [freed] = store.commit([Unregister(id="nobody", now=0)], wait=0)
    assert not freed
    reader.stop()
    with pytest.raises(StoreError, match="not open"):
        store.commit([Unregister(id="nobody", now=0)], wait=0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "encrypted"])
def test_a_child_leaves_a_store_of_its_parent_alone(wrapped: bool) -> None:
    """It has opened nothing; to close a connection of the parent would end that for both."""
    store = CountingStore()
    durable, call = application("parent", encrypted(store) if wrapped else store)
    Durable(id="sender", store=store).send(Event("go"))
    child = os.fork()
    if child == 0:
        durable.stop()
        os._exit(0 if store.is_open else 1)
    assert (child, 0) == os.waitpid(child, 0)
    assert 200 == call()
    durable.stop()


def test_a_store_that_opens_slowly_keeps_no_other_one_open() -> None:
    """An application stops while another one, with another store, waits for its own."""
    begun, may_go_on = threading.Event(), threading.Event()

    class SlowStore(CountingStore):
        def open(self) -> None:
            begun.set()
            assert may_go_on.wait(20)
            super().open()

    quick, _ = application("quick", CountingStore())
    slow = Durable(id="slow", store=SlowStore())
    starting = threading.Thread(target=slow.start)
    starting.start()
    assert begun.wait(20)
    stopping = threading.Thread(target=quick.stop)
    stopping.start()
    stopping.join(10)
    assert not stopping.is_alive()
    may_go_on.set()
    starting.join(20)
    slow.stop()


def test_stop_async_leaves_the_store_to_the_others(tmp_path: Path) -> None:
    """``stop_async()`` does as ``stop()``, also for ``async def`` handlers."""
    store = SQLiteStore(tmp_path / "store.db")
    first, second = (
        Durable(id=name, endpoint_adapter=endpoint_adapter, store=store)
        for name in ("first", "second")
    )

    @second.endpoint(function_id="it")
    async def handler(request: Request) -> Any:
        return await step.run("one", lambda: 1)

    async def stops() -> None:
        first.start()
        second.start()
        await first.stop_async()
        assert 200 == (await handler.handle_async(request())).status
        await second.stop_async()

    asyncio.run(stops())
    with pytest.raises(StoreError, match="not open"):
        store.workers()


@pytest.mark.parametrize("plain_goes_first", [True, False])
def test_a_store_around_a_shared_one_leaves_it_open(plain_goes_first: bool) -> None:
    """An encrypted store closes the store in it only if no application has that one, too."""
    inner = CountingStore()
    applications = [application("plain", inner), application("sealed", encrypted(inner))]
    if not plain_goes_first:
        applications.reverse()
    (first, _), (second, call) = applications
    first.stop()
    assert inner.is_open
    assert 200 == call()
    second.stop()
    assert not inner.is_open


def test_a_start_that_fails_leaves_the_store_to_the_others() -> None:
    """An application that could not start closes nothing that another one works with."""
    store = CountingStore()
    durable, call = application("first", store)
    store.refuses = True
    with pytest.raises(StoreError, match="no further process"):
        application("second", store)
    assert 200 == call()
    durable.stop()
    assert not store.is_open


def test_an_application_that_starts_while_another_one_stops(tmp_path: Path) -> None:
    """It never works with a store that the other one has just closed."""
    store = SQLiteStore(tmp_path / "store.db")
    for _ in range(20):
        first, _call = application("first", store)
        stopping = threading.Thread(target=first.stop)
        stopping.start()
        second, call = application("second", store)
        stopping.join(20)
        assert 200 == call()
        second.stop()
