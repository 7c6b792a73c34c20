"""``step.options(undo=...)``: what happens to the steps of a run that fails."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import HTTPError, NonRetriableError, RunUndoneError, StepArgumentError
from durable_core.http.request import Request
from support.harness import FakeClock, WatchedStore, lab, request, until
from support.undoing import RELEASED, RESERVED, Shop, decoded

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])


@both
def test_a_run_that_fails_is_undone_in_reverse(asynchronous: bool) -> None:
    """The last step is undone first, each with its result; the response says what was undone."""
    shop = Shop()
    shop.end = shop.fails
    with lab() as process:
        response = process.endpoint(shop.handler(asynchronous)).handle(request())
        [record] = process.records.list()
        memos = process.records.get(record.run.id).memos
    problem = decoded(response)
    assert 500 == response.status
    assert (["c", "b", "a"], []) == (problem["undone"], problem["not_undone"])
    assert "NonRetriableError: no money" == problem["detail"]
    releases = [name for name in shop.ledger.calls if name.startswith("release")]
    assert ["release r-c", "release r-b", "release r-a"] == releases
    names = ["a", "b", "c", "(failed)", "(undo) c", "(undo) b", "(undo) a"]
    assert names == [memo.op.name for memo in memos]


@both
def test_a_run_that_succeeds_is_not(asynchronous: bool) -> None:
    """Nothing is undone, and nothing more is stored."""
    shop, store = Shop(), WatchedStore()
    shop.end = lambda: "fine"
    with lab(store) as process:
        response = process.endpoint(shop.handler(asynchronous)).handle(request())
    assert "fine" == decoded(response)
    assert RESERVED == shop.ledger.counts()
    assert {"a": 1, "b": 1, "c": 1} == store.memos()


@both
def test_a_response_is_no_failure(asynchronous: bool) -> None:
    """An ``HTTPError`` is an answer: the run completes, and nothing is undone."""
    shop = Shop()

    def end() -> None:
        raise HTTPError(409, "sold out")

    shop.end = end
    with lab() as process:
        assert 409 == process.endpoint(shop.handler(asynchronous)).handle(request()).status
    assert RESERVED == shop.ledger.counts()


@both
def test_only_what_has_succeeded_is_undone(asynchronous: bool) -> None:
    """A step that failed for good has nothing to undo; its error fails the run."""
    shop = Shop()

    def broken(name: str) -> str:
        raise NonRetriableError("never")

    def sync(request: Request) -> None:
        sync_step.options(undo=shop.release).run("a", shop.reserve, "a")
        sync_step.options(undo=shop.release).run("b", broken, "b")

    async def async_(request: Request) -> None:
        await step.options(undo=shop.release).run("a", shop.reserve, "a")
        await step.options(undo=shop.release).run("b", broken, "b")

    with lab() as process:
        problem = decoded(process.call(process.endpoint(async_ if asynchronous else sync)))
    assert ["a"] == problem["undone"]
    assert {"reserve a": 1, "release r-a": 1} == shop.ledger.counts()


@both
def test_it_is_undone_after_the_last_attempt_of_the_handler(asynchronous: bool) -> None:
    """An error outside steps is retried first; the run is undone once no attempt is left."""
    shop = Shop()

    def end() -> None:
        shop.ledger.did("end", None)
        raise OSError("down")

    shop.end = end
    with lab() as process:
        endpoint = process.endpoint(shop.handler(asynchronous), retries=2)
        problem = decoded(process.call(endpoint))
    assert ["c", "b", "a"] == problem["undone"]
    assert "OSError: down" in problem["detail"]
    assert {**RESERVED, **RELEASED, "end": 3} == shop.ledger.counts()


@both
def test_undoing_is_retried_and_does_not_stop(asynchronous: bool) -> None:
    """A failing undo is retried as a step; if it fails for good, the others are undone."""
    shop = Shop()
    shop.end = shop.fails

    def release(reservation: str) -> None:
        shop.ledger.did(f"release {reservation}", None)
        if reservation == "r-b":
            raise OSError("no")
        if reservation == "r-a" and shop.ledger.counts()["release r-a"] < 2:
            raise OSError("not yet")

    shop.release = release  # type: ignore[method-assign]
    with lab() as process:
        problem = decoded(process.call(process.endpoint(shop.handler(asynchronous), retries=2)))
    assert (["c", "a"], ["b"]) == (problem["undone"], problem["not_undone"])
    released = {"release r-c": 1, "release r-b": 3, "release r-a": 2}
    assert {**RESERVED, **released} == shop.ledger.counts()


@both
def test_a_crash_after_each_checkpoint(asynchronous: bool) -> None:
    """Wherever the process dies, another one undoes the rest, and repeats nothing stored."""
    checkpoints = 0
    while True:
        shop, store = Shop(), WatchedStore()
        shop.end = shop.fails
        store.crash_after(checkpoints)
        with lab(store) as process:
            process.endpoint(shop.handler(asynchronous, 0.0)).handle(request())
            until(functools.partial(_stopped, store))
        if not store.crashed.is_set():
            break
        checkpoints += 1
        store.recover()
        if not store.list("lab", limit=1):
            continue
        with lab(store) as process:
            process.endpoint(shop.handler(asynchronous, 0.0))
            process.durable.start()
            until(functools.partial(_ended, store))
            [record] = process.records.list()
            result = store.result("lab", record.run.id)
        assert result is not None
        assert set(store.memos().values()) == {1}
        counts = shop.ledger.counts()
        assert {*RESERVED, *RELEASED} == counts.keys()
        assert sum(counts.values()) <= 7  # the step in flight has run once more
    assert checkpoints > 7


def _stopped(store: WatchedStore) -> bool:
    return store.crashed.is_set() or _ended(store)


def _ended(store: WatchedStore) -> bool:
    records = store.list("lab", limit=1)
    return bool(records) and records[0].run.phase.ended


@both
def test_a_failure_stays_a_failure(asynchronous: bool) -> None:
    """When undoing has begun, a handler that would succeed in a replay does not."""
    shop, clock, fails = Shop(), FakeClock(), [True]

    def end() -> str:
        if fails:
            raise NonRetriableError("no money")
        return "fine"

    def release(reservation: str) -> None:
        if fails:
            fails.clear()
            raise OSError("not yet")

    shop.end, shop.release = end, release  # type: ignore[method-assign]
    with lab(clock=clock) as process:
        endpoint = process.endpoint(shop.handler(asynchronous))
        first = endpoint.handle(request())
        until(lambda: process.suspended() > 0 or asynchronous)
        clock.advance(60)
        process.poke()
        problem = decoded(process.follow(endpoint, first))
    assert ["c", "b", "a"] == problem["undone"]
    assert "no money" in problem["detail"]


@both
def test_a_run_that_was_undone_begins_anew(asynchronous: bool) -> None:
    """Its steps do not count as done: it is not retried; a new run does all of them again."""
    shop = Shop()
    shop.end = shop.fails
    with lab() as process:
        process.call(process.endpoint(shop.handler(asynchronous)))
        runs = process.durable.runs
        [old] = runs.list()
        with pytest.raises(RunUndoneError, match=rf"resume_from\('{old.id}', 'a'\)"):
            runs.retry(old.id)
        assert "failed" == runs.get(old.id).status
        shop.end = lambda: "fine"
        new = runs.wait(runs.resume_from(old.id, "a"), timeout="20s")
        assert "failed" == runs.get(old.id).status
    assert "completed" == new.status
    assert ["a", "b", "c"] == [each.name for each in new.steps]
    assert {**dict.fromkeys(RESERVED, 2), **RELEASED} == shop.ledger.counts()


@pytest.mark.parametrize("step_name", ["b", "c", "(undo) c", "(failed)"])
def test_a_new_run_has_no_result_that_was_undone(step_name: str) -> None:
    """It cannot begin after a step that was undone, but at that step or before it."""
    shop = Shop()

    def handler(request: Request) -> object:
        sync_step.run("look", shop.ledger.did, "look", None)
        return shop.handler(False)(request)

    shop.end = shop.fails
    with lab() as process:
        process.call(process.endpoint(handler))
        runs = process.durable.runs
        [old] = runs.list()
        with pytest.raises(RunUndoneError, match=r"step 'a' of run .* resume from 'a'"):
            runs.resume_from(old.id, step_name)
        shop.end = lambda: "fine"
        for first in ("look", "a"):
            assert "completed" == runs.wait(runs.resume_from(old.id, first), timeout="20s").status
    counts = {"look": 2, **dict.fromkeys(RESERVED, 3), **RELEASED}
    assert counts == shop.ledger.counts()


def test_while_a_run_is_being_undone() -> None:
    """Nobody knows yet which results will stay, and it must not stop half-way."""
    shop = Shop()
    shop.end = shop.fails

    def release(reservation: str) -> None:
        raise OSError("not yet")

    shop.release = release  # type: ignore[method-assign]
    with lab(clock=FakeClock()) as process:
        process.endpoint(shop.handler(False)).handle(request())
        until(lambda: process.suspended() > 0)
        runs = process.durable.runs
        [run] = runs.list()
        assert not runs.retry(run.id)
        with pytest.raises(RunUndoneError, match="is being undone"):
            runs.resume_from(run.id, "a")
        with pytest.raises(RunUndoneError, match="is being undone; it ends when that is done"):
            runs.cancel(run.id)


def test_undoing_that_has_failed_counts() -> None:
    """What became of such a step is unknown: it is done again."""
    shop = Shop()
    shop.end = shop.fails

    def release(reservation: str) -> None:
        raise NonRetriableError("no")

    shop.release = release  # type: ignore[method-assign]
    with lab() as process:
        process.call(process.endpoint(shop.handler(False)))
        [run] = process.durable.runs.list()
        with pytest.raises(RunUndoneError, match="'a'"):
            process.durable.runs.retry(run.id)


@pytest.mark.parametrize("undo", [7, "release"])
def test_undo_is_a_function(undo: Any) -> None:
    """Anything else is refused where it is written."""
    with pytest.raises(StepArgumentError, match="undo must be a function of the step's result"):
        step.options(undo=undo)


def test_the_id_leaves_room() -> None:
    """The step that undoes has a longer name, which must fit too."""

    def handler(request: Request) -> str:
        try:
            sync_step.options(undo=print).run("x" * 249, int)
        except StepArgumentError as error:
            return str(error)
        return ""

    with lab() as process:
        text = decoded(process.endpoint(handler).handle(request()))
    assert text.endswith("the id of a step with undo= has at most 248 characters")
