"""Decisions about a run: from what happened to its next state and the commands to carry out.

Pure: the time and random numbers are arguments. The table in ``machine/table.py`` determines the
next phase of a run; this module determines the commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any, assert_never

from durable_core.codec.json import JSONCodec
from durable_core.codec.records import dump_error
from durable_core.errors import HTTPError, NonRetriableError, RetryAfterError, StepError
from durable_core.machine.retry import RetryPolicy, delay_ms, retry_after_delay_ms
from durable_core.machine.table import TRANSITIONS, Trigger, next_phase
from durable_core.model._record import record
from durable_core.model.decision import (
    BecameIdle,
    Claimed,
    Command,
    Detached,
    EndCancelled,
    Fail,
    Failure,
    Finish,
    HandlerRaised,
    HandlerReturned,
    Handoff,
    HandoffReason,
    Input,
    OpEnded,
    OpFailed,
    OpParked,
    Orphaned,
    ResponseInterrupted,
    ResponseStarted,
    ResponseTooLarge,
    SaveMemo,
    SavePending,
    Suspend,
    TimedOut,
    Undone,
)
from durable_core.model.run import Phase, Run
from durable_core.model.step import FailedAttempt, Memo, Pending

__all__ = [
    "Transition",
    "advance",
    "describe",
    "end_run",
    "failure_of_handler",
    "failure_of_step",
    "is_crash",
]


# --- failures -------------------------------------------------------------------------------------
#
# The meaning of an exception of user code for the run.

_CODEC = JSONCodec()


def is_crash(error: BaseException) -> bool:
    """Return whether an error belongs to the process, and is no outcome of the code that raised it.

    When memory is short, a step or a handler has neither failed nor returned. The run continues
    from its last checkpoint.
    """
    if isinstance(error, BaseExceptionGroup):
        return any(is_crash(each) for each in error.exceptions)
    return isinstance(error, MemoryError)


def describe(error: BaseException) -> str:
    """Return class and text of an error, for the log; the text is cut to 1,000 characters."""
    text = _text(error)[:1000]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def failure_of_step(error: BaseException, now: int) -> Failure:
    """Describe an error that a step's function raised.

    A StepError inside a step (from a nested helper, say) is an ordinary error; only
    ``NonRetriableError`` and ``HTTPError`` are final, only ``RetryAfterError`` chooses its delay.
    """
    retriable = not isinstance(error, (NonRetriableError, HTTPError))
    return _describe(error, now, retriable=retriable)


def failure_of_handler(error: BaseException, now: int) -> Failure:
    """Describe an error that left the handler.

    Final errors are ``NonRetriableError`` and an uncaught StepError: the error itself, one of its
    causes, or a member of an exception group. A group that has only final errors is final too.
    """
    failure = _describe(error, now, retriable=not _is_final(error))
    return replace(failure, steps=_failed_steps(error))


def _describe(error: BaseException, now: int, *, retriable: bool) -> Failure:
    return Failure(
        name=type(error).__name__,
        message=_text(error),
        data=_data(error),
        reason=_utf8(error.message) if isinstance(error, StepError) else "",
        public=_public(error),
        http=_http(error) if isinstance(error, HTTPError) else None,
        retriable=retriable,
        retry_after=retry_after_delay_ms(error, now)
        if isinstance(error, RetryAfterError)
        else None,
    )


def _is_final(error: BaseException) -> bool:
    if any(isinstance(each, StepError) for each in _family(error)):
        return True
    if isinstance(error, BaseExceptionGroup):
        return all(_is_final(each) for each in error.exceptions)
    return isinstance(error, NonRetriableError)


def _family(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, its explicit causes, and the members of groups among them."""
    todo, seen = [error], set[int]()
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if each.__cause__ is not None:
            todo.append(each.__cause__)
        if isinstance(each, BaseExceptionGroup):
            todo.extend(each.exceptions)


def _failed_steps(error: BaseException) -> tuple[str, ...]:
    """Return the names of the steps whose failure has led to an error.

    These are the StepErrors of its family, and those that other code of the handler was handling
    when it raised. A step that fails after another one has been handled stands for itself.
    """
    names: dict[str, None] = {}
    todo = [error]
    for each in todo:
        for member in _family(each):
            context = member.__context__
            if isinstance(member, StepError):
                names[member.step_id] = None
            elif context is not None and not any(context is other for other in todo):
                todo.append(context)
    return tuple(names)


def _public(error: BaseException) -> str:
    """Return what the error, or one behind it, says to clients."""
    for each in _family(error):
        if isinstance(each, (NonRetriableError, StepError)) and each.public:
            return _utf8(each.public)
    return ""


