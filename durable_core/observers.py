"""What an observer is notified of: ``Durable(observers=[...])``."""

from __future__ import annotations

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
    StoreFault,
)
from durable_core.ports.observer import Observer

__all__ = [
    "AttemptFailed",
    "EventMatched",
    "EventSent",
    "Fact",
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
    "StoreFault",
]
