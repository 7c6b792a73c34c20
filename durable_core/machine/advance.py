"""Decisions about a run: what happened to it, in; its next state and what must be done, out.

Pure: the time and random numbers are arguments. The table in ``machine/table.py`` decides where a
run goes; this module decides what to do about it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from durable_core.machine.retry import RetryPolicy, delay_ms
from durable_core.machine.table import Cue, next_phase
from durable_core.model.commands import (
    Command,
    Fail,
    Finish,
    Handoff,
    HandoffReason,
    PutAway,
    SaveMemo,
    SavePending,
)
from durable_core.model.inputs import (
    BecameQuiet,
    Claimed,
    Detached,
    Failure,
    HandlerRaised,
    HandlerReturned,
    Input,
    OpEnded,
    OpFailed,
    OpParked,
    Orphaned,
    ResponseBroke,
    ResponseStarted,
    ResponseTooLarge,
)
from durable_core.model.ops import Memo, Pending
from durable_core.model.run import Phase, Run
from durable_core.wire.errors import dump_error

__all__ = ["Transition", "advance"]


@dataclass(frozen=True, slots=True)
class Transition:
    """The run after something happened, and the commands that make it so, in order."""

    run: Run
    commands: tuple[Command, ...]


def advance(run: Run, happened: Input, now: int, policy: RetryPolicy) -> Transition:
    """Decide what follows.

    Args:
        run: the run as it is.
        happened: what happened to it.
        now: epoch milliseconds.
        policy: how long to wait before trying again.

    Raises:
        IllegalTransition: it cannot happen in the run's phase.
    """
    match happened:
        case OpEnded(memo=memo):
            return Transition(_go(run, Cue.CHECKPOINT), (SaveMemo(memo),))
        case OpFailed():
            return _op_failed(run, happened, now, policy)
        case OpParked():
            return _park(run, happened.reason)
        case Detached(reason=reason):
            return Transition(_go(run, Cue.DETACH), _handoff(run, reason))
        case BecameQuiet(pending=pending):
            due_at = min((each.due_at for each in pending), default=now)
            return Transition(_go(run, Cue.QUIET), (PutAway(due_at),))
        case ResponseStarted():
            return Transition(_go(run, Cue.STREAM), ())
        case HandlerReturned():
            return Transition(_go(run, Cue.FINISH), (Finish(),))
        case HandlerRaised():
            return _handler_raised(run, happened, now, policy)
        case ResponseBroke(failure=failure):
            return _fail(run, "response-interrupted", failure.name, failure.message)
        case ResponseTooLarge(most=most):
            text = f"the response has more than {most} bytes (Limits.response_stored)"
            return _fail(run, "response-too-large", "ResponseTooLarge", text)
        case Claimed(max_takeovers=most):
            return _claimed(run, most)
        case Orphaned():
            text = f"no code knows the endpoint {run.endpoint_key!r} any more"
            return _fail(run, "endpoint-missing", "EndpointMissing", text)
    assert_never(happened)


def _go(run: Run, cue: Cue) -> Run:
    """Return the run in the phase that follows; the same object when that is no change."""
    phase = next_phase(run, cue)
    return run if phase is run.phase else run.in_phase(phase)


def _handoff(run: Run, reason: HandoffReason) -> tuple[Command, ...]:
    return (Handoff(reason),) if run.phase is Phase.SYNC else ()


def _op_failed(run: Run, failed: OpFailed, now: int, policy: RetryPolicy) -> Transition:
    failure, failures = failed.failure, failed.failures + 1
    error = dump_error(failure)
    if failure.final or failures > run.retries:
        memo = Memo(
            op=failed.op,
            number=failed.number,
            ok=False,
            value=error,
            mark=failed.mark,
            attempts=failures,
            ended_at=now,
        )
        return Transition(_go(run, Cue.CHECKPOINT), (SaveMemo(memo),))
    due_at = now + _delay(failure, failures, failed.u, policy)
    pending = Pending(op=failed.op, due_at=due_at, failures=failures, error=error, mark=failed.mark)
    parked = _park(run, HandoffReason.STEP_RETRY)
    return Transition(parked.run, (SavePending(pending), *parked.commands))


def _park(run: Run, reason: HandoffReason) -> Transition:
    return Transition(_go(run, Cue.PARK), _handoff(run, reason))


def _delay(failure: Failure, failures: int, u: float, policy: RetryPolicy) -> int:
    if failure.retry_after is not None:
        return failure.retry_after
    return delay_ms(policy, failures, u)


def _handler_raised(run: Run, raised: HandlerRaised, now: int, policy: RetryPolicy) -> Transition:
    failure, failures = raised.failure, run.failures + 1
    if failure.final or failures > run.retries:
        return _fail(run, "run-failed", failure.name, failure.message, failure.reason)
    due_at = now + _delay(failure, failures, raised.u, policy)
    after = replace(run, phase=next_phase(run, Cue.RETRY), failures=failures)
    return Transition(after, (PutAway(due_at), *_handoff(run, HandoffReason.HANDLER_RETRY)))


def _fail(run: Run, kind: str, name: str, message: str, reason: str = "") -> Transition:
    return Transition(_go(run, Cue.FAIL), (Fail(kind, name, message, reason),))


def _claimed(run: Run, max_takeovers: int) -> Transition:
    if run.phase is Phase.RESPONDING:
        text = "the process ended while it was sending the response, which is not made twice"
        return Transition(_go(run, Cue.CLAIM), (Fail("response-interrupted", "Crash", text),))
    claimed = _go(run, Cue.CLAIM)
    if run.takeovers < max_takeovers:
        return Transition(claimed, ())
    text = f"the process died {run.takeovers} times in a row without a new checkpoint"
    return _fail(claimed, "crashed-repeatedly", "Crash", text)
