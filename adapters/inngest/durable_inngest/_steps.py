"""The steps under this engine.

While the client is attached, a function that returns is reported and the handler goes on. All else
(a failure, a sleep, a wait) is for the server to go on from: the step parks, and what was found is
reported when the handler is quiet. On a re-entry the outcomes so far are there; at most one new
function runs, and its outcome is the answer.
"""

from __future__ import annotations

from collections.abc import Callable

from durable_core.flow.asks import (
    Call,
    Flow,
    in_turn,
)
from durable_core.flow.execution import Execution
from durable_core.machine.matching import WaitRule
from durable_core.model.events import Event
from durable_core.model.ops import Op, OpKind
from durable_core.wire.codec import JSONCodec
from durable_inngest import _ops
from durable_inngest._durations import format_duration
from durable_inngest._execution import Found, RemoteExecution, remote
from durable_inngest._expressions import needs_loaded_events, wait_expression
from durable_inngest._memos import Failed, Value, load_event_memo, load_failure, load_outcome
from durable_inngest._performing import park_for_ever, perform

__all__ = ["recall", "run_step", "sleep_until", "wait_for_event"]


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
    yield from in_turn(ex.number(op.id))
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
