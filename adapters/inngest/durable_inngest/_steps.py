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

from durable_core.codec.json import Codec, JSONCodec
from durable_core.errors import LimitExceededError
from durable_core.flow.effects import (
    Call,
    Cancelled,
    Flow,
    Outcome,
    Raised,
    Returned,
    StepAttempt,
    await_replay_turn,
    call_user,
    log_warning,
    park,
)
from durable_core.flow.execution import Execution, begin
from durable_core.machine.advance import failure_of_step
from durable_core.machine.matching import WaitRule
from durable_core.machine.retry import delay_ms
from durable_core.model.decision import Failure
from durable_core.model.event import Event
from durable_core.model.step import Op, OpKind, Pending
from durable_inngest import _protocol as _ops
from durable_inngest._api import MOST_BYTES
from durable_inngest._execution import Found, Reentry, RemoteExecution, queue, remote
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
from durable_inngest._reentry import answer_ops

__all__ = [
    "Sender",
    "admitted",
    "delay_of",
    "dump_events",
    "known_failure",
    "park_for_ever",
    "perform",
    "recall",
    "run_step",
    "seed_of",
    "sending",
    "sleep_until",
    "step_failed",
    "wait_for_event",
]


# --- failing --------------------------------------------------------------------------------------
#
# What follows when a step or the handler fails: another attempt, and who counts them.
#
# The server counts the attempts of a step, and tells nobody; it loses count of the handler's. So
# the handler's failures are counted here: each leaves a sleep of our own in the run's state, which
# is the pause before the next attempt as well. A step is counted that way, too, once the server
# cannot do it: when it asks for a delay of its own while the client is attached.


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
    if not failure.retriable or failures > ex.run.retries or (is_ours and ex.is_full):
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


# --- admission ------------------------------------------------------------------------------------
#
# Which step may run: any while the client is attached, at most one on a re-entry.

#: Later than any memo.
_LAST = 2**62
#: So many turns of the loop without a new step mean that all that can be asked for now has been.
_CALM = 8


def admitted(ex: RemoteExecution, op: Op) -> Flow[bool]:
    """Tell whether the function of a step may be called here and now.

    If not, the server was left what it needs to know, or will be asked again.
    """
    reentry = ex.reentry
    if reentry is None:
        return True
    if reentry.target and op.id != reentry.target:
        return False
    if not reentry.target:
        ex.candidates[op.id] = ex.step(op)
        yield from _until_calm(ex)
        if ex.running is not None or ex.answered:
            return False
        if _must_plan(ex, reentry):
            ex.found.append(Found(step=ex.step(op), op=_ops.planned(ex.step(op))))
            return False
    failure = known_failure(ex, ex.step(op))
    if failure is not None:
        ex.found.append(failure)
        return False
    ex.running = op.id
    return True


def _must_plan(ex: RemoteExecution, reentry: Reentry) -> bool:
    """Tell whether steps are to be run in requests of their own: there are several of them."""
    others = [each for each in ex.found if each.step.op.id not in ex.candidates]
    return reentry.force_plan or len(ex.candidates) + len(others) > 1


def _until_calm(ex: RemoteExecution) -> Flow[None]:
    seen, calm = ex.activity, 0
    while calm < _CALM:
        yield from await_replay_turn(_LAST)
        calm = calm + 1 if ex.activity == seen else 0
        seen = ex.activity


# --- performing -----------------------------------------------------------------------------------
#
# Calling the function of a step, once, and what becomes of its outcome.

#: What an op has besides its result, bytes.
_OVERHEAD = 60 * 1024


