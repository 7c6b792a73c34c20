"""Starting and stopping, endpoints, events and runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from durable_core.api.durable import Durable
from durable_core.api.step import sync_step
from durable_core.engine import lifecycle
from durable_core.engine import worker as node
from durable_core.engine.embedded import EmbeddedEngine
from durable_core.engine.worker import Worker
from durable_core.errors import (
    ConfigurationError,
    DuplicateEndpointError,
    StoreBusyError,
    StoreError,
)
from durable_core.http.request import Request
from durable_core.model.run import Phase
from durable_core.ports import Write
from durable_core.runners.settings import Settings
from durable_core.stores.memory import MemoryStore
from durable_core.stores.sqlite import SQLiteStore
from support.harness import FakeClock, Lab, Ledger, WatchedStore, event, lab, request, until


def answers(request: Request) -> str:
    return sync_step.run("a", str, "x")


def test_nothing_happens_at_construction(tmp_path: Path) -> None:
    """No file is opened and no thread started before the start or the first request."""
    threads = set(threading.enumerate())
    process = Lab(store=None)
    process.endpoint(answers)
    assert {"app": "lab", "started": False} == process.durable.health()
    assert threads == set(threading.enumerate())
    assert [] == process.watched.batches


def test_start_and_stop_are_idempotent() -> None:
    """Starting twice is starting once; so is stopping; and it can start again."""
    before = set(threading.enumerate())
    process = Lab()
    process.durable.stop()
    for _ in range(2):
        process.durable.start()
        node = process.engine.worker
        process.durable.start()
        assert node is process.engine.worker
        assert process.durable.health()["scheduler"]
        process.durable.stop()
        process.durable.stop()
        assert {"app": "lab", "started": False} == process.durable.health()
    assert before == {each for each in threading.enumerate() if not _ending(each)}


def _ending(thread: threading.Thread) -> bool:
    """Tell whether it is a pool's thread, which ends by itself."""
    return thread.name.startswith(("durable-worker-", "durable-step-", "durable-serve-"))


def test_stop_from_many_threads() -> None:
    """Any number of threads may stop at once; all return when it is done."""
    process = Lab()
    process.durable.start()
    stoppers = [threading.Thread(target=process.durable.stop) for _ in range(5)]
    for stopper in stoppers:
        stopper.start()
    for stopper in stoppers:
        stopper.join(10)
        assert not stopper.is_alive()
    assert process.engine.worker is None


