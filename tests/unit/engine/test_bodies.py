"""Bodies that are the stream of a run."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from durable_conformance.store_values import commit, created
from durable_core.engine.stream_bodies import (
    AsyncBody,
    PartLimit,
    SharedChunks,
    StoreReaders,
    SyncBody,
    TaskWaker,
    ThreadWaker,
)
from durable_core.errors import StoreError
from durable_core.flow.attempt import Call
from durable_core.flow.effects import CallUser, Raised, Returned
from durable_core.flow.env import AppConfig
from durable_core.flow.stream_reader import Reader
from durable_core.model.run import Phase
from durable_core.model.stream import ChunkBatch, LiveStream, OpenAttempt, StoredStream, split_texts
from durable_core.platform import SystemIds
from durable_core.ports import Store, StoredResult
from durable_core.runners.live import Waiters
from durable_core.runners.thread_pool import DaemonThreadPool
from durable_core.stores.memory import MemoryStore
from durable_core.stores.sqlite import SQLiteStore
from durable_core.streams.log import RunLog
from support.harness import FakeClock, until_async


class Broken(MemoryStore):
    """A store that cannot be read."""

    def read_stream(self, *args: Any, **kwargs: Any) -> Any:
        raise StoreError("gone")


class Host:
    """A node, as a body sees it."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.stopping = False
        self.store: Store = store or MemoryStore()
        self.threads = DaemonThreadPool(1, "test")
        self.waiters = Waiters(9, nothing)

    def run_on_background_loop(self, awaitable: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await awaitable

        return asyncio.run(wait())


def nothing() -> None:
    """Close nothing."""


def reader() -> Reader:
    env = AppConfig(app="app", clock=FakeClock(5), ids=SystemIds(), secrets=lambda: (b"s" * 32,))
    return Reader(env, "r1", RunLog("r1"))


def async_body(
    host: Host,
    following: Reader | None = None,
    close: Callable[[], None] = nothing,
    deadline: float | None = None,
) -> AsyncBody:
    """Return a body of the running loop."""
    waker = TaskWaker(asyncio.get_running_loop())
    readers = StoreReaders(1)
    return AsyncBody(host, following or reader(), SharedChunks(), waker, close, readers, deadline)


def sync_body(host: Host, close: Callable[[], None], deadline: float | None = None) -> SyncBody:
    return SyncBody(host, reader(), SharedChunks(), ThreadWaker(), close, deadline)


def test_it_is_closed_once() -> None:
    """At its end or when the server closes it, whichever comes first."""
    closed: list[int] = []
    body = sync_body(Host(), lambda: closed.append(1))
    parts = list(body)
    body.close()

    assert (1, [1]) == (len(parts), closed)
    assert [] == list(body)


def test_closed_before_its_beginning() -> None:
    """A body that nobody iterates is closed all the same."""
    closed: list[int] = []
    body = sync_body(Host(), lambda: closed.append(1))
    body.close()

    assert [1] == closed


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_store_that_cannot_be_read_ends_it(
    asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The client has to come again; whoever runs the application is told why."""
    host = Host(Broken())
    if asynchronous:

        async def iterate() -> int:
            return len([part async for part in async_body(host)])

        parts = asyncio.run(iterate())
    else:
        parts = len(list(sync_body(host, lambda: None)))

    assert 1 == parts
    assert "the stream of run r1 was cut short: gone" in caplog.text


def test_a_server_that_cannot_hold_clients_ends_it() -> None:
    """At the deadline the client has to come again."""
    store = MemoryStore()
    commit(store, created())
    body = sync_body(Host(store), lambda: None, deadline=0.0)

    assert 2 == len(list(body))  # the metadata, and the commit that is stored


def test_a_cancelled_task_closes_it() -> None:
    """The server cancels the task of a client that is gone."""
    store = MemoryStore()
    commit(store, created())
    closed: list[int] = []

    async def iterate() -> None:
        loop = asyncio.get_running_loop()
        body = async_body(Host(store), close=lambda: closed.append(1))
        await anext(body)
        await anext(body)
        waiting = loop.create_task(anext(body))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await body.aclose()

    asyncio.run(iterate())
    assert [1] == closed


def test_a_slow_client_has_to_come_again() -> None:
    """Past the deadline it is sent one part, so that it gets on, and no more."""
    following = reader()
    following.log.attach_publisher(Source())  # type: ignore[attr-defined]
    store = MemoryStore()
    commit(store, created())
    body = SyncBody(Host(store), following, SharedChunks(), ThreadWaker(), nothing, deadline=0.0)

    assert 2 == len(list(body))


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop that can be told that time has passed."""

    skipped = 0.0

    def time(self) -> float:
        return super().time() + self.skipped


def test_who_does_not_read_is_let_go() -> None:
    """Nothing of it is kept after 30 s. One that reads slowly stays."""
    closed: list[str] = []
    store = MemoryStore()
    commit(store, created())

    async def exchange(loop: SkippingLoop) -> tuple[list[str], bool, list[bytes]]:
        following = reader()
        following.log.attach_publisher(Source())  # type: ignore[attr-defined]
        body = async_body(Host(store), following, lambda: closed.append("one"))
        for _ in range(6):
            await anext(body)
            loop.skipped += 10
            await asyncio.sleep(0.001)  # after all that was due before
        early = list(closed)
        had_backlog = following.backlog is not None
        loop.skipped += 30
        await until_async(lambda: closed)
        return early, had_backlog and following.backlog is None, [part async for part in body]

    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, SkippingLoop)
        assert ([], True, []) == runner.run(exchange(loop))
    assert ["one"] == closed


class Ticks:
    """A clock, in seconds, that stands still until it is told to move."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.seconds


def test_parts_that_come_fast_are_sent_together() -> None:
    """Some parts may follow each other at once; the next one waits for the end of their time."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))

    async def main() -> None:
        clock = Ticks()
        limit = PartLimit(clock)
        for _ in range(4):
            await limit.wait()
            limit.add()
        assert [] == slept
        clock.seconds += 0.0005
        await limit.wait()
        assert [0.0015] == slept
        clock.seconds += 0.0015
        for _ in range(4):
            await limit.wait()
            limit.add()
        clock.seconds += 1
        await limit.wait()
        assert [0.0015] == slept

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asyncio, "sleep", sleep)
        asyncio.run(main())


