"""What happens to the steps with ``undo=`` of a run that is cancelled."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from durable_core.api.run_info import RunInfo
from durable_core.api.step import step, sync_step
from durable_core.errors import NonRetriableError, RunUndoneError
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.event import Event
from durable_core.ports import Wakeups
from durable_core.stores.wakeups import PolledWakeups
from support.harness import FakeClock, Lab, WatchedStore, lab, request, until
from support.undoing import RELEASED, RESERVED, Shop, decoded

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])


def asleep(process: Lab, shop: Shop, asynchronous: bool) -> tuple[Any, Response, RunInfo]:
    """Return an endpoint, its handoff, and its run, which sleeps after three steps."""
    endpoint = process.endpoint(shop.handler(asynchronous, 3600), retries=2)
    first = endpoint.handle(request())
    until(lambda: process.suspended() > 0 or asynchronous)
    [run] = process.durable.runs.list()
    return endpoint, first, run


@both
def test_a_run_that_sleeps_is_undone_in_reverse(asynchronous: bool) -> None:
    """Its clients get 410, with the reason and what was undone; the steps show it, too."""
    shop = Shop()
    with lab() as process:
        endpoint, first, run = asleep(process, shop, asynchronous)
        runs = process.durable.runs
        assert runs.cancel(run.id, reason="called off")
        response = process.follow(endpoint, first)
        ended = runs.get(run.id)
        assert not runs.cancel(run.id)
        assert not runs.retry(run.id)
    problem = decoded(response)
    assert (410, "called off") == (response.status, ended.cancel_reason)
    assert (["c", "b", "a"], []) == (problem["undone"], problem["not_undone"])
    assert "the run was cancelled: called off" == problem["detail"]
    releases = [name for name in shop.ledger.calls if name.startswith("release")]
    assert ["release r-c", "release r-b", "release r-a"] == releases
    assert "cancelled" == ended.status
    names = ["a", "b", "c", "(undo) c", "(undo) b", "(undo) a"]
    assert names == [each.name for each in ended.steps if each.kind == "run"]
    assert {**RESERVED, **RELEASED} == shop.ledger.counts()


@both
def test_a_step_in_progress_ends_and_is_undone(asynchronous: bool) -> None:
    """What it does is known then; no other step begins, and its attached client is handed off."""
    shop, inside, go_on = Shop(), threading.Event(), threading.Event()

    def reserve(name: str) -> str:
        if name == "b":
            inside.set()
            assert go_on.wait(20)
        return shop.ledger.did(f"reserve {name}", f"r-{name}")

    shop.reserve = reserve  # type: ignore[method-assign]
    with lab() as process:
        endpoint = process.endpoint(shop.handler(asynchronous))
        answers: list[Response] = []
        client = threading.Thread(target=lambda: answers.append(endpoint.handle(request())))
        client.start()
        assert inside.wait(20)
        runs = process.durable.runs
        [run] = runs.list()
        assert [True, False] == [runs.cancel(run.id), runs.cancel(run.id)]
        assert "cancelling" == runs.get(run.id).status
        assert [run.id] == [each.id for each in runs.list(status="cancelling")]
        go_on.set()
        client.join()
        problem = decoded(process.follow(endpoint, answers[0]))
    assert ["b", "a"] == problem["undone"]
    expected = {"reserve a": 1, "reserve b": 1, "release r-b": 1, "release r-a": 1}
    assert expected == shop.ledger.counts()


@both
def test_a_handler_that_ends_first_has_not_completed(asynchronous: bool) -> None:
    """The run was cancelled before its end was stored: what it returned does not count."""
    shop = Shop()

    def end() -> str:
        [run] = process.durable.runs.list()
        assert process.durable.runs.cancel(run.id)
        return "fine"

    shop.end = end
    with lab() as process:
        response = process.call(process.endpoint(shop.handler(asynchronous)))
    assert (410, ["c", "b", "a"]) == (response.status, decoded(response)["undone"])
    assert {**RESERVED, **RELEASED} == shop.ledger.counts()


@both
def test_undoing_is_retried_and_does_not_stop(asynchronous: bool) -> None:
    """A failing undo is retried when it is due; if it fails for good, the others are undone."""
    shop, clock = Shop(), FakeClock()

    def release(reservation: str) -> None:
        shop.ledger.did(f"release {reservation}", None)
        if reservation == "r-b":
            raise NonRetriableError("no")
        if reservation == "r-a" and shop.ledger.counts()["release r-a"] < 2:
            raise OSError("not yet")

    shop.release = release  # type: ignore[method-assign]
    with lab(clock=clock) as process:
        endpoint, first, run = asleep(process, shop, asynchronous)
        runs = process.durable.runs
        assert runs.cancel(run.id)
        until(lambda: shop.ledger.counts()["release r-a"] == 1)
        until(lambda: any(each.status == "retrying" for each in runs.get(run.id).steps))
        assert "cancelling" == runs.get(run.id).status
        with pytest.raises(RunUndoneError, match="is being undone; resume from a step once it has"):
            runs.resume_from(run.id, "a")
        clock.advance(60)
        process.poke()
        runs.wait(run.id, timeout="20s")
        problem = decoded(process.follow(endpoint, first))
        with pytest.raises(RunUndoneError, match="resume from 'a'"):
            runs.resume_from(run.id, "b")
    assert (["c", "a"], ["b"]) == (problem["undone"], problem["not_undone"])
    released = {"release r-c": 1, "release r-b": 1, "release r-a": 2}
    assert {**RESERVED, **released} == shop.ledger.counts()


@both
def test_a_crash_after_each_checkpoint(asynchronous: bool) -> None:
    """Wherever the process dies, another one undoes the rest, and repeats nothing stored."""
    checkpoints = 0
    while True:
        shop, store = Shop(), WatchedStore()
        with lab(store) as process:
            _, _, run = asleep(process, shop, asynchronous)
            if asynchronous:
                process.stop()
        with lab(store) as process:
            process.endpoint(shop.handler(asynchronous, 3600))
            process.durable.runs.cancel(run.id)
            store.crash_after(checkpoints)
            process.durable.start()
            until(functools.partial(_stopped, store))
        if not store.crashed.is_set():
            break
        checkpoints += 1
        store.recover()
        with lab(store) as process:
            process.endpoint(shop.handler(asynchronous, 3600))
            process.durable.start()
            assert "cancelled" == process.durable.runs.wait(run.id, timeout="20s").status
        assert {1} == set(store.memos().values())
        counts = shop.ledger.counts()
        assert {*RESERVED, *RELEASED} == counts.keys()
        assert sum(counts.values()) <= 7  # the step in flight has run once more
    assert checkpoints > 3


def _stopped(store: WatchedStore) -> bool:
    records = store.list("lab", limit=1)
    return store.crashed.is_set() or (bool(records) and records[0].run.phase.ended)


@both
def test_a_run_without_a_process_is_undone_at_the_next_start(asynchronous: bool) -> None:
    """Until its code comes back it is being cancelled, and nothing of it is lost."""
    shop, store = Shop(), WatchedStore()
    with lab(store) as process:
        _, _, run = asleep(process, shop, asynchronous)
    with lab(store) as process:
        runs = process.durable.runs
        assert runs.cancel(run.id)
        assert "cancelling" == runs.get(run.id).status
        process.endpoint(shop.handler(asynchronous, 3600))
        process.durable.start()
        assert "cancelled" == runs.wait(run.id, timeout="20s").status
    assert {**RESERVED, **RELEASED} == shop.ledger.counts()


class SharedStore(WatchedStore):
    """A store in memory whose commits are noticed by each of its processes."""

    def wakeups(self) -> Wakeups:
        """Return what notices each commit."""
        return PolledWakeups(lambda: len(self.batches))


@both
def test_a_run_that_lives_in_another_process(asynchronous: bool) -> None:
    """That process finds that the run was cancelled, begins no further step, and undoes it."""
    shop, inside, go_on = Shop(), threading.Event(), threading.Event()

    def reserve(name: str) -> str:
        if name == "b":
            inside.set()
            assert go_on.wait(20)
        return shop.ledger.did(f"reserve {name}", f"r-{name}")

    shop.reserve = reserve  # type: ignore[method-assign]
    store = SharedStore()
    with lab(store) as process, lab(store) as other:
        endpoint = process.endpoint(shop.handler(asynchronous))
        other.durable.start()
        answers: list[Response] = []
        client = threading.Thread(target=lambda: answers.append(endpoint.handle(request())))
        client.start()
        assert inside.wait(20)
        [run] = other.durable.runs.list()
        assert other.durable.runs.cancel(run.id)
        worker = process.engine.worker
        assert worker is not None
        live = worker.live[run.id]
        until(lambda: live.ex.stopping)
        go_on.set()
        client.join()
        response = process.follow(endpoint, answers[0])
    assert (410, ["b", "a"]) == (response.status, decoded(response)["undone"])


@both
def test_a_handler_that_swallows_everything_is_undone_all_the_same(asynchronous: bool) -> None:
    """Its replay only finds what is to be undone; how it ends does not count."""
    shop = Shop()

    def sync(request: Request) -> str:
        try:
            return str(shop.handler(False, 3600)(request))
        finally:
            shop.ledger.did("finally", None)

    async def async_(request: Request) -> str:
        try:
            return str(await shop.handler(True, 3600)(request))
        except BaseException:
            return "swallowed"

    with lab() as process:
        endpoint = process.endpoint(async_ if asynchronous else sync)
        first = endpoint.handle(request())
        [run] = process.durable.runs.list()
        assert process.durable.runs.cancel(run.id)
        problem = decoded(process.follow(endpoint, first))
    assert ["c", "b", "a"] == problem["undone"]


@both
def test_what_new_code_does_not_ask_for_is_named(
    asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody knows how to undo such a step; the others are undone."""
    shop, store = Shop(), WatchedStore()
    with lab(store) as process:
        _, _, run = asleep(process, shop, asynchronous)

    def sync(request: Request) -> None:
        sync_step.options(undo=shop.release).run("a", shop.reserve, "a")
        sync_step.sleep("nap", 3600)

    async def async_(request: Request) -> None:
        await step.options(undo=shop.release).run("a", shop.reserve, "a")
        await step.sleep("nap", 3600)

    with lab(store) as process:
        process.endpoint(async_ if asynchronous else sync)
        process.durable.start()
        assert process.durable.runs.cancel(run.id)
        assert "cancelled" == process.durable.runs.wait(run.id, timeout="20s").status
    assert {**RESERVED, "release r-a": 1} == shop.ledger.counts()
    [warning] = [each for each in caplog.messages if "does not ask for" in each]
    assert "'b', 'c'; if it could be undone, it is not" in warning


