"""One attempt of a step, as its chunks see it."""

from __future__ import annotations

from durable_core.flow.attempt import StepAttempt
from durable_core.machine.step_ids import op_named
from durable_core.model.step import OpKind


def test_an_attempt_begins_open() -> None:
    """It is neither over nor settled, and stands for the step that was named."""
    op = op_named("a", OpKind.RUN)
    inside = StepAttempt(op, (2, 1))

    assert ("a", op.id, (2, 1), None) == (
        inside.name,
        inside.op.id,
        inside.attempt,
        inside.owner,
    )
    assert not inside.function_ended
    assert not inside.settled
