"""The steps: the flow of each kind of step that a handler calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from durable_core.codec.json import JSONCodec
from durable_core.codec.records import dump_event, load_event, load_step_error
from durable_core.codec.tokens import event_id
from durable_core.errors import LimitExceededError, Suspended
from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.child_runs import Invocation, child_response
from durable_core.flow.effects import (
    AwaitReplayTurn,
    CallUser,
    Cancelled,
    Flow,
    Outcome,
    Raised,
    Returned,
    Submit,
    await_delivery,
    await_replay_turn,
    park,
    unwind_if_alone,
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
    commit,
    settle,
    utf8_size,
)
from durable_core.flow.facts import notify_attempt, observed_step
from durable_core.flow.handoff import hand_off
from durable_core.flow.results import dump_result, load_result, result_remedy
from durable_core.flow.step_options import NO_OPTIONS, StepOptions, show_step
from durable_core.flow.versions import check_kind, check_order
from durable_core.http.response import Response
from durable_core.machine.addresses import child_address, child_of
from durable_core.machine.advance import Transition, advance, describe
from durable_core.machine.matching import WaitRule, dump_rule
from durable_core.model.decision import (
    Failure,
    Handoff,
    Input,
    OpEnded,
    OpFailed,
    OpParked,
    SaveMemo,
    SavePending,
)
from durable_core.model.event import Event, StoredEvent
from durable_core.model.step import FailedAttempt, Memo, Op, OpKind, Pending
from durable_core.ports import Checkpoint, Write

__all__ = [
    "AddressWait",
    "begin_step",
    "commit_step",
    "dump_arguments",
    "finish_step",
    "go_on_step",
    "invoke",
    "leave_children",
    "own_event_id",
    "run_step",
    "send_events",
    "sleep_until",
    "step_result",
    "wait_at_address",
    "wait_for_event",
]

AnswerT = TypeVar("AnswerT")


#: Added to times, so that ops ordered by time come after the memos, which have small numbers.
_AFTER_MEMOS = 1_000_000_000
#: The arguments of a step's function are kept up to this size, as JSON in UTF-8.
_MAX_ARGUMENTS = 64 * 1024
_JSON = JSONCodec()
#: What every step compares with, see ``execution.py``.
_RUNNING, _CLOSED = ExecutionState.RUNNING, ExecutionState.CLOSED
_WAIT = OpKind.WAIT
_event_seq_seen = EVENT_SEQ.get  # see ``scope.py``


def run_step(ex: StoredExecution, op: Op, call: Call) -> Flow[object]:
    """``step.run``: return the stored outcome, or call the function until it has one."""
    attempt = begin_step(ex, op, call)
    if attempt is not None:
        return (yield from go_on_step(ex, call, attempt))
    memo = yield from _replayed(ex, op)
    if memo is None:
        memo = yield from _call_until_done(ex, op, call)
    return step_result(ex, call, memo)


def begin_step(ex: StoredExecution, op: Op, call: Call) -> StepAttempt | None:
    """Begin the first attempt of a plain step; None if only its flow, :func:`run_step`, can.

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
        effect = _save_memo(ex, memo, now)
    except BaseException:
        _end_attempt(ex, attempt)
        raise
    attempt.settled = True
    _end_attempt(ex, attempt)
    return memo, effect


def step_result(ex: StoredExecution, call: Call, memo: Memo) -> object:
    """Return or raise the outcome of a step that calls a function, as replay would."""
    if not memo.ok:
        _return_outcome(ex, memo)
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
            yield from _until_due(ex, before)
        attempt = _begin_attempt(ex, op, call)
        if before is not None:
            attempt.number = before.failures + 1
        memo = yield from _finish_attempt(ex, call, attempt, before)
    return memo


def _begin_attempt(ex: StoredExecution, op: Op, call: Call) -> StepAttempt:
    attempt = StepAttempt(op, ex.next_attempt(), ex, call)
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


