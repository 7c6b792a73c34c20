"""Code that has changed since a run began: what is noticed, and ``step.patched``."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import NonRetriableError
from durable_core.http.request import Request
from durable_core.http.response import Response
from support.harness import FakeClock, Ledger, lab, request, until

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])

#: What a version of the code does: names of steps, "nap" for a sleep, "?x" for a patch.
Code = tuple[str, ...]


def handler_of(asynchronous: bool, codes: list[Code], ledger: Ledger) -> Callable[[Request], Any]:
    """Return a handler that does what the first of the codes says."""

    def sync(request: Request) -> object:
        done: list[object] = []
        for name in codes[0]:
            if name == "nap":
                sync_step.sleep("nap", "1h")
            elif name.startswith("?"):
                done.append(sync_step.patched(name))
            else:
                done.append(sync_step.run(name, ledger.did, name, name))
        return done

    async def async_(request: Request) -> object:
        done: list[object] = []
        for name in codes[0]:
            if name == "nap":
                await step.sleep("nap", "1h")
            elif name.startswith("?"):
                done.append(await step.patched(name))
            else:
                done.append(await step.run(name, ledger.did, name, name))
        return done

    return async_ if asynchronous else sync


def deployed(asynchronous: bool, old: Code, new: Code, **options: Any) -> Response:
    """Run old code until it sleeps, and new code from then on."""
    codes, clock = [old], FakeClock()
    with lab(clock=clock) as process:
        # Another process goes on, so that the handler is replayed in any case.
        endpoint = process.endpoint(handler_of(asynchronous, codes, Ledger()), **options)
        first = endpoint.handle(request())
        until(lambda: process.suspended() > 0)
        codes[0] = new
        clock.advance(3600)
        process.poke()
        return process.follow(endpoint, first)


def decoded(response: Response) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


CHANGES: list[tuple[Code, str]] = [
    (("a", "new", "nap"), "the code asks for the new step 'new' before step 'nap'"),
    (("new", "a", "nap"), "the code asks for the new step 'new' before step 'a', 'nap'"),
    (("a",), "the handler has ended without step 'nap'"),
    ((), "the handler has ended without step 'a', 'nap'"),
]


@both
@pytest.mark.parametrize(("new", "text"), CHANGES, ids=["between", "first", "gone", "all gone"])
def test_changes_are_noticed(
    asynchronous: bool, new: Code, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning names the steps; the run goes on as the new code says."""
    with caplog.at_level(logging.WARNING):
        response = deployed(asynchronous, ("a", "nap", "b"), new)
    assert 200 == response.status
    lines = [record.getMessage() for record in caplog.records]
    [line] = [line for line in lines if "the code has changed since the run began" in line]
    assert text in line
    assert line.partition("which the run has stored")[1]


@both
@pytest.mark.parametrize(("new", "text"), CHANGES, ids=["between", "first", "gone", "all gone"])
def test_changes_may_fail_the_run(asynchronous: bool, new: Code, text: str) -> None:
    """With ``on_mismatch="fail"`` it is an error, at once."""
    problem = decoded(deployed(asynchronous, ("a", "nap", "b"), new, on_mismatch="fail"))
    assert 500 == problem["status"]
    assert text in problem["detail"]
    assert problem["detail"].startswith("StepOrderError")


@both
@pytest.mark.parametrize(
    "new", [("a", "nap", "b"), ("a", "nap", "new", "b"), ("a", "nap")], ids=str
)
def test_changes_after_what_is_stored(
    asynchronous: bool, new: Code, caplog: pytest.LogCaptureFixture
) -> None:
    """New code after the stored steps is nothing to be noticed."""
    with caplog.at_level(logging.WARNING):
        response = deployed(asynchronous, ("a", "nap", "b"), new, on_mismatch="fail")
    assert [name for name in new if name != "nap"] == decoded(response)
    assert [] == [each for each in caplog.records if "has changed" in each.getMessage()]


def test_steps_side_by_side_have_no_order() -> None:
    """The order in which several tasks come to their steps is no sign of a change."""
    clock, fails = FakeClock(), [True]

    async def branch(name: str) -> str:
        await step.run(f"{name}1", str, name)
        if name == "a" and fails:
            await step.sleep("nap", "1h")
        return await step.run(f"{name}2", str, name)

    async def handler(request: Request) -> list[str]:
        return list(await asyncio.gather(branch("a"), branch("b")))

    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler, on_mismatch="fail")
        assert ["a", "b"] == decoded(process.sleep_through(endpoint, clock))


@both
def test_a_branch_that_is_behind_is_no_sign_of_a_change(asynchronous: bool) -> None:
    """The first step that a retried run asks for is new, while another branch, which has a stored
    step, has not come to it yet.
    """
    ledger = Ledger()
    other_has_begun, may_ask = threading.Event(), threading.Event()

    def fails() -> None:
        may_ask.set()
        assert other_has_begun.wait(20)
        ledger.fails("late", 1, NonRetriableError("no"), None)

    def sync(request: Request) -> str:
        def waits() -> None:
            assert may_ask.wait(20)
            sync_step.run("early", other_has_begun.set)

        sync_step.parallel("both", lambda: sync_step.run("late", fails), waits)
        return "done"

    async def async_(request: Request) -> str:
        async def waits() -> None:
            assert await asyncio.to_thread(may_ask.wait, 20)
            await step.run("early", other_has_begun.set)

        both = step.run("late", asyncio.to_thread, fails), waits()
        for error in await asyncio.gather(*both, return_exceptions=True):
            if isinstance(error, Exception):
                raise error
        return "done"

    with lab() as process:
        process.call(process.endpoint(async_ if asynchronous else sync, on_mismatch="fail"))
        runs = process.durable.runs
        [failed] = runs.list()
        may_ask.clear()
        assert runs.retry(failed.id)
        assert "completed" == runs.wait(failed.id, timeout="20s").status


@both
def test_patched(asynchronous: bool) -> None:
    """Old runs go the old way, as far as they have come; new runs the new way, in each replay."""
    patched = ("a", "?p", "nap", "?q", "b")
    assert ["a", False, True, "b"] == decoded(deployed(asynchronous, ("a", "nap", "b"), patched))
    assert ["a", True, True, "b"] == decoded(deployed(asynchronous, patched, patched))


def test_on_mismatch_is_checked() -> None:
    """Another word is refused where the endpoint is defined."""
    match = "on_mismatch must be 'warn', 'fail' or 'park'"
    with lab() as process, pytest.raises(ValueError, match=match):
        process.endpoint(lambda request: None, on_mismatch="ignore")