def _text(error: BaseException) -> str:
    """Return the error's message, cut. A broken ``__str__`` must not hide the error."""
    try:
        text = str(error)
    except Exception as broken:
        text = f"<no message: {type(broken).__name__} in __str__>"
    if len(text) > _TEXT_CHARS:
        text = f"{text[:_TEXT_CHARS]}... ({len(text)} characters)"
    return _utf8(text)


def _http(error: HTTPError) -> tuple[int, str, tuple[tuple[str, str], ...]]:
    headers = ((_utf8(name), _utf8(value)) for name, value in error.headers.items())
    return error.status, _utf8(error.detail), tuple(headers)


def _utf8(text: str) -> str:
    """Return the text without lone surrogates: JSON can contain them, and stores refuse them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _data(error: BaseException) -> str:
    """Return the JSON text of the error's ``data`` attribute; "" if JSON cannot represent it."""
    try:  # a property of the user's may do anything
        data = getattr(error, "data", None)
        text = "" if data is None else _CODEC.encode(data)
    except Exception:
        return ""
    return text if len(text) <= _DATA_CHARS else ""


#: How much of an error's text is kept with a run or a step, characters.
_TEXT_CHARS = 10_000
#: An error's data is left out if its JSON text has more characters than this.
_DATA_CHARS = 64 * 1024
#: How much of it is kept with a failed attempt, characters.
_MESSAGE_CHARS = 1_000


def _failed_attempt(
    op_id: str, number: int, failure: Failure, *, started_at: int, now: int, retry_at: int | None
) -> FailedAttempt:
    return FailedAttempt(
        op_id=op_id,
        number=number,
        started_at=started_at,
        ended_at=now,
        error_name=failure.name,
        error_message=failure.message[:_MESSAGE_CHARS],
        retry_at=retry_at,
    )


# --- advance --------------------------------------------------------------------------------------


@record(frozen=True, slots=True)
class Transition:
    """The next state of a run, and the commands to carry out, in order."""

    run: Run
    commands: tuple[Command, ...]


def advance(run: Run, happened: Input, now: int, policy: RetryPolicy) -> Transition:
    """Return the next state of a run, and the commands to carry out.

    Args:
        run: the current state.
        happened: the event.
        now: epoch milliseconds.
        policy: the pauses between retries.

    Raises:
        IllegalTransition: the event is not possible in the run's phase.
    """
    match happened:
        case OpEnded(memo=memo):
            return Transition(_go(run, Trigger.CHECKPOINT), (SaveMemo(memo),))
        case OpFailed():
            return _op_failed(run, happened, now, policy)
        case OpParked():
            return _park(run, happened.reason)
        case Detached(reason=reason):
            return Transition(_go(run, Trigger.DETACH), _handoff(run, reason))
        case BecameIdle(pending=pending):
            due_at = min((each.due_at for each in pending), default=now)
            return Transition(_go(run, Trigger.QUIET), (Suspend(due_at),))
        case ResponseStarted():
            return Transition(_go(run, Trigger.STREAM), ())
        case HandlerReturned():
            return Transition(end_run(run), (Finish(),))
        case HandlerRaised():
            return _handler_raised(run, happened, now, policy)
        case ResponseInterrupted(failure=failure):
            return _fail(run, "response-interrupted", failure.name, failure.message)
        case ResponseTooLarge(most=most):
            text = f"the response has more than {most} bytes (Limits.response_stored)"
            return _fail(run, "response-too-large", "ResponseTooLarge", text)
        case Claimed(max_crashes=most):
            return _claimed(run, most)
        case Orphaned():
            text = f"no process knows the endpoint {run.endpoint_key!r} any more"
            return _fail(run, "endpoint-missing", "EndpointMissing", text)
        case TimedOut():
            return _timed_out(run, now)
        case Undone(fail=Fail() as fail):
            return Transition(_go(run, Trigger.FAIL), (fail,))
        case Undone():
            return Transition(_go(run, Trigger.CANCEL), (EndCancelled(),))
    assert_never(happened)


def end_run(run: Run) -> Run:
    """Return the run after its handler has returned.

    This is what :func:`advance` makes of ``HandlerReturned``, but for the one command, to store the
    response. Every request does this.
    """
    return _go(run, Trigger.FINISH)


def _go(run: Run, trigger: Trigger) -> Run:
    """Return the run in its next phase; the same object if the phase does not change."""
    phase = TRANSITIONS.get((run.phase, trigger)) or next_phase(run, trigger)  # which raises
    return run if phase is run.phase else _in_phase(run, phase)