def sleep_until(ex: StoredExecution, op: Op, due_at: Callable[[int], int]) -> Flow[None]:
    """``step.sleep`` and ``step.sleep_until``; ``due_at`` gets the time now."""
    memo = yield from _replayed(ex, op)
    if memo is None:
        pending = ex.pending.get(op.id)
        if pending is None:
            now = ex.env.clock.now()
            pending = Pending(op=op, due_at=due_at(now), started_at=now)
            if pending.due_at > now:
                # Nothing of this is seen before it is durable, which it is when the op is parked.
                ex.pending[op.id] = pending
                ex.add_ticket((yield checkpoint(ex, now=now, pending=(pending,))))
        else:
            yield from _await_replay_turn(ex, pending)
        yield from _until_due(ex, pending)
        memo = yield from _end(ex, pending, "null", _event_seq_seen())
    _return_outcome(ex, memo)


def wait_for_event(ex: StoredExecution, op: Op, rule: WaitRule, timeout: int) -> Flow[Event | None]:
    """``step.wait_for_event``: the first matching event after the last step, or None."""
    memo = yield from _replayed(ex, op)
    if memo is None:
        pending = ex.pending.get(op.id)
        if pending is None:
            pending = _wait(ex, op, rule, timeout)
            yield from _save_pending(ex, pending)
        else:
            yield from _await_replay_turn(ex, pending)
        yield from _until_due(ex, pending)
        event = ex.pending[op.id].matched
        if event is None:
            memo = yield from _end(ex, pending, "null", pending.event_seq)
        else:
            ex.consumed_seqs |= {event.seq}
            memo = yield from _end(ex, pending, dump_event(event.event), event.seq)
    _return_outcome(ex, memo)
    return None if memo.value == "null" else load_event(memo.value)


@dataclass(frozen=True, slots=True)
class AddressWait:
    """How an op waits for what is delivered to an address; see ``ports.Delivery``.

    Attributes:
        address: where.
        timeout: milliseconds.
        dump: makes the result of the op, as JSON text, of what was delivered.
        replaces: take the address from an op of another run that waits there.
        conflict: the message of the error if such an op waits there.
    """

    address: str
    timeout: int
    dump: Callable[[Event], str]
    replaces: bool = False
    conflict: str = ""


def wait_at_address(ex: StoredExecution, op: Op, wait: AddressWait) -> Flow[str]:
    """Wait for what is delivered to an address; return what is made of it, or ``"null"``.

    Raises:
        SignalConflictError: another op waits there, and is not to be replaced.
    """
    memo = yield from _replayed(ex, op)
    if memo is None:
        pending = ex.pending.get(op.id)
        if pending is None:
            now = ex.env.clock.now()
            pending = Pending(
                op=op,
                due_at=now + wait.timeout,
                address=wait.address,
                event_seq=_event_seq_seen(),
                started_at=now,
            )
            yield from _save_pending(ex, pending, replaces=wait.replaces)
        else:
            yield from _await_replay_turn(ex, pending)
        if op.id in ex.pending:
            yield from _until_due(ex, pending)
            event = ex.pending[op.id].matched
            if event is None:
                event = yield from _close_address(ex, op)
            value = "null" if event is None else wait.dump(event.event)
            memo = yield from _end(ex, pending, value, pending.event_seq)
        else:
            text = wait.conflict
            failure = Failure(
                name="SignalConflictError", message=text, retriable=False, conflict=True
            )
            memo = yield from _fail_pending(ex, pending, failure)
    _return_outcome(ex, memo)
    return memo.value


def _close_address(ex: StoredExecution, op: Op) -> Flow[StoredEvent | None]:
    """Let nothing more be delivered to an op whose time is over.

    Whoever delivers is told which run has it, so what came in time, as the store sees it, counts.
    """
    effect = checkpoint(ex)
    assert isinstance(effect.write, Checkpoint)
    ex.add_ticket((yield replace(effect, write=replace(effect.write, closing=(op.id,)))))
    yield from settle(ex)
    ex.check_open()
    return ex.pending[op.id].matched


