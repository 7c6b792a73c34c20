"""The steps that call a function: plain ones, and the flow that does all of them."""

from __future__ import annotations

from durable_core.codec.json import JSONCodec
from durable_core.errors import LimitExceededError, Suspended
from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.effects import (
    Cancelled,
    Flow,
    Outcome,
    Raised,
    Returned,
    Submit,
)
from durable_core.flow.error_responses import step_failure
from durable_core.flow.execution import (
    EVENT_SEQ,
    LIVE_PHASES,
    ExecutionState,
    StoredExecution,
    begin,
    call_step,
    checkpoint,
    save_memo,
    settle,
    utf8_size,
)
from durable_core.flow.facts import notify_attempt, observed_step
from durable_core.flow.results import dump_result, load_result, result_remedy
from durable_core.flow.step_options import NO_OPTIONS, StepOptions, show_step
from durable_core.flow.steps import (
    apply,
    decide,
    final_failure,
    replayed,
    return_outcome,
    until_due,
)
from durable_core.machine.advance import Transition, describe
from durable_core.model.decision import (
    Failure,
    OpFailed,
    SaveMemo,
    SavePending,
)
from durable_core.model.step import FailedAttempt, Memo, Op, Pending

__all__ = [
    "begin_step",
    "dump_arguments",
    "finish_step",
    "go_on_step",
    "other_step",
    "run_step",
    "step_result",
]

#: The arguments of a step's function are kept up to this size, as JSON in UTF-8.
_MAX_ARGUMENTS = 64 * 1024
_JSON = JSONCodec()
#: What every step compares with, see ``execution.py``.
_RUNNING, _CLOSED = ExecutionState.RUNNING, ExecutionState.CLOSED
_event_seq_seen = EVENT_SEQ.get  # see ``scope.py``


def run_step(ex: StoredExecution, op: Op, call: Call) -> Flow[object]:
    """``step.run``: return the stored outcome, or call the function until it has one."""
    attempt = begin_step(ex, op, call)
    if attempt is not None:
        return (yield from go_on_step(ex, call, attempt))
    return (yield from other_step(ex, op, call))


def other_step(ex: StoredExecution, op: Op, call: Call) -> Flow[object]:
    """Do a step that is not plain, as :func:`begin_step` has said."""
    memo = yield from replayed(ex, op)
    if memo is None:
        memo = yield from _call_until_done(ex, op, call)
    return step_result(ex, call, memo)


def begin_step(ex: StoredExecution, op: Op, call: Call) -> StepAttempt | None:
    """Begin the first attempt of a plain step; None if the step takes :func:`other_step`.

    A step is plain if it has no options, nothing of it is stored, and it may begin now. Runners
    call its function and hand the value to :func:`finish_step`, without a flow.
    """
    if (
        op.id in ex.memos
        or op.id in ex.pending
        or ex.state is not _RUNNING
        or ex.unasked
        or call.options is not None
    ):
        return None
    ex.unawaited.pop(op.id, None)
    ex.activity += 1
    return _begin_attempt(ex, op, call)


def finish_step(
    ex: StoredExecution, attempt: StepAttempt, value: object
) -> tuple[Memo, Submit] | Failure:
    """End an attempt whose function has returned a value.

    Returns:
        The outcome, and the effect that makes it durable. Or why the value cannot be stored: then
        the attempt has not ended yet.

    Raises:
        Suspended: nothing more of the execution counts.
    """
    try:
        attempt.function_ended = True
        text = _encode(ex, attempt, value)
        if isinstance(text, Failure):
            return text
        now = ex.env.clock.now()
        memo = Memo(  # by position, see ``record``: op, completion_no, ok, value, event_seq, ...
            attempt.op,
            ex.next_completion_no(),
            True,
            text,
            attempt.event_seq,
            attempt.number,
            now,
            attempt.started_at,
            attempt.arguments,
        )
        if ex.state is _CLOSED or ex.run.phase not in LIVE_PHASES:  # as check_open() does
            raise Suspended
        effect = save_memo(ex, memo, now)
    except BaseException:
        _end_attempt(ex, attempt)
        raise
    attempt.settled = True
    _end_attempt(ex, attempt)
    return memo, effect


