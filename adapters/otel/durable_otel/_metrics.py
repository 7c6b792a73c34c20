"""What is counted and measured."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from durable_core import Durable
from durable_core.observers import (
    AttemptFailed,
    EventMatched,
    EventSent,
    Fact,
    ObservedRun,
    RunFinished,
    RunHandedOff,
    RunStarted,
    RunSuspended,
    StepFinished,
    StoreFault,
)

__all__ = ["Metrics"]


class Metrics:
    """The instruments of a meter. Each has the application and the endpoint as attributes."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._started = meter.create_counter(
            "durable.runs.started", unit="{run}", description="Runs whose handler was called first"
        )
        self._ended = meter.create_counter(
            "durable.runs.ended", unit="{run}", description="Runs that have ended, by status"
        )
        self._duration = meter.create_histogram(
            "durable.run.duration", unit="s", description="From the request to the end of the run"
        )
        self._handed_off = meter.create_counter(
            "durable.runs.handed_off", unit="{run}", description="Clients handed off, by reason"
        )
        self._suspended = meter.create_counter(
            "durable.runs.suspended", unit="{suspension}", description="Suspensions of runs"
        )
        self._failed = meter.create_counter(
            "durable.attempts.failed", unit="{attempt}", description="Attempts that have failed"
        )
        self._steps = meter.create_histogram(
            "durable.step.duration", unit="s", description="The last attempt of a step, or a wait"
        )
        self._sent = meter.create_counter(
            "durable.events.sent", unit="{event}", description="Events that were sent"
        )
        self._matched = meter.create_counter(
            "durable.events.matched", unit="{event}", description="Waits that an event has ended"
        )
        self._faults = meter.create_counter(
            "durable.store.faults",
            unit="{fault}",
            description="Failures of the store",
        )

    def count(self, fact: Fact) -> None:
        """Count what a fact is about."""
        match fact:
            case RunStarted(run=run):
                self._started.add(1, _of(run))
            case RunFinished(run=run, status=status, at=at):
                attributes = {**_of(run), "durable.status": status}
                self._ended.add(1, attributes)
                self._duration.record((at - run.started).total_seconds(), attributes)
            case RunHandedOff(run=run, reason=reason):
                self._handed_off.add(1, {**_of(run), "durable.reason": reason})
            case RunSuspended(run=run):
                self._suspended.add(1, _of(run))
            case AttemptFailed(run=run, step=step, error_name=name):
                of_step = {} if step is None else {"durable.step.name": step.name}
                self._failed.add(1, {**_of(run), **of_step, "error.type": name})
            case StepFinished(run=run, step=step, started=started, at=at, ok=ok):
                if started is not None:
                    attributes = {**_of(run), "durable.step.kind": step.kind, "durable.ok": ok}
                    attributes["durable.step.name"] = step.name
                    self._steps.record((at - started).total_seconds(), attributes)
            case EventSent(name=name):
                self._sent.add(1, {"durable.event.name": name})
            case EventMatched(run=run, name=name):
                self._matched.add(1, {**_of(run), "durable.event.name": name})
            case StoreFault(error=error):
                self._faults.add(1, {"error.type": type(error).__name__})

    def watch(self, durable: Durable[Any]) -> None:
        """Measure, whenever metrics are collected, what an application does in this process."""
        attributes = {"durable.app": durable.id}

        def live(_: CallbackOptions) -> Iterable[Observation]:
            yield Observation(durable.health().get("live_runs", 0), attributes)

        def waiting(_: CallbackOptions) -> Iterable[Observation]:
            yield Observation(durable.health().get("waiting_clients", 0), attributes)

        def lateness(_: CallbackOptions) -> Iterable[Observation]:
            due = durable.next_due()
            late = 0.0 if due is None else (datetime.now(UTC) - due).total_seconds()
            yield Observation(max(0.0, late), attributes)

        self._meter.create_observable_gauge(
            "durable.runs.live", [live], unit="{run}", description="Runs that this process executes"
        )
        self._meter.create_observable_gauge(
            "durable.clients.waiting",
            [waiting],
            unit="{client}",
            description="Clients that wait in this process for the end of a run",
        )
        self._meter.create_observable_gauge(
            "durable.runs.lateness",
            [lateness],
            unit="s",
            description="For how long the oldest due run of the store has been due",
        )


def _of(run: ObservedRun) -> dict[str, Any]:
    return {"durable.app": run.app, "durable.endpoint": run.function_id}