def commit_step(
    ex: StoredExecution,
    op: Op,
    make_write: Callable[[int], Write[AnswerT]],
    dump: Callable[[AnswerT], object],
) -> Flow[object]:
    """Do a step that is a write of its own, which may be committed again; return its result.

    Args:
        ex: the execution.
        op: the step.
        make_write: makes the write, given the time; the same one in every attempt.
        dump: makes the result of the step, which is JSON, of the answer to the write.
    """
    memo = yield from _replayed(ex, op)
    if memo is None:
        begun = yield from begin(ex, op)
        ex.check_open()
        if isinstance(begun, Cancelled):
            raise begun.error
        event_seq, started_at = begun
        answer = yield from commit(ex, make_write(started_at))
        now = ex.env.clock.now()
        value = json.dumps(dump(answer), ensure_ascii=False)
        ended = OpEnded(memo=_success(ex, op, value, event_seq, now, started_at=started_at))
        memo = yield from _apply(ex, _decide(ex, ended, now), now)
        assert memo is not None
    _return_outcome(ex, memo)
    result: object = json.loads(memo.value)
    return result


def send_events(ex: StoredExecution, op: Op, events: tuple[Event, ...]) -> Flow[list[str]]:
    """``step.send_event``: the events and the step's checkpoint are one transaction.

    Ids that the user left out are made from run and step, so that a crash cannot send twice. They
    are made with the application's secret, so that no client can guess them.
    """
    memo = yield from _replayed(ex, op)
    if memo is None:
        now = ex.env.clock.now()
        named = tuple(
            replace(event, id=event.id or own_event_id(ex, op, index), ts=event.ts or now)
            for index, event in enumerate(events)
        )
        value = json.dumps([event.id for event in named], ensure_ascii=False)
        ended = OpEnded(memo=_success(ex, op, value, _event_seq_seen(), now, started_at=now))
        yield from _apply(ex, _decide(ex, ended, now), now, named)
        yield from settle(ex)
        # A wait after this step matches only events that come after the events sent here.
        sent = max(ex.sent.get(event.id or "", 0) for event in named)
        memo = ex.memos[op.id]
        memo = ex.memos[op.id] = replace(memo, event_seq=max(memo.event_seq, sent))
    _return_outcome(ex, memo)
    ids: list[str] = json.loads(memo.value)
    return ids


def invoke(ex: StoredExecution, op: Op, child: Invocation) -> Flow[Response]:
    """``step.invoke``: begin a child run, once; return its response when it has ended.

    The child is stored in the transaction that stores the step. Its end is delivered to the step in
    the transaction that stores that end.
    """
    memo = yield from _replayed(ex, op)
    if memo is None:
        pending = ex.pending.get(op.id)
        if pending is None:
            pending = yield from _begin_child(ex, op, child)
        else:
            yield from _await_replay_turn(ex, pending)
        if ex.attached and child.wait_in_place and not _is_due(ex, op.id, pending):
            yield from await_delivery(op, child.wait_in_place)
            ex.check_open()
        yield from _until_due(ex, pending)
        memo = yield from _end_child(ex, pending, child)
    _return_outcome(ex, memo)
    return child_response(memo.value)


def leave_children(ex: StoredExecution, op_ids: Collection[str]) -> Flow[None]:
    """End steps that wait for a child, of code that has lost a race; the children are cancelled.

    Whoever looks for children that nobody waits for cancels them.
    """
    for op_id in op_ids:
        pending = ex.pending.get(op_id)
        if pending is None or pending.op.kind is not OpKind.INVOKE:
            continue
        ex.unasked.discard(op_id)
        text = "another branch has won the race"
        failure = Failure(name="StepCancelled", message=text, retriable=False, cancelled=True)
        yield from _fail_pending(ex, pending, failure)


def _begin_child(ex: StoredExecution, op: Op, child: Invocation) -> Flow[Pending]:
    now = ex.env.clock.now()
    new = child.start(now)
    pending = Pending(
        op=op,
        due_at=now + child.timeout,
        address=child_address(new.run.id),
        event_seq=_event_seq_seen(),
        started_at=now,
    )
    ex.pending[op.id] = pending
    effect = checkpoint(ex, now=now, pending=(pending,))
    write: Any = effect.write
    most = ex.env.limits.child_runs
    write = replace(write, children=(new,), child_limit=most)
    ex.add_ticket((yield Submit(write, effect.after)))
    yield from settle(ex, op.name)
    ex.check_open()
    if op.id not in ex.pending:
        raise LimitExceededError(
            f"step {op.name!r} would begin one child run more than the {most} that may begin below "
            "one run (Limits.child_runs): does an endpoint invoke itself?"
        )
    return pending


