"""What is worth measuring: metrics, and the facts that change them.

An observer that exports them needs to know nothing of facts: ``durable_otel`` and
``durable_prometheus`` make an instrument for each metric, and record what :class:`Measures` says.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from durable_core.engine.embedded import EmbeddedEngine
from durable_core.errors import StoreError
from durable_core.model.fact import (
    AttemptFailed,
    EventMatched,
    EventSent,
    Fact,
    ObservedRun,
    ObservedStep,
    RunFinished,
    RunHandedOff,
    RunResumed,
    RunStarted,
    RunSuspended,
    StepFinished,
    StepStarted,
    StoreCommitted,
    StoreFault,
)
from durable_core.runners.settings import slots_of

if TYPE_CHECKING:
    from durable_core.api.durable import Durable

__all__ = ["GAUGES", "METRICS", "OTHER", "Measured", "Measures", "Metric", "read_gauge"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that changes.

    Attributes:
        name: in words, with dots between.
        kind: a counter is increased, a histogram has values recorded, a gauge is read.
        unit: ``"s"`` for seconds, else what is counted, in braces as of UCUM.
        description: one line.
        labels: the names of its labels.
        scope: a gauge is read of a process; that of a store is the same in each of its processes.
    """

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    unit: str
    description: str
    labels: tuple[str, ...]
    scope: Literal["process", "store"] = "process"


@dataclass(frozen=True, slots=True)
class Measured:
    """A change of a counter, or a value for a histogram; labels are those of the metric."""

    metric: Metric
    value: float
    labels: Mapping[str, str]


_RUN = ("app", "endpoint")
_STEP = (*_RUN, "step")

_STARTED = Metric("runs.started", "counter", "{run}", "Runs that have begun", _RUN)
_RESUMED = Metric("runs.resumed", "counter", "{execution}", "Replays of handlers", _RUN)
_SUSPENDED = Metric("runs.suspended", "counter", "{suspension}", "Suspensions of runs", _RUN)
_ENDED = Metric(
    "runs.ended", "counter", "{run}", "Runs that have ended, by status", (*_RUN, "status")
)
_DURATION = Metric(
    "run.duration", "histogram", "s", "From the request to the end of a run", (*_RUN, "status")
)
_HANDED_OFF = Metric(
    "runs.handed_off",
    "counter",
    "{client}",
    "Clients that were handed off, by reason",
    (*_RUN, "reason"),
)
_ATTEMPTS = Metric(
    "attempts.started", "counter", "{attempt}", "Calls of the functions of steps", _STEP
)
_FAILED = Metric(
    "attempts.failed",
    "counter",
    "{attempt}",
    "Attempts of steps, or of a handler (step is empty), that have failed",
    (*_STEP, "error"),
)
_STEP_DURATION = Metric(
    "step.duration",
    "histogram",
    "s",
    "How long the last attempt of a step took, or a sleep or wait",
    (*_STEP, "kind", "outcome"),
)
_SENT = Metric("events.sent", "counter", "{event}", "Events that were sent", ("app",))
_MATCHED = Metric(
    "events.matched", "counter", "{wait}", "Waits that an event has ended", (*_RUN, "event")
)
_COMMIT = Metric("store.commit.duration", "histogram", "s", "How long a commit took", ("app",))
_FAULTS = Metric(
    "store.faults", "counter", "{fault}", "Times the store did not answer", ("app", "error")
)

#: The counters and histograms.
METRICS = (
    *(_STARTED, _RESUMED, _SUSPENDED, _ENDED, _DURATION, _HANDED_OFF),
    *(_ATTEMPTS, _FAILED, _STEP_DURATION, _SENT, _MATCHED, _COMMIT, _FAULTS),
)

_LIVE = Metric("runs.live", "gauge", "{run}", "Runs that this process executes", ("app",))
_CLIENTS = Metric(
    "clients.waiting", "gauge", "{client}", "Clients that this process holds at wait URLs", ("app",)
)
_STREAMS = Metric(
    "streams.open", "gauge", "{client}", "Clients that read an event stream here", ("app",)
)
_DUE_AGE = Metric(
    "runs.oldest_due.age",
    "gauge",
    "s",
    "For how long the oldest due run of the store has waited for a process",
    ("app",),
    scope="store",
)
#: What is read when metrics are collected.
GAUGES = (_LIVE, _CLIENTS, _STREAMS, _DUE_AGE)

