"""``step.parallel``: branches of a handler side by side, and which of them has won a race."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from durable_core.errors import StepArgumentError, StepKindError, Suspended
from durable_core.flow.attempt import Call
from durable_core.flow.effects import Flow
from durable_core.flow.execution import ExecutionState
from durable_core.flow.scope import RunScope
from durable_core.model.step import Op, OpKind
from durable_core.runners.branches import (
    race_in_tasks,
    race_in_threads,
    run_branch,
    run_in_tasks,
    run_in_threads,
)

__all__ = ["parallel", "parallel_async"]

BranchT = TypeVar("BranchT")

#: Branches of a ``def`` handler that run at a time, unless the call says another number.
_MOST_THREADS = 8


def _check_branches(
    step_id: str, branches: tuple[object, ...], mode: object, limit: object
) -> None:
    if mode not in ("all", "race"):
        raise StepArgumentError(f"step {step_id!r}: mode must be 'all' or 'race', not {mode!r:.60}")
    if not branches:
        raise StepArgumentError(f"step {step_id!r}: give it at least one branch")
    for branch in branches:
        if not callable(branch):
            if isinstance(branch, Coroutine):
                branch.close()
            raise StepArgumentError(
                f"step {step_id!r}: a branch must be a function without arguments, as in "
                f"lambda: step.run(id, fn), not {type(branch).__name__}"
            )
    if limit is not None and (type(limit) is not int or limit < 1):
        raise StepArgumentError(
            f"step {step_id!r}: limit must be an int of 1 or more, not {limit!r:.60}"
        )


def parallel(
    scope: RunScope,
    step_id: str,
    branches: tuple[Callable[[], Any], ...],
    mode: str,
    limit: int | None,
) -> Any:
    """Run branches of a ``def`` handler; see ``AsyncSteps.parallel``."""
    _check_branches(step_id, branches, mode, limit)
    scope.ex.check_threads(step_id)
    op, most = _next_op(scope, step_id), limit or _MOST_THREADS
    if mode == "all":
        result: Any = run_in_threads(scope, branches, most)
        _unwind_if_begun(scope)
        return result
    if scope.ex.has_outcome(op):
        _forgive_losers(scope)
        return run_branch(scope, _winner(op, scope.drive(_record(scope, op, 0)), branches))
    result = race_in_threads(
        scope, branches, most, lambda index: scope.drive(_record(scope, op, index))
    )
    _forgive_losers(scope)
    if scope.ex.state in _UNWOUND:
        scope.ex.stop()  # a loser waits for its time; the winner does not
    _unwind_if_begun(scope)
    return result


#: A branch has unwound the handler: it goes on in a replay.
_UNWOUND = (ExecutionState.UNWINDING, ExecutionState.DRAINING, ExecutionState.CLOSED)


def _unwind_if_begun(scope: RunScope) -> None:
    if scope.ex.state in _UNWOUND:
        raise Suspended


def parallel_async(
    scope: RunScope,
    step_id: str,
    branches: tuple[Callable[[], Awaitable[Any]], ...],
    mode: str,
    limit: int | None,
) -> Coroutine[Any, Any, Any]:
    """Run branches of an ``async def`` handler; see ``AsyncSteps.parallel``."""
    _check_branches(step_id, branches, mode, limit)
    op = _next_op(scope, step_id)
    if mode == "all":
        return run_in_tasks(branches, limit)
    return _race(scope, op, branches, limit)


async def _race(
    scope: RunScope,
    op: Op,
    branches: tuple[Callable[[], Awaitable[Any]], ...],
    limit: int | None,
) -> Any:
    if scope.ex.has_outcome(op):
        _forgive_losers(scope)
        return await _winner(op, await scope.drive(_record(scope, op, 0)), branches)()
    index, result = await race_in_tasks(branches, limit)
    await scope.drive(_record(scope, op, index))
    _forgive_losers(scope)
    return result


def _forgive_losers(scope: RunScope) -> None:
    """Expect nobody to ask for stored steps any more: code that has lost a race does not."""
    scope.ex.unasked = set()


def _next_op(scope: RunScope, step_id: str) -> Op:
    """Return the op under which a race stores its winner; nobody waits for it yet."""
    op = scope.ex.next_op(step_id, OpKind.RUN, scope.current_task())
    scope.ex.unawaited.pop(op.id, None)
    return op


def _record(scope: RunScope, op: Op, index: int) -> Flow[object]:
    """Return the flow of the step that holds which branch has won."""
    return scope.flows.run_step(scope.ex, op, Call(_won, (index,)))


def _won(index: int) -> dict[str, int]:
    return {"winner": index}


def _winner(op: Op, stored: object, branches: tuple[BranchT, ...]) -> BranchT:
    """Return the branch that has won in an earlier execution.

    Raises:
        StepKindError: another kind of step is stored, or there are fewer branches now.
    """
    index = stored.get("winner") if isinstance(stored, dict) else None
    if type(index) is not int or not 0 <= index < len(branches):
        raise StepKindError(
            f"step {op.name!r} is a race of {len(branches)} branches, and what the run has stored "
            f"under that id is {stored!r:.60}; give the new step an id of its own"
        )
    return branches[index]