def test_an_event_loop_reads_no_store() -> None:
    """However long that takes."""
    threads: list[str] = []

    class Noting(MemoryStore):
        def read_stream(self, *args: Any, **kwargs: Any) -> Any:
            threads.append(threading.current_thread().name)
            return super().read_stream(*args, **kwargs)

    store = Noting()
    commit(store, created())

    async def exchange() -> None:
        body = async_body(Host(store))
        await anext(body)
        await anext(body)
        await body.aclose()

    asyncio.run(exchange())
    assert [True] == [name.startswith("durable-stream") for name in threads]


def test_what_many_read_is_in_memory_once() -> None:
    """As long as one of them is sent it."""

    def stored() -> StoredStream:
        batch = ChunkBatch(number=1, texts=("1",), op_id="a" * 40, attempt=(1, 1))
        return StoredStream(
            chunks=(batch,), next=None, handoff=None, phase=Phase.ASYNC, epoch=1, is_running=True
        )

    shared = SharedChunks()
    first, second = (shared.share("r1", stored()).chunks[0] for _ in range(2))
    other = shared.share("r2", stored()).chunks[0]
    gone = weakref.ref(first)
    same = first is second
    del first, second
    gc.collect()

    assert same
    assert gone() is None
    assert other == shared.share("r1", stored()).chunks[0]


def test_batches_that_are_shared_keep_their_places() -> None:
    """That of a step which pushed nothing is not the one of the code after it."""
    silent = ChunkBatch(number=1, texts=(), op_id="a" * 40)
    outside = ChunkBatch(number=1, texts=('"after"',))
    stored = StoredStream(
        chunks=(silent, outside),
        next=None,
        handoff=None,
        phase=Phase.ASYNC,
        epoch=1,
        is_running=True,
    )

    assert stored == SharedChunks().share("r1", stored)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_released_clients_come_again(asynchronous: bool) -> None:
    """A process that is to stop ends their streams at once."""
    store = MemoryStore()
    commit(store, created())
    host = Host(store)
    host.waiters.release_all()

    async def exchange() -> int:
        return len([part async for part in async_body(host)])

    count = asyncio.run(exchange()) if asynchronous else len(list(sync_body(host, nothing)))
    assert 2 == count


