"""Mistakes in the code of a handler: they end a run at once, and say what is wrong."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import NonRetriableError, RetryAfterError
from durable_core.http.request import Request
from durable_core.http.response import Response
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


def final(handler: Handler) -> str:
    """Return what the client is told of a run that has failed at its first attempt."""
    ledger = Ledger()

    def counted(request: Request) -> object:
        ledger.did("handler", None)
        return handler(request)

    async def counted_async(request: Request) -> object:
        ledger.did("handler", None)
        return await handler(request)

    asynchronous = inspect.iscoroutinefunction(handler)
    with lab() as process:
        endpoint = process.endpoint(counted_async if asynchronous else counted, retries=3)
        response = endpoint.handle(request(body=b"{}", method="POST"))

    assert (500, ["handler"]) == (response.status, ledger.calls)
    assert isinstance(response.body, bytes)
    return str(json.loads(response.body)["detail"])


async def no_time_out(request: Any) -> object:
    waits: Any = step.wait_for_event
    return await waits("it", event="e")


def no_time_out_def(request: Any) -> object:
    waits: Any = sync_step.wait_for_event
    return waits("it", event="e")


async def no_function(request: Any) -> object:
    runs: Any = step.run
    return await runs("it")


async def awaits_json(request: Any) -> object:
    return await request.json()


async def _find() -> int:
    return 1


def takes_a_coroutine(request: Any) -> object:
    found: Any = _find()
    try:
        return found + 1
    finally:
        found.close()


def bad_status(request: Any) -> object:
    status: Any = "200"
    return Response(status=status)


def no_json(request: Any) -> object:
    return Response.json(object())


def no_seconds(request: Any) -> object:
    raise RetryAfterError("later", -1)


def no_such_step(request: Any) -> object:
    steps: Any = sync_step
    return steps.wait("it")


def no_such_attribute(request: Any) -> object:
    return request.querry


def no_such_name(request: Any) -> object:
    return undefined  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        (no_time_out, "missing 1 required keyword-only argument: 'timeout'"),
        (no_time_out_def, "missing 1 required keyword-only argument: 'timeout'"),
        (no_function, "missing 1 required positional argument: 'fn'"),
        (awaits_json, "can't be used in 'await' expression"),
        (takes_a_coroutine, "for +: 'coroutine' and 'int'"),
        (bad_status, "a response status must be an int"),
        (no_json, "not JSON serializable"),
        (no_seconds, "retry_after must be 0 or more finite seconds"),
        (
            no_such_step,
            "there is no step.wait; did you mean step.",
        ),
        (no_such_attribute, "object has no attribute 'querry'"),
        (no_such_name, "name 'undefined' is not defined"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrong_use_is_not_tried_again(handler: Handler, told: str) -> None:
    """Python itself, or a check of this library's, says what is wrong."""
    assert told in final(handler)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_step_that_is_called_wrongly(asynchronous: bool) -> None:
    """Its function takes other arguments; that is so in every attempt."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        call: Any = sync_step.run
        return call("it", ledger.did, "it")

    async def handler_async(request: Request) -> object:
        call: Any = step.run
        return await call("it", ledger.did_async, "it")

    with lab() as process:
        endpoint = process.endpoint(handler_async if asynchronous else handler)
        response = endpoint.handle(request())

    assert 500 == response.status
    assert isinstance(response.body, bytes)
    assert b"missing 1 required positional argument: 'value'" in response.body


@pytest.mark.parametrize(
    "error",
    [ValueError("3"), TypeError("3"), KeyError("3"), UnboundLocalError("3"), OSError("3")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_handlers_own_is_tried_again(error: Exception) -> None:
    """It may come from the outside world."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        return ledger.fails("handler", 1, error, "done")

    with lab() as process:
        assert b'"done"' == process.call(process.endpoint(handler)).body


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
    # What is logged is stored by then: another thread may have made the next attempt meanwhile.
    assert ["ERROR", "WARNING"] == sorted(levels)


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


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("keyword", "is_option"), [("retries", True), ("retry", False)])
def test_an_option_that_the_function_got(
    asynchronous: bool, keyword: str, is_option: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says how options of a step are written, if it is the name of one."""
    sync_any: Any = sync_step
    async_any: Any = step

    def work() -> None: ...

    def sync(request: Request) -> None:
        sync_any.run("a", work, **{keyword: 3})

    async def async_(request: Request) -> None:
        await async_any.run("a", work, **{keyword: 3})

    with lab() as process:
        assert 500 == process.endpoint(async_ if asynchronous else sync).handle(request()).status

    assert f"got an unexpected keyword argument '{keyword}'" in caplog.text
    assert is_option is (f"written step.options({keyword}=...).run(...)" in caplog.text)