def _end_child(ex: StoredExecution, pending: Pending, child: Invocation) -> Flow[Memo]:
    """Store what has come of a child that has ended, or has taken too long."""
    run_id = child_of(pending.address)
    has_ended = ex.pending[pending.op.id].matched is not None
    look: Callable[[str], object] = child.read if has_ended else child.give_up
    outcome: Outcome = yield CallUser(Call(look, (run_id,)))
    if isinstance(outcome, Cancelled):
        raise outcome.error
    if isinstance(outcome, Raised):
        ex.close(outcome.error)  # the store cannot answer now: the run goes on when it can
        raise Suspended from outcome.error
    result = outcome.value
    if isinstance(result, str):
        try:
            ex.check_size(pending.op, result)
        except LimitExceededError as error:
            result = Failure(
                name="StepResultTooLargeError",
                message=str(error),
                retriable=False,
                result="too-large",
            )
    if isinstance(result, str):
        return (yield from _end(ex, pending, result, pending.event_seq))
    assert isinstance(result, Failure)
    return (yield from _fail_pending(ex, pending, result))


def own_event_id(ex: StoredExecution, op: Op, index: int = 0) -> str:
    """Return the id of something that a step sends; the same one wherever the step is executed."""
    secret, run = ex.env.secrets()[0], ex.run
    return event_id(
        secret,
        app=ex.env.app,
        run_id=run.id,
        retry_count=run.retry_count,
        op_id=op.id,
        index=index,
    )


def _replayed(ex: StoredExecution, op: Op) -> Flow[Memo | None]:
    """Return the memo of an op, in its turn; None if the op has not finished."""
    ex.unawaited.pop(op.id, None)
    ex.activity += 1
    if ex.state is not _RUNNING:
        ex.check_open()
        while ex.stopping or (op.id not in ex.memos and _may_not_begin(ex, op)):
            yield from park(op.id, None)
            ex.check_open()
    memo = ex.memos.get(op.id)
    stored = memo or ex.pending.get(op.id)
    if stored is not None and stored.op.kind is not op.kind:
        yield from check_kind(ex, stored.op.kind, op)
    if stored is None and ex.unasked:
        yield from check_order(ex, op)
    if memo is not None:
        yield AwaitReplayTurn(memo.completion_no)
        ex.check_open()
        ex.activity += 1
    return memo


def _may_not_begin(ex: StoredExecution, op: Op) -> bool:
    return ex.state is ExecutionState.REPLAYING or ex.holds(op.id)


def _return_outcome(ex: StoredExecution, memo: Memo) -> None:
    """Note what the handler now knows of an outcome, or raise it, as replay would."""
    if memo.event_seq > _event_seq_seen():
        EVENT_SEQ.set(memo.event_seq)
    if memo.op.kind is _WAIT and memo.value != "null":
        ex.consumed_seqs |= {memo.event_seq}
    if not memo.ok:
        ex.failures += 1
        ex.note_failure(memo.op.name)
        raise load_step_error(memo.op.name, memo.value)


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
    transition = _decide(ex, failed, now, options)
    yield from _report_failure(ex, attempt.op, options, outcome, transition)
    memo = yield from _apply(ex, transition, now)
    attempt.settled = True
    if isinstance(outcome, Cancelled):
        raise outcome.error
    return memo


def _interrupt(ex: StoredExecution, pending: Pending) -> Flow[Memo]:
    """Fail a step whose attempt has begun, in another execution, and of whose end is unknown."""
    now = ex.env.clock.now()
    text = "its process died while the function ran; it may have had its effect, or not"
    failure = Failure(name="StepInterrupted", message=text, retriable=False, interrupted=True)
    transition = _decide(ex, _final_failure(ex, pending, failure, now), now)
    yield from notify_attempt(ex, _failed_attempt(transition), step=observed_step(pending.op))
    yield from _apply(ex, transition, now)
    return ex.memos[pending.op.id]


