"""Bodies that are the stream of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from durable_conformance.store_values import commit, created
from durable_core.engine.stream_responses import AsyncBody, SyncBody, TaskWaker, ThreadWaker
from durable_core.errors import StoreError
from durable_core.flow.effects import Call, CallUser, Raised, Returned
from durable_core.flow.env import AppConfig
from durable_core.flow.stream_reader import Reader
from durable_core.model.stream import LiveStream, OpenAttempt
from durable_core.platform import SystemIds
from durable_core.runners.store_reads import StoreReads
from durable_core.runners.thread_pool import DaemonThreadPool
from durable_core.stores.memory import MemoryStore
from durable_core.streams.log import RunLog
from support.harness import FakeClock


class Broken(MemoryStore):
    """A store that cannot be read."""

    def read_stream(self, *args: Any, **kwargs: Any) -> Any:
        raise StoreError("gone")


class Host:
    """A node, as a body sees it."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.stopping = False
        self.store = store or MemoryStore()
        self.reads = StoreReads(self.store)
        self.threads = DaemonThreadPool(1, "test")

    def run_on_background_loop(self, awaitable: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await awaitable

        return asyncio.run(wait())


def nothing() -> None:
    """Close nothing."""


def reader() -> Reader:
    env = AppConfig(app="app", clock=FakeClock(5), ids=SystemIds(), secrets=lambda: (b"s" * 32,))
    return Reader(env, "r1", RunLog("r1"))


def sync_body(host: Host, close: Callable[[], None], deadline: float | None = None) -> SyncBody:
    return SyncBody(host, reader(), ThreadWaker(), close, deadline)


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
            signal = TaskWaker(asyncio.get_running_loop())
            return len([part async for part in AsyncBody(host, reader(), signal, nothing)])

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
        body = AsyncBody(Host(store), reader(), TaskWaker(loop), lambda: closed.append(1))
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


class Source:
    """An execution one of whose steps has pushed a lot."""

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
        body = AsyncBody(Host(store), following, TaskWaker(loop), nothing)
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
    ask = CallUser(None, Call(function, (7,)))

    async def call() -> object:
        body = AsyncBody(Host(), reader(), TaskWaker(asyncio.get_running_loop()), nothing)
        return await body._perform(ask)

    assert Returned(7) == sync_body(Host(), lambda: None)._perform(ask)
    assert Returned(7) == asyncio.run(call())


def test_a_function_that_fails() -> None:
    """Its error is the answer."""
    ask = CallUser(None, Call(broken, (7,)))
    outcome = sync_body(Host(), lambda: None)._perform(ask)

    assert isinstance(outcome, Raised)
    assert "7" == str(outcome.error)
