"""Undoing: when a run fails or is cancelled, the steps with ``undo=`` are undone, the last first.

What undoes a step is a step itself: it is stored, retried and not repeated.

The handler of a run that fails has ended when its steps are undone. How it fails is stored first,
in a step of its own: whatever the handler does in a later replay, the run goes on with undoing, and
fails so. A run that fails after its handler has ended, as by a value that cannot be sent, is
released with that step, and undone by whoever claims it.

Another process may have to go on with that, and a run may be cancelled, or past its deadline, where
its handler is not live. The store knows that
there may be something to undo (``Run.undoable``), but the functions that undo it are in the code:
whoever claims the run replays its handler without a new step, and then undoes what it has met on
the way.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from durable_core.errors import RunUndoneError, StepError
from durable_core.flow.attempt import Call
from durable_core.flow.effects import Flow, await_other_steps, log_error
from durable_core.flow.error_responses import response_for_exception
from durable_core.flow.execution import (
    Execution,
    ExecutionEvent,
    ExecutionState,
    StoredExecution,
    checkpoint,
)
from durable_core.flow.flows import EngineFlows
from durable_core.flow.scope import CURRENT_RUN
from durable_core.flow.step_options import Undo, UndoReport
from durable_core.flow.stored_failure import FAILED, fields_of
from durable_core.machine.advance import advance, failure_of_handler
from durable_core.model.decision import Fail, HandlerRaised
from durable_core.model.step import Op, OpKind
from durable_core.ports import RunRecord

__all__ = [
    "MAX_NAME",
    "check_cancel",
    "check_fork",
    "check_retry",
    "execution_to_undo",
    "registered",
    "undo",
    "undo_all",
    "undo_all_async",
    "unknown_steps",
]

_PREFIX = "(undo) "
#: The name of a step that can be undone has at most this many characters.
MAX_NAME = 255 - len(_PREFIX)


def registered(ex: Execution, op: Op, fn: Callable[[Any], object], flow: Flow[object]) -> Flow[Any]:
    """Run the flow of a step; once it has succeeded, remember what undoes it.

    The run is stored as undoable before the step begins: a run that is cancelled meanwhile must not
    end without its undoing.
    """
    if isinstance(ex, StoredExecution) and not ex.run.undoable:
        ex.run = replace(ex.run, undoable=True)
        if ex.stored:  # else the write that makes its row says so
            ex.add_ticket((yield checkpoint(ex, state=True)))
    result = yield from flow
    ex.undos = (*ex.undos, Undo(op, fn, result))
    return result


def undo(ex: Execution, flows: EngineFlows[Any], error: Exception | None) -> Flow[None]:
    """Undo the steps of a run if it fails by an error, in the place where its handler has ended.

    Args:
        ex: the execution, which has asked for steps with ``undo=``.
        flows: the flows of its engine.
        error: what the handler has raised; None if it has returned.
    """
    if ex.state is ExecutionState.REPLAYING:
        if isinstance(ex, StoredExecution):
            yield from _end_other_steps(ex)
        return  # what is met on the way is undone later
    fail = None if error is None else _fail_by(ex, error)
    if fail is None:
        return
    if isinstance(ex, StoredExecution):
        yield from _end_other_steps(ex)
        if not ex.undos:
            return
    ex.deadline = None
    marker = ex.next_undo_op(FAILED)
    yield from flows.run_step(ex, marker, Call(fields_of, (fail,)))
    yield from _undo_each(ex, flows, ex.undos)


def _end_other_steps(ex: StoredExecution) -> Flow[None]:
    """Have the steps end that are in progress in other branches of a handler that has failed.

    What they do is to be undone, too. From now on no branch begins a step.
    """
    ex.take(ExecutionEvent.UNDO)
    yield from await_other_steps(lambda: bool(unknown_steps(ex)))
    ex.check_open()
    ex.undos = _in_order(ex, ex.undos)


def _in_order(ex: StoredExecution, undos: Sequence[Undo]) -> tuple[Undo, ...]:
    """Return what undoes steps in the order in which the steps have finished."""
    return tuple(sorted(undos, key=lambda each: ex.memos[each.op.id].completion_no))


def _undo_each(ex: Execution, flows: EngineFlows[Any], undos: Sequence[Undo]) -> Flow[None]:
    """Undo steps, the last one first; note in the execution what has come of it."""
    undone, failed = [], []
    for each in reversed(undos):
        op = ex.next_undo_op(_PREFIX + each.op.name)
        try:
            yield from flows.run_step(ex, op, Call(each.fn, (each.result,)))
        except StepError as failure:
            failed.append(each.op.name)
            yield from log_error(f"step {each.op.name!r} could not be undone: {failure}", failure)
        else:
            undone.append(each.op.name)
    ex.undo_report = UndoReport(tuple(undone), tuple(failed))


def unknown_steps(replayed: StoredExecution) -> list[str]:
    """Return the names of the steps that have succeeded and that the code has not asked for.

    Whether they can be undone, and how, is unknown: other code had asked for them.
    """
    return [
        memo.op.name
        for memo in replayed.memos.values()
        if memo.op.id in replayed.unasked
        and memo.ok
        and memo.op.kind is OpKind.RUN
        and not memo.op.name.startswith((_PREFIX, FAILED))
    ]


def execution_to_undo(replayed: StoredExecution) -> StoredExecution:
    """Return the execution that undoes the steps of a cancelled run.

    Args:
        replayed: the execution in which its handler was replayed, under the same claim. What it
            has met on the way is undone in the order in which the steps had finished.
    """
    ex = StoredExecution(
        replayed.env,
        replayed.options,
        replayed.run,
        replayed.request,
        owner=replayed.owner,
        memos=tuple(replayed.memos.values()),
        pending=tuple(replayed.pending.values()),
        streamed=replayed.streamed,
        handler_chunks=replayed.handler_chunks,
    )
    ex.deadline = None
    ex.unasked = set()  # nobody asks for the steps of the handler
    ex.undos = _in_order(ex, replayed.undos)
    return ex


def undo_all(request: object) -> None:
    """Undo the steps of a cancelled run: in place of its ``def`` handler."""
    scope: Any = CURRENT_RUN.get()
    scope.drive(_undo_each(scope.ex, scope.flows, _take_undos(scope.ex)))


def undo_all_async(request: object) -> Coroutine[Any, Any, None]:
    """Undo the steps of a cancelled run: in place of its ``async def`` handler."""
    scope: Any = CURRENT_RUN.get()
    undoing: Coroutine[Any, Any, None] = scope.drive(
        _undo_each(scope.ex, scope.flows, _take_undos(scope.ex))
    )
    return undoing


def _take_undos(ex: Execution) -> Sequence[Undo]:
    """Return what is to be undone, once: the runner must not undo it again at the end."""
    undos, ex.undos = ex.undos, ()
    return undos


def _fail_by(ex: Execution, error: Exception) -> Fail | None:
    """Return how the run fails by this error; None if it is a response, or is retried."""
    if response_for_exception(ex.options, error) is not None:
        return None
    now = ex.env.clock.now()
    raised = HandlerRaised(failure=failure_of_handler(error, now), u=0.0, started_at=ex.started_at)
    commands = advance(ex.run, raised, now, ex.env.policy).commands
    return next((each for each in commands if isinstance(each, Fail)), None)


def check_cancel(record: RunRecord) -> None:
    """See that a run can be cancelled: one half of whose steps is undone must not stay so.

    Raises:
        RunUndoneError: it is being undone.
    """
    run = record.run
    is_failing = run.cancel_reason is None and _first_undone(record) is not None
    if is_failing and not run.phase.ended:
        raise RunUndoneError(
            f"run {record.run.id} has failed and is being undone; it ends when that is done, and "
            "cannot be cancelled before"
        )


def check_retry(record: RunRecord) -> None:
    """See that a failed run can go on from where it failed.

    Raises:
        RunUndoneError: undoing it had begun.
    """
    first = _first_undone(record)
    if first is not None:
        run_id = record.run.id
        raise RunUndoneError(
            f"run {run_id} was undone when it failed, so it cannot go on from there; begin a new "
            f"run instead: resume_from({run_id!r}, {first!r})"
        )


def check_fork(record: RunRecord, step: str) -> None:
    """See that a new run can have the results of another one before a step.

    Args:
        record: the other run, with its steps.
        step: the name of a step of it.

    Raises:
        RunUndoneError: one of these results was undone; or undoing goes on.
    """
    first = _first_undone(record)
    run_id = record.run.id
    is_undoing = first is not None or record.run.cancel_reason is not None
    if is_undoing and not record.run.phase.ended:
        raise RunUndoneError(f"run {run_id} is being undone; resume from a step once it has ended")
    if first is None:
        return
    numbers = {memo.op.name: memo.completion_no for memo in record.memos}
    if step not in numbers or numbers[first] < numbers[step]:
        raise RunUndoneError(
            f"step {first!r} of run {run_id} was undone, so a run that goes on from {step!r} must "
            f"not have its result; resume from {first!r}, or from a step before it"
        )


def _first_undone(record: RunRecord) -> str | None:
    """Return the name of the first step that was undone, or that holds the error if none was.

    None if undoing has not begun. A step whose undoing has failed counts: what became of it is
    unknown.
    """
    names = [memo.op.name for memo in record.memos]
    names += [pending.op.name for pending in record.pending]
    undone = {name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX)}
    done = sorted(record.memos, key=lambda memo: memo.completion_no)
    return next((memo.op.name for memo in done if memo.op.name in {*undone, FAILED}), None)
