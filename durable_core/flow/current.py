"""Which run the code that calls a step belongs to."""

from __future__ import annotations

from contextvars import ContextVar
from enum import Enum
from typing import Any, Protocol

from durable_core.errors import StepUsageError
from durable_core.flow.asks import Flow
from durable_core.flow.execution import Execution
from durable_core.flow.flows import Flows
from durable_core.flow.streaming import InsideStep

__all__ = ["CURRENT", "Face", "Scope", "current_scope"]


class Face(Enum):
    """How a handler, and the steps in it, are called."""

    SYNC = "def"
    ASYNC = "async def"


class Scope(Protocol):
    """A live run, as the code of its handler reaches it."""

    @property
    def ex(self) -> Execution:
        """The execution."""
        ...

    @property
    def flows(self) -> Flows:
        """What its engine does for it."""
        ...

    @property
    def face(self) -> Face:
        """How its handler is called."""
        ...

    def branch(self) -> object:
        """Return the task or thread that runs now; the same object for the same one."""
        ...

    def drive(self, flow: Flow[Any]) -> Any:
        """Return the flow's result (SYNC), or a coroutine of it (ASYNC)."""
        ...


CURRENT: ContextVar[Scope | InsideStep | None] = ContextVar("durable_run", default=None)

_IMPORTS = {
    Face.SYNC: "from durable_core.sync import step",
    Face.ASYNC: "from durable_core import step",
}


def current_scope(face: Face, step_id: str) -> Scope:
    """Return the run that calls a step through this face.

    Raises:
        StepUsageError: there is none, it is inside another step, or its handler has another face.
    """
    scope = CURRENT.get()
    if scope is None:
        raise StepUsageError(
            f"step {step_id!r} was called outside a run; steps work in the handler of a durable "
            "endpoint and what it calls, not in response body iterators or other threads"
        )
    if isinstance(scope, InsideStep):
        raise StepUsageError(f"step {step_id!r} was called inside step {scope.name!r}")
    if scope.face is not face:
        raise StepUsageError(
            f"step {step_id!r} is for '{face.value}' handlers and was called in "
            f"'{scope.face.value}'; write '{_IMPORTS[scope.face]}'"
        )
    return scope