def _fail_pending(ex: StoredExecution, pending: Pending, failure: Failure) -> Flow[Memo]:
    """Fail an op for good whose function, if it has one, was not called here."""
    now = ex.env.clock.now()
    yield from _apply(ex, _decide(ex, _final_failure(ex, pending, failure, now), now), now)
    return ex.memos[pending.op.id]


def _final_failure(ex: StoredExecution, pending: Pending, failure: Failure, now: int) -> OpFailed:
    return OpFailed(
        op=pending.op,
        failure=failure,
        completion_no=ex.next_completion_no(),
        event_seq=pending.event_seq,
        failures=pending.failures,
        u=0.0,
        started_at=now if pending.started_at is None else pending.started_at,
    )


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


def dump_arguments(call: Call) -> str | None:
    """Return the arguments of a step's function as ``Memo.arguments`` has them."""
    if not call.args and not call.kwargs:
        return None
    try:
        text = _JSON.encode({"args": list(call.args), "kwargs": dict(call.kwargs or {})})
    except TypeError:
        return ""
    return text if utf8_size(text) <= _MAX_ARGUMENTS else ""


def _success(
    ex: StoredExecution,
    op: Op,
    value: str,
    event_seq: int,
    now: int,
    *,
    started_at: int | None,
) -> Memo:
    """Return the memo of an op without a function, with its result (JSON text)."""
    return Memo(
        op=op,
        completion_no=ex.next_completion_no(),
        ok=True,
        value=value,
        event_seq=event_seq,
        attempts=1,
        ended_at=now,
        started_at=started_at,
    )


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


def _end(ex: StoredExecution, pending: Pending, value: str, event_seq: int) -> Flow[Memo]:
    """Finish an op that has no function."""
    now = ex.env.clock.now()
    memo = _success(ex, pending.op, value, event_seq, now, started_at=pending.started_at)
    if _would_end_again(ex, pending.op):
        # Only the next step's outcome is worth a commit; it takes this one along.
        ex.check_open()
        ex.memos[memo.op.id] = memo
        del ex.pending[memo.op.id]
        ex.unsaved = (*ex.unsaved, memo)
    else:
        yield from _apply(ex, _decide(ex, OpEnded(memo=memo), now), now)
    return memo


def _would_end_again(ex: StoredExecution, op: Op) -> bool:
    """Tell whether a replay would end the op as it ends now, before any later step.

    That is so if all that the run has asked for so far is durable, and nothing goes on beside the
    op: a sleep that was due is due then, and an event that was matched is there. A wait that has
    timed out may get its event after all. An address is taken until the op's end is stored, and
    the place of chunks in a stream counts the ends that were stored before them.
    """
    known = ex.pending.get(op.id)
    return (
        known is not None
        and (op.kind is OpKind.SLEEP or (known.matched is not None and not known.address))
        and ex.is_sequential
        and not ex.tickets
        and ex.stream is None
    )


def _decide(
    ex: StoredExecution, ended: Input, now: int, options: StepOptions | None = None
) -> Transition:
    """Advance the run by the end of an op."""
    ex.check_open()
    policy = ex.env.policy
    if options is not None and options.backoff is not None:
        policy = options.backoff
    transition = advance(ex.run, ended, now, policy)
    ex.run = transition.run
    return transition


def _apply(
    ex: StoredExecution, transition: Transition, now: int, sends: tuple[Event, ...] = ()
) -> Flow[Memo | None]:
    """Carry out the commands of a transition. Return the memo if the op has finished."""
    memo: Memo | None = None
    for command in transition.commands:
        match command:
            case SaveMemo(memo=memo, failed=failed):
                ex.add_ticket((yield _save_memo(ex, memo, now, sends, failed)))
            case SavePending(pending=pending, failed=failed):
                ex.pending[pending.op.id] = pending
                failed_attempts = () if failed is None else (failed,)
                effect = checkpoint(
                    ex, now=now, pending=(pending,), failed_attempts=failed_attempts
                )
                ex.add_ticket((yield effect))
            case Handoff(reason=reason):
                yield from hand_off(ex, reason)
            case _:
                raise AssertionError(f"a step cannot lead to {command!r}")
    return memo


