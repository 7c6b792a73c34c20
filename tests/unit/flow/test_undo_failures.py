"""Undoing a run that fails in another way than by an error that leaves its handler."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import StepArgumentError
from durable_core.flow.env import Limits
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.ports import StoredResult
from durable_core.stores import SQLiteStore
from support.harness import FakeClock, WatchedStore, lab, request, until
from support.undoing import SlowShop, decoded


class Odd(BaseException):
    """No exception that a handler should raise."""


class Failing(SlowShop):
    """Handlers that reserve a, and then fail, each in its way."""

    def __init__(self) -> None:
        super().__init__()
        self.booking: asyncio.Task[str] | None = None

    def book(self, name: str) -> str:
        """Reserve in a step that can be undone."""
        return sync_step.options(undo=self.release).run(name, self.reserve, name)

    async def book_async(self, name: str) -> str:
        """As :meth:`book`."""
        return await step.options(undo=self.release).run(name, self.reserve, name)

    def value(self, request: Request) -> object:
        """Return what cannot be sent."""
        self.book("a")
        return object()

    async def value_async(self, request: Request) -> object:
        """As :meth:`value`."""
        await self.book_async("a")
        return object()

    def odd(self, request: Request) -> None:
        """Raise what is no Exception."""
        self.book("a")
        raise Odd

    async def odd_async(self, request: Request) -> None:
        """As :meth:`odd`."""
        await self.book_async("a")
        raise Odd

    async def cancelled(self, request: Request) -> None:
        """Cancel the handler."""
        await self.book_async("a")
        raise asyncio.CancelledError

    async def timed(self, request: Request) -> None:
        """Put a time-out around a step that waits."""
        await self.book_async("a")
        async with asyncio.timeout(0.05):
            await step.sleep("nap", 60)

    async def timed_swallowed(self, request: Request) -> str:
        """As :meth:`timed`, and go on."""
        try:
            await self.timed(request)
        except Exception:
            await asyncio.sleep(0)
        return "fine"

    async def timed_branch(self, request: Request) -> None:
        """Put it around one of several branches."""
        await asyncio.gather(self.book_async("c"), self.timed(request))

    def broken(self, request: Request) -> None:
        """Raise an error of which ``exception_to_response`` makes another."""
        self.book("a")
        raise OSError("down")

    async def broken_async(self, request: Request) -> None:
        """As :meth:`broken`."""
        await self.book_async("a")
        raise OSError("down")


def broken_hook(error: Exception) -> Response | None:
    """Fail, whatever the error."""
    raise ValueError("the hook is broken")


WAYS: dict[str, tuple[Callable[[Failing], Callable[[Request], Any]], str, dict[str, Any]]] = {
    "value": (lambda shop: shop.value, "TypeError: a handler must return", {}),
    "value-async": (lambda shop: shop.value_async, "TypeError: a handler must return", {}),
    "odd": (lambda shop: shop.odd, "RuntimeError: the handler raised Odd()", {}),
    "odd-async": (lambda shop: shop.odd_async, "RuntimeError: the handler was cancelled by", {}),
    "cancelled": (lambda shop: shop.cancelled, "RuntimeError: the handler was cancelled by", {}),
    "time-out": (lambda shop: shop.timed, "WaitInterruptedError: ", {}),
    "time-out-swallowed": (lambda shop: shop.timed_swallowed, "WaitInterruptedError: ", {}),
    "hook": (
        lambda shop: shop.broken,
        "ValueError: the hook is broken",
        {"exception_to_response": broken_hook},
    ),
    "hook-async": (
        lambda shop: shop.broken_async,
        "ValueError: the hook is broken",
        {"exception_to_response": broken_hook},
    ),
}

each_way = pytest.mark.parametrize("way", WAYS)


@each_way
def test_its_steps_are_undone(way: str) -> None:
    """The problem is that of the first error, and says what was undone."""
    shop = Failing()
    handler, detail, options = WAYS[way]
    with lab() as process:
        response = process.call(process.endpoint(handler(shop), retries=1, **options))
    problem = decoded(response)
    assert (500, ["a"], []) == (response.status, problem["undone"], problem["not_undone"])
    assert problem["detail"].startswith(detail)
    assert "run-failed" in problem["type"]
    assert {"reserve a": 1, "release r-a": 1} == shop.ledger.counts()


@pytest.mark.parametrize("way", ["value", "value-async", "cancelled"])
def test_in_sqlite(way: str, tmp_path: Path) -> None:
    """What is stored before it is undone is read from rows."""
    shop = Failing()
    handler, detail, options = WAYS[way]
    with lab(SQLiteStore(tmp_path / "store.db")) as process:
        problem = decoded(process.call(process.endpoint(handler(shop), retries=0, **options)))
        [run] = process.durable.runs.list()
        names = [each.name for each in process.durable.runs.get(run.id).steps]
    assert ["a", "(failed)", "(undo) a"] == names
    assert ["a"] == problem["undone"]
    assert problem["detail"].startswith(detail)


@each_way
def test_a_crash_after_each_checkpoint(way: str) -> None:
    """Wherever the process dies, another one undoes all that was done, and fails the run."""
    checkpoints = 0
    handler, detail, options = WAYS[way]
    while True:
        shop, store = Failing(), WatchedStore()
        store.crash_after(checkpoints)
        with lab(store) as process:
            process.endpoint(handler(shop), retries=0, **options).handle(request())
            until(functools.partial(_stopped, store))
        if not store.crashed.is_set():
            break
        checkpoints += 1
        store.recover()
        if not store.list("lab", limit=1):
            continue
        with lab(store) as process:
            process.endpoint(handler(shop), retries=0, **options)
            process.durable.start()
            until(functools.partial(_ended, store))
            [record] = process.records.list()
            result = store.result("lab", record.run.id)
        assert isinstance(result, StoredResult)
        assert result.body is not None
        problem = decoded(Response(body=result.body))
        assert {1} == set(store.memos().values())
        assert ["a"] == problem["undone"], checkpoints
        assert problem["detail"].startswith(detail)
    assert checkpoints > 2


def _stopped(store: WatchedStore) -> bool:
    return store.crashed.is_set() or _ended(store)


def _ended(store: WatchedStore) -> bool:
    records = store.list("lab", limit=1)
    return bool(records) and records[0].run.phase.ended


def test_other_branches_of_a_time_out() -> None:
    """Each is undone, also what was in progress."""
    shop = Failing()
    with lab() as process:
        problem = decoded(process.call(process.endpoint(shop.timed_branch)))
    assert ["a", "c"] == sorted(problem["undone"])
    assert problem["detail"].startswith("WaitInterruptedError: ")


def test_a_step_that_is_not_awaited() -> None:
    """It ends first, is stored, and is undone with the others."""
    shop = Failing()

    async def handler(request: Request) -> str:
        await shop.book_async("a")
        shop.booking = asyncio.create_task(shop.book_async("b"))
        await asyncio.to_thread(shop.inside.wait, 20)
        asyncio.get_running_loop().call_later(0.05, shop.go_on.set)
        return "fine"

    with lab() as process:
        problem = decoded(process.call(process.endpoint(handler)))
    assert ["b", "a"] == problem["undone"]
    assert problem["detail"].startswith("StepUsageError: the handler has ended before step")


def test_a_thread_that_still_runs_a_step() -> None:
    """As a task of an ``async def`` handler: it ends first."""
    shop = Failing()
    threads = []

    def handler(request: Request) -> str:
        shop.book("a")
        thread = threading.Thread(target=copy_context().run, args=(shop.book, "b"))
        threads.append(thread)
        thread.start()
        assert shop.inside.wait(20)
        threading.Timer(0.05, shop.go_on.set).start()
        return "fine"

    with lab() as process:
        problem = decoded(process.call(process.endpoint(handler)))
        for thread in threads:
            thread.join()
    assert ["b", "a"] == problem["undone"]
    assert "a thread of it still runs a step" in problem["detail"]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])
def test_steps_that_are_not_asked_for_any_more(asynchronous: bool) -> None:
    """The run fails by a ``StepOrderError``; what the code asks for is undone."""
    shop, clock, replayed = Failing(), FakeClock(), threading.Event()

    def sync(request: Request) -> None:
        shop.book("a")
        if not replayed.is_set():
            shop.book("c")
            sync_step.sleep("nap", 60)

    async def async_(request: Request) -> None:
        await shop.book_async("a")
        if not replayed.is_set():
            await shop.book_async("c")
            await step.sleep("nap", 60)

    with lab(clock=clock) as process:
        endpoint = process.endpoint(async_ if asynchronous else sync, on_mismatch="fail")
        first = endpoint.handle(request())
        until(lambda: process.suspended() > 0)
        replayed.set()
        clock.advance(60)
        process.poke()
        problem = decoded(process.follow(endpoint, first))
    assert ["a"] == problem["undone"]
    assert problem["detail"].startswith("StepOrderError: ")


def chunks() -> Iterator[bytes]:
    """Break off."""
    yield b"one"
    raise OSError("the source is gone")


@pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])
@pytest.mark.parametrize("is_too_large", [False, True], ids=["broken", "too-large"])
def test_a_body_that_is_read_for_a_client_who_waits(asynchronous: bool, is_too_large: bool) -> None:
    """Its reading fails, or it is too large to be kept."""
    shop, clock = Failing(), FakeClock()

    def body() -> Response:
        return Response(body=iter([b"x" * 2000]) if is_too_large else chunks())

    def sync(request: Request) -> Response:
        shop.book("a")
        sync_step.sleep("nap", 60)
        return body()

    async def async_(request: Request) -> Response:
        await shop.book_async("a")
        await step.sleep("nap", 60)
        return body()

    with lab(clock=clock, limits=Limits(response_stored=1000)) as process:
        endpoint = process.endpoint(async_ if asynchronous else sync, retries=0)
        problem = decoded(process.sleep_through(endpoint, clock))
    assert ["a"] == problem["undone"]
    assert ("response-too-large" if is_too_large else "run-failed") in problem["type"]


@pytest.mark.parametrize("is_gone", [False, True], ids=["broken", "client-gone"])
def test_a_body_that_breaks_off_at_the_client(is_gone: bool) -> None:
    """The client has a part of it, or goes away; the run fails, and is undone."""
    shop = Failing()

    def handler(request: Request) -> Response:
        shop.book("a")
        return Response(body=chunks())

    with lab() as process:
        response = process.endpoint(handler).handle(request())
        assert not isinstance(response.body, bytes)
        received: Any = response.body
        assert b"one" == next(received)
        if is_gone:
            received.close()
        else:
            with pytest.raises(OSError, match="the source is gone"):
                next(received)
        until(lambda: process.records.list()[0].run.phase.ended)
        [record] = process.records.list()
        result = process.store.result("lab", record.run.id)
    assert isinstance(result, StoredResult)
    assert result.body is not None
    problem = decoded(Response(body=result.body))
    assert ["a"] == problem["undone"]
    assert "response-interrupted" in problem["type"]


def test_a_crash_while_the_body_is_sent() -> None:
    """The response is not made twice; what was done is undone."""
    shop, store = Failing(), WatchedStore()

    def handler(request: Request) -> Response:
        shop.book("a")
        return Response(body=iter([b"one", b"two"]))

    with lab(store) as process:
        response = process.endpoint(handler).handle(request())
        assert not isinstance(response.body, bytes)
        store.crash_after(0)
        received: Any = response.body
        assert [b"one", b"two"] == list(received)
    store.recover()
    with lab(store) as process:
        process.endpoint(handler)
        process.durable.start()
        until(functools.partial(_ended, store))
        [record] = process.records.list()
        result = store.result("lab", record.run.id)
    assert isinstance(result, StoredResult)
    assert result.body is not None
    problem = decoded(Response(body=result.body))
    assert ["a"] == problem["undone"]
    assert "response-interrupted" in problem["type"]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])
def test_too_many_crashes(asynchronous: bool) -> None:
    """The step that ends the process is not called again when the others are undone."""
    shop, clock = Failing(), FakeClock()

    def crash() -> None:
        shop.ledger.did("crash", None)
        raise MemoryError

    def sync(request: Request) -> None:
        shop.book("a")
        sync_step.run("crash", crash)

    async def async_(request: Request) -> None:
        await shop.book_async("a")
        await step.run("crash", crash)

    with lab(clock=clock, limits=Limits(crashes=2)) as process:
        endpoint = process.endpoint(async_ if asynchronous else sync)
        endpoint.handle(request())

        def ended() -> bool:
            clock.advance(3600)
            process.poke()
            return process.records.list()[0].run.phase.ended

        until(ended)
        [record] = process.records.list()
        result = process.store.result("lab", record.run.id)
    assert isinstance(result, StoredResult)
    assert result.body is not None
    problem = decoded(Response(body=result.body))
    assert ["a"] == problem["undone"]
    assert "crashed-repeatedly" in problem["type"]
    assert 2 <= shop.ledger.counts()["crash"] <= 3


@pytest.mark.parametrize("name", ["(failed)", "(failed):1", "(undo) a", "(undo) "])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])
def test_names_of_the_engine_are_refused(name: str, asynchronous: bool) -> None:
    """A step of the handler must not be taken for one that undoes."""
    shop = Failing()

    def sync(request: Request) -> None:
        with pytest.raises(StepArgumentError, match="reserved for undoing"):
            sync_step.run(name, shop.reserve, "x")

    async def async_(request: Request) -> None:
        with pytest.raises(StepArgumentError, match="reserved for undoing"):
            await step.run(name, shop.reserve, "x")

    with lab() as process:
        response = process.call(process.endpoint(async_ if asynchronous else sync))
    assert 200 == response.status
    assert {} == shop.ledger.counts()
