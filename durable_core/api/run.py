"""The run that the calling code belongs to, as handlers, steps and log records see it."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from durable_core.duration import time_of
from durable_core.errors import StepUsageError, Suspended
from durable_core.flow.attempt import StepAttempt
from durable_core.flow.scope import CURRENT_RUN
from durable_core.http.headers import trace_id_of
from durable_core.platform import run_logger

if TYPE_CHECKING:
    import logging

    from durable_core.flow.execution import Execution

__all__ = [
    "CurrentRun",
    "LogContext",
    "RunContext",
    "current_execution",
    "current_run",
    "current_run_logger",
    "run",
    "suspend_at_once",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What code inside a run may know of it. A replay sees the same, but for ``attempt``.

    Attributes:
        id: a ULID.
        key: the caller's name for it; None without one.
        labels: the names and values by which it is found.
        version: the version of the code that began it; None if the code has none.
        started_at: when the run began, in UTC: when the request came in, or when its handler,
            called before it had a run, first needed one.
        attempt: how often its handler is tried with this time, errors of steps not counted: 1 for
            the first attempt and its replays.
        traceparent: the W3C trace context that it belongs to; None without one.
        step: the id of the step whose function asks; None outside steps.
        step_attempt: how often the function of this step is called with this time; None outside
            steps.
    """

    id: str
    key: str | None
    labels: Mapping[str, str]
    version: str | None
    started_at: datetime
    attempt: int
    traceparent: str | None = None
    step: str | None = None
    step_attempt: int | None = None


def current_run() -> RunContext | None:
    """Return the run whose handler, or step, calls this; None outside runs."""
    scope = CURRENT_RUN.get()
    if scope is None:
        return None
    ex = scope.owner if isinstance(scope, StepAttempt) else scope.ex
    if ex is None:
        return None
    known = ex.run
    return RunContext(
        id=known.id,
        key=known.key,
        labels=dict(known.labels),
        version=known.version,
        started_at=time_of(known.created_at),
        attempt=known.failures + 1,
        traceparent=ex.traceparent,
        step=scope.name if isinstance(scope, StepAttempt) else None,
        step_attempt=scope.number if isinstance(scope, StepAttempt) else None,
    )


def suspend_at_once() -> NoReturn:
    """Suspend the run of the handler that calls this; it is replayed at once, here or elsewhere.

    For adapters that can make no response any more, as where the framework was cancelled.

    Raises:
        Suspended: always.
        StepUsageError: no handler calls it.
    """
    scope = CURRENT_RUN.get()
    if scope is None or isinstance(scope, StepAttempt):
        raise StepUsageError("only the handler of a run can suspend it")
    scope.ex.stop()
    raise Suspended


class CurrentRun:
    """The run that the calling code belongs to: ``from durable_core import run``.

    Every attribute raises ``StepUsageError`` outside runs. They are those of :class:`RunContext`.
    """

    @property
    def id(self) -> str:
        """A ULID."""
        return _inside("id").id

    @property
    def key(self) -> str | None:
        """The caller's name for it; None without one."""
        return _inside("key").key

    @property
    def labels(self) -> Mapping[str, str]:
        """The names and values by which it is found."""
        return _inside("labels").labels

    @property
    def version(self) -> str | None:
        """The version of the code that began it; None if the code has none."""
        return _inside("version").version

    @property
    def started_at(self) -> datetime:
        """When the run began, in UTC."""
        return _inside("started_at").started_at

    @property
    def attempt(self) -> int:
        """How often its handler is tried with this time; 1 for the first attempt."""
        return _inside("attempt").attempt

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context that it belongs to; None without one."""
        return _inside("traceparent").traceparent

    @property
    def step(self) -> str | None:
        """The id of the step whose function asks; None outside steps."""
        return _inside("step").step

    @property
    def step_attempt(self) -> int | None:
        """How often that function is called with this time; None outside steps."""
        return _inside("step_attempt").step_attempt

    def callback_url(self, id: str) -> str:
        """Return a URL at which somebody answers one wait of this run, once.

        The wait is ``step.wait_for_callback(id, ...)``, now or later. Mail the URL to a person, or
        hand it to a service: whoever knows it can answer, by POST. It is the same at every call,
        and nobody can guess it. It is good until the run ends.

        Args:
            id: the id of the step that waits; of its second use ``f"{id}:1"``.

        Raises:
            StepUsageError: outside a run; the application has no ``public_url``, and the request of
                the run was not to a loopback address; or the engine has no callbacks.
            ValueError, TypeError: not a step id.
        """
        execution = _execution()
        if execution is None:
            raise _outside("callback_url")
        return execution.callback_url(id)

    def __repr__(self) -> str:
        """Show the id, if there is a run."""
        known = current_run()
        return "<no run>" if known is None else f"<run {known.id}>"


#: The run that the calling code belongs to.
run = CurrentRun()


def current_execution() -> object:
    """Return what stands for the execution of a handler that the calling code belongs to.

    Each replay has another one, which is let go when it has ended. So it is the key for what a
    library keeps for one execution, in a ``weakref.WeakKeyDictionary``.

    Raises:
        StepUsageError: outside a run.
    """
    execution = _execution()
    if execution is None:
        raise StepUsageError("there is no execution outside a run")
    return execution


def current_run_logger() -> logging.LoggerAdapter[logging.Logger]:
    """Return a logger for what goes wrong in the run that the calling code belongs to.

    It may be kept for code that runs beside the run or after it. Its records begin with the id of
    the run, and have the attributes ``run_id``, ``function_id`` and ``trace_id``.

    Raises:
        StepUsageError: outside a run.
    """
    execution = _execution()
    if execution is None:
        raise StepUsageError("there is no logger of a run outside a run")
    known = execution.run
    return run_logger(known.id, known.function_id, trace_id_of(execution.traceparent))


def _execution() -> Execution | None:
    scope = CURRENT_RUN.get()
    found: Any = scope.owner if isinstance(scope, StepAttempt) else scope and scope.ex
    execution: Execution | None = found
    return execution


def _inside(attribute: str) -> RunContext:
    known = current_run()
    if known is None:
        raise _outside(attribute)
    return known


def _outside(attribute: str) -> StepUsageError:
    return StepUsageError(
        f"run.{attribute} was read outside a run; Durable.current_run() is None there"
    )


# --- log records ----------------------------------------------------------------------------------


class LogContext:
    """Adds ``run_id``, ``step``, ``attempt`` and ``trace_id`` to log records, in runs.

    It is a filter for ``logging``, to be added to a handler (``handler.addFilter(LogContext())``),
    and a processor for ``structlog``. ``step`` is the id of the step whose function logs, and
    ``attempt`` the number of its attempt; outside steps that of the handler's. ``trace_id`` is that
    of the trace which the run belongs to, 32 hexadecimal digits.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes to a record of ``logging``; None where there is nothing to say."""
        for name, value in _fields().items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True

    def __call__(
        self, logger: object, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Add the keys to an event of ``structlog``, where there is something to say."""
        for name, value in _fields().items():
            if value is not None:
                event.setdefault(name, value)
        return event


def _fields() -> dict[str, str | int | None]:
    known = current_run()
    if known is None:
        return dict.fromkeys(("run_id", "step", "attempt", "trace_id"))
    attempt = known.attempt if known.step_attempt is None else known.step_attempt
    return {
        "run_id": known.id,
        "step": known.step,
        "attempt": attempt,
        "trace_id": trace_id_of(known.traceparent),
    }
