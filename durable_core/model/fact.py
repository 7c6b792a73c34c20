"""Facts about runs: what observers are notified of. Times are in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from durable_core.model.step import StepKind

__all__ = [
    "AttemptFailed",
    "EventMatched",
    "EventSent",
    "Fact",
    "ObservedRun",
    "ObservedStep",
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
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedRun:
    """The run that a fact is about.

    Attributes:
        id: a ULID.
        app: the ``Durable(id=)`` it belongs to.
        function_id: the identity of its endpoint.
        name: how it is shown: the endpoint's ``name=``, or such as ``"GET /users/{id}"``.
        execution: 1 for the first execution of its handler, more in replays. The count has gaps.
        started: when the request came in.
        key: the caller's name for it; None without one.
        labels: the names and values by which it is found.
        version: the version of the code that began it; None if the code has none.
        traceparent: the W3C trace context that it belongs to: of its request, unless an observer
            gave it another one; None without one.
        method, path: of its request, without the query; None where the fact is not of the process
            that executes the run.
    """

    id: str
    app: str
    function_id: str
    name: str
    execution: int
    started: datetime
    key: str | None = None
    labels: Mapping[str, str]
    version: str | None = None
    traceparent: str | None = None
    method: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedStep:
    """The step that a fact is about.

    Attributes:
        id: its id, with ``:1``, ``:2`` appended where the id repeats.
        name: how it is shown: ``step.options(name=)``, else its id.
        kind: ``"run"``, ``"sleep"``, ``"wait"`` or ``"send"``.
    """

    id: str
    name: str
    kind: StepKind


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """A new run has begun, and its handler is about to be called.

    A run that is queued, or that no client waits for (``step.invoke``, ``resume_from``,
    ``on_complete=``), is stored first: it is reported then.
    """

    run: ObservedRun
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHandedOff:
    """The client does not get the response on its own connection.

    Attributes:
        reason: ``"step-retry"``, ``"sleep"``, ``"wait"``, ``"handler-retry"``, ``"disconnect"``,
            ``"drain"``, ``"preference"``, ``"time-limit"`` or ``"queued"``.
        message: the line of the log.
    """

    run: ObservedRun
    at: datetime
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSuspended:
    """No handler is live from now on; the run waits for a time or an event.

    Attributes:
        until: when it goes on; an event that it waits for may come earlier.
        message: the line of the log.
    """

    run: ObservedRun
    at: datetime
    until: datetime
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed:
    """The handler is about to be called again: a replay.

    Attributes:
        message: the line of the log.
    """

    run: ObservedRun
    at: datetime
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The run has ended.

    Attributes:
        status: ``"completed"``, ``"failed"`` or ``"cancelled"``.
        http_status: of the response; None where that is not known.
        reason: why it failed or was cancelled; "" if it has completed.
        error: what the handler raised; None where it raised nothing, or another process has it.
        message: the line of the log; "" for a run that completes while its client waits.
    """

    run: ObservedRun
    at: datetime
    status: Literal["completed", "failed", "cancelled"]
    http_status: int | None = None
    reason: str = ""
    error: BaseException | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    """An attempt of a step begins, or the run begins to sleep or wait.

    Attributes:
        attempt: 1 for the first one.
    """

    run: ObservedRun
    step: ObservedStep
    attempt: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """An attempt of a step, or of the handler itself, has failed.

    Attributes:
        step: the step; None for the handler.
        attempt: 1 for the first one.
        started: when it began.
        error_name: the class of the error.
        reason: the text of the error.
        error: what was raised; None where nothing was, such as for a result that cannot be stored.
        retry: when the next attempt is due; None if there is none.
        message: the line of the log; "" without one.
    """

    run: ObservedRun
    step: ObservedStep | None
    attempt: int
    at: datetime
    started: datetime
    error_name: str
    reason: str
    error: BaseException | None = None
    retry: datetime | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished:
    """A step has its outcome, which is about to be stored.

    Attributes:
        attempts: how often its function was called.
        ok: False if it failed and is not tried again.
        started: when its last attempt began; of a sleep or a wait, when it was asked for. None if
            that is not known.
        at: when it ended.
    """

    run: ObservedRun
    step: ObservedStep
    attempts: int
    ok: bool
    started: datetime | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSent:
    """An event was sent, from a step or from outside runs.

    Attributes:
        app: the application that sent it.
        run: the run whose step sent it; None for ``Durable.send`` and the route of events.
        name, event_id: of the event.
    """

    app: str
    run: ObservedRun | None
    name: str
    event_id: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EventMatched:
    """An event has ended the wait of a run, which goes on.

    Attributes:
        name, event_id: of the event.
    """

    run: ObservedRun
    step: ObservedStep
    name: str
    event_id: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNoted:
    """Something else about a run that people should see, such as a mistake in its code.

    Attributes:
        level: of the line, as of ``logging``.
        message: the line of the log.
        error: what is behind it; None without one.
    """

    run: ObservedRun
    at: datetime
    level: int
    message: str
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFault:
    """The store could not answer.

    Attributes:
        app: the application that asked it.
        run: the run that was cut short and goes on later; None if it is about no run.
        error: the error of the store.
        message: the line of the log; "" where the caller gets the error.
    """

    app: str
    run: ObservedRun | None
    at: datetime
    error: BaseException
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCommitted:
    """A transaction of this process is durable.

    Attributes:
        app: the application.
        writes: how many writes, of as many runs, it had.
        seconds: how long it took.
    """

    app: str
    at: datetime
    writes: int
    seconds: float


Fact: TypeAlias = (
    RunStarted
    | RunHandedOff
    | RunSuspended
    | RunResumed
    | RunFinished
    | StepStarted
    | AttemptFailed
    | StepFinished
    | EventSent
    | EventMatched
    | RunNoted
    | StoreCommitted
    | StoreFault
)
