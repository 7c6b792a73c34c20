"""``step.parallel``: branches of a handler side by side, and which of them has won a race."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from durable_core.duration import is_int
from durable_core.errors import StepArgumentError, StepKindError, StepUsageError, Suspended
from durable_core.flow.attempt import Call
from durable_core.flow.effects import Flow
from durable_core.flow.execution import ExecutionState
from durable_core.flow.scope import CHILDREN_OF_BRANCHES, RunScope
from durable_core.model.step import Op, OpKind
from durable_core.runners.branches import (
    race_in_tasks,
    race_in_threads,
    run_branch,
    run_in_tasks,
    run_in_threads,
)

__all__ = ["parallel", "parallel_async"]

T = TypeVar("T")
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
            for each in branches:
                if isinstance(each, Coroutine):
                    each.close()  # that it is never awaited is not the news
            raise StepArgumentError(
                f"step {step_id!r}: a branch must be a function without arguments, as in "
                f"lambda: step.run(id, fn), not {type(branch).__name__}"
            )
    if limit is not None and (not is_int(limit) or limit < 1):
        raise StepArgumentError(
            f"step {step_id!r}: limit must be an int of 1 or more, not {limit!r:.60}"
        )


def _call_plain(step_id: str, branch: Callable[[], T]) -> T:
    """Call a branch of a ``def`` handler.

    Raises:
        StepUsageError: it is ``async def``.
    """
    result = branch()
    if isinstance(result, Coroutine):
        result.close()  # that it is never awaited is not the news
        raise StepUsageError(
            f"step {step_id!r}: a branch is an async function; branches of 'def' handlers are "
            "plain functions, only 'async def' handlers can await"
        )
    return result


def parallel(
    scope: RunScope,
    step_id: str,
    branches: tuple[Callable[[], Any], ...],
    mode: str,
    limit: int | None,
) -> Any:
    """Run branches of a ``def`` handler; see ``AsyncSteps.parallel``."""
    _check_branches(step_id, branches, mode, limit)
    branches = tuple(partial(_call_plain, step_id, branch) for branch in branches)
    scope.ex.check_threads(step_id)
    op, most = _next_op(scope, step_id), limit or _MOST_THREADS
    if mode == "all":
        result: Any = run_in_threads(scope, branches, most)
        _unwind_if_begun(scope)
        return result
    children = _Children(len(branches))
    if scope.ex.has_outcome(op):
        _forgive_losers(scope)
        stored = scope.drive(_record(scope, op, 0, children))
        if lost := _children_of(scope, stored):
            scope.drive(_leave_children(scope, lost))
        return run_branch(scope, _winner(op, stored, branches))
    result = race_in_threads(
        scope,
        [children.noted(index, branch) for index, branch in enumerate(branches)],
        most,
        lambda index: scope.drive(_record(scope, op, index, children)),
    )
    _forgive_losers(scope)
    if scope.ex.state is ExecutionState.RUNNING and (lost := children.lost()):
        scope.drive(_leave_children(scope, lost))
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
    children = _Children(len(branches))
    if scope.ex.has_outcome(op):
        _forgive_losers(scope)
        stored = await scope.drive(_record(scope, op, 0, children))
        if lost := _children_of(scope, stored):
            await scope.drive(_leave_children(scope, lost))
        return await _winner(op, stored, branches)()
    noted = [children.noted_async(index, branch) for index, branch in enumerate(branches)]
    index, result = await race_in_tasks(noted, limit)
    await scope.drive(_record(scope, op, index, children))
    _forgive_losers(scope)
    if lost := children.lost():
        await scope.drive(_leave_children(scope, lost))
    return result


def _forgive_losers(scope: RunScope) -> None:
    """Expect nobody to ask for stored steps any more: code that has lost a race does not."""
    scope.ex.unasked = set()


def _next_op(scope: RunScope, step_id: str) -> Op:
    """Return the op under which a race stores its winner; nobody waits for it yet."""
    op = scope.ex.next_op(step_id, OpKind.RUN, scope.current_task())
    scope.ex.unawaited.pop(op.id, None)
    return op


class _Children:
    """The steps by which the branches of a race have begun child runs.

    Args:
        number: of branches.
    """

    def __init__(self, number: int) -> None:
        self._begun: list[list[Op]] = [[] for _ in range(number)]
        self._winner: int | None = None

    def noted(self, index: int, branch: Callable[[], BranchT]) -> Callable[[], BranchT]:
        """Return a branch whose steps are noted. It is called in a context of its own."""

        def call() -> BranchT:
            self._enter(index)
            return branch()

        return call

    def noted_async(
        self, index: int, branch: Callable[[], Awaitable[BranchT]]
    ) -> Callable[[], Awaitable[BranchT]]:
        """As :meth:`noted`, for a branch that is called in a task of its own."""

        async def call() -> BranchT:
            self._enter(index)
            return await branch()

        return call

    def _enter(self, index: int) -> None:
        CHILDREN_OF_BRANCHES.set((*CHILDREN_OF_BRANCHES.get(), self._begun[index]))

    def won(self, index: int) -> dict[str, object]:
        """Return what is stored about the race: who has won, and the children of the others."""
        self._winner = index
        lost = self.lost()
        return {"winner": index, "children": lost} if lost else {"winner": index}

    def lost(self) -> list[str]:
        """Return the ids of the steps of branches that have lost."""
        begun = enumerate(self._begun)
        return [op.id for index, ops in begun if index != self._winner for op in ops]


def _record(scope: RunScope, op: Op, index: int, children: _Children) -> Flow[object]:
    """Return the flow of the step that holds which branch has won."""
    return scope.flows.run_step(scope.ex, op, Call(children.won, (index,)))


def _children_of(scope: RunScope, stored: object) -> list[str]:
    """Return the steps by which lost branches have begun children, as a race has stored them.

    None that have ended, and none in a replay that only looks for what is to be undone.
    """
    found = stored.get("children", []) if isinstance(stored, dict) else []
    is_running = scope.ex.state is ExecutionState.RUNNING
    return [op_id for op_id in found if not scope.ex.has_ended(op_id)] if is_running else []


def _leave_children(scope: RunScope, op_ids: list[str]) -> Flow[None]:
    """Return the flow that ends the steps of lost branches that wait for a child."""
    assert scope.flows.leave_children is not None  # as one of them has begun a child
    return scope.flows.leave_children(scope.ex, op_ids)


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
