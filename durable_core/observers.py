"""What an observer is notified of: ``Durable(observers=[...])``."""

from __future__ import annotations

from durable_core.api.metrics import GAUGES, METRICS, Measured, Measures, Metric, read_gauge
from durable_core.model.fact import (
    AttemptFailed,
    EventMatched,
    EventSent,
    Fact,
    ObservedRun,
    ObservedStep,
    RunFinished,
    RunHandedOff,
    RunNoted,
    RunResumed,
    RunStarted,
    RunSuspended,
    StepFinished,
    StepStarted,
    StoreCommitted,
    StoreFault,
)
from durable_core.ports.observer import Observer

__all__ = [
    "GAUGES",
    "METRICS",
    "AttemptFailed",
    "EventMatched",
    "EventSent",
    "Fact",
    "Measured",
    "Measures",
    "Metric",
    "ObservedRun",
    "ObservedStep",
    "Observer",
    "RunFinished",
    "RunHandedOff",
    "RunNoted",
    "RunResumed",
    "RunStarted",
    "RunSuspended",
    "StepFinished",
    "StepStarted",
    "StoreCommitted",
    "StoreFault",
    "read_gauge",
]
