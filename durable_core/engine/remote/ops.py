"""Ops: what a server is told of steps, and what it says of them. The forms are those of a server.

A step is reported as text; its outcome comes back as a JSON value, the *memo*.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from durable_core.errors import StepError
from durable_core.flow.server_calls import FunctionCall, GatewayCall
from durable_core.machine.matching import WaitRule
from durable_core.model.event import Event
from durable_core.model.signal import SignalWait
from durable_core.model.step import Op

__all__ = ["Failed", "FailedOp", "PendingOp", "ReportedStep", "ServerOps", "Value"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedStep:
    """A step as it is reported.

    Attributes:
        op: the op; its name has the index.
        id: what the user called it, without the index.
        began: when its function was called, epoch milliseconds.
        took: how long that took, milliseconds.
        races: the server must call again when this op is done, whatever else is not.
        name: what people see of it; "" for its id.
        arguments: those of its function, where people are to see them.
    """

    op: Op
    id: str
    began: int = 0
    took: int = 0
    races: bool = False
    name: str = ""
    arguments: tuple[object, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingOp:
    """An op that only the server can go on from.

    Attributes:
        step: the step.
        dump: makes its JSON.
        needs_reentry: it cannot be reported while the client is attached.
    """

    step: ReportedStep
    dump: Callable[[ReportedStep], str]
    needs_reentry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedOp(PendingOp):
    """The function of a step has failed.

    Attributes:
        error: its error.
        failures: how often it has failed.
        final: it is not tried again.
        delay: how long until it is, milliseconds.
        asked: the delay, or the number of attempts, is not the server's own.
    """

    error: Mapping[str, object]
    failures: int = 1
    final: bool = False
    delay: int = 0
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Value:
    """A step has this result."""

    value: object


@dataclass(frozen=True, slots=True)
class Failed:
    """A step has failed for good, with this error."""

    error: Mapping[str, object]


class ServerOps(Protocol):
    """The forms of one server. All of it is pure, so a module may be one.

    Where a step is dumped, the result is its op as text.
    """

    def load_outcome(self, memo: object) -> Value | Failed | None:
        """Return what a memo says; None if the step is still to be run."""
        ...

    def load_failure(
        self, step_name: str, error: Mapping[str, object], *, debug: bool = False
    ) -> StepError:
        """Return what the handler sees of a failed step; ``debug`` shows its stack trace."""
        ...

    def load_event_memo(self, value: object) -> Event | None:
        """Return the event that ended a wait, None if its time ran out; ValueError for no event."""
        ...

    def load_signal_memo(self, value: object) -> tuple[str, object] | None:
        """As :meth:`load_event_memo`, for the name and the data of a signal."""
        ...

    def dump_value(self, text: str) -> str:
        """Return the JSON that stands for a value at the server, given its JSON."""
        ...

    def finished(self, step: ReportedStep, value: str) -> str:
        """Dump a function that has returned; ``value`` is as of :meth:`dump_value`."""
        ...

    def planned(self, step: ReportedStep) -> str:
        """Dump a function that is to be called in a request of its own."""
        ...

    def sleep(self, step: ReportedStep, length: int) -> str:
        """Dump a sleep of so many milliseconds, 1 or more."""
        ...

    def wait(self, step: ReportedStep, rule: WaitRule, timeout: int) -> str:
        """Dump a wait for an event, of so many milliseconds, 1 or more, at most."""
        ...

    def needs_reentry(self, rule: WaitRule) -> bool:
        """Tell whether a wait cannot be reported while the client is attached."""
        ...

    def wait_for_signal(self, step: ReportedStep, wait: SignalWait) -> str:
        """Dump a wait for a signal."""
        ...

    def signal_finished(self, step: ReportedStep, value: str, signal: str) -> str:
        """Dump a signal that was sent; ``value`` is JSON."""
        ...

    def invoke_function(self, step: ReportedStep, call: FunctionCall) -> str:
        """Dump a call of a function at the server."""
        ...

    def gateway(self, step: ReportedStep, call: GatewayCall) -> str:
        """Dump a request that the server is to send."""
        ...
