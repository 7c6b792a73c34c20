"""``step.options(...)`` and ``@step(id)``, in handlers of both kinds."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import NonRetriableError, StepArgumentError, StepError
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.retry import RetryPolicy
from support.harness import FakeClock, Ledger, lab, request, until

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])


def handler_of(
    asynchronous: bool, options: dict[str, Any], fn: Callable[..., Any], *args: Any
) -> Callable[[Request], Any]:
    """Return a handler with one step, ``"it"``; it answers with the result, or the error."""

    def sync(request: Request) -> object:
        try:
            return sync_step.options(**options).run("it", fn, *args)
        except StepError as error:
            return f"{error.name}: {error.message}"

    async def async_(request: Request) -> object:
        try:
            return await step.options(**options).run("it", fn, *args)
        except StepError as error:
            return f"{error.name}: {error.message}"

    return async_ if asynchronous else sync


def decoded(response: Response) -> object:
    """Return the value of a JSON body."""
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def finish(handler: Callable[[Request], Any], **options: Any) -> object:
    """Run it to its end; return the decoded body of the response."""
    with lab() as process:
        return decoded(process.call(process.endpoint(handler, **options)))


# retries


@both
@pytest.mark.parametrize(("retries", "of_endpoint"), [(0, 3), (1, 0), (5, 3)])
def test_retries(asynchronous: bool, retries: int, of_endpoint: int) -> None:
    """A step with retries is called that often again, fewer or more than its endpoint says."""
    ledger = Ledger()
    handler = handler_of(
        asynchronous, {"retries": retries}, ledger.fails, "it", 99, ValueError("no"), None
    )

    assert "ValueError: no" == finish(handler, retries=of_endpoint)
    assert {"it": 1 + retries} == ledger.counts()


@both
def test_without_retries_the_endpoint_decides(asynchronous: bool) -> None:
    """Other options leave the number of attempts as it is."""
    ledger = Ledger()
    handler = handler_of(
        asynchronous, {"name": "It"}, ledger.fails, "it", 99, ValueError("no"), None
    )

    assert "ValueError: no" == finish(handler, retries=2)
    assert {"it": 3} == ledger.counts()


# backoff


@both
def test_backoff(asynchronous: bool) -> None:
    """The pause before the next attempt is that of the step, not that of the application."""
    clock, ledger = FakeClock(), Ledger()
    backoff = RetryPolicy(base="1m", max="1m", jitter=0)
    handler = handler_of(
        asynchronous, {"backoff": backoff}, ledger.fails, "it", 1, ValueError("no"), "done"
    )
    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        until(process.suspended)
        [record] = process.records.list()
        assert clock.now() + 60_000 == record.due_at
        clock.advance(60)
        process.poke()
        assert "done" == decoded(process.follow(endpoint, first))


# retry_if


@both
def test_retry_if_ends_the_attempts(asynchronous: bool) -> None:
    """An error that it says no to is final; it sees each error that could be retried."""
    ledger, seen = Ledger(), []

    def work() -> None:
        ledger.did("it", None)
        raise (ValueError if len(ledger.calls) < 3 else KeyError)("no")

    def is_worth_it(error: Exception) -> bool:
        seen.append(type(error).__name__)
        return isinstance(error, ValueError)

    handler = handler_of(asynchronous, {"retry_if": is_worth_it, "retries": 9}, work)

    assert "KeyError: 'no'" == finish(handler)
    assert ["ValueError", "ValueError", "KeyError"] == seen


def test_retry_if_cannot_retry_what_is_final() -> None:
    """It is not asked for an error that is final already."""
    ledger = Ledger()
    handler = handler_of(
        False,
        {"retry_if": lambda error: bool(ledger.did("asked", True))},
        *(ledger.fails, "it", 9, NonRetriableError("never"), None),
    )

    assert "NonRetriableError: never" == finish(handler)
    assert {"it": 1} == ledger.counts()


def test_retry_if_that_raises() -> None:
    """Its error is the outcome of the step, at once."""
    ledger = Ledger()

    def broken(error: Exception) -> bool:
        raise LookupError("no such error")

    handler = handler_of(False, {"retry_if": broken}, ledger.fails, "it", 9, ValueError("no"), None)

    assert "LookupError: no such error" == finish(handler)
    assert {"it": 1} == ledger.counts()


# timeout


class Slow:
    """Work that takes too long in its first attempts."""

    def __init__(self, slow_attempts: int) -> None:
        self.left = slow_attempts
        self.cancelled = 0
        self.late = threading.Event()
        self.ended = threading.Event()

    def work(self) -> str:
        """Block the thread; the result comes late."""
        self.left -= 1
        if self.left < 0:
            return "in time"
        self.late.wait(20)
        self.ended.set()
        return "late"

    async def work_async(self) -> str:
        """Wait on the loop, until it is cancelled."""
        self.left -= 1
        if self.left < 0:
            return "in time"
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "late"


@both
def test_timeout_of_a_plain_function(asynchronous: bool) -> None:
    """An attempt past its time has failed; the late result of its thread is dropped."""
    slow = Slow(1)
    handler = handler_of(asynchronous, {"timeout": 0.05}, slow.work)
    with lab() as process:
        endpoint = process.endpoint(handler)
        assert "in time" == decoded(process.call(endpoint))
        slow.late.set()
        assert slow.ended.wait(10)
        [record] = process.records.list()
        shown = process.records.get(record.run.id)
        assert ['"in time"'] == [memo.value for memo in shown.memos]
        [failed] = shown.failed_attempts
        assert ("TimeoutError", "the attempt took longer than 0.05 s (timeout=)") == (
            failed.error_name,
            failed.error_message,
        )


def test_timeout_of_a_coroutine_function() -> None:
    """It is cancelled, and called again."""
    slow = Slow(2)
    assert "in time" == finish(handler_of(True, {"timeout": "50 ms"}, slow.work_async))
    assert 2 == slow.cancelled


@both
def test_timeout_on_the_last_attempt(asynchronous: bool) -> None:
    """After the last attempt the handler sees a StepError that says how long it was allowed."""
    slow = Slow(9)
    options = {"timeout": timedelta(milliseconds=20), "retries": 1}
    fn = slow.work_async if asynchronous else slow.work

    text = finish(handler_of(asynchronous, options, fn))
    slow.late.set()

    assert "TimeoutError: the attempt took longer than 0.02 s (timeout=)" == text


def test_timeout_that_is_swallowed() -> None:
    """What a coroutine function returns after it was cancelled comes too late."""

    async def stubborn() -> str:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            pass
        return "late"

    text = finish(handler_of(True, {"timeout": 0.02, "retries": 0}, stubborn))
    assert str(text).startswith("TimeoutError: the attempt took longer")


@both
def test_own_timeout_error_and_stop_iteration(asynchronous: bool) -> None:
    """Errors of the function itself are told from the end of its time."""

    def own() -> None:
        raise TimeoutError("of the bank")

    def stop() -> None:
        raise StopIteration

    options = {"timeout": 20, "retries": 0}
    assert "TimeoutError: of the bank" == finish(handler_of(asynchronous, options, own))
    text = finish(handler_of(asynchronous, options, stop))
    assert "RuntimeError: the function raised StopIteration" == text


def test_own_timeout_error_of_a_coroutine() -> None:
    """The same for a coroutine function."""

    async def own() -> None:
        raise TimeoutError("of the bank")

    text = finish(handler_of(True, {"timeout": 20, "retries": 0}, own))
    assert "TimeoutError: of the bank" == text


@both
def test_the_thread_has_the_context_of_the_handler(asynchronous: bool) -> None:
    """A step inside the timed function is refused, as in any other step."""

    def nested() -> object:
        return sync_step.run("inner", int)

    text = finish(handler_of(asynchronous, {"timeout": 20}, nested))
    assert str(text).startswith(
        "StepUsageError: step 'inner' was called inside step 'it'; the function of a step calls no "
        "other steps"
    )


def test_def_handlers_take_no_coroutine_functions() -> None:
    """The mistake is named with a time limit as it is without one."""

    async def work() -> int:
        return 1

    text = finish(handler_of(False, {"timeout": 20}, work))
    assert str(text).startswith("StepUsageError: step 'it' was given an async function")


# name


@both
def test_name_is_in_the_log(asynchronous: bool, caplog: pytest.LogCaptureFixture) -> None:
    """What people look at shows the name beside the id."""
    ledger = Ledger()
    options = {"name": "Charge the card", "retries": 1}
    with caplog.at_level(logging.WARNING):
        finish(handler_of(asynchronous, options, ledger.fails, "it", 1, ValueError("no"), None))

    [line] = [each.getMessage() for each in caplog.records if "failed" in each.getMessage()]
    assert "step 'it' (Charge the card) failed, attempt 1 of 2, and will be" in line


# spelling


def test_options_of_options() -> None:
    """Options are merged: a later one goes before an earlier one."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        patient = sync_step.options(retries=4, name="patient").options(retries=1)
        try:
            return patient.run("it", ledger.fails, "it", 9, ValueError("no"), None)
        except StepError as error:
            return error.name

    assert "ValueError" == finish(handler)
    assert {"it": 2} == ledger.counts()


