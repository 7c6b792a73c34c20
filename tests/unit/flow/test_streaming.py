"""One attempt of a step, as its chunks see it."""

from __future__ import annotations

from durable_core.flow.effects import InsideStep


def test_an_attempt_begins_open() -> None:
    """It is neither over nor settled, and stands for the step that was named."""
    inside = InsideStep("a", "id", (2, 1))

    assert ("a", "id", (2, 1), None) == (
        inside.name,
        inside.op_id,
        inside.attempt,
        inside.source,
    )
    assert not inside.over
    assert not inside.settled
