"""What people and programs are shown of a run and its steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Literal, TypeAlias

from durable_core.model.step import StepKind

__all__ = ["AttemptInfo", "RunInfo", "RunStatus", "StepInfo", "StepStatus", "as_json"]

#: ``running``: a handler is live in some process, or will be at once. ``suspended``: it waits for a
#: time or an event. ``queued``: it waits for its turn, because the limit ``concurrency=`` of its
#: endpoint is reached. ``cancelling``: it was cancelled, and its steps are being undone.
RunStatus: TypeAlias = Literal[
    "running", "suspended", "queued", "cancelling", "completed", "failed", "cancelled"
]
#: ``running``: the function is being called, in this process; what another process calls is not
#: known. ``retrying``: the function has failed and will be called again. ``begun``: the function of
#: a step with ``at_most_once`` has been called, and its end is not stored (yet). ``sleeping``: also
#: one whose time is over, until a process goes on with the run.
StepStatus: TypeAlias = Literal[
    "running", "sleeping", "waiting", "retrying", "begun", "completed", "failed"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """What has become of one step.

    Attributes:
        name: its id, with ``:1``, ``:2`` appended where the id repeats.
        kind: ``"run"``, ``"sleep"``, ``"wait"``, ``"send"``, ``"signal"``, ``"send-signal"``,
            ``"callback"`` or ``"invoke"``.
        status: see :data:`StepStatus`.
        attempts: how often its function was called.
        started: when its last attempt began; of a sleep or a wait, when it was asked for. None if
            that is not known.
        ended: when it completed or failed for good; None before.
        due: when it goes on; None once it has ended.
        event: the name of the event, or of the signal, that it waits for; None if it waits for
            none.
        match: what the event must have to end the wait, by path, such as ``{"data.trip": "T3"}``;
            None if nothing, and where the store is encrypted.
        child: the id of the run that it has started; None if it starts none.
        arguments: of its function, as ``{"args": [...], "kwargs": {...}}``, where the endpoint has
            ``record_arguments=True``; ``{"left_out": True}`` where they were too large or no JSON.
            None without arguments, and where they are not recorded.
        result: what the function returned, or the step did; None without one.
        error: the last error, such as ``"ValueError: no seat left"``; None without one.
        trace: the stack trace of that error, with ``Durable(debug=True)``; None without one.
    """

    name: str
    kind: StepKind
    status: StepStatus
    attempts: int
    started: datetime | None
    ended: datetime | None
    due: datetime | None
    event: str | None
    match: dict[str, object] | None = None
    child: str | None
    arguments: dict[str, object] | None
    result: object
    error: str | None
    trace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What is known about one run. Times are in UTC.

    Attributes:
        id: a ULID.
        app: the ``Durable(id=)`` it belongs to.
        name: how it is shown: the endpoint's ``name=``, or such as ``"GET /users/{id}"``.
        function_id: the identity of its endpoint.
        key: the caller's name for it; None without one.
        labels: the names and values by which it is found.
        version: the version of the code that began it; None if the code has none.
        parked: only code of its ``version`` executes it, as newer code did not fit.
        parent: the id of the run that started it; None if a client did.
        traceparent: the W3C trace context that it belongs to: of its request, unless an observer
            gave it another one; None without one.
        status: see :data:`RunStatus`.
        attempts: how often its handler was tried, errors of steps not counted.
        crashes: how often in a row its process died without a new checkpoint.
        started: when the request came in.
        ended: when it ended; None before.
        due: when it goes on; None while it runs and once it has ended. Of a queued run, since when
            it waits its turn.
        error: why it failed, or why its handler is tried again; None without an error, and in a
            list of runs.
        deadline: when it fails if it has not ended by then; None without a ``run_timeout``.
        cancel_reason: why it was cancelled; None if it was not, or nobody has given a reason.
        completion: the status of the run that tells of its end (``on_complete=``): ``failed`` once
            that was given up. None before the end, in a list, and if nobody is to be told.
        completion_run: the id of that run.
        retried: how often ``runs.retry`` has let it go on after it had failed.
        steps: its steps: finished ones in the order in which they finished, then the others. Empty
            in a list of runs. A run that has not stored anything is found by its id, with the step
            that it executes, in the process that executes it.
    """

    id: str
    app: str
    name: str
    function_id: str
    key: str | None
    labels: dict[str, str]
    version: str | None
    parked: bool
    parent: str | None
    traceparent: str | None
    status: RunStatus
    attempts: int
    crashes: int
    started: datetime
    ended: datetime | None
    due: datetime | None
    error: str | None
    deadline: datetime | None
    cancel_reason: str | None
    steps: tuple[StepInfo, ...]
    completion: RunStatus | None = None
    completion_run: str | None = None
    retried: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptInfo:
    """One attempt of a step's function, or of the handler. Times are in UTC.

    Attributes:
        step: the step, by its name; None for the handler.
        number: 1 for the first attempt.
        status: ``"completed"`` or ``"failed"``.
        started: when it began; None if that is not known.
        ended: when it ended.
        error: why it failed, such as ``"ValueError: no seat left"``; None if it has not.
        retry: when the next attempt was due; None if there was to be none.
    """

    step: str | None
    number: int
    status: Literal["completed", "failed"]
    started: datetime | None
    ended: datetime
    error: str | None
    retry: datetime | None


def as_json(info: RunInfo | StepInfo | AttemptInfo) -> dict[str, object]:
    """Return a run, a step or an attempt as a JSON-ready dict: the same names, times in ISO 8601.

    A run of a list has no ``steps``.
    """
    return dict(_json_fields(info))


def _json_fields(info: RunInfo | StepInfo | AttemptInfo) -> Iterator[tuple[str, object]]:
    for field in fields(info):
        value = getattr(info, field.name)
        if field.name == "steps":
            value = [as_json(step) for step in value]
        yield field.name, value.isoformat() if isinstance(value, datetime) else value