def test_keywords_of_the_function_are_its_own() -> None:
    """A function may have keyword arguments with the names of options."""

    def work(*, retries: int, timeout: str, name: str) -> list[object]:
        return [retries, timeout, name]

    def handler(request: Request) -> object:
        options = sync_step.options(retries=1, name="shown")
        return options.run("it", work, retries=7, timeout="x", name="own")

    assert [7, "x", "own"] == finish(handler)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"retries": -1}, "retries must be an int from 0 to 20"),
    ({"retries": 21}, "retries must be an int from 0 to 20"),
    ({"retries": True}, "retries must be an int from 0 to 20"),
    ({"timeout": 0}, "timeout must be 1 ms or more"),
    ({"timeout": -1}, "timeout"),
    ({"timeout": "soon"}, "timeout"),
    ({"timeout": float("nan")}, "timeout"),
    ({"timeout": "367 days"}, "timeout"),
    ({"backoff": 3}, "backoff must be a RetryPolicy, not int"),
    ({"retry_if": ValueError("x")}, "retry_if must be a function of the error, not ValueError"),
    ({"retry_if": ValueError}, "the class ValueError; such as lambda error: isinstance"),
    ({"name": ""}, "name must have 1 to 255 characters, not 0"),
    ({"name": "x" * 256}, "name must have 1 to 255 characters, not 256"),
    ({"name": 7}, "name must be a str, not int"),
    ({"name": "\ud800"}, "name must not contain lone surrogates"),
]


