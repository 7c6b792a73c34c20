"""One attempt of a step, as its chunks see it."""

from __future__ import annotations

from durable_core.flow.attempt import StepAttempt


def test_an_attempt_begins_open() -> None:
    """It is neither over nor settled, and stands for the step that was named."""
    inside = StepAttempt("a", "id", (2, 1))

    assert ("a", "id", (2, 1), None) == (
        inside.name,
        inside.op_id,
        inside.attempt,
        inside.owner,
    )
    assert not inside.function_ended
    assert not inside.settled