def test_each_branch_goes_as_far_as_it_can() -> None:
    """A branch that waits does not hide what another one has done."""
    shop = Shop()

    async def branch(name: str, nap: bool) -> None:
        if nap:
            await step.sleep(f"nap-{name}", 3600)
        await step.options(undo=shop.release).run(name, shop.reserve, name)

    async def handler(request: Request) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(branch("z", True))
            group.create_task(branch("a", False))
            group.create_task(branch("b", False))

    def in_threads(request: Request) -> None:
        def wait() -> None:
            sync_step.sleep("nap", 3600)

        def reserve(name: str) -> str:
            return sync_step.options(undo=shop.release).run(name, shop.reserve, name)

        sync_step.parallel("all", wait, lambda: reserve("a"), lambda: reserve("b"))

    handlers: tuple[Callable[[Request], Any], ...] = handler, in_threads
    for each in handlers:
        shop.ledger.calls.clear()
        with lab() as process:
            endpoint = process.endpoint(each)
            first = endpoint.handle(request())
            [run] = process.durable.runs.list()
            until(lambda: len(process.durable.runs.get(run.id).steps) == 3)  # noqa: B023
            assert process.durable.runs.cancel(run.id)
            problem = decoded(process.follow(endpoint, first))
        assert ["a", "b"] == sorted(problem["undone"])
        names = ("reserve a", "reserve b", "release r-a", "release r-b")
        assert dict.fromkeys(names, 1) == shop.ledger.counts()


