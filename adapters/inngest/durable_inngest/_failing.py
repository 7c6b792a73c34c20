"""What follows when a step or the handler fails: another attempt, and who counts them.

The server counts the attempts of a step, and tells nobody; it loses count of the handler's. So the
handler's failures are counted here: each leaves a sleep of our own in the run's state, which is the
pause before the next attempt as well. A step is counted that way, too, once the server cannot do
it: when it asks for a delay of its own while the client is attached.
"""

from __future__ import annotations

from durable_core.machine.retry import delay_ms
from durable_core.model.inputs import Failure
from durable_inngest import _ops
from durable_inngest._durations import format_duration
from durable_inngest._execution import Found, RemoteExecution
from durable_inngest._memos import Value, load_outcome

__all__ = ["delay_of", "known_failure", "step_failed"]


def step_failed(
    ex: RemoteExecution, step: _ops.Step, failure: Failure, error: BaseException | None
) -> Found:
    """Return what the server is told of a function that has failed."""
    shown = _ops.error_of(failure, error)
    counted = ex.counted(step.op.name)
    is_counted = counted > 0
    failures = counted + 1
    asked = failure.retry_after is not None
    is_ours = is_counted or (asked and ex.reentry is None)
    if failure.final or failures > ex.run.retries or (is_ours and ex.is_full):
        op = _ops.step_failure(step, shown)
        return Found(step=step, op=op, error=shown, final=True)
    attempts = failures if is_counted or ex.reentry is None else ex.reentry.generation
    delay = delay_of(ex, failure, attempts)
    if is_ours:
        op = _ops.retry_sleep(step, failures, shown, format_duration(max(delay, 1)))
        return Found(step=step, op=op, error=shown, delay=delay, asked=asked)
    return Found(step=step, op=_ops.failed(step, shown), error=shown, delay=delay, asked=asked)


def known_failure(ex: RemoteExecution, step: _ops.Step) -> Found | None:
    """Return what is still to be told of a step that failed while the client was attached."""
    counted = ex.counted(step.op.name)
    if not counted:
        return None
    memo = load_outcome(ex.actions[_ops.counted_failure_id(step.op.name, counted)])
    kept = memo.value if isinstance(memo, Value) else None
    if not isinstance(kept, dict) or kept.get("final") is not True:
        return None
    error = kept.get("error")
    shown = error if isinstance(error, dict) else {}
    shown = {"name": "Error", "message": "Unknown error", **shown}
    return Found(step=step, op=_ops.step_failure(step, shown), error=shown, final=True)


def delay_of(ex: RemoteExecution, failure: Failure, failures: int) -> int:
    """Return how long to wait before the next attempt, milliseconds."""
    if failure.retry_after is not None:
        return failure.retry_after
    return delay_ms(ex.env.policy, max(1, failures), ex.env.ids.uniform())
