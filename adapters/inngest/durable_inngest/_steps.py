"""The steps under this engine.

While the client is attached, a function that returns is reported and the handler goes on. All else
(a failure, a sleep, a wait) is for the server to go on from: the step parks, and what was found is
reported when the handler is quiet. On a re-entry the outcomes so far are there; at most one new
function runs, and its outcome is the answer.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from durable_core import Event, Request
from durable_core.engines.remote import (
    NO_OPTIONS,
    Call,
    Cancelled,
    Codec,
    FailedOp,
    Failure,
    Flow,
    FunctionCall,
    GatewayCall,
    JSONCodec,
    Op,
    OpKind,
    Outcome,
    PendingOp,
    Raised,
    ReportedStep,
    Returned,
    Signal,
    SignalWait,
    StepAttempt,
    StepOptions,
    WaitRule,
    ask_for_step,
    await_outcome,
    begin_step,
    call_user,
    delay_ms,
    dump_arguments,
    dump_result,
    leave_to_server,
    load_result,
    log_warning,
    park_for_ever,
    queue_op,
    result_remedy,
    show_step,
    step_failure,
    until_idle,
)
from durable_core.errors import LimitExceededError, StepArgumentError, StepUsageError
from durable_inngest import _protocol as _ops
from durable_inngest._api import MOST_BYTES
from durable_inngest._execution import NO_CALLBACKS, InngestExecution
from durable_inngest._protocol import (
    Failed,
    Value,
    format_duration,
    load_event_memo,
    load_failure,
    load_outcome,
    needs_loaded_events,
    wait_expression,
)
from durable_inngest._reentry import answer_found, answer_ops

__all__ = [
    "Sender",
    "SignalSender",
    "call_through_server",
    "counted_failure",
    "delay_of",
    "dump_events",
    "invoke_function",
    "may_run_step",
    "perform",
    "recall",
    "run_step",
    "seed_of",
    "sending",
    "sending_signals",
    "sleep_until",
    "step_failed",
    "wait_for_callback",
    "wait_for_event",
    "wait_for_signal",
]


# --- failing --------------------------------------------------------------------------------------
#
# What follows when a step or the handler fails: another attempt, and who counts them.
#
# The server counts the attempts of a step, and says how often it has made a call; it loses count of
# the handler's. So the handler's failures are counted here: each leaves a sleep of our own in the
# run's state, which is the pause before the next attempt as well. A failure while the client is
# attached is counted that way, too, where the server would lose it: beside other steps, which all
# run in calls of their own then, or with a delay that the error asks for.


def step_failed(
    ex: InngestExecution,
    step: ReportedStep,
    failure: Failure,
    error: BaseException | None,
    options: StepOptions = NO_OPTIONS,
) -> FailedOp:
    """Return what the server is told of a function that has failed."""
    counted = ex.counted(step.op.name)
    failures = counted + (ex.reentry.generation if ex.reentry is not None else 1)
    retries = ex.run.retries if options.retries is None else options.retries
    final = not failure.retriable or failures > retries
    unseen = 1 if not counted and ex.may_have_failed_attached else 0
    shown = _ops.error_of(failure, error)
    dump = _ops.step_failure if final else _ops.failed
    return FailedOp(
        step=step,
        dump=partial(dump, error=shown),
        error=shown,
        failures=failures,
        final=final,
        delay=0 if final else delay_of(ex, failure, failures + unseen, options),
        # The server has neither pauses nor numbers of attempts for a single step.
        asked=any(
            each is not None for each in (failure.retry_after, options.backoff, options.retries)
        ),
    )


def counted_failure(ex: InngestExecution, step: ReportedStep) -> PendingOp | None:
    """Return what is to be reported of a step that failed beside others, before it runs again."""
    counted = ex.counted(step.op.name)
    if not counted:
        return None
    memo = load_outcome(ex.actions[_ops.counted_failure_id(step.op.name, counted)])
    kept = memo.value if isinstance(memo, Value) else None
    if not isinstance(kept, dict):
        return None  # it was a sleep, and is over
    if kept.get("final") is True:
        error = kept.get("error")
        shown = {"name": "Error", "message": "Unknown error"}
        shown.update(error if isinstance(error, dict) else {})
        dump = partial(_ops.step_failure, error=shown)
        return FailedOp(step=step, dump=dump, error=shown, final=True)
    until = kept.get("until")
    left = until - ex.env.clock.now() if isinstance(until, int) else 0
    if left <= 0 or _ops.pause_id(step.op.name, counted) in ex.actions:
        return None
    dump = partial(_ops.pause, number=counted, duration=format_duration(left))
    return PendingOp(step=step, dump=dump)


def delay_of(
    ex: InngestExecution, failure: Failure, failures: int, options: StepOptions = NO_OPTIONS
) -> int:
    """Return how long to wait before the next attempt, milliseconds."""
    if failure.retry_after is not None:
        return failure.retry_after
    return delay_ms(options.backoff or ex.env.policy, max(1, failures), ex.env.ids.uniform())


# --- admission ------------------------------------------------------------------------------------
#
# Which step may run: any while the client is attached, at most one on a re-entry.


def may_run_step(ex: InngestExecution, op: Op) -> Flow[bool]:
    """Tell whether the function of a step may be called here and now.

    If not, the server was left what it needs to know, or will be asked again. A step that is asked
    for beside others runs in a call of its own. The server has a flag for that, too, which outlives
    the others: who would follow it would count the attempts of a step anew.
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
    pending = counted_failure(ex, step)
    if pending is None and not ex.target and ex.order.is_apart(op.id):
        pending = PendingOp(step=step, dump=_ops.planned)
    if pending is not None:
        ex.found[op.id] = pending
        return False
    ex.running = op.id
    return True


