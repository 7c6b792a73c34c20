"""What an exception of user code means."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from durable_core.errors import (
    HTTPError,
    LimitExceededError,
    NonRetriableError,
    RetryAfterError,
    StepError,
    WaitInterruptedError,
)
from durable_core.machine.advance import failure_of_handler, failure_of_step

STEP = StepError("id", "ValueError", "no")


class SilentError(Exception):
    """Its text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("hidden")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (ValueError("x"), False),
        (NonRetriableError("x"), True),
        (LimitExceededError("x"), True),
        (STEP, False),
        (ExceptionGroup("g", [NonRetriableError("x")]), False),
    ],
)
def test_step(error: Exception, final: bool) -> None:
    """In a step only NonRetriableError itself is final."""
    assert final is (not failure_of_step(error, 0).retriable)


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (ValueError("x"), False),
        (NonRetriableError("x"), True),
        (WaitInterruptedError("x"), True),
        (STEP, True),
        (caused(ValueError("x"), STEP), True),
        (caused(ValueError("x"), caused(KeyError("y"), STEP)), True),
        (ExceptionGroup("g", [ValueError("x"), STEP]), True),
        (ExceptionGroup("g", [ExceptionGroup("h", [caused(OSError(), STEP)])]), True),
        (ExceptionGroup("g", [NonRetriableError("a"), NonRetriableError("b")]), True),
        (ExceptionGroup("g", [NonRetriableError("a"), ValueError("b")]), False),
        (caused(ValueError("x"), NonRetriableError("y")), False),
    ],
)
def test_handler(error: Exception, final: bool) -> None:
    """In a handler a StepError that was not caught is final, wherever it hides."""
    assert final is (not failure_of_handler(error, 0).retriable)


def test_causes_in_a_circle() -> None:
    """Errors that are causes of each other are no trouble."""
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert failure_of_handler(one, 0).retriable


def test_description() -> None:
    """Name, text and JSON-ready data are kept."""
    error = LookupError("none \N{SNOWMAN} \udc80")
    error.data = {"left": [0]}  # type: ignore[attr-defined]
    failure = failure_of_step(error, 0)
    assert ("LookupError", "none \N{SNOWMAN} ?", '{"left":[0]}') == (
        failure.name,
        failure.message,
        failure.data,
    )


def test_what_no_store_takes_is_replaced() -> None:
    """A client can put lone surrogates into JSON, and with them into the text of an error."""
    failure = failure_of_step(HTTPError(422, "bad \udc80", {"x-why": "\udc80"}), 0)
    assert (422, "bad ?", (("x-why", "?"),)) == failure.http


def test_text_that_cannot_be_made() -> None:
    """An error whose ``__str__`` fails is still reported as itself."""
    failure = failure_of_step(SilentError(), 0)
    assert "SilentError" == failure.name
    assert "RuntimeError" in failure.message


def test_data_that_json_cannot_hold() -> None:
    """Data of another kind is left out."""
    error = ValueError("x")
    error.data = object()  # type: ignore[attr-defined]
    assert "" == failure_of_step(error, 0).data


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [(1.5, 1_500), (10**9, 86_400_000), (datetime(1970, 1, 1, 0, 1, tzinfo=UTC), 50_000)],
)
def test_retry_after(retry_after: float | datetime, expected: int) -> None:
    """RetryAfterError chooses its delay, within 24 hours."""
    failure = failure_of_step(RetryAfterError("busy", retry_after), 10_000)
    assert (expected, True) == (failure.retry_after, failure.retriable)
    assert failure_of_step(ValueError(), 10_000).retry_after is None