@pytest.mark.parametrize(("options", "text"), BAD, ids=[str(each) for each, _ in BAD])
@pytest.mark.parametrize("steps", [step, sync_step], ids=["async", "def"])
def test_bad_options(steps: Any, options: dict[str, Any], text: str) -> None:
    """An option that cannot be is refused where it is written, outside runs too."""
    with pytest.raises(StepArgumentError, match=text):
        steps.options(**options)


def test_retry_if_must_be_plain() -> None:
    """Nothing would await a coroutine function."""

    async def later(error: Exception) -> bool:
        return True

    with pytest.raises(StepArgumentError, match="plain function"):
        step.options(retry_if=later)  # type: ignore[arg-type]


# decorator


@sync_step("double")
def double(number: int, *, by: int = 2) -> int:
    """Multiply."""
    CALLS.did("double", None)
    return number * by


@step.options(retries=1)("triple")
async def triple(number: int) -> int:
    """Multiply."""
    CALLS.did("triple", None)
    return number * 3


CALLS = Ledger()


def test_decorated_function_in_a_def_handler() -> None:
    """Its calls are steps: each runs once, with an index where the id repeats."""
    CALLS.calls.clear()

    def handler(request: Request) -> object:
        values = [double(1), double(2, by=5)]
        sync_step.sleep("nap", 0.01)
        return [*values, double(3)]

    with lab() as process:
        assert [2, 10, 6] == decoded(process.call(process.endpoint(handler)))
        [record] = process.records.list()
        names = [memo.op.name for memo in process.records.get(record.run.id).memos]
    assert ["double", "double:1", "nap", "double:2"] == names
    assert {"double": 3} == CALLS.counts()


def test_decorated_function_in_an_async_handler() -> None:
    """The same in a coroutine, side by side too; the options hold."""
    CALLS.calls.clear()

    async def handler(request: Request) -> object:
        values = await asyncio.gather(triple(1), triple(2))
        await step.sleep("nap", 0.01)
        return [*values, await triple(3)]

    assert [3, 6, 9] == finish(handler)
    assert {"triple": 3} == CALLS.counts()


def test_decorated_function_outside_runs() -> None:
    """It is the function that it was, with its name, signature and docstring."""
    assert 4 == double(2)
    assert 6 == asyncio.run(triple(2))
    assert ("double", "Multiply.") == (double.__name__, double.__doc__)
    assert "(number: 'int', *, by: 'int' = 2) -> 'int'" == str(inspect.signature(double))


def test_decorated_function_in_another_step() -> None:
    """Inside the function of a step it is an ordinary call."""
    CALLS.calls.clear()

    def both_of_them() -> int:
        return double(1) + double(2)

    def handler(request: Request) -> object:
        return sync_step.run("outer", both_of_them)

    with lab() as process:
        assert 6 == decoded(process.call(process.endpoint(handler)))
        [record] = process.records.list()
        assert ["outer"] == [m.op.name for m in process.records.get(record.run.id).memos]


@pytest.mark.parametrize(
    ("decorate", "text"),
    [
        (lambda: sync_step(double), "a step is decorated with its id"),  # type: ignore[arg-type]
        (lambda: step(triple), "a step is decorated with its id"),  # type: ignore[arg-type]
        (lambda: step("x")(double), "for coroutine functions"),  # type: ignore[arg-type]
        (lambda: sync_step("x")(asyncio.sleep), "for plain functions"),
        (lambda: sync_step("x")(7), "for plain functions"),  # type: ignore[arg-type]
    ],
    ids=["def", "async", "plain", "coroutine", "no function"],
)
def test_bad_decorators(decorate: Callable[[], object], text: str) -> None:
    """A decorator without an id, or on the other kind of function, is refused at once."""
    with pytest.raises(StepArgumentError, match=text):
        decorate()


def test_abandoned_thread_does_not_hold_the_next_attempt() -> None:
    """Attempts that take too long do not queue behind each other."""
    slow, began = Slow(30), time.monotonic()
    options = {"timeout": 0.01, "retries": 20}
    text = finish(handler_of(False, options, slow.work))
    slow.late.set()
    assert str(text).startswith("TimeoutError")
    assert time.monotonic() - began < 10