# --- performing -----------------------------------------------------------------------------------
#
# Calling the function of a step, once, and what becomes of its outcome.

#: What an op has besides its result, bytes.
_OVERHEAD = 60 * 1024


def perform(
    ex: InngestExecution,
    op: Op,
    call: Call,
    finished: Callable[[ReportedStep, str], str],
    codec: Codec,
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
    if not (yield from may_run_step(ex, op)):
        yield from park_for_ever(ex, op)
    inside = StepAttempt(op.name, op.id, ex.next_attempt(), ex) if is_users else None
    if inside is not None and ex.reentry is not None:
        inside.number = ex.counted(op.name) + ex.reentry.generation
    ex.in_flight += 1
    try:
        begun = yield from begin_step(ex)
        ex.check_open()
        began = ex.env.clock.now()
        outcome = begun if isinstance(begun, Cancelled) else (yield from call_user(inside, call))
        if inside is not None:
            inside.function_ended = True
        step = ex.step(op, began=began, took=max(0, ex.env.clock.now() - began))
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
        ex.in_flight -= 1
        ex.activity += 1
    if not isinstance(outcome, Returned) or failure is not None:
        if ex.stream is not None and inside is not None:
            ex.stream.roll_back(inside)
        yield from _failed(ex, step, outcome, failure, call.options or NO_OPTIONS)
    yield from park_for_ever(ex, op)
    raise AssertionError("nothing goes on from a step that the server goes on from")


def _encode(
    ex: InngestExecution, op: Op, call: Call, value: object, codec: Codec
) -> tuple[str, str] | Failure:
    """Return the result as text, and as the server keeps it; or why it cannot be kept."""
    try:
        if call.result is None:
            text = codec.encode(value)
        else:
            text = dump_result(codec, call.result, value)
        kept = _ops.dump_value(text) if isinstance(codec, JSONCodec) else json.dumps(text)
    except Exception as error:
        remedy = result_remedy(call, error)
        text = f"the result of step {op.name!r} cannot be stored: {error}{remedy}"
        return Failure(name="StepResultError", message=text, retriable=False, result="unstorable")
    try:
        ex.check_size(op, text)
        most = (MOST_BYTES if ex.reporter is None else ex.reporter.room) - _OVERHEAD
        if len(kept) > most // 4 and len(kept.encode("utf-8", "surrogatepass")) > most:
            raise LimitExceededError(
                f"the result of step {op.name!r} is larger than the {most} bytes that the Inngest "
                "server takes now"
            )
    except LimitExceededError as error:
        name = "StepResultTooLargeError"
        return Failure(name=name, message=str(error), retriable=False, result="too-large")
    return text, kept


def _tell(ex: InngestExecution, op: Op, said: str) -> Flow[None]:
    """Tell the server of a finished op: on the line to it, or as the answer that it waits for."""
    if ex.reporter is not None:
        ex.order.finish(op.id)
        yield from queue_op(ex, said, op.id)
    else:
        if ex.emitter is not None:
            ex.emitter.commit(op.id)
        yield from answer_ops(ex, [said])


def _failed(
    ex: InngestExecution,
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
    failed = step_failed(ex, step, failure, error, options)
    then = "for good" if failed.final else "and is to be tried again"
    if not isinstance(outcome, Cancelled):
        shown = show_step(step.op, options)
        yield from log_warning(f"step {shown} failed, {then}: {failure.name}", error)
    ex.found[step.op.id] = failed
    if ex.reentry is not None:
        yield from answer_found(ex)
    ex.no_new_steps = ex.no_new_steps or failed.final
    if isinstance(outcome, Cancelled):
        raise outcome.error


# --- steps ----------------------------------------------------------------------------------------


def run_step(ex: InngestExecution, op: Op, call: Call) -> Flow[object]:
    """``step.run``: answer from what the server knows, or call the function."""
    return ask_for_step(ex, op, _run_step(ex, op, call))


def _check_options(ex: InngestExecution, op: Op, options: StepOptions) -> None:
    """Refuse options that the server has no form for.

    Raises:
        StepArgumentError: the step has one; the message names the engine and the remedy.
    """
    if options.retries is not None and options.retries > ex.run.retries:
        raise StepArgumentError(
            f"step {op.name!r}: retries={options.retries} is more than the {ex.run.retries} of its "
            "endpoint; InngestEngine allows fewer only, so raise endpoint(retries=)"
        )
    if options.undo is not None:
        raise StepArgumentError(
            f"step {op.name!r}: InngestEngine has no undo=, because its server ends a run without "
            "asking; catch the error in the handler and undo there, in steps"
        )
    if options.at_most_once:
        raise StepArgumentError(
            f"step {op.name!r}: InngestEngine has no at_most_once=, because its server learns of a "
            "step only when it has ended; let the function see to it, by an idempotency key"
        )


def _run_step(ex: InngestExecution, op: Op, call: Call) -> Flow[object]:
    if call.options is not None:
        _check_options(ex, op, call.options)
    if call.options is not None or ex.options.record_arguments:
        name = (call.options or NO_OPTIONS).name or ""
        ex.describe(op, name, _arguments(call) if ex.options.record_arguments else None)
    known = yield from recall(ex, op)
    if known is None:
        return (yield from perform(ex, op, call, _ops.finished, ex.env.codec))
    return load_result(call, op, _load(ex, known))


def _arguments(call: Call) -> tuple[object, ...] | None:
    """Return the arguments of a function as the server shows them, those with names at the end."""
    text = dump_arguments(call)
    if not text:
        return ("left out",) if text is not None else None
    kept = json.loads(text)
    return (*kept["args"], kept["kwargs"]) if kept["kwargs"] else tuple(kept["args"])


def sleep_until(ex: InngestExecution, op: Op, due_at: Callable[[int], int]) -> Flow[None]:
    """``step.sleep`` and ``step.sleep_until``; ``due_at`` gets the time now."""
    return ask_for_step(ex, op, _sleep_until(ex, op, due_at))


def _sleep_until(ex: InngestExecution, op: Op, due_at: Callable[[int], int]) -> Flow[None]:
    if (yield from recall(ex, op)) is None:
        now = ex.env.clock.now()
        length = due_at(now) - now
        if length > 0:
            dump = partial(_ops.sleep, duration=format_duration(length))
            yield from leave_to_server(ex, PendingOp(step=ex.step(op), dump=dump))


def wait_for_event(
    ex: InngestExecution, op: Op, rule: WaitRule, timeout: int
) -> Flow[Event | None]:
    """``step.wait_for_event``: the first matching event from now on, or None."""
    return ask_for_step(ex, op, _wait_for_event(ex, op, rule, timeout))


def _wait_for_event(
    ex: InngestExecution, op: Op, rule: WaitRule, timeout: int
) -> Flow[Event | None]:
    known = yield from recall(ex, op)
    if known is None and timeout > 0:
        expression = wait_expression(rule)
        dump = partial(
            _ops.wait,
            event=rule.event,
            timeout=format_duration(timeout),
            expression=expression,
        )
        found = PendingOp(
            step=ex.step(op), dump=dump, needs_reentry=needs_loaded_events(expression)
        )
        yield from leave_to_server(ex, found)
    return None if known is None else load_event_memo(known.value)


def wait_for_signal(ex: InngestExecution, op: Op, wait: SignalWait) -> Flow[Signal[Any] | None]:
    """``step.wait_for_signal``: the signal, or None. What a conflict does is up to the server."""
    return ask_for_step(ex, op, _wait_for_signal(ex, op, wait))


def _wait_for_signal(ex: InngestExecution, op: Op, wait: SignalWait) -> Flow[Signal[Any] | None]:
    known = yield from recall(ex, op)
    if known is None and wait.timeout > 0:
        dump = partial(
            _ops.wait_for_signal,
            signal=wait.name,
            timeout=format_duration(wait.timeout),
            conflict="replace" if wait.replaces else "fail",
        )
        yield from leave_to_server(ex, PendingOp(step=ex.step(op), dump=dump))
    sent = None if known is None else _ops.load_signal_memo(known.value)
    return None if sent is None else Signal(*sent)


def wait_for_callback(ex: InngestExecution, op: Op, timeout: int) -> Flow[Request | None]:
    """``step.wait_for_callback``, which the server does not have.

    Raises:
        StepUsageError: always; the message names the engine and the remedy.
    """
    ex.unawaited.pop(op.id, None)
    raise StepUsageError(f"step {op.name!r}: {NO_CALLBACKS}")


def invoke_function(ex: InngestExecution, op: Op, call: FunctionCall) -> Flow[object]:
    """``step.invoke`` of a function that the server knows; returns what it has returned."""
    return ask_for_step(ex, op, _invoke_function(ex, op, call))


def _invoke_function(ex: InngestExecution, op: Op, call: FunctionCall) -> Flow[object]:
    known = yield from recall(ex, op)
    if known is None:
        dump = partial(_ops.invoke_function, call=call)
        yield from leave_to_server(ex, PendingOp(step=ex.step(op), dump=dump))
    return None if known is None else known.value


def call_through_server(ex: InngestExecution, op: Op, call: GatewayCall) -> Flow[object]:
    """``step.fetch`` and ``step.ai.infer`` by the server; returns what that has got."""
    return ask_for_step(ex, op, _call_through_server(ex, op, call))


def _call_through_server(ex: InngestExecution, op: Op, call: GatewayCall) -> Flow[object]:
    known = yield from recall(ex, op)
    if known is not None:
        return known.value
    dump = partial(_ops.gateway, call=call)
    # At a checkpoint the server would keep us waiting for its answer, and try only once.
    found = PendingOp(step=ex.step(op), dump=dump, needs_reentry=True)
    if ex.reentry is None:
        yield from leave_to_server(ex, found)
    elif (yield from may_run_step(ex, op)):
        # The op is alone in its answer: the server makes the call each time that it is told of it.
        yield from answer_ops(ex, ex.dumps([found]))
    yield from park_for_ever(ex, op)
    raise AssertionError("nothing goes on from a step that the server goes on from")


def recall(ex: InngestExecution, op: Op) -> Flow[Value | None]:
    """Return the outcome of an op, in its turn; None if there is none yet."""
    if not (yield from await_outcome(ex, op)):
        return None
    outcome = load_outcome(ex.actions[op.id])
    if op.kind is OpKind.WAIT:
        return Value(ex.actions[op.id])  # an event has data, and more
    if isinstance(outcome, Failed):
        ex.failures += 1
        raise load_failure(op.name, outcome.error, debug=ex.env.debug)
    return outcome


def _load(ex: InngestExecution, known: Value) -> object:
    if isinstance(ex.env.codec, JSONCodec):
        return known.value
    return ex.env.codec.decode(str(known.value))  # another codec's text goes as a JSON string


# --- signals --------------------------------------------------------------------------------------

#: Sends a signal with its data; returns the id of the run that waited for it, or None.
SignalSender = Callable[[str, object], Awaitable[str | None]]


def sending_signals(
    send: SignalSender,
) -> Callable[[InngestExecution, Op, Signal[object]], Flow[str | None]]:
    """Return the flow of ``step.send_signal``.

    Args:
        send: sends the signal.
    """

    def send_signal(ex: InngestExecution, op: Op, signal: Signal[object]) -> Flow[str | None]:
        """Send the signal, at least once: the server knows no ids of signals."""
        return ask_for_step(ex, op, _send_signal(ex, op, signal))

    def _send_signal(ex: InngestExecution, op: Op, signal: Signal[object]) -> Flow[str | None]:
        known = yield from recall(ex, op)
        if known is not None:
            value = known.value
        else:
            call = Call(_send, (signal,))
            finished = partial(_ops.signal_finished, signal=signal.name)
            value = yield from perform(ex, op, call, finished, _CODEC, is_users=False)
        run_id = value.get("run_id") if isinstance(value, dict) else None
        return run_id if isinstance(run_id, str) else None

    async def _send(signal: Signal[object]) -> dict[str, object]:
        return {"run_id": await send(signal.name, signal.data)}

    return send_signal


# --- events ---------------------------------------------------------------------------------------
#
# ``step.send_event`` under this engine, and events that are sent from anywhere.

_CODEC = JSONCodec()

#: Sends events, given as the server takes them, with a seed for their ids.
Sender = Callable[[Sequence[object], str], Awaitable[list[str]]]


def dump_events(events: Sequence[Event], now: int) -> list[object]:
    """Return events as the server takes them."""
    return [_ops.dump_event(event, now) for event in events]


def seed_of(at: int, entropy: bytes) -> str:
    """Return the seed from which the server makes the ids of the events of one call.

    Args:
        at: epoch milliseconds.
        entropy: 10 bytes; the same ones make the same ids.
    """
    return f"{at},{b64encode(entropy).decode('ascii')}"


def sending(send: Sender) -> Callable[[InngestExecution, Op, tuple[Event, ...]], Flow[list[str]]]:
    """Return the flow of ``step.send_event``.

    Args:
        send: sends the events.
    """

    def send_events(ex: InngestExecution, op: Op, events: tuple[Event, ...]) -> Flow[list[str]]:
        """Send the events with ids made from run and step, so that a crash cannot send twice."""
        return ask_for_step(ex, op, _send_events(ex, op, events))

    def _send_events(ex: InngestExecution, op: Op, events: tuple[Event, ...]) -> Flow[list[str]]:
        known = yield from recall(ex, op)
        if known is not None:
            value = known.value
        else:
            call = Call(_send, (ex, op, events))
            value = yield from perform(ex, op, call, _finished, _CODEC, is_users=False)
        ids = value.get("ids") if isinstance(value, dict) else None
        return [str(each) for each in ids] if isinstance(ids, list) else []

    async def _send(ex: InngestExecution, op: Op, events: tuple[Event, ...]) -> dict[str, object]:
        # The time is that of the run: the ids are the same in every attempt.
        at = ex.run.created_at
        named = [
            event if event.id is not None else Event(event.name, event.data, id, event.ts)
            for event, id in zip(events, _ids(ex, op, len(events)), strict=True)
        ]
        entropy = hashlib.sha256(f"{ex.run.id}:{op.id}".encode()).digest()[:10]
        ids = await send(dump_events(named, at), seed_of(at, entropy))
        return {"ids": ids}

    return send_events


def _ids(ex: InngestExecution, op: Op, count: int) -> list[str]:
    return [f"{ex.run.id}:{op.id}:{index}" for index in range(count)]


def _finished(step: ReportedStep, value: str) -> str:
    document = json.loads(value)
    return _ops.send_finished(step, document["ids"])
