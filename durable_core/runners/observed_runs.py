"""Runs whose observers are told more than the log is: each step, and what needs no line.

An application without observers has none of these classes in its runs, so it does not pay for them.
Everything is seen in the effects that a run performs: the call of the handler, the calls of steps'
functions, and the checkpoints. A step whose outcome is replayed has no such effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from durable_core.commit_queue import CommitFuture
from durable_core.duration import time_of
from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.effects import (
    CallHandler,
    Effect,
    Outcome,
    Raised,
    SendResponse,
    Submit,
    Unwound,
)
from durable_core.flow.execution import Execution
from durable_core.flow.facts import (
    event_matched,
    event_sent,
    observed_run,
    observed_step,
    step_finished,
)
from durable_core.flow.step_options import StepOptions
from durable_core.model.fact import (
    ObservedRun,
    ObservedStep,
    RunFinished,
    RunResumed,
    RunStarted,
    StepStarted,
)
from durable_core.model.run import Phase
from durable_core.model.step import Memo, OpKind, Pending
from durable_core.ports import Checkpoint, CheckpointResult
from durable_core.runners.observers import Entered, Observers
from durable_core.runners.task import TaskRun
from durable_core.runners.thread import ThreadRun

__all__ = ["ObservedTaskRun", "ObservedThreadRun"]


class _Notifier:
    """Makes facts of the effects of one execution.

    Args:
        observers: who is notified.
        ex: the execution.
    """

    def __init__(self, observers: Observers, ex: Execution) -> None:
        self._observers = observers
        self._ex = ex
        #: Steps whose function is called here, by op id: only their options have their names.
        self._steps: dict[str, ObservedStep] = {}
        self._known: ObservedRun | None = None

    def _run(self) -> ObservedRun:
        """Return the run. What observers know of it does not change in an execution."""
        if self._known is None:
            self._known = observed_run(self._ex)
        return self._known

    def enter_execution(self) -> Entered:
        """Enter the contexts of the handler's execution."""
        run, at = self._run(), time_of(self._ex.env.clock.now())
        fact: RunStarted | RunResumed
        if self._ex.run.epoch > 1:
            fact = RunResumed(run=run, at=at, message="resumed")  # observers have been notified
        else:
            fact = RunStarted(run=run, at=at)
            self._observers.notify(fact)
        return self._observers.enter_execution(fact)

    def enter_attempt(self, attempt: StepAttempt, options: StepOptions | None) -> Entered:
        """Notify of an attempt of a step that begins, and enter its contexts."""
        step = observed_step(attempt.op, None if options is None else options.name)
        self._steps[attempt.op.id] = step
        fact = self._started(self._run(), step, attempt.number)
        return self._observers.enter_attempt(fact)

    def submitted(self, effect: Submit) -> None:
        """Notify of what a checkpoint says."""
        write = effect.write
        if not isinstance(write, Checkpoint) or not (write.memos or write.pending):
            return
        run = self._run()
        for event in write.events:
            self._observers.notify(event_sent(run.app, run, event, write.now))
        for memo in write.memos:
            self._finished(run, memo)
        for pending in write.pending:
            if _is_new_wait(pending):
                self._started(run, observed_step(pending.op), 1)

    def responded(self, effect: SendResponse) -> None:
        """Notify of a run that completes while its client waits."""
        if self._ex.run.phase is not Phase.COMPLETED:
            return
        fact = RunFinished(
            run=self._run(),
            at=time_of(self._ex.env.clock.now()),
            status="completed",
            http_status=effect.response.status,
        )
        self._observers.notify(fact)

    def _started(self, run: ObservedRun, step: ObservedStep, attempt: int) -> StepStarted:
        at = time_of(self._ex.env.clock.now())
        fact = StepStarted(run=run, step=step, attempt=attempt, at=at)
        self._observers.notify(fact)
        return fact

    def _finished(self, run: ObservedRun, memo: Memo) -> None:
        step = self._steps.pop(memo.op.id, None) or observed_step(memo.op)
        if memo.op.kind is OpKind.WAIT and memo.value != "null":
            self._observers.notify(event_matched(run, step, memo))
        self._observers.notify(step_finished(run, step, memo))


class _Within:
    """A block within what observers have entered. They are told of the error that it met.

    Args:
        entered: what they have entered.

    Attributes:
        outcome: how what the block calls has ended; None if it has raised.
    """

    def __init__(self, entered: Entered) -> None:
        self._entered = entered
        self.outcome: Outcome | Unwound | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._entered.leave(self.outcome.error if isinstance(self.outcome, Raised) else None)


class ObservedThreadRun(ThreadRun):
    """One execution of a ``def`` handler, whose observers are notified."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._notifier = _Notifier(self._host.observers, self.ex)

    def call_handler(self, effect: CallHandler) -> Outcome | Unwound:
        """Run the handler."""
        with _Within(self._notifier.enter_execution()) as within:
            within.outcome = outcome = super().call_handler(effect)
            return outcome

    def call_user(self, call: Call, attempt: StepAttempt | None = None) -> Outcome:
        """Call the function of a step, or a hook."""
        if attempt is None:
            return super().call_user(call)
        with _Within(self._notifier.enter_attempt(attempt, call.options)) as within:
            within.outcome = outcome = super().call_user(call, attempt)
            return outcome

    def _submit(self, effect: Submit) -> CommitFuture[CheckpointResult]:
        ticket = super()._submit(effect)
        self._notifier.submitted(effect)
        return ticket

    def _send_response(self, effect: SendResponse) -> None:
        super()._send_response(effect)
        self._notifier.responded(effect)

    performers: ClassVar[Mapping[type[Effect], Callable[[Any, Any], Any]]] = {
        **ThreadRun.performers,
        CallHandler: call_handler,
        Submit: _submit,
        SendResponse: _send_response,
    }


class ObservedTaskRun(TaskRun):
    """One execution of an ``async def`` handler, whose observers are notified."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._notifier = _Notifier(self._host.observers, self.ex)

    async def call_handler(self, effect: CallHandler) -> Outcome | Unwound:
        """Run the handler in this task."""
        with _Within(self._notifier.enter_execution()) as within:
            within.outcome = outcome = await super().call_handler(effect)
            return outcome

    async def call_user(self, call: Call, attempt: StepAttempt | None = None) -> Outcome:
        """Call the function of a step, or a hook."""
        if attempt is None:
            return await super().call_user(call)
        with _Within(self._notifier.enter_attempt(attempt, call.options)) as within:
            within.outcome = outcome = await super().call_user(call, attempt)
            return outcome

    def _submit(self, effect: Submit) -> CommitFuture[CheckpointResult]:
        ticket = super()._submit(effect)
        self._notifier.submitted(effect)
        return ticket

    def _send_response(self, effect: SendResponse) -> None:
        super()._send_response(effect)
        self._notifier.responded(effect)

    performers: ClassVar[Mapping[type[Effect], Callable[[Any, Any], Any]]] = {
        **TaskRun.performers,
        CallHandler: call_handler,
        Submit: _submit,
        SendResponse: _send_response,
    }


def _is_new_wait(pending: Pending) -> bool:
    """Tell whether a run begins to sleep or wait; other pending steps will be retried."""
    return pending.op.kind is not OpKind.RUN
