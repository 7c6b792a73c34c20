"""The flows of an engine."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.callbacks import wait_for_callback
from durable_core.flow.child_runs import Invocation
from durable_core.flow.effects import Flow, Submit
from durable_core.flow.execution import Execution, StoredExecution
from durable_core.flow.function_steps import (
    begin_step,
    finish_step,
    go_on_step,
    other_step,
    run_step,
    step_result,
)
from durable_core.flow.handler import detach, execute, suspend
from durable_core.flow.server_calls import FunctionCall, GatewayCall
from durable_core.flow.signals import send_signal, wait_for_signal
from durable_core.flow.steps import (
    invoke,
    leave_children,
    send_events,
    sleep_until,
    wait_for_event,
)
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.matching import WaitRule
from durable_core.model.decision import Failure, HandoffReason
from durable_core.model.event import Event, Signal, SignalWait
from durable_core.model.step import Memo, Op

__all__ = ["EMBEDDED_FLOWS", "EngineFlows", "PlainSteps"]

ExecutionT = TypeVar("ExecutionT", bound=Execution)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainSteps(Generic[ExecutionT]):
    """How a runner does plain steps without a flow; see ``flow/function_steps.py``.

    What comes between is the runner's: it has the function called, and performs the effect.

    Attributes:
        flow: what does the same in a flow: the ``run_step`` of the engine.
        begin: begins an attempt; None if the step is not plain.
        other: does a step that is not plain.
        finish: ends an attempt whose function has returned.
        result: what the step returns to the handler.
        go_on: goes on with a step that is plain no more, because an attempt has not succeeded.
    """

    flow: Callable[[ExecutionT, Op, Call], Flow[object]]
    begin: Callable[[ExecutionT, Op, Call], StepAttempt | None]
    other: Callable[[ExecutionT, Op, Call], Flow[object]]
    finish: Callable[[ExecutionT, StepAttempt, object], tuple[Memo, Submit] | Failure]
    result: Callable[[ExecutionT, Call, Memo], object]
    go_on: Callable[[ExecutionT, Call, StepAttempt], Flow[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFlows(Generic[ExecutionT]):
    """The flows of one engine.

    Attributes:
        engine_name: what errors call the engine.
        run_step: ``step.run``: call a function until it has an outcome, and return it.
        sleep_until: ``step.sleep`` and ``step.sleep_until``; the function gets the time now and
            returns when to continue, both epoch milliseconds.
        wait_for_event: ``step.wait_for_event``, with its time-out in milliseconds.
        send_events: ``step.send_event``; returns the ids.
        wait_for_signal: ``step.wait_for_signal``; returns the signal, or None after the time-out.
        send_signal: ``step.send_signal``; returns the id of the run that got it, or None.
        wait_for_callback: ``step.wait_for_callback``, with its time-out in milliseconds.
        invoke: ``step.invoke``; None where the engine has no child runs.
        leave_children: ends steps of ``step.invoke`` of code that has lost a race, given the ids of
            their ops; None where the engine has no child runs.
        invoke_function: ``step.invoke`` of a function of the engine's server; returns its result,
            as JSON values. None where there is no such server.
        call_through_server: ``step.fetch`` and ``step.ai.infer`` by the engine's server; returns
            the answer: of a model its JSON, else an object with ``status_code``, ``headers`` and
            ``body``. None where there is no such server.
        execute: run the handler and process its outcome.
        suspend: release a run whose handler was unwound, or does not end.
        detach: hand the client off; the handler continues.
        plain_steps: how ``step.run`` does without its flow; None if it always takes that. Whoever
            replaces ``run_step`` must replace these, too: they do not call it.
    """

    engine_name: str
    run_step: Callable[[ExecutionT, Op, Call], Flow[object]]
    sleep_until: Callable[[ExecutionT, Op, Callable[[int], int]], Flow[None]]
    wait_for_event: Callable[[ExecutionT, Op, WaitRule, int], Flow[Event | None]]
    send_events: Callable[[ExecutionT, Op, tuple[Event, ...]], Flow[list[str]]]
    wait_for_signal: Callable[[ExecutionT, Op, SignalWait], Flow[Signal[Any] | None]]
    send_signal: Callable[[ExecutionT, Op, Signal[object]], Flow[str | None]]
    wait_for_callback: Callable[[ExecutionT, Op, int], Flow[Request | None]]
    execute: Callable[[ExecutionT], Flow[None]]
    suspend: Callable[[ExecutionT], Flow[None]]
    detach: Callable[[ExecutionT, HandoffReason], Flow[None]]
    invoke: Callable[[ExecutionT, Op, Invocation], Flow[Response]] | None = None
    leave_children: Callable[[ExecutionT, Collection[str]], Flow[None]] | None = None
    invoke_function: Callable[[ExecutionT, Op, FunctionCall], Flow[object]] | None = None
    call_through_server: Callable[[ExecutionT, Op, GatewayCall], Flow[object]] | None = None
    plain_steps: PlainSteps[ExecutionT] | None = None

    def __post_init__(self) -> None:
        if self.plain_steps is not None and self.plain_steps.flow is not self.run_step:
            raise ValueError("plain_steps do what another run_step does; leave them out")


#: The engine that keeps the state of its runs in a store.
EMBEDDED_FLOWS: EngineFlows[StoredExecution] = EngineFlows(
    engine_name="the embedded engine",
    run_step=run_step,
    sleep_until=sleep_until,
    wait_for_event=wait_for_event,
    send_events=send_events,
    wait_for_signal=wait_for_signal,
    send_signal=send_signal,
    wait_for_callback=wait_for_callback,
    execute=execute,
    suspend=suspend,
    detach=detach,
    invoke=invoke,
    leave_children=leave_children,
    plain_steps=PlainSteps(
        flow=run_step,
        begin=begin_step,
        other=other_step,
        finish=finish_step,
        result=step_result,
        go_on=go_on_step,
    ),
)
