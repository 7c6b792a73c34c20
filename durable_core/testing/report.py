"""What a run waits for, in words."""

from __future__ import annotations

from durable_core.model.ops import OpKind, Pending
from durable_core.ports import RunRecord

__all__ = ["waits_for"]


def waits_for(record: RunRecord, now: int) -> str:
    """Return what a run without a result waits for; ``now`` is epoch milliseconds."""
    run = record.run
    steps = "; ".join(_step(pending, now) for pending in record.pending)
    if not steps and record.due_at is not None:
        steps = f"its handler is called again in {_seconds(record.due_at - now)}"
    return (
        f"of {run.function_id!r} is {run.phase.value} and has no result: {steps or 'no step yet'}"
    )


def _step(pending: Pending, now: int) -> str:
    left = _seconds(pending.due_at - now)
    match pending.op.kind:
        case OpKind.SLEEP:
            return f"step {pending.op.name!r} sleeps for another {left}"
        case OpKind.WAIT:
            return (
                f"step {pending.op.name!r} waits for the event {pending.event!r}, "
                f"for another {left}"
            )
    return (
        f"step {pending.op.name!r} has failed {pending.failures} times and is tried again in {left}"
    )


def _seconds(ms: int) -> str:
    return f"{max(0, ms) / 1000:g} s"