_RUN_FIELDS = tuple(field.name for field in fields(Run))
_PHASE_AT = _RUN_FIELDS.index("phase")
_values_of: Callable[[Run], tuple[Any, ...]] = attrgetter(*_RUN_FIELDS)


def _in_phase(run: Run, phase: Phase) -> Run:
    """Return the run in another phase.

    Every request does this. It takes 1 us; ``dataclasses.replace`` takes 5 us (Python 3.11).
    """
    values = [*_values_of(run)]
    values[_PHASE_AT] = phase
    return Run(*values)


def _handoff(run: Run, reason: HandoffReason) -> tuple[Command, ...]:
    return (Handoff(reason),) if run.phase is Phase.SYNC else ()


def _op_failed(run: Run, failed: OpFailed, now: int, policy: RetryPolicy) -> Transition:
    failure, failures = failed.failure, failed.failures + 1
    error = dump_error(failure)
    retries = run.retries if failed.retries is None else failed.retries
    if not failure.retriable or failures > retries:
        memo = Memo(
            op=failed.op,
            completion_no=failed.completion_no,
            ok=False,
            value=error,
            event_seq=failed.event_seq,
            attempts=failures,
            ended_at=now,
            started_at=failed.started_at,
            arguments=failed.arguments,
        )
        attempt = _failed_step(failed, now, None)
        return Transition(_go(run, Trigger.CHECKPOINT), (SaveMemo(memo, attempt),))
    due_at = now + _delay(failure, failures, failed.u, policy)
    pending = Pending(
        op=failed.op,
        due_at=due_at,
        failures=failures,
        error=error,
        event_seq=failed.event_seq,
        started_at=failed.started_at,
    )
    parked = _park(run, HandoffReason.STEP_RETRY)
    attempt = _failed_step(failed, now, due_at)
    return Transition(parked.run, (SavePending(pending, attempt), *parked.commands))


def _failed_step(failed: OpFailed, now: int, retry_at: int | None) -> FailedAttempt:
    return _failed_attempt(
        failed.op.id,
        failed.failures + 1,
        failed.failure,
        started_at=failed.started_at,
        now=now,
        retry_at=retry_at,
    )


def _park(run: Run, reason: HandoffReason) -> Transition:
    return Transition(_go(run, Trigger.PARK), _handoff(run, reason))


def _delay(failure: Failure, failures: int, u: float, policy: RetryPolicy) -> int:
    if failure.retry_after is not None:
        return failure.retry_after
    return delay_ms(policy, failures, u)


def _handler_raised(run: Run, raised: HandlerRaised, now: int, policy: RetryPolicy) -> Transition:
    failure, failures = raised.failure, run.failures + 1
    is_last = not failure.retriable or failures > run.retries
    due_at = None if is_last else now + _delay(failure, failures, raised.u, policy)
    attempt = _failed_attempt(
        "", failures, failure, started_at=raised.started_at, now=now, retry_at=due_at
    )
    if failure.steps:
        attempt = replace(attempt, caused_by=failure.steps)
    if due_at is None:
        fail = Fail(
            "run-failed", failure.name, failure.message, failure.reason, attempt, failure.public
        )
        return Transition(_go(run, Trigger.FAIL), (fail,))
    after = replace(run, phase=next_phase(run, Trigger.RETRY), failures=failures)
    commands = Suspend(due_at, attempt), *_handoff(run, HandoffReason.HANDLER_RETRY)
    return Transition(after, commands)


def _timed_out(run: Run, now: int) -> Transition:
    """Fail the run; the attempt of its handler that was in progress has failed."""
    name, text = "RunTimedOut", f"the run took longer than {(run.timeout or 0) / 1000:g} s"
    attempt = FailedAttempt(
        op_id="",
        number=run.failures + 1,
        started_at=run.created_at,
        ended_at=now,
        error_name=name,
        error_message=text,
        retry_at=None,
    )
    fail = Fail("run-timed-out", name, text, failed=attempt)
    return Transition(_go(run, Trigger.FAIL), (fail,))


def _fail(run: Run, kind: str, name: str, message: str) -> Transition:
    return Transition(_go(run, Trigger.FAIL), (Fail(kind, name, message),))


def _claimed(run: Run, max_crashes: int) -> Transition:
    if run.phase is Phase.RESPONDING:
        text = "the process ended while it was sending the response, which is not made twice"
        return Transition(_go(run, Trigger.CLAIM), (Fail("response-interrupted", "Crash", text),))
    claimed = _go(run, Trigger.CLAIM)
    if run.crash_count < max_crashes:
        return Transition(claimed, ())
    text = f"the process died {run.crash_count} times in a row without a new checkpoint"
    return _fail(claimed, "crashed-repeatedly", "Crash", text)
