"""Undoing a run that fails while steps of other tasks of its handler are in progress."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context

import pytest

from durable_core.api.adapter import HTTPHandler
from durable_core.api.step import step, sync_step
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.retry import RetryPolicy
from durable_core.ports import StoredResult
from support.harness import FakeClock, Lab, WatchedStore, lab, request, until
from support.undoing import SlowShop, decoded


class Branches(SlowShop):
    """A handler that fails while its step b is in progress."""

    async def book(self, *names: str) -> None:
        """Reserve one after the other."""
        for name in names:
            await step.options(undo=self.release).run(name, self.reserve, name)

    def refuse(self) -> None:
        """Fail for good, once b has begun."""
        assert self.inside.wait(20)
        self.fails()

    async def gather(self, request: Request) -> None:
        """Fail by the step ``refuse``; a ended before, c is asked for after it."""
        await asyncio.gather(self.book("a", "b", "c"), step.run("refuse", self.refuse))


def constant(seconds: int) -> RetryPolicy:
    """Return the policy of a step that is tried again after so long."""
    return RetryPolicy(base=seconds, max=seconds, jitter=0)


def pass_time(process: Lab, clock: FakeClock, seconds: int) -> None:
    """Let time pass, and have the process look at what is due."""
    clock.advance(seconds)
    process.poke()


@contextmanager
def begun(process: Lab, endpoint: HTTPHandler) -> Iterator[list[Response]]:
    """Ask in a thread; give the list that gets the first answer, at the latest at the end."""
    answers: list[Response] = []
    client = threading.Thread(target=lambda: answers.append(endpoint.handle(request())))
    client.start()
    try:
        yield answers
    finally:
        client.join()


def failed(process: Lab) -> bool:
    """Tell whether the step ``refuse`` has failed, so that the handler has."""
    [run] = process.durable.runs.list()
    steps = process.durable.runs.get(run.id).steps
    return any(("refuse", "failed") == (each.name, each.status) for each in steps)


def step_names(process: Lab) -> list[str]:
    """Return the names of the finished steps of the only run, in their order."""
    [record] = process.records.list()
    return [memo.op.name for memo in process.records.get(record.run.id).memos]


def test_a_step_in_progress_ends_first() -> None:
    """It is undone with the others, the last one first; the step after it does not begin."""
    shop = Branches()
    with lab() as process:
        with begun(process, process.endpoint(shop.gather)) as answers:
            assert shop.inside.wait(20)
            until(functools.partial(failed, process))
            assert [] == answers
            shop.go_on.set()
        problem = decoded(answers[0])
        assert ["a", "refuse", "b", "(failed)", "(undo) b", "(undo) a"] == step_names(process)
    assert (["b", "a"], []) == (problem["undone"], problem["not_undone"])
    assert "the card is refused" in problem["detail"] or "no money" in problem["detail"]


def test_tasks_of_the_handlers_own() -> None:
    """The only step that can be undone is in progress when the handler raises an error."""
    shop = Branches()

    async def handler(request: Request) -> None:
        booking = asyncio.create_task(shop.book("b"))
        await asyncio.to_thread(shop.inside.wait, 20)
        asyncio.get_running_loop().call_later(0.05, shop.go_on.set)
        booking.add_done_callback(lambda task: task.exception())
        shop.fails()

    with lab() as process:
        problem = decoded(process.call(process.endpoint(handler)))
        assert ["b", "(failed)", "(undo) b"] == step_names(process)
    assert ["b"] == problem["undone"]


def test_a_task_group() -> None:
    """It cancels the other tasks: a step whose function ends by that has not succeeded."""
    shop = Branches()

    async def reserve() -> str:
        shop.inside.set()
        await asyncio.sleep(3600)
        return "never"

    async def handler(request: Request) -> None:
        await shop.book("a")
        async with asyncio.TaskGroup() as group:
            group.create_task(step.options(undo=shop.release).run("b", reserve))
            group.create_task(step.run("refuse", shop.refuse))

    with lab() as process:
        problem = decoded(process.call(process.endpoint(handler)))
    assert ["a"] == problem["undone"]


def test_the_client_is_handed_off_meanwhile() -> None:
    """Past ``max_sync_runtime``, as while any step is in progress."""
    shop = Branches()
    with lab() as process:
        endpoint = process.endpoint(shop.gather, max_sync_runtime=0.1)
        with begun(process, endpoint) as answers:
            until(lambda: answers != [])
            assert ["a", "refuse"] == step_names(process)
            shop.go_on.set()
        assert answers[0].status in (302, 303)
        problem = decoded(process.follow(endpoint, answers[0]))
    assert ["b", "a"] == problem["undone"]


@pytest.mark.parametrize("kind", ["sleep", "wait", "retry"])
def test_what_waits_goes_on_waiting(kind: str) -> None:
    """Its time ends meanwhile, and that ends nothing. It has done nothing, so it is not undone."""
    shop, clock = Branches(), FakeClock()
    shop.go_on.set()
    releases = 0

    def release(reservation: str) -> None:
        nonlocal releases
        releases += 1
        if releases == 1:
            raise OSError("not yet")
        shop.ledger.did(f"release {reservation}", None)

    def broken() -> None:
        shop.ledger.did("broken", None)
        raise OSError("down")

    shop.release = release  # type: ignore[method-assign]
    waits: dict[str, Callable[[], Awaitable[object]]] = {
        "sleep": lambda: step.sleep("nap", 600),
        "wait": lambda: step.wait_for_event("nap", event="never", timeout=600),
        "retry": lambda: step.options(backoff=constant(600)).run("nap", broken),
    }

    async def waiter() -> None:
        await waits[kind]()
        await shop.book("c")

    async def refuse() -> None:
        await step.sleep("before", 60)
        await step.run("refuse", shop.refuse)

    async def handler(request: Request) -> None:
        await asyncio.gather(shop.book("b"), waiter(), refuse())

    with lab(clock=clock, retry=constant(1200)) as process:
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        until(lambda: process.suspended() > 0)
        pass_time(process, clock, 60)
        until(lambda: releases == 1 and process.suspended() > 1)
        before = process.suspended()
        pass_time(process, clock, 900)  # past the time of the wait, before that of the release
        process.durable.run_due(20)  # it returns when nothing is due
        assert before == process.suspended()
        pass_time(process, clock, 900)
        problem = decoded(process.follow(endpoint, first))
    assert ["b"] == problem["undone"]
    assert 0 == shop.ledger.counts()["reserve c"]
    assert (1 if kind == "retry" else 0) == shop.ledger.counts()["broken"]


def test_an_attempt_that_fails_is_the_last() -> None:
    """The step would be tried again, but no step begins; there is nothing of it to undo."""
    shop = Branches()
    reserve = shop.reserve

    def fails(name: str) -> str:
        reserve(name)
        if name == "b":
            raise OSError("down")
        return name

    shop.reserve = fails  # type: ignore[method-assign]
    with lab() as process:
        endpoint = process.endpoint(shop.gather)
        with begun(process, endpoint) as answers:
            assert shop.inside.wait(20)
            until(functools.partial(failed, process))
            shop.go_on.set()
        problem = decoded(process.follow(endpoint, answers[0]))
    assert ["a"] == problem["undone"]
    assert 1 == shop.ledger.counts()["reserve b"]


def test_a_handler_that_goes_on_is_not_undone() -> None:
    """It swallows the failure, and waits for the step."""
    shop = Branches()

    async def handler(request: Request) -> str:
        booking = asyncio.create_task(shop.book("a", "b", "c"))
        try:
            await asyncio.gather(booking, step.run("refuse", shop.refuse))
        except Exception:
            shop.go_on.set()
            await booking
        return "fine"

    with lab() as process:
        assert "fine" == decoded(process.call(process.endpoint(handler)))
    assert {"reserve a": 1, "reserve b": 1, "reserve c": 1} == shop.ledger.counts()


def test_without_steps_to_undo_nothing_is_waited_for() -> None:
    """The run fails at once, as before."""
    shop = Branches()

    async def handler(request: Request) -> None:
        await asyncio.gather(step.run("b", shop.reserve, "b"), step.run("refuse", shop.refuse))

    with lab() as process, begun(process, process.endpoint(handler)) as answers:
        until(lambda: answers != [])
        shop.go_on.set()
    assert 500 == answers[0].status
    assert "undone" not in decoded(answers[0])


def test_a_run_that_is_cancelled_meanwhile() -> None:
    """Undoing has not begun, so it is cancelled, and undone as such."""
    shop = Branches()
    with lab() as process:
        endpoint = process.endpoint(shop.gather)
        with begun(process, endpoint) as answers:
            assert shop.inside.wait(20)
            until(functools.partial(failed, process))
            [run] = process.durable.runs.list()
            assert process.durable.runs.cancel(run.id)
            shop.go_on.set()
        response = process.follow(endpoint, answers[0])
    assert (410, ["b", "a"]) == (response.status, decoded(response)["undone"])
    expected = {"reserve a": 1, "reserve b": 1, "release r-b": 1, "release r-a": 1}
    assert expected == shop.ledger.counts()


def test_a_run_that_times_out_meanwhile() -> None:
    """Its time bounds the step in progress, as that of any run: the others are undone."""
    shop = Branches()
    with lab() as process:
        endpoint = process.endpoint(shop.gather, run_timeout=0.3)
        with begun(process, endpoint) as answers:
            until(lambda: answers != [])
        problem = decoded(process.follow(endpoint, answers[0]))
        shop.go_on.set()
    assert ["a"] == problem["undone"]
    assert "run-timed-out" in problem["type"]


def test_threads_of_the_handlers_own() -> None:
    """A thread that a ``def`` handler has left behind ends its step, and begins no other."""
    shop = Branches()
    refused = []

    def book() -> None:
        try:
            for name in "abc":
                sync_step.options(undo=shop.release).run(name, shop.reserve, name)
        except BaseException as error:
            refused.append(error)
            raise

    with ThreadPoolExecutor(1) as pool:

        def handler(request: Request) -> None:
            pool.submit(copy_context().run, book)
            try:
                sync_step.run("refuse", shop.refuse)
            finally:
                threading.Timer(0.05, shop.go_on.set).start()

        with lab() as process:
            problem = decoded(process.call(process.endpoint(handler)))
    assert ["b", "a"] == problem["undone"]
    assert 0 == shop.ledger.counts()["reserve c"]
    assert 1 == len(refused)


def test_a_crash_after_each_checkpoint() -> None:
    """Wherever the process dies, another one undoes all that was done, and nothing twice."""
    checkpoints = 0
    while True:
        shop, store = Branches(), WatchedStore()
        store.crash_after(checkpoints)
        with lab(store) as process:
            with begun(process, process.endpoint(shop.gather)):
                until(functools.partial(_may_go_on, store, process, shop))
                shop.go_on.set()
            until(functools.partial(_stopped, store))
        if not store.crashed.is_set():
            break
        checkpoints += 1
        store.recover()
        if not store.list("lab", limit=1):
            continue
        with lab(store) as process:
            process.endpoint(shop.gather)
            process.durable.start()
            until(functools.partial(_ended, store))
            [record] = process.records.list()
            result = store.result("lab", record.run.id)
        assert isinstance(result, StoredResult)
        assert result.body is not None
        problem = decoded(Response(body=result.body))
        assert set(store.memos().values()) == {1}
        done = {name for name in store.memos() if len(name) == 1}
        assert done == set(problem["undone"]), checkpoints
        assert "refuse" in problem["detail"]
        assert {"a", "b"} <= done
    assert checkpoints > 5


def _may_go_on(store: WatchedStore, process: Lab, shop: Branches) -> bool:
    return store.crashed.is_set() or (shop.inside.is_set() and failed(process))


def _stopped(store: WatchedStore) -> bool:
    return store.crashed.is_set() or _ended(store)


def _ended(store: WatchedStore) -> bool:
    records = store.list("lab", limit=1)
    return bool(records) and records[0].run.phase.ended
