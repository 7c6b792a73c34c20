"""Facts for observers, made of what a flow knows."""

from __future__ import annotations

from typing import Literal

from durable_core.codec.records import load_event
from durable_core.duration import time_of
from durable_core.flow.effects import ERROR, INFO, WARNING, Flow, Log, notify
from durable_core.flow.execution import Execution
from durable_core.model.event import Event
from durable_core.model.fact import (
    AttemptFailed,
    EventMatched,
    EventSent,
    ObservedRun,
    ObservedStep,
    RunFinished,
    RunNoted,
    StepFinished,
)
from durable_core.model.run import Run, plain_key
from durable_core.model.step import FailedAttempt, Memo, Op

__all__ = [
    "event_matched",
    "event_sent",
    "note",
    "notify_attempt",
    "notify_end",
    "observed_run",
    "observed_step",
    "run_facts",
    "step_finished",
]


def observed_run(ex: Execution) -> ObservedRun:
    """Return the run of an execution, as observers are told it."""
    request = ex.request
    return run_facts(ex.run, ex.traceparent, method=request.method, path=request.path)


def run_facts(
    run: Run,
    traceparent: str | None = None,
    *,
    method: str | None = None,
    path: str | None = None,
) -> ObservedRun:
    """Return a run as observers are told it.

    Args:
        run: the run.
        traceparent: the trace context that it belongs to, where the run has not stored it.
        method, path: of its request, where that is known.
    """
    return ObservedRun(
        id=run.id,
        app=run.app,
        function_id=plain_key(run),
        name=run.function_id,
        execution=run.epoch,
        started=time_of(run.created_at),
        key=run.key,
        labels=dict(run.labels),
        version=run.version,
        traceparent=run.traceparent or traceparent,
        method=method,
        path=path,
    )


def observed_step(op: Op, name: str | None = None) -> ObservedStep:
    """Return a step as observers are told it; ``name`` is that of its options, if it has one."""
    return ObservedStep(id=op.name, name=name or op.name, kind=op.kind.value)


def step_finished(run: ObservedRun, step: ObservedStep, memo: Memo) -> StepFinished:
    """Return the fact of a step that has its outcome."""
    started = None if memo.started_at is None else time_of(memo.started_at)
    return StepFinished(
        run=run,
        step=step,
        attempts=memo.attempts,
        ok=memo.ok,
        started=started,
        at=time_of(memo.ended_at),
    )


def event_matched(run: ObservedRun, step: ObservedStep, memo: Memo) -> EventMatched:
    """Return the fact of a wait that an event has ended."""
    event = load_event(memo.value)
    at = time_of(memo.ended_at)
    return EventMatched(run=run, step=step, name=event.name, event_id=event.id or "", at=at)


def event_sent(app: str, run: ObservedRun | None, event: Event, now: int) -> EventSent:
    """Return the fact of an event that was sent at a time, epoch milliseconds."""
    return EventSent(app=app, run=run, name=event.name, event_id=event.id or "", at=time_of(now))


def notify_attempt(
    ex: Execution,
    failed: FailedAttempt | None,
    *,
    step: ObservedStep | None = None,
    error: BaseException | None = None,
    message: str = "",
) -> Flow[None]:
    """Notify observers of a failed attempt, if there is one; see ``AttemptFailed``."""
    if failed is None:
        return
    yield from notify(
        lambda: AttemptFailed(
            run=observed_run(ex),
            step=step,
            attempt=failed.number,
            at=time_of(failed.ended_at),
            started=time_of(failed.started_at),
            error_name=failed.error_name,
            reason=failed.error_message,
            error=error,
            retry=None if failed.retry_at is None else time_of(failed.retry_at),
            message=message,
        ),
        WARNING,
    )


def note(ex: Execution, line: Log) -> RunNoted:
    """Return what observers are told of a line about a run."""
    return RunNoted(
        run=observed_run(ex),
        at=time_of(ex.env.clock.now()),
        level=line.level,
        message=line.text,
        error=line.error,
    )


def notify_end(
    ex: Execution,
    status: Literal["completed", "failed", "cancelled"],
    *,
    http_status: int | None = None,
    reason: str = "",
    error: BaseException | None = None,
    message: str = "",
) -> Flow[None]:
    """Notify observers that the run has ended; see ``RunFinished``."""
    yield from notify(
        lambda: RunFinished(
            run=observed_run(ex),
            at=time_of(ex.env.clock.now()),
            status=status,
            http_status=http_status,
            reason=reason,
            error=error,
            message=message,
        ),
        ERROR if status == "failed" else INFO,
    )