def test_start_from_many_threads() -> None:
    """Any number of first requests at once make one node."""
    process = Lab()
    endpoint = process.endpoint(answers)
    statuses: list[int] = []
    clients = [
        threading.Thread(target=lambda: statuses.append(endpoint.handle(request()).status))
        for _ in range(8)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(10)
    assert [200] * 8 == statuses
    assert 1 == len(process.store.workers())
    process.stop()


def test_stop_gives_the_lease_back() -> None:
    """After a stop no process is registered, and no run is held."""
    with lab() as process:
        assert 200 == process.endpoint(answers).handle(request()).status
        assert 1 == len(process.store.workers())
        store = process.store
    assert [] == list(store.workers())


def test_store_that_cannot_be_opened() -> None:
    """Without a store a request gets 503, and so does the wait URL; start raises."""

    class Closed(WatchedStore):
        def open(self) -> None:
            raise StoreError("no such disk")

    process = Lab(Closed())
    endpoint = process.endpoint(answers)
    with pytest.raises(StoreError, match="no such disk"):
        process.durable.start()
    for url in ("/it", "/it?durable-run=x&durable-token=y"):
        assert 503 == endpoint.handle(request(url)).status
        assert 503 == asyncio.run(endpoint.handle_async(request(url))).status
    assert process.engine.worker is None


def test_start_that_fails_leaves_nothing_behind() -> None:
    """If the process cannot be registered, the threads end, and the next start works."""
    store = WatchedStore()

    def refuse(writes: Sequence[Write[Any]]) -> None:
        raise StoreError("read-only")

    store.fault = refuse
    before = set(threading.enumerate())
    process = Lab(store)
    with pytest.raises(StoreError, match="read-only"):
        process.durable.start()
    assert before == set(threading.enumerate())
    store.fault = None
    process.durable.start()
    process.stop()


def test_requests_during_a_stop() -> None:
    """While it stops, new requests get 503 and may come again."""
    started, release = threading.Event(), threading.Event()

    def slow() -> int:
        started.set()
        assert release.wait(10)
        return 1

    def handler(request: Request) -> object:
        return sync_step.run("slow", slow)

    process = Lab()
    endpoint = process.endpoint(handler)
    client = threading.Thread(target=endpoint.handle, args=(request(),))
    client.start()
    assert started.wait(10)
    stopper = threading.Thread(target=process.durable.stop)
    stopper.start()
    until(lambda: process.engine._is_stopping)
    response = endpoint.handle(request())
    assert (503, "1") == (response.status, response.headers["retry-after"])
    assert 503 == asyncio.run(endpoint.handle_async(request())).status
    release.set()
    client.join(10)
    stopper.join(10)
    assert process.engine.worker is None


def test_stop_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """A step that outlasts the timeout is named; its run is free for others at once."""
    started, release = threading.Event(), threading.Event()

    def slow() -> int:
        started.set()
        assert release.wait(10)
        return 1

    def handler(request: Request) -> object:
        sync_step.run("first", int)
        return sync_step.run("slow", slow)

    process = Lab()
    endpoint = process.endpoint(handler)
    statuses: list[int] = []
    client = threading.Thread(target=lambda: statuses.append(endpoint.handle(request()).status))
    client.start()
    assert started.wait(10)
    with caplog.at_level(logging.WARNING, "durable"):
        process.durable.stop(timeout=0.05)
    [record] = process.store.list("lab", limit=10)
    assert record.run.id in caplog.text
    assert record.owner is None
    release.set()
    client.join(10)
    assert [200] != statuses  # what it made after that does not count


def test_stop_on_the_event_loop_it_needs() -> None:
    """A blocking stop on the loop of live runs is an error that names the other one."""

    async def main() -> None:
        process = Lab()
        started, release = asyncio.Event(), asyncio.Event()

        async def handler(request: Request) -> str:
            started.set()
            await release.wait()
            return "end"

        endpoint = process.endpoint(handler)
        client = asyncio.create_task(endpoint.handle_async(request()))
        await started.wait()
        with pytest.raises(RuntimeError, match="stop_async"):
            process.durable.stop()
        release.set()
        assert 200 == (await client).status
        await process.durable.stop_async()

    asyncio.run(main())


def test_lifespan() -> None:
    """The lifespan starts on the application's loop, and stops."""

    async def main() -> None:
        process = Lab()
        async with process.durable.lifespan(object()):
            node = process.engine.worker
            assert node is not None
            assert asyncio.get_running_loop() is node.loops.server_loop
        assert process.engine.worker is None

    asyncio.run(main())


def test_two_functions_under_one_key() -> None:
    """Another function under a key is an error; a newer version of the same one replaces it."""
    process = Lab()
    process.endpoint(answers)
    process.endpoint(answers)

    def other(request: Request) -> None: ...

    with pytest.raises(DuplicateEndpointError, match="'it'"):
        process.endpoint(other)


def test_a_newer_version_is_used() -> None:
    """After a handler was registered anew, its runs go on in the new code."""
    clock = FakeClock()
    with lab(clock=clock) as process:

        def make(version: int) -> Any:
            def handler(request: Request) -> object:
                sync_step.sleep("nap", "1h")
                return version

            return process.endpoint(handler)

        old = make(1)
        first = old.handle(request())
        new = make(2)
        process.pass_nap(clock)
        assert b"2" == process.follow(new, first).body


def test_patched_threads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where threads are not threads the start is refused."""

    def refuse() -> None:
        raise ConfigurationError("patched")

    monkeypatch.setattr("durable_core.engine.lifecycle.check_threading", refuse)
    with pytest.raises(ConfigurationError, match="patched"):
        Lab().durable.start()


def test_events_get_ids_and_times() -> None:
    """An event without id or time is given them; those it has are kept."""
    with lab() as process:
        ids = process.durable.send([event("a"), event("b", id="mine")])
        again = asyncio.run(process.durable.send_async(event("b", id="mine")))
        assert "mine" == ids[1]
        assert ids[0] != ids[1]
        assert ["mine"] == again


def test_cancel_unwinds_a_live_handler() -> None:
    """A cancelled run starts no further step, and its client is answered."""
    started, release = threading.Event(), threading.Event()
    ledger = Ledger()

    def slow() -> int:
        started.set()
        assert release.wait(10)
        return ledger.did("slow", 1)

    def handler(request: Request) -> object:
        sync_step.run("first", int)
        sync_step.run("slow", slow)
        return sync_step.run("last", ledger.did, "last", 1)

    with lab() as process:
        endpoint = process.endpoint(handler)
        answers: list[Any] = []
        client = threading.Thread(target=lambda: answers.append(endpoint.handle(request())))
        client.start()
        assert started.wait(10)
        [record] = process.records.list()
        assert process.durable.runs.cancel(record.run.id)
        release.set()
        client.join(10)
        assert Phase.CANCELLED is process.records.get(record.run.id).run.phase
        assert 410 == process.follow(endpoint, answers[0]).status
    assert ["slow"] == ledger.calls


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_child_starts_its_own(tmp_path: Path) -> None:
    """A child of a fork leaves what it inherited alone and works under its own name."""
    process = Lab(_sqlite(tmp_path))
    endpoint = process.endpoint(answers)
    assert 200 == endpoint.handle(request()).status
    assert process.engine.worker is not None
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            fresh = process.engine.worker is None
            status = endpoint.handle(request()).status
            owners = len(process.store.workers())
            os.write(writing, f"{fresh} {status} {owners}".encode())
            process.durable.stop()
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert "True 200 2" == told.read()
    assert (child, 0) == os.waitpid(child, 0)
    assert 200 == endpoint.handle(request()).status
    process.stop()


def test_working_elsewhere_for_a_while(tmp_path: Path) -> None:
    """Clock, store, settings and node are others within the block, and its own afterwards."""
    process = Lab(_sqlite(tmp_path))
    endpoint, engine = process.endpoint(answers), process.engine
    own, elsewhere = (engine.env, engine.store, engine.settings), MemoryStore()
    made: list[Worker] = []

    def make_worker(*args: Any) -> Worker:
        made.append(Worker(*args))
        return made[-1]

    env, settings = replace(engine.env, app="other"), Settings(worker_threads=1)
    with engine.override(env=env, store=elsewhere, settings=settings, make_worker=make_worker):
        assert 200 == endpoint.handle(request()).status
        assert made == [engine.worker]
        assert (env, elsewhere, settings) == (made[0].env, made[0].store, made[0].settings)
        process.stop()

    assert own == (engine.env, engine.store, engine.settings)
    assert [] == list(tmp_path.iterdir())


def test_working_elsewhere_is_for_what_is_stopped() -> None:
    """Neither at the beginning nor at the end of it may the engine be at work."""
    with lab() as process:
        engine = process.engine
        elsewhere = engine.override(
            env=engine.env, store=MemoryStore(), settings=engine.settings, make_worker=Worker
        )
        with pytest.raises(ConfigurationError, match="works already"), elsewhere:
            engine.start()
        engine.stop(1.0)
        engine.start()
        again = engine.override(
            env=engine.env, store=MemoryStore(), settings=engine.settings, make_worker=Worker
        )
        with pytest.raises(ConfigurationError, match="works already"):
            again.__enter__()


def _sqlite(folder: Path) -> Any:
    from durable_core.stores.sqlite import SQLiteStore

    return SQLiteStore(folder / "lab.db")


def test_child_with_two_first_requests_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They find one lock, although each finds that of the parent useless."""
    process = Lab()
    endpoint = process.endpoint(answers)
    both = threading.Barrier(2)
    make_lock = threading.RLock

    def make_slowly() -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(10)
        return make_lock()

    child = SimpleNamespace(getpid=lambda: -1)
    monkeypatch.setattr(lifecycle, "process_id", child.getpid)
    monkeypatch.setattr(node, "os", child)
    monkeypatch.setattr(
        lifecycle, "threading", SimpleNamespace(RLock=make_slowly, current_thread=None)
    )
    clients = [threading.Thread(target=endpoint.handle, args=(request(),)) for _ in range(2)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(20)
    both.abort()  # for whoever makes one more
    assert 1 == len(process.store.workers())
    process.stop()
    assert [] == list(process.store.workers())


def test_a_start_waits_for_a_store_that_is_locked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It tries again until the other process is done, and says so."""
    path = tmp_path / "store.db"
    SQLiteStore(path).open()
    locker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    locker.execute("BEGIN IMMEDIATE")
    process = Lab(store=SQLiteStore(path), settings=Settings(busy_timeout=0.01, start_timeout=30))
    until_locked = threading.Timer(0.3, locker.close)
    until_locked.start()
    process.durable.start()
    process.durable.stop()
    until_locked.join()

    waits = [text for text in caplog.messages if "cannot start yet" in text]
    assert 1 <= len(waits) <= 4
    assert "lab cannot start yet, it tries again for 30 s: the store" in waits[0]


def test_a_start_gives_up_after_a_while(tmp_path: Path) -> None:
    """The caller learns that the store is locked; nothing is left running."""
    path = tmp_path / "store.db"
    SQLiteStore(path).open()
    process = Lab(store=SQLiteStore(path), settings=Settings(busy_timeout=0.01, start_timeout=0.2))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as locker:
        locker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError):
            process.durable.start()

    assert {"app": "lab", "started": False} == process.durable.health()
    process.durable.start()
    process.durable.stop()


@pytest.mark.parametrize(("lease", "age"), [("15s", 1.0), ("1s", 1 / 3)])
def test_how_old_the_proof_of_a_lease_may_be(lease: str, age: float) -> None:
    """A step begins only if the run was held at most a second ago, and well within the lease."""
    settings = Settings(lease=lease, heartbeat="100ms")
    durable = Durable(id="x", engine=EmbeddedEngine(MemoryStore(), settings=settings))

    assert age == durable.engine.env.lease_check_age


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ({"settings": {"lease": 5}}, r"settings= must be a Settings object, not {'lease'"),
        ({"settings": Settings}, "settings= must be a Settings object, not <class"),
        ({"clock": 5}, "clock= must be an object with now and elapsed, not 5"),
        ({"clock": FakeClock}, "clock= must be an object with now and elapsed, not <class"),
        ({"ids": object()}, "ids= must be an object with ulid and uniform, not <object"),
        ({"secrets": [5]}, "a secret must be bytes or a str"),
        ({"secrets": 5}, "secrets= must be a list of one or more keys"),
        ({"secrets": iter(())}, "secrets= must be a list of one or more keys"),
        ({"store": 5}, "store= is the path of a SQLite file"),
        ({"token_ttl": 0}, "token_ttl must be longer than 0"),
    ],
)
def test_an_argument_of_another_type(argument: Any, says: str) -> None:
    """Each is refused when the engine is made, and not when it is first used."""
    with pytest.raises((ConfigurationError, ValueError), match=says):
        EmbeddedEngine(**argument)


def test_secrets_of_an_iterator_are_kept() -> None:
    """Checking must not use it up: the tokens would be signed with other secrets, silently."""
    keys: Any = iter(["s" * 16, b"t" * 16])
    durable = Durable(id="x", engine=EmbeddedEngine(MemoryStore(), secrets=keys))
    durable.start()
    try:
        assert (b"s" * 16, b"t" * 16) == durable.engine.env.secrets()
    finally:
        durable.stop()


@pytest.mark.parametrize("path", [5, b"x.db"])
def test_a_path_is_a_text(path: Any) -> None:
    """Bytes are no path: what is made of it is text."""
    with pytest.raises(ConfigurationError, match=r"path of a store is a str or an os\.PathLike"):
        SQLiteStore(path)