def step_result(ex: StoredExecution, call: Call, memo: Memo) -> object:
    """Return or raise the outcome of a step that calls a function, as replay would."""
    if not memo.ok:
        return_outcome(ex, memo)
    if memo.event_seq > _event_seq_seen():
        EVENT_SEQ.set(memo.event_seq)
    value = ex.env.codec.decode(memo.value)
    return value if call.result is None else load_result(call, memo.op, value)


def go_on_step(ex: StoredExecution, call: Call, attempt: StepAttempt) -> Flow[object]:
    """Go on with a step that :func:`begin_step` has begun; the flow first asks for the call.

    The answer to that may be the failure that :func:`finish_step` has returned.
    """
    memo = yield from _finish_attempt(ex, call, attempt, None)
    if memo is None:
        memo = yield from _call_until_done(ex, attempt.op, call)
    return step_result(ex, call, memo)


def _call_until_done(ex: StoredExecution, op: Op, call: Call) -> Flow[Memo]:
    """Call the function of a step, when it is due, until it has an outcome."""
    memo: Memo | None = None
    while memo is None:
        before = ex.pending.get(op.id)
        if before is not None:
            if not before.error:
                return (yield from _interrupt(ex, before))
            yield from until_due(ex, before)
        attempt = _begin_attempt(ex, op, call)
        if before is not None:
            attempt.number = before.failures + 1
        memo = yield from _finish_attempt(ex, call, attempt, before)
    return memo


def _begin_attempt(ex: StoredExecution, op: Op, call: Call) -> StepAttempt:
    ex.attempts += 1
    attempt = StepAttempt(op, (ex.run.epoch, ex.attempts), ex, call)
    if ex.options.record_arguments:
        attempt.arguments = dump_arguments(call)
    ex.in_flight += 1
    return attempt


def _finish_attempt(
    ex: StoredExecution, call: Call, attempt: StepAttempt, before: Pending | None
) -> Flow[Memo | None]:
    """Have the function called, and store how it ended. Return None if the step will be retried.

    Args:
        ex: the execution.
        call: of the step; that of the attempt may be another one meanwhile.
        attempt: the attempt, which has begun.
        before: what is stored of the attempts before it.
    """
    op = attempt.op
    try:
        outcome: Outcome | Failure | None = None
        if call.options is not None and call.options.at_most_once:
            outcome = yield from _save_begun(ex, op, before)
            before = before or ex.pending.get(op.id)
        if outcome is None:
            outcome = yield from call_step(ex, attempt)
        if attempt.started_at is None:  # it was cancelled before
            attempt.event_seq, attempt.started_at = _event_seq_seen(), ex.env.clock.now()
        if before is not None:
            # An event that answers the first attempt must not be lost.
            attempt.event_seq = before.event_seq
    except BaseException:
        _end_attempt(ex, attempt)
        raise
    if isinstance(outcome, Returned):
        ended = finish_step(ex, attempt, outcome.value)
        if not isinstance(ended, Failure):
            memo, effect = ended
            ex.add_ticket((yield effect))
            return memo
        outcome = ended
    try:
        return (yield from _fail(ex, attempt, outcome))
    finally:
        _end_attempt(ex, attempt)


def _end_attempt(ex: StoredExecution, attempt: StepAttempt) -> None:
    attempt.function_ended = True
    ex.calls.pop(attempt.op.id, None)
    if ex.stream is not None and not attempt.settled:
        ex.stream.roll_back(attempt)
    ex.in_flight -= 1
    ex.activity += 1


def _save_begun(ex: StoredExecution, op: Op, before: Pending | None) -> Flow[Cancelled | None]:
    """Make durable that an attempt begins, unless user code cancels the step meanwhile.

    Nothing else is a pending RUN without an error.
    """
    begun = yield from begin(ex, op)
    ex.check_open()
    if isinstance(begun, Cancelled):
        return begun
    event_seq, now = begun
    failures = 0 if before is None else before.failures
    pending = Pending(op=op, due_at=now, failures=failures, event_seq=event_seq, started_at=now)
    ex.pending[op.id] = pending
    ex.add_ticket((yield checkpoint(ex, pending=(pending,))))
    yield from settle(ex)
    ex.check_open()
    return None


