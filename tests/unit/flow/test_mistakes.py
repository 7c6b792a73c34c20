"""Mistakes in the code of a handler: they end a run at once, and say what is wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import NonRetriableError
from durable_core.http.request import Request
from durable_core.machine.advance import failure_of_handler, failure_of_step
from durable_core.model.run import Phase
from support.harness import FakeClock, Ledger, WatchedStore, lab, request, until

Handler = Callable[[Request], Any]


def sleeps_b(request: Request) -> object:
    sync_step.sleep("b", 3600)
    return "end"


def waits_b(request: Request) -> object:
    sync_step.wait_for_event("b", event="e", timeout=3600)
    return "end"


def runs_b(request: Request) -> object:
    sync_step.run("b", int)
    sync_step.sleep("later", 3600)
    return "end"


async def runs_b_async(request: Request) -> object:
    await step.run("b", int)
    return "end"


@pytest.mark.parametrize(
    ("before", "after", "stored", "asked"),
    [
        (waits_b, runs_b, "step.wait_for_event", "step.run"),
        (waits_b, runs_b_async, "step.wait_for_event", "step.run"),
        (waits_b, sleeps_b, "step.wait_for_event", "step.sleep"),
        (sleeps_b, waits_b, "step.sleep", "step.wait_for_event"),
        (runs_b, sleeps_b, "step.run", "step.sleep"),
        (runs_b, waits_b, "step.run", "step.wait_for_event"),
    ],
)
def test_another_kind_of_step(before: Handler, after: Handler, stored: str, asked: str) -> None:
    """New code that asks for another kind under a stored id fails the run, naming both kinds."""
    store, clock = WatchedStore(), FakeClock()
    with lab(store, clock=clock) as first:
        handoff = first.endpoint(before).handle(request())
        until(lambda: first.suspended() > 0)
    clock.advance(3601)
    with lab(store, clock=clock) as second:
        response = second.follow(second.endpoint(after), handoff)
        [record] = second.records.list()

    assert (500, Phase.FAILED, 1) == (response.status, record.run.phase, record.run.failures + 1)
    text = f"step 'b' is stored as {stored}, and the code now asks for {asked}"
    assert text.encode() in bytes(response.body)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        lambda: sync_step.sleep("x", "soon"),
        lambda: sync_step.run("", int),
        lambda: sync_step.wait_for_event("x", event="", timeout=1),
        lambda: sync_step.run("x", sync_step.run, "y", int),
    ],
    ids=["duration", "id", "event", "inside"],
)
def test_a_wrong_argument_is_not_tried_again(call: Callable[[], Any]) -> None:
    """The client is told on its own connection, although the endpoint has retries."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        ledger.did("handler", None)
        return call()

    with lab() as process:
        response = process.endpoint(handler, retries=3).handle(request())

    assert 500 == response.status
    assert ["handler"] == ledger.calls


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_that_failed_is_an_error_in_the_log(
    asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """One that will be tried again is a warning."""

    def fail(request: Request) -> object:
        raise ValueError("no")

    async def fail_async(request: Request) -> object:
        raise ValueError("no")

    caplog.set_level(logging.WARNING, "durable")
    with lab() as process:
        process.call(process.endpoint(fail_async if asynchronous else fail, retries=1))

    levels = [each.levelname for each in caplog.records if "ValueError: no" in each.getMessage()]
    assert ["WARNING", "ERROR"] == levels


class HostileError(NonRetriableError):
    """Its message is long, and its data cannot be had."""

    @property
    def data(self) -> object:
        """Raise."""
        raise KeyError("data")


def test_a_hostile_error_does_not_hide_itself() -> None:
    """A property that raises counts as none, and a text of megabytes is cut."""
    for describe in (failure_of_step, failure_of_handler):
        failure = describe(HostileError("x" * 5_000_000), 0)

        assert ("HostileError", "") == (failure.name, failure.data)
        assert failure.message.endswith("x... (5000000 characters)")
        assert len(failure.message) < 11_000


def test_a_run_that_a_hostile_error_ended() -> None:
    """It is recorded with the error's name, and the answer is small."""

    def fail(request: Request) -> object:
        raise HostileError("x" * 5_000_000)

    def handler(request: Request) -> object:
        sync_step.run("first", int)
        return sync_step.run("a", fail, request)

    with lab() as process:
        response = process.endpoint(handler).handle(request())
        [run] = process.records.list()
        failed = process.records.get(run.run.id).failed_attempts

    assert 500 == response.status
    assert len(bytes(response.body)) < 50_000  # type: ignore[arg-type]
    assert "HostileError" in {each.error_name for each in failed}
