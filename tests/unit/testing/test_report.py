"""What a run waits for, in words."""

from __future__ import annotations

import pytest

from durable_core.model.run import Phase, Run
from durable_core.model.step import Op, OpKind, Pending
from durable_core.ports import RunRecord
from durable_core.testing.simulation import describe_wait

RUN = Run(
    id="r",
    app="a",
    endpoint_key="k",
    function_id="GET /x",
    phase=Phase.SUSPENDED,
    retries=3,
    created_at=0,
)


def pending(kind: OpKind, **fields: object) -> Pending:
    return Pending(op=Op(id="i", name="it", kind=kind), due_at=61_500, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (pending(OpKind.SLEEP), "step 'it' sleeps for another 60.5 s"),
        (
            pending(OpKind.WAIT, event="e/x"),
            "step 'it' waits for the event 'e/x', for another 60.5 s",
        ),
        (
            pending(OpKind.RUN, failures=2, error='{"name":"E","message":"m"}'),
            "step 'it' has failed 2 times and is tried again in 60.5 s",
        ),
        (
            pending(OpKind.RUN, failures=0),
            "step 'it' has begun, at most once, and its process died",
        ),
    ],
)
def test_unfinished_steps_are_named(step: Pending, text: str) -> None:
    """The text says for what, and for how long."""
    record = RunRecord(run=RUN, owner=None, due_at=61_500, ended_at=None, pending=(step,))

    assert describe_wait(record, 1_000) == f"of 'GET /x' is suspended and has no result: {text}"


def test_handler_that_is_called_again() -> None:
    """A run without an unfinished step is due by itself; one that is live has none yet."""
    due = RunRecord(run=RUN, owner=None, due_at=3_000, ended_at=None)
    live = RunRecord(run=RUN, owner="o", due_at=None, ended_at=None)

    assert describe_wait(due, 1_000).endswith(": its handler is called again in 2 s")
    assert describe_wait(live, 1_000).endswith(": no step yet")