def perform(
    ex: RemoteExecution,
    op: Op,
    call: Call,
    finished: Callable[[_ops.Step, str], str],
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
    if not (yield from admitted(ex, op)):
        yield from park_for_ever(ex, op)
    inside = StepAttempt(op.name, op.id, ex.next_attempt(), ex) if is_users else None
    ex.in_flight += 1
    try:
        begun = yield from begin(ex)
        ex.check_open()
        began = ex.env.clock.now()
        outcome = begun if isinstance(begun, Cancelled) else (yield from call_user(inside, call))
        if inside is not None:
            inside.function_ended = True
        step = ex.step(op, began=began, took=max(0, ex.env.clock.now() - began))
        ex.check_open()
        failure = None
        if isinstance(outcome, Returned):
            text = _encode(ex, op, outcome.value, codec)
            if isinstance(text, str):
                is_json = isinstance(codec, JSONCodec)
                yield from _tell(ex, op, finished(step, text if is_json else json.dumps(text)))
                if ex.reentry is None:
                    return codec.decode(text)
            else:
                failure = text
    finally:
        ex.in_flight -= 1
        ex.activity += 1
    if not isinstance(outcome, Returned) or failure is not None:
        if ex.stream is not None and inside is not None:
            ex.stream.roll_back(inside)
        yield from _failed(ex, step, outcome, failure)
    yield from park_for_ever(ex, op)
    raise AssertionError("nothing goes on from a step that the server goes on from")


def park_for_ever(ex: RemoteExecution, op: Op) -> Flow[None]:
    """Wait for the handler to be put away; the server goes on from there."""
    ex.pending[op.id] = Pending(op=op, due_at=0)
    ex.awaited[op.id] = op.name
    ex.parked.add(op.id)
    try:
        while True:
            yield from park(op.id, None)
            ex.check_open()
    finally:
        ex.parked.discard(op.id)
        ex.activity += 1


def _encode(ex: RemoteExecution, op: Op, value: object, codec: Codec) -> str | Failure:
    """Return the result as it is kept, or why it cannot be: the step is not called again."""
    try:
        text = codec.encode(value)
    except Exception as error:
        message = f"the result of step {op.name!r} cannot be stored: {error}"
        return Failure(
            name="StepResultError", message=message, retriable=False, result="unstorable"
        )
    try:
        ex.check_size(op, text)
        most = (MOST_BYTES if ex.link is None else ex.link.room) - _OVERHEAD
        if len(text) > most // 4 and len(text.encode("utf-8", "surrogatepass")) > most:
            raise LimitExceededError(
                f"the result of step {op.name!r} is larger than the {most} bytes that the Inngest "
                "server takes now"
            )
    except LimitExceededError as error:
        name = "StepResultTooLargeError"
        return Failure(name=name, message=str(error), retriable=False, result="too-large")
    return text


def _tell(ex: RemoteExecution, op: Op, said: str) -> Flow[None]:
    """Tell the server of a finished op: on the line to it, or as the answer that it waits for."""
    if ex.link is not None:
        yield from queue(ex, ex.link, said, op.id)
    else:
        if ex.emitter is not None:
            ex.emitter.commit(op.id)
        yield from answer_ops(ex, [said])


def _failed(
    ex: RemoteExecution, step: _ops.Step, outcome: Outcome, failure: Failure | None
) -> Flow[None]:
    """Leave a step that has failed to the server; ``failure`` is what is wrong with its result."""
    error = outcome.error if isinstance(outcome, Raised) else None
    if isinstance(outcome, Cancelled):
        text = "user code cancelled the step before its function ended"
        failure = Failure(name="StepCancelled", message=text, retriable=False, cancelled=True)
    elif error is not None:
        failure = failure_of_step(error, ex.env.clock.now())
    assert failure is not None
    found = step_failed(ex, step, failure, error)
    then = "for good" if found.final else "and is to be tried again"
    if not isinstance(outcome, Cancelled):
        yield from log_warning(f"step {step.op.name!r} failed, {then}: {failure.name}", error)
    if ex.reentry is None:
        ex.found.append(found)
    else:
        yield from answer_ops(ex, [found.op], found)
    ex.barrier = ex.barrier or found.final
    if isinstance(outcome, Cancelled):
        raise outcome.error


# --- steps ----------------------------------------------------------------------------------------


def run_step(execution: Execution, op: Op, call: Call) -> Flow[object]:
    """``step.run``: answer from what the server knows, or call the function."""
    ex = remote(execution)
    known = yield from recall(ex, op)
    if known is None:
        return (yield from perform(ex, op, call, _ops.finished, ex.env.codec))
    return _load(ex, known)


def sleep_until(execution: Execution, op: Op, due_at: Callable[[int], int]) -> Flow[None]:
    """``step.sleep`` and ``step.sleep_until``; ``due_at`` gets the time now."""
    ex = remote(execution)
    if (yield from recall(ex, op)) is None:
        now = ex.env.clock.now()
        length = due_at(now) - now
        if length > 0:
            step = ex.step(op)
            yield from _park(ex, Found(step=step, op=_ops.sleep(step, format_duration(length))))


def wait_for_event(
    execution: Execution, op: Op, rule: WaitRule, timeout: int
) -> Flow[Event | None]:
    """``step.wait_for_event``: the first matching event from now on, or None."""
    ex = remote(execution)
    known = yield from recall(ex, op)
    if known is None and timeout > 0:
        step, expression = ex.step(op), wait_expression(rule)
        text = _ops.wait(step, rule.event, format_duration(timeout), expression)
        yield from _park(ex, Found(step=step, op=text, detour=needs_loaded_events(expression)))
    return None if known is None else load_event_memo(known.value)


def _park(ex: RemoteExecution, found: Found) -> Flow[None]:
    """Leave an op to the server, unless it has asked for another one alone."""
    asked = ex.reentry is None or (not ex.reentry.target and ex.running is None)
    if asked and not ex.barrier:
        ex.found.append(found)
    yield from park_for_ever(ex, found.step.op)


def recall(ex: RemoteExecution, op: Op) -> Flow[Value | None]:
    """Return the outcome of an op, in its turn; None if there is none yet."""
    ex.check_open()
    ex.activity += 1
    if ex.stopping or ex.barrier or ex.answered:
        yield from park_for_ever(ex, op)
    if op.id not in ex.actions:
        return None
    outcome = load_outcome(ex.actions[op.id])
    yield from await_replay_turn(ex.number(op.id))
    ex.check_open()
    if op.kind is OpKind.WAIT:
        return Value(ex.actions[op.id])  # an event has data, and more
    if isinstance(outcome, Failed):
        ex.failures += 1
        raise load_failure(op.name, outcome.error)
    return outcome


def _load(ex: RemoteExecution, known: Value) -> object:
    if isinstance(ex.env.codec, JSONCodec):
        return known.value
    return ex.env.codec.decode(str(known.value))  # another codec's text goes as a JSON string


# --- events ---------------------------------------------------------------------------------------
#
# ``step.send_event`` under this engine, and events that are sent from anywhere.

_CODEC = JSONCodec()

#: Sends events, given as the server takes them, with a seed for their ids.
Sender = Callable[[Sequence[object], str], Awaitable[list[str]]]


def dump_events(events: Sequence[Event], now: int) -> list[object]:
    """Return events as the server takes them."""
    return [
        {
            "name": event.name,
            "data": dict(event.data),
            "ts": now if event.ts is None else event.ts,
            **({"id": event.id} if event.id is not None else {}),
        }
        for event in events
    ]


def seed_of(at: int, entropy: bytes) -> str:
    """Return the seed from which the server makes the ids of the events of one call.

    Args:
        at: epoch milliseconds.
        entropy: 10 bytes; the same ones make the same ids.
    """
    return f"{at},{b64encode(entropy).decode('ascii')}"


def sending(send: Sender) -> Callable[[Execution, Op, tuple[Event, ...]], Flow[list[str]]]:
    """Return the flow of ``step.send_event``.

    Args:
        send: sends the events.
    """

    def send_events(execution: Execution, op: Op, events: tuple[Event, ...]) -> Flow[list[str]]:
        """Send the events with ids made from run and step, so that a crash cannot send twice."""
        ex = remote(execution)
        known = yield from recall(ex, op)
        if known is not None:
            value = known.value
        else:
            call = Call(_send, (ex, op, events))
            value = yield from perform(ex, op, call, _finished, _CODEC, is_users=False)
        ids = value.get("ids") if isinstance(value, dict) else None
        return [str(each) for each in ids] if isinstance(ids, list) else []

    async def _send(ex: Execution, op: Op, events: tuple[Event, ...]) -> dict[str, object]:
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


def _ids(ex: Execution, op: Op, count: int) -> list[str]:
    return [f"{ex.run.id}:{op.id}:{index}" for index in range(count)]


def _finished(step: _ops.Step, value: str) -> str:
    document = json.loads(value)
    return _ops.send_finished(step, document["ids"])
