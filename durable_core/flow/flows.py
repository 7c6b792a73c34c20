"""What an engine does for a live run: the flows that differ from one engine to the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from durable_core.flow.asks import Call, Flow
from durable_core.flow.execution import Execution
from durable_core.flow.serve import detach, execute, put_away
from durable_core.flow.steps import run_step, send_events, sleep_until, wait_for_event
from durable_core.machine.matching import WaitRule
from durable_core.model.commands import HandoffReason
from durable_core.model.events import Event
from durable_core.model.ops import Op

__all__ = ["STORED", "Flows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flows:
    """The flows of one engine.

    Attributes:
        run_step: ``step.run``: call a function once and for all, and return its result.
        sleep_until: ``step.sleep`` and ``step.sleep_until``; the function gets the time now and
            returns when to go on, both epoch milliseconds.
        wait_for_event: ``step.wait_for_event``, with its time-out in milliseconds.
        send_events: ``step.send_event``; returns the ids.
        execute: run the handler and do what its outcome asks for.
        put_away: give a run up whose handler was unwound, or does not end.
        detach: hand the client off although the handler could go on, which it does.
    """

    run_step: Callable[[Execution, Op, Call], Flow[object]]
    sleep_until: Callable[[Execution, Op, Callable[[int], int]], Flow[None]]
    wait_for_event: Callable[[Execution, Op, WaitRule, int], Flow[Event | None]]
    send_events: Callable[[Execution, Op, tuple[Event, ...]], Flow[list[str]]]
    execute: Callable[[Execution], Flow[None]]
    put_away: Callable[[Execution], Flow[None]]
    detach: Callable[[Execution, HandoffReason], Flow[None]]


#: The engine that keeps the state of its runs in a store.
STORED = Flows(
    run_step=run_step,
    sleep_until=sleep_until,
    wait_for_event=wait_for_event,
    send_events=send_events,
    execute=execute,
    put_away=put_away,
    detach=detach,
)
