"""The last event of a run's stream."""

from __future__ import annotations

import pytest

from durable_core.codec.stream_events import final_of
from durable_core.http.problem import problem
from durable_core.http.response import Response


def test_a_response_goes_as_it_is() -> None:
    """Status, fields and body are the handler's own."""
    final = final_of(Response.text("hi", 201, [("x-a", "b")]), failed=False)

    assert (201, b"hi", "b", False) == (
        final.status,
        final.body,
        final.headers["x-a"],
        final.failed,
    )


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"error": {"name": "E", "message": "step 'a' failed: E: no", "reason": "no"}}, b'"no"'),
        ({"error": {"name": "E", "message": "caf\u00e9"}}, '"caf\u00e9"'.encode()),
        ({}, b'"what is wrong"'),
    ],
)
def test_a_failure_says_its_message(extra: dict[str, object], expected: bytes) -> None:
    """The body is the message of the error as JSON: that of the step's, where it was a step."""
    final = final_of(problem(500, "run-failed", detail="what is wrong", **extra), failed=True)

    assert (500, expected, True) == (final.status, final.body, final.failed)
    assert "application/json" == final.headers["content-type"]


def test_a_problem_without_a_detail_has_its_title() -> None:
    """There is always something to say."""
    assert b'"Gone"' == final_of(problem(410, "run-gone"), failed=True).body
