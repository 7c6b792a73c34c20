"""What the call of any step does: it finds its run, and reads its arguments."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from durable_core.errors import NonRetriableError, StepArgumentError, StepUsageError
from durable_core.flow.attempt import StepAttempt
from durable_core.flow.scope import CURRENT_RUN, HandlerKind, RunScope

__all__ = ["IMPORTS", "current_scope", "named", "parsed"]

P = ParamSpec("P")
T = TypeVar("T")

#: Where the steps of each kind of handler are imported from.
IMPORTS = {
    HandlerKind.DEF: "from durable_core.sync import step",
    HandlerKind.ASYNC_DEF: "from durable_core import step",
}


def current_scope(kind: HandlerKind, step_id: str) -> RunScope:
    """Return the run that calls a step with this calling convention.

    Raises:
        StepUsageError: there is none, it is inside another step, or its handler is of the other
            kind.
    """
    scope = CURRENT_RUN.get()
    if scope is None:
        raise StepUsageError(
            f"step {step_id!r} was called outside a run; steps work in the handler of a durable "
            "endpoint and what it calls, not in response body iterators or other threads"
        )
    if isinstance(scope, StepAttempt):
        raise StepUsageError(f"step {step_id!r} was called inside step {scope.name!r}")
    if scope.kind is not kind:
        raise StepUsageError(
            f"step {step_id!r} is for '{kind.value}' handlers and was called in "
            f"'{scope.kind.value}'; write '{IMPORTS[scope.kind]}'"
        )
    return scope


def named(method: str, step_id: str, coroutine: Any) -> Coroutine[Any, Any, Any]:
    """Name a coroutine after its step, for Python's warning when it is never awaited."""
    coroutine.__qualname__ = f"step.{method}({step_id!r})"
    result: Coroutine[Any, Any, Any] = coroutine
    return result


def parsed(step_id: str, parse: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what an argument of a step means.

    Raises:
        StepArgumentError: it means nothing. That is a mistake in the code, which no retry mends.
    """
    try:
        return parse(*args, **kwargs)
    except NonRetriableError:
        raise
    except (TypeError, ValueError) as error:
        raise StepArgumentError(f"step {step_id!r}: {error}") from error
