"""What steps do under any server: take part in the order, park, and let one run on a re-entry."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from durable_core.engine.remote.execution import FailedOp, PendingOp, RemoteExecution
from durable_core.flow.effects import Flow, await_replay_turn, park
from durable_core.model.step import Op

__all__ = [
    "ask_for_step",
    "await_outcome",
    "leave_to_server",
    "park_for_ever",
    "until_idle",
]

T = TypeVar("T")

#: Later than any outcome.
_LAST = 2**62
#: So many turns of the loop without a new step mean that all that can be asked for now has been.
_IDLE = 8


def ask_for_step(ex: RemoteExecution, op: Op, flow: Flow[T]) -> Flow[T]:
    """Take part in the order of the steps for as long as the handler waits for this one."""
    ex.unawaited.pop(op.id, None)
    ex.order.ask(op.id)
    try:
        return (yield from flow)
    except asyncio.CancelledError:
        if not ex.closed and not isinstance(ex.found.get(op.id), FailedOp):
            ex.found.pop(op.id, None)  # the handler has given it up, and goes on
        raise
    finally:
        ex.order.decide(op.id)


def await_outcome(ex: RemoteExecution, op: Op) -> Flow[bool]:
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
    ex.awaited[op.id] = op.name
    ex.parked.add(op.id)
    try:
        while True:
            yield from park(op.id, None)
            ex.check_open()
    finally:
        ex.parked.discard(op.id)
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
