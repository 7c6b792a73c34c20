"""The tree of errors, and what each of them checks."""

from __future__ import annotations

import pickle
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable_core import errors
from durable_core.errors import (
    BadRequest,
    DurableError,
    HTTPError,
    MissingParameter,
    RetryAfterError,
    StepCancelled,
    StepError,
)

BRANCH = re.compile(r"    (?P<lead>(?:│   |    )*(?:[├└]── )?)(?P<name>[A-Z]\w+)(?P<rest>.*)")
ALSO = re.compile(r"\(?also an? (\w+)\)")


def drawn() -> dict[str, list[str]]:
    """Return each class of the docstring's trees with its bases: the one above, and "also a"."""
    above: list[str] = []
    found = {}
    for match in filter(None, map(BRANCH.fullmatch, (errors.__doc__ or "").splitlines())):
        depth = len(match["lead"]) // 4
        above[depth:] = [match["name"]]
        found[match["name"]] = above[depth - 1 : depth] + ALSO.findall(match["rest"])
    return found


def defined() -> dict[str, list[str]]:
    """Return each class of the module with its bases; the first one of a root goes unnamed."""
    classes = [getattr(errors, name) for name in errors.__all__]
    return {
        each.__name__: [
            base.__name__ for base in each.__bases__ if base in classes or len(each.__bases__) > 1
        ]
        for each in classes
    }


def test_the_tree_is_drawn_right() -> None:
    """The docstring draws every class at its place, and no other."""
    assert defined() == drawn()


def test_signals_pass_except_exception() -> None:
    """What unwinds a handler is no Exception; all that users may catch is one."""
    signals = {name for name in errors.__all__ if not issubclass(getattr(errors, name), Exception)}

    assert {"ControlSignal", "LeaseLost", "Suspended"} == signals


@pytest.mark.parametrize("retry_after", [0, 0.5, 1e9, datetime(2030, 1, 1, tzinfo=UTC)])
def test_retry_after(retry_after: float | datetime) -> None:
    """Seconds from 0 on, and aware datetimes, are taken as they are."""
    error = RetryAfterError("later", retry_after)

    assert ("later", retry_after) == (str(error), error.retry_after)


@pytest.mark.parametrize("retry_after", ["1m30s", timedelta(seconds=90)])
def test_retry_after_a_duration(retry_after: str | timedelta) -> None:
    """Other forms of a duration become seconds."""
    assert 90 == RetryAfterError("later", retry_after).retry_after


@pytest.mark.parametrize(
    ("retry_after", "kind", "text"),
    [
        (-0.001, ValueError, "0 or more finite seconds, not -0.001"),
        (float("inf"), ValueError, "0 or more finite seconds, not inf"),
        (float("nan"), ValueError, "0 or more finite seconds, not nan"),
        (datetime(2030, 1, 1), ValueError, "aware datetime"),
        (True, TypeError, "not bool"),
        ("5", ValueError, "retry_after cannot be '5'"),
        (b"5", TypeError, "not bytes"),
        (None, TypeError, "not NoneType"),
    ],
)
def test_retry_after_refuses(retry_after: Any, kind: type[Exception], text: str) -> None:
    """Anything else is refused, and the message says what was given."""
    with pytest.raises(kind, match=text):
        RetryAfterError("later", retry_after)


@pytest.mark.parametrize("status", [400, 404, 599])
def test_status_of_an_http_error(status: int) -> None:
    """An HTTPError has a status of 400 to 599."""
    assert status == HTTPError(status).status


@pytest.mark.parametrize("status", [0, 200, 399, 600, "404"])
def test_other_status_of_an_http_error(status: Any) -> None:
    """Any other status is refused."""
    with pytest.raises(ValueError, match=f"must be 400 to 599, not {status!r}"):
        HTTPError(status)


def test_headers_of_an_http_error() -> None:
    """The headers are a copy, empty if there are none."""
    given_headers = {"retry-after": "5"}
    error = HTTPError(503, "full", given_headers)
    given_headers.clear()

    assert {"retry-after": "5"} == error.headers
    assert {} == HTTPError(503).headers


def test_texts() -> None:
    """Each error with fields of its own reads as a sentence."""
    assert "404 no such trip" == str(HTTPError(404, "no such trip"))
    assert "404" == str(HTTPError(404))
    assert "400 not JSON" == str(BadRequest("not JSON"))
    assert "step 'book' failed: ValueError: no seat" == str(
        StepError("book", "ValueError", "no seat")
    )


def test_missing_parameter_is_a_key_error_that_reads_well() -> None:
    """It can be caught as KeyError, but its text is not the repr that a KeyError shows."""
    error = MissingParameter("query parameter 'id'")

    assert isinstance(error, KeyError)
    assert "400 query parameter 'id'" == str(error)


def test_cancelled_step_is_a_timeout_and_a_step_error() -> None:
    """``except TimeoutError`` and ``except StepError`` both catch a step that was cancelled."""
    error = StepCancelled("slow", "CancelledError", "cut off", {"n": 1})

    assert isinstance(error, TimeoutError)
    assert isinstance(error, DurableError)
    assert ("slow", "CancelledError", "cut off", {"n": 1}) == (
        error.step_id,
        error.name,
        error.message,
        error.data,
    )


@pytest.mark.parametrize(
    "error",
    [
        RetryAfterError("later", 5.0),
        HTTPError(404, "gone", {"x-a": "b"}),
        BadRequest("odd", {"x-a": "b"}),
        MissingParameter("no cart"),
        StepError("charge", "ValueError", "no", {"a": 1}),
        StepCancelled("charge", "StepCancelled", "no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_back_from_other_processes(error: Exception) -> None:
    """A pickled error is the same error: a process pool can hand it on."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(error), str(error), vars(error)) == (type(copy), str(copy), vars(copy))
