"""One execution of a handler, from its start to its end or suspension."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from dataclasses import replace
from typing import Any

from durable_core.codec.records import dump_head
from durable_core.duration import time_of
from durable_core.errors import LeaseLost, StepOrderError, StoreError, Suspended
from durable_core.flow.attempt import Call
from durable_core.flow.child_runs import end_deliveries
from durable_core.flow.completion import completion_run
from durable_core.flow.effects import (
    AwaitDurable,
    CallHandler,
    Cancelled,
    Flow,
    Outcome,
    Raised,
    Returned,
    SendResponse,
    Submit,
    Unwound,
    call_user,
    drain_steps,
    log_error,
    log_warning,
    notify,
    see_handler_branch,
    send_response,
)
from durable_core.flow.error_responses import (
    cancel_detail,
    cancelled_response,
    failure_response,
    handler_failure,
    response_for_exception,
    store_unavailable_response,
)
from durable_core.flow.execution import (
    Execution,
    ExecutionState,
    StoredExecution,
    checkpoint,
    settle,
)
from durable_core.flow.facts import notify_attempt, notify_end, observed_run
from durable_core.flow.handoff import begin_handoff, hand_off, notify_handed_off, send_handoff
from durable_core.flow.results import typed_response
from durable_core.flow.stored_failure import failed_memo, stored_failure
from durable_core.flow.versions import check_end, is_misfit, parking
from durable_core.http.response import Response, open_body, open_body_async
from durable_core.machine.advance import advance, describe, end_run, failure_of_handler
from durable_core.model.decision import (
    BecameIdle,
    Claimed,
    Detached,
    EndCancelled,
    Fail,
    Failure,
    HandlerRaised,
    Handoff,
    HandoffReason,
    Input,
    Orphaned,
    ResponseInterrupted,
    ResponseStarted,
    ResponseTooLarge,
    Suspend,
    TimedOut,
    Undone,
)
from durable_core.model.fact import RunResumed, RunStarted, RunSuspended
from durable_core.model.run import Phase
from durable_core.model.step import FailedAttempt
from durable_core.ports import Release, StoredResult

__all__ = [
    "accept",
    "detach",
    "execute",
    "execute_undo",
    "fail_orphan",
    "fail_overdue",
    "finish_streaming",
    "read_whole_body",
    "replay_to_undo",
    "resume",
    "suspend",
]

_CALL_HANDLER = CallHandler()


def execute(ex: StoredExecution) -> Flow[None]:
    """Run the handler and process its outcome.

    When this returns, the execution is closed, and an attached client has its response.
    """
    try:
        outcome: Outcome | Unwound = yield _CALL_HANDLER
        if ex.deadline is not None and ex.is_overdue:
            yield from _time_out(ex)
        elif ex.closed or isinstance(outcome, (Unwound, Cancelled)):
            yield from suspend(ex)
        else:
            yield from _finish_handler(ex, outcome)
    except Suspended:
        yield from _answer_fault(ex)
    finally:
        ex.close()


def accept(ex: StoredExecution, reason: HandoffReason) -> Flow[None]:
    """Store a run whose handler has not begun, and hand its client off.

    The run is due at once: whatever process has room for it calls the handler, as in a replay.
    """
    try:
        yield from begin_handoff(ex)
        now = ex.env.clock.now()
        for happened in (Detached(reason=reason), BecameIdle(pending=())):
            ex.run = advance(ex.run, happened, now, ex.env.policy).run
        ex.add_ticket((yield checkpoint(ex, now=now, state=True, release=Release(due_at=now))))
        yield from settle(ex)
        yield from notify(lambda: RunStarted(run=observed_run(ex), at=time_of(now)))
        yield from notify_handed_off(ex, reason)
        yield from send_handoff(ex)
    except Suspended:
        yield from _answer_fault(ex)
    finally:
        ex.close()


def resume(ex: StoredExecution) -> Flow[None]:
    """Continue a claimed run."""
    try:
        claimed = Claimed(max_crashes=ex.env.limits.crashes)
        yield from _apply_input(ex, claimed)
        if ex.run.phase.ended:
            yield from settle(ex)
    except Suspended:
        return
    if ex.run.phase is Phase.FAILED:
        reason = "its process died too often"
        yield from notify_end(ex, "failed", reason=reason, message=f"the run failed: {reason}")
    if ex.run.phase is Phase.ASYNC:  # else it has ended, or is to be undone first
        now = ex.started_at = ex.env.clock.now()
        yield from _notify_resumed(ex, now, "resumed")
        yield from execute(ex)


def _notify_resumed(ex: StoredExecution, now: int, message: str) -> Flow[None]:
    yield from notify(lambda: RunResumed(run=observed_run(ex), at=time_of(now), message=message))


def replay_to_undo(ex: StoredExecution) -> Flow[Raised | None]:
    """Replay the handler of a run that is to be undone, to find what undoes its steps.

    It goes as far as it can without a new step. When this returns, ``ex.undos`` are known, unless
    the run has ended, as after too many crashes.

    Returns:
        What the handler has raised, if it has ended so.
    """
    if ex.run.phase is Phase.RESPONDING:  # its process died; the response is of no use any more
        ex.run = replace(ex.run, phase=Phase.SUSPENDED)
    ex.state, ex.deadline = ExecutionState.REPLAYING, None
    try:
        yield from _apply_input(ex, Claimed(max_crashes=ex.env.limits.crashes))
        if ex.run.phase.ended:
            yield from settle(ex)
            reason = "its process died too often"
            yield from notify_end(ex, "failed", reason=reason, message=f"the run failed: {reason}")
            return None
        now = ex.started_at = ex.env.clock.now()
        yield from _notify_resumed(ex, now, "resumed, to be undone")
        outcome: Outcome | Unwound = yield _CALL_HANDLER
        return outcome if isinstance(outcome, Raised) else None
    except Suspended:
        return None
    finally:
        ex.close()


def execute_undo(ex: StoredExecution, raised: Raised | None) -> Flow[None]:
    """End a run that is to be undone, once the handler here has undone its steps.

    Args:
        ex: the execution.
        raised: what the handler has raised in its last replay, if it has.
    """
    try:
        outcome: Outcome | Unwound = yield _CALL_HANDLER
        if ex.closed or isinstance(outcome, (Unwound, Cancelled)):
            yield from suspend(ex)
        elif isinstance(outcome, Raised):
            failure = handler_failure(outcome, ex.env.clock.now())
            text = f"the run could not be undone: {describe(outcome.error)}"
            yield from _fail_handler(ex, failure, outcome.error, text, text)
        elif ex.run.cancel_reason is None:
            yield from _end_undone(ex, raised)
        else:
            yield from _apply_input(ex, Undone())
            reason = cancel_detail(ex.run)
            text = f"undone: {reason}"
            yield from notify_end(ex, "cancelled", http_status=410, reason=reason, message=text)
    except Suspended:
        yield from _answer_fault(ex)
    finally:
        ex.close()


def _end_undone(ex: StoredExecution, raised: Raised | None) -> Flow[None]:
    """Fail a run that is undone as was decided before, or because it is overdue."""
    fail = stored_failure(ex)
    if fail is None:
        yield from _end_overdue(ex)
        return
    error, trace = None, ""
    if raised is not None and _is_by(fail, handler_failure(raised, ex.env.clock.now())):
        error, trace = raised.error, raised.trace
    failed = yield from _apply_input(ex, Undone(fail=fail), trace)
    reason = f"{fail.name}: {fail.message}"
    text = f"the run failed: {reason}"
    yield from notify_attempt(ex, failed, error=error)
    yield from notify_end(ex, "failed", http_status=500, reason=reason, error=error, message=text)


def _is_by(fail: Fail, failure: Failure) -> bool:
    """Tell whether a run fails by an error like this one."""
    return (fail.name, fail.message) == (failure.name, failure.message)


def fail_overdue(ex: StoredExecution) -> Flow[None]:
    """Fail a claimed run that is past its deadline, and has nothing to undo."""
    try:
        yield from _apply_input(ex, Claimed(max_crashes=ex.env.limits.crashes))
        if not ex.run.phase.ended:
            yield from _end_overdue(ex)
    except Suspended:
        return


def _time_out(ex: StoredExecution) -> Flow[None]:
    """End a run whose time is over while its handler ran; have it undone first if need be."""
    if not ex.run.undoable:
        yield from _end_overdue(ex)
        return
    ex.due_at_once = True
    yield from suspend(ex)


def _end_overdue(ex: StoredExecution) -> Flow[None]:
    failed = yield from _apply_input(ex, TimedOut())
    reason = "" if failed is None else failed.error_message
    text = f"the run failed: {reason}"
    yield from notify_end(ex, "failed", http_status=500, reason=reason, message=text)


def fail_orphan(ex: StoredExecution) -> Flow[None]:
    """Fail a claimed run whose endpoint no process knows any more."""
    try:
        yield from _apply_input(ex, Orphaned())
    except Suspended:
        return
    yield from notify_end(ex, "failed", reason="no process knows its endpoint any more")


def detach(ex: StoredExecution, reason: HandoffReason) -> Flow[None]:
    """Hand the client off. The handler continues.

    If the execution was closed by a fault, the client is answered although a step goes on.
    """
    if not ex.attached and ex.late_handoff is None:
        return
    if ex.closed and ex.late_handoff is None:
        yield from _answer_fault(ex)
        return
    try:
        if ex.late_handoff is not None:
            yield from _hand_off_late(ex)
        else:
            yield from _apply_input(ex, Detached(reason=reason))
    except Suspended:
        yield from _answer_fault(ex)


def finish_streaming(
    ex: StoredExecution, response: Response, body: bytes | None, error: Exception | None
) -> Flow[None]:
    """Record the end of a streamed response; ``body`` is None if it was too large to keep.

    Raises:
        Suspended: it could not be recorded.
    """
    if error is not None:
        failure = failure_of_handler(error, ex.env.clock.now())
        yield from _apply_input(ex, ResponseInterrupted(failure=failure))
        if ex.run.phase is not Phase.FAILED:
            return  # it is undone first
    else:
        stored = _finish(ex, response, body)
        if stored is not None:
            ex.add_ticket((yield stored))
    yield from settle(ex)
    if not ex.env.observers:
        return
    if error is None:
        yield from notify_end(ex, "completed", http_status=response.status)
    else:
        yield from notify_end(ex, "failed", reason=describe(error), error=error)


def _finish_handler(ex: StoredExecution, outcome: Returned | Raised) -> Flow[None]:
    """Return the flow that processes the outcome of a handler that ended by itself."""
    if isinstance(outcome, Returned):
        return _end_early(ex, outcome) if ex.unasked else _finish_returned(ex, outcome)
    return _finish_raised(ex, outcome)


def _end_early(ex: StoredExecution, outcome: Returned) -> Flow[None]:
    """Process the result of a handler that has not asked for all steps that it had before."""
    try:
        yield from check_end(ex)
    except StepOrderError as error:
        failure = failure_of_handler(error, ex.env.clock.now())
        yield from _fail_handler(ex, failure, error, f"the run failed: {error}")
        return
    if is_misfit(ex):
        yield from suspend(ex)
    else:
        yield from _finish_returned(ex, outcome)


def _finish_returned(ex: StoredExecution, outcome: Returned) -> Flow[None]:
    try:
        if ex.options.result is None:
            response = Response.from_value(outcome.value)
        else:
            response = typed_response(ex.options.result, outcome.value)
    except (TypeError, ValueError) as error:
        # Another attempt would return the same kind of thing.
        failure = replace(failure_of_handler(error, ex.env.clock.now()), retriable=False)
        text = f"the handler's return value cannot be sent; the run failed: {describe(error)}"
        return _fail_handler(ex, failure, error, text)
    return _respond(ex, response)


def _finish_raised(ex: StoredExecution, outcome: Raised) -> Flow[None]:
    try:
        # That of a run that was undone was no response.
        is_undone = ex.undo_report is not None
        response = None if is_undone else response_for_exception(ex.options, outcome.error)
    except MemoryError:
        raise
    except Exception as broken:
        outcome, response = Raised(broken, outcome.trace), None
    if response is not None:
        return _respond(ex, response)
    shown = describe(outcome.error)
    text = f"the run failed: {shown}"
    again = f"the handler failed and is called again: {shown}"
    failure = handler_failure(outcome, ex.env.clock.now())
    return _fail_handler(ex, failure, outcome.error, text, again, outcome.trace)


def _fail_handler(
    ex: StoredExecution,
    failure: Failure,
    error: Exception,
    text: str,
    again: str = "",
    trace: str = "",
) -> Flow[None]:
    """Fail the run, or suspend it until the handler is called again.

    Args:
        ex: the execution.
        failure, error: of the handler.
        text: the line of the log if the run fails.
        again: the line of the log if it does not.
        trace: the stack trace for the response.
    """
    if failure.steps:
        branch = yield from see_handler_branch()
        failure = replace(failure, steps=ex.steps_to_retry(failure.steps, branch))
    failed = yield from _apply_input(ex, _handler_raised(ex, failure), trace)
    if ex.run.phase is Phase.FAILED:
        yield from notify_attempt(ex, failed, error=error)
        yield from notify_end(ex, "failed", reason=describe(error), error=error, message=text)
    elif failed is None:
        yield from log_error(f"{text}; its steps are undone first", error)
    else:
        yield from notify_attempt(ex, failed, error=error, message=again)


def _handler_raised(ex: Execution, failure: Failure) -> HandlerRaised:
    u = ex.env.ids.uniform()
    return HandlerRaised(failure=failure, u=u, started_at=ex.started_at)


def _respond(ex: StoredExecution, response: Response) -> Flow[None]:
    """Return the flow that records the response, then sends it."""
    body = response.body
    if isinstance(body, bytes):
        return _send_whole(ex, response, body)
    if ex.attached and not ex.followed:
        return _start_streaming(ex, response)
    return _send_collected(ex, response)


def _send_whole(ex: StoredExecution, response: Response, body: bytes) -> Flow[None]:
    attached = ex.attached
    stored = _finish(ex, response, body)
    if stored is not None:
        ex.add_ticket((yield stored))
        del stored  # the queue may have made one write of this and the last one
        yield from settle(ex)
    if attached:
        yield SendResponse(response)
    else:
        text = f"completed with status {response.status}"
        yield from notify_end(ex, "completed", http_status=response.status, message=text)


def _send_collected(ex: StoredExecution, response: Response) -> Flow[None]:
    """Record a streamed response as a whole: its client was handed off, or reads the stream."""
    whole = yield from read_whole_body(ex, response)
    if ex.deadline is not None and ex.is_overdue:
        yield from _time_out(ex)
    elif isinstance(whole, Response):
        yield from _respond(ex, whole)
    else:
        failed = yield from _apply_input(ex, whole)
        yield from notify_attempt(ex, failed)
        if ex.run.phase is Phase.FAILED:
            yield from notify_end(ex, "failed", reason="its response could not be read")


def _start_streaming(ex: StoredExecution, response: Response) -> Flow[None]:
    """Send the chunks as the handler makes them; the runner records the end."""
    if ex.stored or ex.keeps_record:
        started = advance(ex.run, ResponseStarted(), ex.env.clock.now(), ex.env.policy)
        ex.run = started.run
        ex.add_ticket((yield checkpoint(ex, state=True)))
        try:
            yield from settle(ex)
        except Suspended:
            yield from _close_body(response)
            raise
    yield from send_response(response)


def _close_body(response: Response) -> Flow[None]:
    """Close a body that nobody will read."""
    is_async = isinstance(response.body, AsyncIterable)
    close = getattr(response.body, "aclose" if is_async else "close", None)
    if close is None:
        return
    outcome = yield from call_user(Call(close))
    if isinstance(outcome, Raised):
        yield from log_warning("a body that was not sent could not be closed", outcome.error)


def read_whole_body(
    ex: Execution, response: Response
) -> Flow[Response | HandlerRaised | ResponseTooLarge]:
    """Read a streamed body whose client was handed off; or return the input for its failure."""
    most = ex.env.limits.response_stored
    outcome = yield from call_user(Call(_collect, (response.body, most)))
    if not isinstance(outcome, Returned):
        failure = failure_of_handler(outcome.error, ex.env.clock.now())
        return _handler_raised(ex, failure)
    if not isinstance(outcome.value, bytes):
        return ResponseTooLarge(most=most)
    return Response(status=response.status, headers=response.headers, body=outcome.value)


def _collect(body: object, most: int) -> object:
    """Join the chunks, or return None beyond the limit; a coroutine for an async body."""
    if isinstance(body, AsyncIterable):
        return _collect_async(body, most)
    assert isinstance(body, Iterable)
    whole = bytearray()
    with open_body(body) as chunks:
        for chunk in chunks:
            whole += chunk
            if len(whole) > most:
                return None
    return bytes(whole)


async def _collect_async(body: AsyncIterable[bytes], most: int) -> bytes | None:
    whole = bytearray()
    async with open_body_async(body) as chunks:
        async for chunk in chunks:
            whole += chunk
            if len(whole) > most:
                return None
    return bytes(whole)


def _whole_body(response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    return response.body


def _finish(ex: StoredExecution, response: Response, body: bytes | None) -> Submit | None:
    """End the run with a response; return what stores that.

    None if the run leaves no record, as one without a checkpoint does by default.
    """
    ex.run = end_run(ex.run)
    if not (ex.stored or ex.keeps_record):
        return None
    kept = None if ex.options.omit_response_body else body
    return _save_result(ex, response, kept, ex.env.clock.now())


def _save_result(
    ex: StoredExecution,
    response: Response,
    body: bytes | None,
    now: int,
    failed: FailedAttempt | None = None,
) -> Submit:
    """Return the effect that makes the end of the run durable."""
    follow_up = None
    if ex.options.on_complete is not None:
        follow_up = completion_run(ex.env, ex.run, ex.run.phase, now, ex.traceparent)
    result = StoredResult(
        phase=ex.run.phase,
        head=dump_head(response),
        body=body,
        ended_at=now,
        follow_up=follow_up,
    )
    failed_attempts = () if failed is None else (failed,)
    effect = checkpoint(
        ex,
        now=now,
        state=True,
        result=result,
        failed_attempts=failed_attempts,
        no_pending_row=not ex.pending,
    )
    if ex.run.parent is None:
        return effect
    deliveries = end_deliveries(ex.run.id, ex.run.parent, ex.run.phase, now)
    write: Any = effect.write
    return Submit(replace(write, deliveries=deliveries), effect.after)


def _as_tuple(failed: FailedAttempt | None) -> tuple[FailedAttempt, ...]:
    return () if failed is None else (failed,)


def _apply_input(
    ex: StoredExecution, happened: Input, trace: str = ""
) -> Flow[FailedAttempt | None]:
    """Apply an event to the run, and carry out the commands; return the attempt that has failed."""
    attempt: FailedAttempt | None = None
    transition = advance(ex.run, happened, ex.env.clock.now(), ex.env.policy)
    if any(isinstance(command, Suspend) for command in transition.commands):
        # Steps in flight still change the run: decide when they have.
        yield from drain_steps()
        transition = advance(ex.run, happened, ex.env.clock.now(), ex.env.policy)
    for command in transition.commands:
        if isinstance(command, Fail) and (yield from _is_undone_first(ex, happened)):
            yield from _release_to_undo(ex, command)
            return None
    attached, before = ex.attached, ex.run
    if any(isinstance(command, Handoff) for command in transition.commands):
        yield from begin_handoff(ex)  # while this process owns the run: a Suspend releases it
        if ex.run is not before:  # another flow of the run has gone on meanwhile
            if isinstance(happened, Detached) and not ex.attached:
                return None
            transition = advance(ex.run, happened, ex.env.clock.now(), ex.env.policy)
    ex.run = transition.run
    for command in transition.commands:
        match command:
            case Suspend(due_at=due_at, failed=attempt):
                if ex.deadline is not None:
                    due_at = min(due_at, ex.deadline)
                key, why = parking(ex)
                awaited = tuple(sorted(ex.due_ops))
                release = Release(due_at=due_at, awaited=awaited, endpoint_key=key)
                failed = (*_as_tuple(attempt), *why)
                ex.add_ticket(
                    (yield checkpoint(ex, state=True, release=release, failed_attempts=failed))
                )
                yield from _hand_off_late(ex)
                yield from _notify_suspended(ex, due_at)
            case Handoff(reason=reason):
                yield from hand_off(ex, reason)
            case Fail(failed=attempt):
                yield from _fail(ex, command, attached, trace)
            case EndCancelled():
                response = cancelled_response(ex.run, ex.undo_report)
                now = ex.env.clock.now()
                ex.add_ticket((yield _save_result(ex, response, _whole_body(response), now)))
            case _:
                raise AssertionError(f"{happened!r} cannot lead to {command!r}")
    yield from settle(ex)
    return attempt


def _is_undone_first(ex: StoredExecution, happened: Input) -> Flow[bool]:
    """Return whether a run that fails so may have steps that are to be undone, and were not.

    What is in progress in other branches ends first: it is undone, too.
    """
    if not ex.run.undoable or ex.undo_report is not None:
        return False
    if ex.state is ExecutionState.REPLAYING or isinstance(happened, Orphaned):
        return False  # undoing it has failed itself, or there is no code that could undo it
    yield from drain_steps()
    return bool(ex.undos or ex.unasked)


def _release_to_undo(ex: StoredExecution, fail: Fail) -> Flow[None]:
    """Store that a run fails, and release it: who claims it undoes its steps, then fails it so."""
    if ex.attached:
        yield from _apply_input(ex, Detached(reason=HandoffReason.DRAIN))
    ex.unsaved = (*ex.unsaved, failed_memo(ex, fail))
    ex.run = replace(ex.run, phase=Phase.ASYNC)
    yield from _apply_input(ex, BecameIdle(pending=()))


def _hand_off_late(ex: StoredExecution) -> Flow[None]:
    """Hand off a client that waits for the release of the run, if there is one."""
    reason, ex.late_handoff = ex.late_handoff, None
    if reason is not None:
        yield from hand_off(ex, reason)


def _notify_suspended(ex: StoredExecution, due_at: int) -> Flow[None]:
    yield from notify(lambda: _suspended(ex, due_at))


def _suspended(ex: StoredExecution, due_at: int) -> RunSuspended:
    until = time_of(due_at)
    text = f"suspended until {until.isoformat(timespec='seconds')}"
    now = time_of(ex.env.clock.now())
    return RunSuspended(run=observed_run(ex), at=now, until=until, message=text)


def _fail(ex: StoredExecution, fail: Fail, attached: bool, trace: str) -> Flow[None]:
    is_recorded = ex.stored or ex.keeps_record
    extra: dict[str, object] = {"run_id": ex.run.id} if is_recorded else {}
    if ex.undo_report is not None:
        extra["undone"] = list(ex.undo_report.undone)
        extra["not_undone"] = list(ex.undo_report.failed)
    if trace:
        extra["traceback"] = trace
    response = failure_response(fail, debug=ex.env.debug, **extra)
    if is_recorded:
        now = ex.env.clock.now()
        ex.add_ticket((yield _save_result(ex, response, _whole_body(response), now, fail.failed)))
        yield from settle(ex)
    if attached:
        yield from send_response(response)


def suspend(ex: StoredExecution) -> Flow[None]:
    """Release the run of an unwound handler until it is due."""
    if ex.fault is not None:
        yield from _answer_fault(ex)
        return
    try:
        if ex.attached:
            yield from _apply_input(ex, Detached(reason=HandoffReason.DRAIN))
        due_ops = ex.due_ops
        awaited = (each for each in ex.pending.values() if each.op.id in due_ops)
        yield from _apply_input(ex, BecameIdle(pending=() if ex.due_at_once else tuple(awaited)))
    except Suspended:
        yield from _answer_fault(ex)


def _answer_fault(ex: StoredExecution) -> Flow[None]:
    """Respond to a client that still waits, after the execution was closed by a fault."""
    fault = ex.fault
    if isinstance(fault, LeaseLost):
        fault = yield from _why_unrecorded(ex)
        if fault is None and not ex.followed:  # one that reads the stream reads on where it is
            yield from send_handoff(ex)
    if isinstance(fault, StoreError):
        yield from send_response(store_unavailable_response(fault))


def _why_unrecorded(ex: StoredExecution) -> Flow[StoreError | None]:
    """Return why the run has no record; None if it has one, to which a client may be referred."""
    if not ex.stored:
        return StoreError("the lease was lost before the first checkpoint")
    try:
        yield AwaitDurable(ex.tickets[:1])  # if there is no record yet, the first one makes it
    except StoreError as error:
        return error
    except LeaseLost:
        pass  # another process holds it: it is there
    return None