@both
def test_without_steps_to_undo_a_run_ends_at_once(asynchronous: bool) -> None:
    """No process is needed, and its clients get the reason alone."""

    def sync(request: Request) -> None:
        sync_step.sleep("nap", 3600)

    async def async_(request: Request) -> None:
        await step.sleep("nap", 3600)

    with lab() as process:
        endpoint = process.endpoint(async_ if asynchronous else sync)
        first = endpoint.handle(request())
        [run] = process.durable.runs.list()
        assert process.durable.runs.cancel(run.id)
        assert "cancelled" == process.durable.runs.get(run.id).status
        problem = decoded(process.follow(endpoint, first))
    assert {"type", "title", "status", "detail", "run_id"} == problem.keys()


@pytest.mark.parametrize("undoable", [False, True], ids=["plain child", "child to be undone"])
@pytest.mark.slow
def test_the_end_of_an_abandoned_child_leaves_no_step_out(undoable: bool) -> None:
    """The child ends while a step beside it is in progress; that step is undone, too."""
    shop, inside, go_on = Shop(), threading.Event(), threading.Event()

    def reserve() -> str:
        inside.set()
        assert go_on.wait(20)
        return shop.ledger.did("reserve", "r")

    def release(reserved: str) -> None:
        shop.ledger.did(f"release {reserved}", None)

    async def child(request: Request) -> None:
        options = step.options(undo=shop.release) if undoable else step
        await options.run("a", shop.reserve, "a")
        await step.sleep("nap", "1h")

    async def handler(request: Request) -> None:
        reserving = step.options(undo=release).run("reserve", reserve)
        await asyncio.gather(step.invoke("child", asked), reserving)

    with lab() as process:
        asked = process.endpoint(child, function_id="child")
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        assert inside.wait(20)
        runs = process.durable.runs
        [run] = [each for each in runs.list() if each.parent is None]
        until(lambda: process.suspended() > 0)
        assert runs.cancel(run.id)
        until(lambda: 1 == len(runs.list(status="cancelled")))
        record = process.store.get("lab", run.id)
        assert record is not None
        assert [None] == [each.matched for each in record.pending]
        go_on.set()
        problem = decoded(process.follow(endpoint, first))
    assert (["reserve"], []) == (problem["undone"], problem["not_undone"])
    expected = {"reserve a": 1, "reserve": 1, "release r": 1}
    assert expected | ({"release r-a": 1} if undoable else {}) == shop.ledger.counts()