#: What comes after so many values of a label is counted together, as ``OTHER``.
_MOST_VALUES = 500
_MOST_CHARACTERS = 120
OTHER = "(other)"
#: What is appended to the id of a step that repeats.
_INDEX = re.compile(r":[0-9]+$")


class Measures:
    """Says what a fact changes.

    Each label has few values, whatever users of the application do: endpoints have their identity,
    which no client chooses. Names of steps, events and errors are in the code, which may make them
    of data; after 500 of a kind, others are ``"(other)"``. Names are cut at 120 characters.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, set[tuple[str, str]]] = {}

    def of(self, fact: Fact) -> Iterator[Measured]:
        """Yield what a fact changes."""
        match fact:
            case RunStarted(run=run):
                yield Measured(_STARTED, 1, _of(run))
            case RunResumed(run=run):
                yield Measured(_RESUMED, 1, _of(run))
            case RunSuspended(run=run):
                yield Measured(_SUSPENDED, 1, _of(run))
            case RunFinished(run=run, status=status, at=at):
                labels = {**_of(run), "status": status}
                yield Measured(_ENDED, 1, labels)
                yield Measured(_DURATION, max(0.0, (at - run.started).total_seconds()), labels)
            case RunHandedOff(run=run, reason=reason):
                yield Measured(_HANDED_OFF, 1, {**_of(run), "reason": reason})
            case StepStarted(run=run, step=step) if step.kind == "run":
                yield Measured(_ATTEMPTS, 1, self._of_step(run, step))
            case AttemptFailed(run=run, step=step, error_name=name):
                error = self._few("error", run.app, name)
                yield Measured(_FAILED, 1, {**self._of_step(run, step), "error": error})
            case StepFinished(run=run, step=step, started=started, at=at, ok=ok):
                if started is not None:
                    labels = {**self._of_step(run, step), "kind": step.kind}
                    labels["outcome"] = "ok" if ok else "failed"
                    yield Measured(_STEP_DURATION, max(0.0, (at - started).total_seconds()), labels)
            case EventSent(app=app):
                yield Measured(_SENT, 1, {"app": app})
            case EventMatched(run=run, name=name):
                event = self._few("event", run.app, name)
                yield Measured(_MATCHED, 1, {**_of(run), "event": event})
            case StoreCommitted(app=app, seconds=seconds):
                yield Measured(_COMMIT, seconds, {"app": app})
            case StoreFault(app=app, error=error):
                yield Measured(_FAULTS, 1, {"app": app, "error": type(error).__name__})

    def _of_step(self, run: ObservedRun, step: ObservedStep | None) -> dict[str, str]:
        if step is None:
            return {**_of(run), "step": ""}
        name = step.name if step.name != step.id else _INDEX.sub("", step.name)
        return {**_of(run), "step": self._few("step", run.function_id, name)}

    def _few(self, label: str, owner: str, value: str) -> str:
        """Return a value of a label, or what stands for all after the first few."""
        pair = owner, value[:_MOST_CHARACTERS]
        known = self._known.setdefault(label, set())
        if pair not in known:
            with self._lock:
                if len(known) >= _MOST_VALUES:
                    return OTHER
                known.add(pair)
        return pair[1]


def _of(run: ObservedRun) -> dict[str, str]:
    return {"app": run.app, "endpoint": run.function_id}


def read_gauge(metric: Metric, durable: Durable[Any]) -> float | None:
    """Return what a gauge of an application says now, in this process.

    Nothing is started or opened. None if the process does not work yet, or does not work any more,
    or if the store does not answer.
    """
    engine = durable.engine
    worker = engine.worker if isinstance(engine, EmbeddedEngine) else None
    if worker is None:
        return None
    if metric == _LIVE:
        return len(worker.live)
    if metric == _CLIENTS:
        return len(worker.waiters)
    if metric == _STREAMS:
        return worker.streams.readers
    slots = slots_of(list(worker.endpoints.values()))
    try:
        due_at = worker.store.next_due(worker.env.app, tuple(worker.endpoints), slots=slots)
    except StoreError:
        return None
    late = 0 if due_at is None else worker.env.clock.now() - due_at
    return max(0, late) / 1000
