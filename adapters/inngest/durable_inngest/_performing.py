"""Calling the function of a step, once, and what becomes of its outcome."""

from __future__ import annotations

import json
from collections.abc import Callable

from durable_core.errors import LimitExceededError
from durable_core.flow.asks import (
    Call,
    Cancelled,
    Flow,
    Outcome,
    Raised,
    Returned,
    invoke,
    park,
    report,
)
from durable_core.flow.execution import begin
from durable_core.flow.streaming import InsideStep
from durable_core.machine.failures import failure_of_step
from durable_core.model.inputs import Failure
from durable_core.model.ops import Op, Pending
from durable_core.wire.codec import Codec, JSONCodec
from durable_inngest import _ops
from durable_inngest._admission import admitted
from durable_inngest._answers import answer_ops
from durable_inngest._calls import MOST_BYTES
from durable_inngest._execution import RemoteExecution
from durable_inngest._failing import step_failed
from durable_inngest._reporting import queue

__all__ = ["park_for_ever", "perform"]

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
    inside = InsideStep(op.name, op.id, ex.next_attempt(), ex) if is_users else None
    ex.in_flight += 1
    try:
        begun = yield from begin(ex)
        ex.check_open()
        began = ex.env.clock.now()
        outcome = begun if isinstance(begun, Cancelled) else (yield from invoke(inside, call))
        if inside is not None:
            inside.over = True
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
        return Failure(name="StepResultError", message=message, final=True, result="unstorable")
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
        return Failure(name=name, message=str(error), final=True, result="too-large")
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
        failure = Failure(name="StepCancelled", message=text, final=True, cancelled=True)
    elif error is not None:
        failure = failure_of_step(error, ex.env.clock.now())
    assert failure is not None
    found = step_failed(ex, step, failure, error)
    then = "for good" if found.final else "and is to be tried again"
    if not isinstance(outcome, Cancelled):
        yield from report(f"step {step.op.name!r} failed, {then}: {failure.name}", error)
    if ex.reentry is None:
        ex.found.append(found)
    else:
        yield from answer_ops(ex, [found.op], found)
    ex.barrier = ex.barrier or found.final
    if isinstance(outcome, Cancelled):
        raise outcome.error