@pytest.mark.parametrize("kind", ["event", "signal", "time-out", "child"])
@pytest.mark.slow
def test_nothing_ends_a_wait_of_a_run_that_was_cancelled(kind: str) -> None:
    """A handler that fails of it would leave out the step in progress beside it."""
    shop, inside, go_on = Shop(), threading.Event(), threading.Event()
    clock = FakeClock()

    def reserve() -> str:
        inside.set()
        assert go_on.wait(20)
        return shop.ledger.did("reserve a", "r-a")

    async def child(request: Request) -> None:
        await step.wait_for_event("paid", event="paid", timeout="10m")

    async def waits() -> None:
        if kind == "signal":
            await step.wait_for_signal("wait", signal="go", timeout="10m")
        elif kind == "child":
            await step.invoke("wait", asked, timeout="10m")
        else:
            await step.wait_for_event("wait", event="paid", timeout="10m")
        raise NonRetriableError("it did not wait any more")

    async def handler(request: Request) -> None:
        reserving = step.options(undo=shop.release).run("a", reserve)
        await asyncio.gather(waits(), reserving)

    with lab(clock=clock) as process:
        asked = process.endpoint(child, function_id="child")
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        assert inside.wait(20)
        runs, worker = process.durable.runs, process.engine.worker
        assert worker is not None
        [run] = [each for each in runs.list() if each.parent is None]
        until(lambda: "wait" in [each.name for each in runs.get(run.id).steps])
        live = worker.live[run.id]
        assert runs.cancel(run.id)
        until(lambda: live.ex.stopping)
        process.durable.send(Event("paid"))
        assert not process.durable.signal("go")
        clock.advance(3600)
        live.recheck_deadlines()
        process.poke()
        if kind == "child":
            until(lambda: 1 == len(runs.list(status="cancelled")))
        assert ["a", "wait"] == sorted(each.name for each in runs.get(run.id).steps)
        go_on.set()
        problem = decoded(process.follow(endpoint, first))
    assert (["a"], []) == (problem["undone"], problem["not_undone"])
    assert {"reserve a": 1, "release r-a": 1} == shop.ledger.counts()


@both
def test_what_undoes_a_step_calls_no_step(asynchronous: bool) -> None:
    """So nothing that a run waits for while it is undone can be missed: it is refused."""
    shop = Shop()

    def release(reserved: str) -> None:
        sync_step.wait_for_event("asked", event="asked", timeout="1h")

    shop.release = release  # type: ignore[assignment, method-assign]
    with lab() as process:
        endpoint, first, run = asleep(process, shop, asynchronous)
        assert process.durable.runs.cancel(run.id)
        problem = decoded(process.follow(endpoint, first))
    assert ([], ["c", "b", "a"]) == (problem["undone"], problem["not_undone"])