class Source:
    """An execution one of whose steps has pushed a lot."""

    epoch = 1
    finished = is_remote = False

    def live(self) -> LiveStream:
        pushed = OpenAttempt(op_id="a" * 40, texts=("1",) * 5000)
        return LiveStream(epoch=1, attempts={(1, 1): pushed})


def test_a_long_stream_leaves_others_their_turns() -> None:
    """Even where the server takes every part at once, so that nothing is waited for."""
    store = MemoryStore()
    commit(store, created())

    async def iterate() -> tuple[int, int]:
        loop, turns, parts = asyncio.get_running_loop(), 0, 0

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        following = reader()
        following.log.attach_publisher(Source())  # type: ignore[attr-defined]
        body = async_body(Host(store), following)
        task = loop.create_task(other())
        size = 0
        async for part in body:
            size += len(part)
            parts += 1
            if size > 5000 * 90:
                break
        task.cancel()
        return parts, turns

    parts, turns = asyncio.run(iterate())
    assert parts > 5
    assert turns >= parts - 3


def plain(value: int) -> int:
    return value


async def coroutine(value: int) -> int:
    return value


def broken(value: int) -> int:
    raise ValueError(value)


@pytest.mark.parametrize("function", [plain, coroutine, lambda value: coroutine(value)], ids="abc")
def test_functions_of_the_application(function: Callable[[int], Any]) -> None:
    """What says where a stream goes on may be any kind of function, under any server."""
    ask = CallUser(Call(function, (7,)))

    async def call() -> object:
        body = async_body(Host())
        return await body._perform(ask)

    assert Returned(7) == sync_body(Host(), lambda: None)._perform(ask)
    assert Returned(7) == asyncio.run(call())


def test_a_function_that_fails() -> None:
    """Its error is the answer."""
    ask = CallUser(Call(broken, (7,)))
    outcome = sync_body(Host(), lambda: None)._perform(ask)

    assert isinstance(outcome, Raised)
    assert "7" == str(outcome.error)


def test_readers_that_do_not_read_keep_one_part_each(tmp_path: Path) -> None:
    """100 readers of a step of 4 MiB: a reader has at most a part and its batches in memory."""
    store = SQLiteStore(tmp_path / "store.db")
    store.open()
    texts = [f'"{number:04}{"x" * 8_186}"' for number in range(512)]  # 8 KiB each: 4 MiB
    batches = tuple(
        ChunkBatch(
            number=1, texts=part, op_id="id-step1", attempt=(1, 1), start=start, last=start == 504
        )
        for start, part in split_texts(texts)
    )
    result = StoredResult(
        phase=Phase.COMPLETED, head='{"status":200,"headers":[]}', body=b"", ended_at=1
    )
    commit(store, replace(created(), chunks=batches, result=result))

    async def main() -> int:
        host = Host()
        host.store = store
        bodies = [async_body(host) for _ in range(100)]
        tracemalloc.start()
        parts = [[await anext(body) for body in bodies] for _ in range(2)]  # the metadata, then one
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert all(len(part) < 80_000 for part in parts[1])
        whole = b"".join([part async for part in bodies[0]])
        assert whole.count(b"event: inngest.stream") == 512 - 8
        for body in bodies:
            await body.aclose()
        return peak

    peak = asyncio.run(main())
    store.close()

    assert peak < 100 * 250_000


def test_turns_of_a_closed_loop_are_given_up() -> None:
    """A loop whose readers had to wait for their turn is free when another one has come."""
    readers = StoreReaders(1)

    async def crowd() -> weakref.ref[asyncio.AbstractEventLoop]:
        await asyncio.gather(*(readers.call(nothing) for _ in range(20)))
        return weakref.ref(asyncio.get_running_loop())

    first = asyncio.run(crowd())
    asyncio.run(crowd())
    readers.shutdown()
    gc.collect()
    assert first() is None