def _save_memo(
    ex: StoredExecution,
    memo: Memo,
    now: int,
    sends: tuple[Event, ...] = (),
    failed: FailedAttempt | None = None,
) -> Submit:
    """Note that an op has finished; return the effect that makes it durable."""
    op_id = memo.op.id
    ex.memos[op_id] = memo
    had_no_row = ex.pending.pop(op_id, None) is None
    if failed is not None:
        return checkpoint(ex, now, (memo,), had_no_row, failed_attempts=(failed,))
    return checkpoint(ex, now, (memo,), had_no_row, sends)


def _wait(ex: StoredExecution, op: Op, rule: WaitRule, timeout: int) -> Pending:
    event_seq, now = _event_seq_seen(), ex.env.clock.now()
    return Pending(
        op=op,
        due_at=now + timeout,
        rule=dump_rule(rule),
        event=rule.event,
        match_path=".".join(rule.match.path) if rule.match else "",
        match_key=rule.match.key if rule.match else "",
        event_seq=event_seq,
        started_at=now,
        consumed_seqs=tuple(sorted(seq for seq in ex.consumed_seqs if seq > event_seq)),
    )


def _save_pending(ex: StoredExecution, pending: Pending, *, replaces: bool = False) -> Flow[None]:
    """Make an unfinished op durable; ``replaces`` an op that waits at its address."""
    ex.pending[pending.op.id] = pending
    replacing = (pending.op.id,) if replaces else ()
    ex.add_ticket((yield checkpoint(ex, pending=(pending,), replacing=replacing)))
    yield from settle(ex, pending.op.name)
    ex.check_open()


def _await_replay_turn(ex: StoredExecution, pending: Pending) -> Flow[None]:
    """Resolve an op that became due while the run was suspended after all finished ops.

    The handler may race it against one of them, and cancels it when it sees the other result.
    """
    if not _is_due(ex, pending.op.id, pending):
        return
    matched = pending.matched
    yield from await_replay_turn(
        _AFTER_MEMOS + (pending.due_at if matched is None else matched.received_at)
    )
    ex.check_open()
    ex.activity += 1


def _until_due(ex: StoredExecution, pending: Pending) -> Flow[None]:
    """Return when the op is due, or its event has come; until then it is parked.

    It stays parked once no step may begin any more. Of a run that is being undone it must not end:
    a handler that fails of that would hide from its replay what its other branches have done.
    """
    op_id = pending.op.id
    while ex.answered or ex.holds(op_id) or not _is_due(ex, op_id, pending):
        ex.check_open()
        now = ex.env.clock.now()
        parked = advance(ex.run, OpParked(pending=pending), now, ex.env.policy)
        ex.run = parked.run
        ex.parked += 1
        ex.note_awaited(pending.op)
        try:
            yield from _park(ex, pending, parked, now)
        finally:
            ex.parked -= 1
            ex.activity += 1
        ex.check_open()


def _park(ex: StoredExecution, pending: Pending, parked: Transition, now: int) -> Flow[None]:
    """Hand the client off if there is one, and wait until the op may be due.

    If the op is still to be made durable, and the handler has no other work, the client is handed
    off when the run is released: both take one commit.
    """
    op = pending.op
    if ex.tickets and not ex.followed:
        ex.late_handoff = OpParked(pending=pending).reason if parked.commands else None
        yield from unwind_if_alone(op.id)
        ex.late_handoff = None
    yield from settle(ex, op.name)
    ex.check_open()
    yield from _apply(ex, parked, now)
    yield from unwind_if_alone(op.id)
    yield from park(op.id, None if ex.holds(op.id) else pending.due_at)


def _is_due(ex: StoredExecution, op_id: str, pending: Pending) -> bool:
    known = ex.pending.get(op_id, pending)
    return known.matched is not None or known.due_at <= ex.env.clock.now()
