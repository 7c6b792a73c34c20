"""The run of the current handler code."""

from __future__ import annotations

from contextvars import ContextVar
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from durable_core.flow.attempt import StepAttempt

if TYPE_CHECKING:
    from durable_core.flow.attempt import Call
    from durable_core.flow.effects import Flow
    from durable_core.flow.execution import Execution
    from durable_core.flow.flows import EngineFlows
    from durable_core.model.step import Op

__all__ = [
    "CHILDREN_OF_BRANCHES",
    "CURRENT_RUN",
    "HandlerKind",
    "RunScope",
    "current_run",
    "enter_run",
    "leave_run",
]


class HandlerKind(Enum):
    """The kind of a handler and its steps: ``def`` or ``async def``."""

    DEF = "def"
    ASYNC_DEF = "async def"


class RunScope(Protocol):
    """A live run, as the code of its handler sees it."""

    @property
    def ex(self) -> Execution:
        """The execution."""
        ...

    @property
    def flows(self) -> EngineFlows[Any]:
        """The flows of its engine."""
        ...

    @property
    def kind(self) -> HandlerKind:
        """The kind of its handler."""
        ...

    @property
    def tasks(self) -> Any:
        """What is known of the tasks of an ``async def`` handler, to the runner; else None."""
        ...

    def current_task(self) -> object:
        """Return the task or thread that runs now; the same object for the same one."""
        ...

    def drive(self, flow: Flow[Any]) -> Any:
        """Return the flow's result (DEF), or a coroutine of it (ASYNC_DEF)."""
        ...

    def run_step(self, op: Op, call: Call) -> Any:
        """As :meth:`drive` with the flow of ``step.run``; a plain step takes no flow."""
        ...


#: The branches of races that the current code is in: each notes the ops of the children it begins.
CHILDREN_OF_BRANCHES: ContextVar[tuple[list[Op], ...]] = ContextVar("durable_branches", default=())
CURRENT_RUN: ContextVar[RunScope | StepAttempt | None] = ContextVar("durable_run", default=None)

#: What every step does with it. Python 3.11 makes a bound method for each call of a method of an
#: imported object: that takes 0.08 us, and the call itself a tenth of it.
current_run = CURRENT_RUN.get
enter_run = CURRENT_RUN.set
leave_run = CURRENT_RUN.reset