def _fail(
    ex: StoredExecution, attempt: StepAttempt, outcome: Raised | Cancelled | Failure
) -> Flow[Memo | None]:
    """Store a failed attempt. Return the memo, or None if the step will be retried."""
    attempt.function_ended = True
    now = ex.env.clock.now()
    assert attempt.started_at is not None
    options = None if attempt.call is None else attempt.call.options
    failure = _why_failed(ex, options, outcome, now)
    if ex.stream is not None:
        ex.stream.roll_back(attempt)
    failed = OpFailed(
        op=attempt.op,
        failure=failure,
        completion_no=ex.next_completion_no(),
        event_seq=attempt.event_seq,
        failures=attempt.number - 1,
        u=ex.env.ids.uniform(),
        started_at=attempt.started_at,
        retries=None if options is None else options.most_retries,
        arguments=attempt.arguments,
    )
    transition = decide(ex, failed, now, options)
    yield from _report_failure(ex, attempt.op, options, outcome, transition)
    memo = yield from apply(ex, transition, now)
    attempt.settled = True
    if isinstance(outcome, Cancelled):
        raise outcome.error
    return memo


def _interrupt(ex: StoredExecution, pending: Pending) -> Flow[Memo]:
    """Fail a step whose attempt has begun, in another execution, and of whose end is unknown."""
    now = ex.env.clock.now()
    text = "its process died while the function ran; it may have had its effect, or not"
    failure = Failure(name="StepInterrupted", message=text, retriable=False, interrupted=True)
    transition = decide(ex, final_failure(ex, pending, failure, now), now)
    yield from notify_attempt(ex, _failed_attempt(transition), step=observed_step(pending.op))
    yield from apply(ex, transition, now)
    return ex.memos[pending.op.id]


def _report_failure(
    ex: StoredExecution,
    op: Op,
    options: StepOptions | None,
    outcome: Outcome | Failure,
    transition: Transition,
) -> Flow[None]:
    """Notify observers of a failed attempt; what the function raised is logged, too."""
    failed = _failed_attempt(transition)
    options = options or NO_OPTIONS
    error, text = None, ""
    if isinstance(outcome, Raised):
        error, then = outcome.error, "and will not be retried"
        if failed.retry_at is not None:
            left = max(0, failed.retry_at - ex.env.clock.now()) / 1000
            then = f"and will be retried in {left:.1f} s"
        retries = ex.run.retries if options.most_retries is None else options.most_retries
        attempt = f"attempt {failed.number} of {retries + 1}"
        text = f"step {show_step(op, options)} failed, {attempt}, {then}: {describe(error)}"
    step = observed_step(op, options.name)
    yield from notify_attempt(ex, failed, step=step, error=error, message=text)


def _failed_attempt(transition: Transition) -> FailedAttempt:
    """Return the attempt that has failed; the first command keeps it."""
    command = transition.commands[0]
    assert isinstance(command, SaveMemo | SavePending)
    assert command.failed is not None
    return command.failed


def _why_failed(
    ex: StoredExecution,
    options: StepOptions | None,
    outcome: Raised | Cancelled | Failure,
    now: int,
) -> Failure:
    """Return why a step's function has no result."""
    if isinstance(outcome, Failure):
        return outcome
    if isinstance(outcome, Raised):
        return step_failure(ex.options, outcome, now, options)
    text = "user code cancelled the step before its function ended"
    return Failure(name="StepCancelled", message=text, retriable=False, cancelled=True)


def _encode(ex: StoredExecution, attempt: StepAttempt, value: object) -> str | Failure:
    """Return the text to store, or the failure of a result that cannot be stored."""
    call, op = attempt.call, attempt.op
    assert call is not None
    try:
        if call.result is None:
            text = ex.env.codec.encode(value)
        else:
            text = dump_result(ex.env.codec, call.result, value)
    except MemoryError:
        raise
    except Exception as error:
        remedy = result_remedy(call, error)
        message = f"the result of step {op.name!r} cannot be stored: {error}{remedy}"
        return Failure(
            name="StepResultError", message=message, retriable=False, result="unstorable"
        )
    try:
        ex.check_size(op, text)
    except LimitExceededError as error:
        name = "StepResultTooLargeError"
        return Failure(name=name, message=str(error), retriable=False, result="too-large")
    return text


def dump_arguments(call: Call) -> str | None:
    """Return the arguments of a step's function as ``Memo.arguments`` has them."""
    if not call.args and not call.kwargs:
        return None
    try:
        text = _JSON.encode({"args": list(call.args), "kwargs": dict(call.kwargs or {})})
    except TypeError:
        return ""
    return text if utf8_size(text) <= _MAX_ARGUMENTS else ""
