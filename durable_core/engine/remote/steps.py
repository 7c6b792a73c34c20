"""The steps under any server.

While the client is attached, a function that returns is reported and the handler goes on. All else
(a failure, a sleep, a wait) is for the server to go on from: the step parks, and what was found is
reported when the handler is quiet. On a re-entry the outcomes so far are there; at most one new
function runs, and its outcome is the answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from durable_core.codec.json import Codec, JSONCodec
from durable_core.engine.remote.execution import RemoteExecution, queue_op
from durable_core.engine.remote.ops import Failed, FailedOp, PendingOp, ReportedStep, Value
from durable_core.errors import LimitExceededError, StepArgumentError, StepUsageError
from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.effects import (
    Cancelled,
    Flow,
    Outcome,
    Raised,
    Returned,
    await_replay_turn,
    call_user,
    log_warning,
    park,
)
from durable_core.flow.error_responses import step_failure
from durable_core.flow.execution import call_step
from durable_core.flow.function_steps import dump_arguments
from durable_core.flow.results import dump_result, load_result, result_remedy
from durable_core.flow.server_calls import FunctionCall, GatewayCall
from durable_core.flow.step_options import NO_OPTIONS, StepOptions, show_step
from durable_core.http.request import Request
from durable_core.machine.matching import WaitRule
from durable_core.model.decision import Failure
from durable_core.model.event import Event, Signal, SignalWait
from durable_core.model.step import Op, OpKind

__all__ = [
    "SignalSender",
    "asks",
    "call_through_server",
    "invoke_function",
    "leave_to_server",
    "park_for_ever",
    "perform",
    "recall",
    "run_step",
    "sending_signals",
    "sleep_until",
    "until_idle",
    "wait_for_callback",
    "wait_for_event",
    "wait_for_signal",
]

T = TypeVar("T")
P = ParamSpec("P")
ExecutionT = TypeVar("ExecutionT", bound=RemoteExecution)

#: Later than any outcome.
_LAST = 2**62
#: So many turns of the loop without a new step mean that all that can be asked for now has been.
_IDLE = 8
#: What an op has besides its result, bytes: names, and the arguments where they are recorded.
_OVERHEAD = 128 * 1024
_JSON = JSONCodec()


# --- the turn of a step ---------------------------------------------------------------------------


def asks(
    flow: Callable[Concatenate[ExecutionT, Op, P], Flow[T]],
) -> Callable[Concatenate[ExecutionT, Op, P], Flow[T]]:
    """Let the flow of a step take part in the order of the steps while the handler waits for it."""

    @wraps(flow)
    def ask(ex: ExecutionT, op: Op, /, *args: P.args, **kwargs: P.kwargs) -> Flow[T]:
        ex.unawaited.pop(op.id, None)
        ex.order.ask(op.id)
        try:
            return (yield from flow(ex, op, *args, **kwargs))
        except asyncio.CancelledError:
            if not ex.closed and not isinstance(ex.found.get(op.id), FailedOp):
                ex.found.pop(op.id, None)  # the handler has given it up, and goes on
            raise
        finally:
            ex.order.decide(op.id)

    return ask


def recall(ex: RemoteExecution, op: Op) -> Flow[Value | None]:
    """Return the outcome of an op, in its turn; None if there is none yet.

    Raises:
        StepError: it has failed for good.
    """
    if not (yield from _await_outcome(ex, op)):
        return None
    memo = ex.actions[op.id]
    if op.kind is OpKind.WAIT:
        return Value(memo)  # an event may look like the outcome of a function
    outcome = ex.ops.load_outcome(memo)
    if isinstance(outcome, Failed):
        ex.failures += 1
        raise ex.ops.load_failure(op.name, outcome.error, debug=ex.env.debug)
    return outcome


def _await_outcome(ex: RemoteExecution, op: Op) -> Flow[bool]:
    """Wait for the turn of an outcome that is there; False if there is none yet."""
    ex.check_open()
    ex.activity += 1
    if ex.stopping or ex.no_new_steps or ex.answered:
        yield from park_for_ever(ex, op)
    if op.id not in ex.actions:
        return False
    yield from _busy(ex, await_replay_turn(ex.order.place(op.id)))
    ex.activity += 1
    ex.check_open()
    if not ex.order.is_known(op.id) and not ex.is_full:
        ex.order.unknown.append(op.id)
        yield from park_for_ever(ex, op)
    return True


def leave_to_server(ex: RemoteExecution, found: PendingOp) -> Flow[None]:
    """Leave an op to the server, unless it has asked for another one alone."""
    asked = ex.reentry is None or (not ex.target and ex.running is None)
    if asked and not ex.no_new_steps:
        ex.found[found.step.op.id] = found
    yield from park_for_ever(ex, found.step.op)


def park_for_ever(ex: RemoteExecution, op: Op) -> Flow[None]:
    """Wait for the handler to be put away; the server goes on from there."""
    ex.pending[op.id] = op
    ex.note_awaited(op)
    ex.parked += 1
    try:
        while True:
            yield from park(op.id, None)
            ex.check_open()
    finally:
        ex.parked -= 1
        ex.activity += 1


def until_idle(ex: RemoteExecution) -> Flow[None]:
    """Wait until the handler has asked for all that it can ask for now."""
    yield from _busy(ex, _until_idle(ex))


def _until_idle(ex: RemoteExecution) -> Flow[None]:
    seen, idle = ex.activity, 0
    while idle < _IDLE:
        yield from await_replay_turn(_LAST)
        idle = idle + 1 if ex.activity == seen else 0
        seen = ex.activity


def _busy(ex: RemoteExecution, flow: Flow[None]) -> Flow[None]:
    """Let nobody take the handler for idle, however long its turn is in coming."""
    ex.in_flight += 1
    try:
        yield from flow
    finally:
        ex.in_flight -= 1


def _may_run(ex: RemoteExecution, op: Op) -> Flow[bool]:
    """Tell whether a step may run here and now.

    While the client is attached each may, on a re-entry one. If not, the server was left what it
    needs to know, or will be asked again. A step that is asked for beside others runs in a call of
    its own.
    """
    if ex.reentry is None:
        return True
    if ex.target:
        if op.id != ex.target:
            return False
    else:
        yield from until_idle(ex)
        if ex.running is not None or ex.answered:
            return False
    step = ex.step(op)
    pending = ex.kept_back(step)
    if pending is None and not ex.target and ex.order.is_apart(op.id):
        pending = PendingOp(step=step, dump=ex.ops.planned)
    if pending is not None:
        ex.found[op.id] = pending
        return False
    ex.running = op.id
    return True


# --- functions ------------------------------------------------------------------------------------


@asks
def run_step(ex: RemoteExecution, op: Op, call: Call) -> Flow[object]:
    """``step.run``: answer from what the server knows, or call the function."""
    if call.options is not None:
        _check_options(ex, op, call.options)
    if call.options is not None or ex.options.record_arguments:
        name = (call.options or NO_OPTIONS).name or ""
        ex.describe(op, name, _arguments(call) if ex.options.record_arguments else None)
    known = yield from recall(ex, op)
    codec = ex.env.codec
    if known is None:
        return (yield from perform(ex, op, call, ex.ops.finished, codec))
    # Another codec's text goes as a JSON string.
    value = known.value if isinstance(codec, JSONCodec) else codec.decode(str(known.value))
    return load_result(call, op, value)


def _check_options(ex: RemoteExecution, op: Op, options: StepOptions) -> None:
    """Refuse options that the server has no form for.

    Raises:
        StepArgumentError: the step has one; the message names the engine and the remedy.
    """
    if options.retries is not None and options.retries > ex.run.retries:
        raise StepArgumentError(
            f"step {op.name!r}: retries={options.retries} is more than the {ex.run.retries} of its "
            f"endpoint; {ex.engine_name} allows fewer only, so raise endpoint(retries=)"
        )
    if options.undo is not None:
        raise StepArgumentError(
            f"step {op.name!r}: {ex.engine_name} has no undo=, because its server ends a run "
            "without asking; catch the error in the handler and undo there, in steps"
        )
    if options.at_most_once:
        raise StepArgumentError(
            f"step {op.name!r}: {ex.engine_name} has no at_most_once=, because its server learns "
            "of a step only when it has ended; let the function see to it, by an idempotency key"
        )


def _arguments(call: Call) -> tuple[object, ...] | None:
    """Return the arguments of a function as the server shows them, those with names at the end."""
    text = dump_arguments(call)
    if not text:
        return ("left out",) if text is not None else None
    kept = json.loads(text)
    return (*kept["args"], kept["kwargs"]) if kept["kwargs"] else tuple(kept["args"])


def perform(
    ex: RemoteExecution,
    op: Op,
    call: Call,
    finished: Callable[[ReportedStep, str], str],
    codec: Codec = _JSON,
    *,
    is_users: bool = True,
) -> Flow[object]:
    """Call a function whose outcome the server does not know.

    Args:
        ex: the execution.
        op: the op.
        call: what to call.
        finished: makes the op of a result, given as JSON text.
        codec: makes text of the result.
        is_users: it is a function of the user's, which may push to the stream but call no steps.
    """
    if not (yield from _may_run(ex, op)):
        yield from park_for_ever(ex, op)
    ex.attempts += 1
    identity = ex.run.epoch, ex.attempts
    attempt = StepAttempt(op, identity, ex, call if is_users else None)
    if ex.reentry is not None:
        attempt.number = ex.counted(op.name) + ex.reentry.generation
    ex.in_flight += 1
    try:
        outcome = yield from call_step(ex, attempt)
        if not (is_users or isinstance(outcome, Cancelled)):
            outcome = yield from call_user(call)
        attempt.function_ended = True
        now = ex.env.clock.now()
        began = now if attempt.started_at is None else attempt.started_at
        step = ex.step(op, began=began, took=max(0, now - began))
        ex.check_open()
        failure = None
        if isinstance(outcome, Returned):
            result = _encode(ex, op, call, outcome.value, codec)
            if isinstance(result, Failure):
                failure = result
            else:
                text, kept = result
                yield from _tell(ex, op, finished(replace(step, races=ex.order.is_parallel), kept))
                if ex.reentry is None:
                    return load_result(call, op, codec.decode(text))
    finally:
        ex.calls.pop(op.id, None)
        ex.in_flight -= 1
        ex.activity += 1
    if not isinstance(outcome, Returned) or failure is not None:
        if ex.stream is not None and is_users:
            ex.stream.roll_back(attempt)
        yield from _failed(ex, step, outcome, failure, call.options or NO_OPTIONS)
    yield from park_for_ever(ex, op)
    raise AssertionError("nothing goes on from a step that the server goes on from")


def _encode(
    ex: RemoteExecution, op: Op, call: Call, value: object, codec: Codec
) -> tuple[str, str] | Failure:
    """Return the result as text, and as the server keeps it; or why it cannot be kept."""
    try:
        if call.result is None:
            text = codec.encode(value)
        else:
            text = dump_result(codec, call.result, value)
        kept = ex.ops.dump_value(text) if isinstance(codec, JSONCodec) else json.dumps(text)
    except Exception as error:
        remedy = result_remedy(call, error)
        text = f"the result of step {op.name!r} cannot be stored: {error}{remedy}"
        return Failure(name="StepResultError", message=text, retriable=False, result="unstorable")
    try:
        ex.check_size(op, text)
        most = ex.room - _OVERHEAD
        if len(kept) > most // 4 and len(kept.encode("utf-8", "surrogatepass")) > most:
            raise LimitExceededError(
                f"the result of step {op.name!r} is larger than the {most} bytes that "
                f"{ex.server_name} takes now"
            )
    except LimitExceededError as error:
        name = "StepResultTooLargeError"
        return Failure(name=name, message=str(error), retriable=False, result="too-large")
    return text, kept


def _tell(ex: RemoteExecution, op: Op, said: str) -> Flow[None]:
    """Tell the server of a finished op: on the line to it, or as the answer that it waits for."""
    if ex.reporter is not None:
        ex.order.finish(op.id)
        yield from queue_op(ex, said, op.id)
    else:
        if ex.emitter is not None:
            ex.emitter.commit(op.id)
        yield from ex.answer_ops([said])


def _failed(
    ex: RemoteExecution,
    step: ReportedStep,
    outcome: Outcome,
    failure: Failure | None,
    options: StepOptions,
) -> Flow[None]:
    """Leave a step that has failed to the server; ``failure`` is what is wrong with its result."""
    error = outcome.error if isinstance(outcome, Raised) else None
    if isinstance(outcome, Cancelled):
        text = "user code cancelled the step before its function ended"
        failure = Failure(name="StepCancelled", message=text, retriable=False, cancelled=True)
    elif isinstance(outcome, Raised):
        failure = step_failure(ex.options, outcome, ex.env.clock.now(), options)
    assert failure is not None
    failed = ex.failed_op(step, failure, error, options)
    then = "for good" if failed.final else "and is to be tried again"
    if not isinstance(outcome, Cancelled):
        shown = show_step(step.op, options)
        yield from log_warning(f"step {shown} failed, {then}: {failure.name}", error)
    ex.found[step.op.id] = failed
    if ex.reentry is not None:
        yield from ex.answer_found()
    ex.no_new_steps = ex.no_new_steps or failed.final
    if isinstance(outcome, Cancelled):
        raise outcome.error


# --- what the server goes on from -----------------------------------------------------------------


@asks
def sleep_until(ex: RemoteExecution, op: Op, due_at: Callable[[int], int]) -> Flow[None]:
    """``step.sleep`` and ``step.sleep_until``; ``due_at`` gets the time now."""
    if (yield from recall(ex, op)) is None:
        now = ex.env.clock.now()
        length = due_at(now) - now
        if length > 0:
            dump = partial(ex.ops.sleep, length=length)
            yield from leave_to_server(ex, PendingOp(step=ex.step(op), dump=dump))


@asks
def wait_for_event(ex: RemoteExecution, op: Op, rule: WaitRule, timeout: int) -> Flow[Event | None]:
    """``step.wait_for_event``: the first matching event from now on, or None."""
    known = yield from recall(ex, op)
    if known is None and timeout > 0:
        dump = partial(ex.ops.wait, rule=rule, timeout=timeout)
        needs_reentry = ex.ops.needs_reentry(rule)
        found = PendingOp(step=ex.step(op), dump=dump, needs_reentry=needs_reentry)
        yield from leave_to_server(ex, found)
    return None if known is None else ex.ops.load_event_memo(known.value)


@asks
def wait_for_signal(ex: RemoteExecution, op: Op, wait: SignalWait) -> Flow[Signal[Any] | None]:
    """``step.wait_for_signal``: the signal, or None. What a conflict does is up to the server."""
    known = yield from recall(ex, op)
    if known is None and wait.timeout > 0:
        dump = partial(ex.ops.wait_for_signal, wait=wait)
        yield from leave_to_server(ex, PendingOp(step=ex.step(op), dump=dump))
    sent = None if known is None else ex.ops.load_signal_memo(known.value)
    return None if sent is None else Signal(*sent)


def wait_for_callback(ex: RemoteExecution, op: Op, timeout: int) -> Flow[Request | None]:
    """``step.wait_for_callback``, which a server does not have.

    Raises:
        StepUsageError: always; the message names the engine and the remedy.
    """
    ex.unawaited.pop(op.id, None)
    raise StepUsageError(f"step {op.name!r}: {ex.no_callbacks}")


@asks
def invoke_function(ex: RemoteExecution, op: Op, call: FunctionCall) -> Flow[object]:
    """``step.invoke`` of a function that the server knows; returns what it has returned."""
    known = yield from recall(ex, op)
    if known is None:
        dump = partial(ex.ops.invoke_function, call=call)
        yield from leave_to_server(ex, PendingOp(step=ex.step(op), dump=dump))
    return None if known is None else known.value


@asks
def call_through_server(ex: RemoteExecution, op: Op, call: GatewayCall) -> Flow[object]:
    """``step.fetch`` and ``step.ai.infer`` by the server; returns what that has got."""
    known = yield from recall(ex, op)
    if known is not None:
        return known.value
    dump = partial(ex.ops.gateway, call=call)
    # At a checkpoint the server would keep us waiting for its answer, and try only once.
    found = PendingOp(step=ex.step(op), dump=dump, needs_reentry=True)
    if ex.reentry is None:
        yield from leave_to_server(ex, found)
    elif (yield from _may_run(ex, op)):
        # The op is alone in its answer: the server makes the call each time that it is told of it.
        yield from ex.answer_ops(ex.dumps([found]))
    yield from park_for_ever(ex, op)
    raise AssertionError("nothing goes on from a step that the server goes on from")


# --- signals --------------------------------------------------------------------------------------

#: Sends a signal with its data; returns the id of the run that waited for it, or None.
SignalSender = Callable[[str, object], Awaitable[str | None]]


def sending_signals(
    send: SignalSender,
) -> Callable[[RemoteExecution, Op, Signal[object]], Flow[str | None]]:
    """Return the flow of ``step.send_signal``, which sends at least once.

    Args:
        send: sends the signal.
    """

    async def send_one(signal: Signal[object]) -> dict[str, object]:
        return {"run_id": await send(signal.name, signal.data)}

    @asks
    def send_signal(ex: RemoteExecution, op: Op, signal: Signal[object]) -> Flow[str | None]:
        known = yield from recall(ex, op)
        if known is not None:
            value = known.value
        else:
            call = Call(send_one, (signal,))
            finished = partial(ex.ops.signal_finished, signal=signal.name)
            value = yield from perform(ex, op, call, finished, is_users=False)
        run_id = value.get("run_id") if isinstance(value, dict) else None
        return run_id if isinstance(run_id, str) else None

    return send_signal
