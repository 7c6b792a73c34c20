"""Branches of a handler that run side by side: ``step.parallel``, in threads and in tasks.

Each branch is code of the handler, with steps in it. In a race the first branch that returns is the
winner; the others are cancelled. A thread cannot be cancelled: a function of a step in a lost
branch runs in a thread of its own, which is abandoned, and the step is stored as cancelled.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from durable_core.errors import ControlSignal, Suspended
from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.effects import AwaitDelivery, Cancelled, Effect, Flow
from durable_core.flow.execution import Execution
from durable_core.flow.flows import EngineFlows
from durable_core.flow.scope import CURRENT_RUN, HandlerKind, RunScope
from durable_core.model.step import Op
from durable_core.runners.time_limit import LimitedCall

__all__ = ["race_in_tasks", "race_in_threads", "run_branch", "run_in_tasks", "run_in_threads"]

T = TypeVar("T")


class _BranchLost(ControlSignal):
    """Another branch has won the race; ends the code of this one."""


class _Branch:
    """A live run, as the code of one branch sees it.

    It stands for the branch where step ids are told apart: a thread may run one branch after the
    other, and a replay may give them to other threads.
    """

    def __init__(self, run: RunScope) -> None:
        self._run = run

    @property
    def ex(self) -> Execution:
        """The execution."""
        return self._run.ex

    @property
    def flows(self) -> EngineFlows[Any]:
        """The flows of its engine."""
        return self._run.flows

    @property
    def kind(self) -> HandlerKind:
        """The kind of its handler."""
        return self._run.kind

    @property
    def tasks(self) -> Any:
        """What is known of the tasks of its handler."""
        return self._run.tasks

    def current_task(self) -> object:
        """Return the branch."""
        return self

    def drive(self, flow: Flow[Any]) -> Any:
        """Run the flow of a step in the thread of the branch."""
        return self._run.drive(flow)

    def run_step(self, op: Op, call: Call) -> Any:
        """Do the same with a step that calls a function."""
        return self._run.run_step(op, call)


class _Race:
    """The branches of one race in threads, and which of them has won."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.winner: int | None = None
        self.in_steps = 0
        self._wakers: set[Callable[[], object]] = set()

    def decide(self, index: int) -> bool:
        """Let a branch win and wake the functions of the others; False if another one has won."""
        with self.lock:
            if self.winner is not None:
                return False
            self.winner = index
            for wake in self._wakers:
                wake()
            return True

    def on_wait(self, wake: Callable[[], object]) -> None:
        """Have a wait ended once a branch has won."""
        with self.lock:
            self._wakers.add(wake)
            if self.winner is not None:
                wake()

    def has_lost(self, index: int) -> bool:
        """Return whether another branch has won."""
        return self.winner not in (None, index)

    def call(self, index: int, call: Call) -> object:
        """Call the function of a step in a thread of its own.

        Raises:
            _BranchLost: another branch has won meanwhile.
        """
        wake = threading.Event()
        with self.lock:
            self._wakers.add(wake.set)
            if self.winner not in (None, index):
                wake.set()
        try:
            attempt = LimitedCall(call, wake.set)
            wake.wait()
        finally:
            with self.lock:
                self._wakers.discard(wake.set)
        if self.winner not in (None, index) and not attempt.ended:
            attempt.abandon()
            raise _BranchLost
        return attempt.result()


class _RacingBranch(_Branch):
    """A branch of a race."""

    def __init__(self, run: RunScope, race: _Race, index: int) -> None:
        super().__init__(run)
        self._race = race
        self._index = index

    def drive(self, flow: Flow[Any]) -> Any:
        """Run the flow of a step, unless another branch has won."""
        race = self._race
        with race.lock:
            if race.winner not in (None, self._index):
                flow.close()
                raise _BranchLost
            race.in_steps += 1
        try:
            return self._run.drive(self._watched(flow))
        finally:
            with race.lock:
                race.in_steps -= 1
                race.changed.notify_all()

    def run_step(self, op: Op, call: Call) -> Any:
        """Do the same with a step that calls a function, in its flow."""
        return self.drive(self.flows.run_step(self.ex, op, call))

    def _watched(self, flow: Flow[T]) -> Flow[T]:
        """Pass on what the flow asks for; call functions so that they can be abandoned."""
        resume: Callable[[Any], Effect] = flow.send
        value: Any = None
        while True:
            try:
                effect = resume(value)
            except StopIteration as stop:
                result: T = stop.value
                return result
            waits = isinstance(effect, AwaitDelivery)
            if isinstance(effect, AwaitDelivery):
                effect = _ends_with(effect, self._race)
            try:
                if isinstance(effect, StepAttempt) and effect.call is not None:
                    value = yield from self._call(effect, effect.call)
                else:
                    value = yield effect
                resume = flow.send
                if waits and self._race.has_lost(self._index):
                    value, resume = _BranchLost(), flow.throw
            except _BranchLost as lost:
                value, resume = Cancelled(lost), flow.send
            except BaseException as error:
                value, resume = error, flow.throw

    def _call(self, attempt: StepAttempt, call: Call) -> Flow[Any]:
        """Have the function of a step called so that it can be abandoned."""
        attempt.call = Call(self._race.call, (self._index, call), None, call.options)
        try:
            return (yield attempt)
        finally:
            attempt.call = call


def _ends_with(effect: AwaitDelivery, race: _Race) -> AwaitDelivery:
    """Return a wait that ends with a race, too."""
    outer = effect.on_wait

    def on_wait(wake: Callable[[], object]) -> None:
        if outer is not None:
            outer(wake)
        race.on_wait(wake)

    return AwaitDelivery(effect.op_id, effect.step_name, effect.for_ms, on_wait)


# --- threads --------------------------------------------------------------------------------------


class _Ended:
    """How a branch has ended: by a value or an error."""

    def __init__(self, branch: Callable[[], object]) -> None:
        self.value: object = None
        self.error: BaseException | None = None
        try:
            self.value = branch()
        except BaseException as error:
            self.error = error


def _in_threads(
    branches: Sequence[Callable[[], object]],
    scopes: Sequence[RunScope],
    limit: int,
    is_over: Callable[[], bool],
    on_end: Callable[[int, _Ended], None],
) -> list[threading.Thread]:
    """Start threads that run the branches, at most ``limit`` at a time.

    Raises:
        RuntimeError: the system has no thread for any of them.
    """
    todo = list(enumerate(branches))[::-1]
    contexts = [contextvars.copy_context() for _ in branches]

    def work() -> None:
        while not is_over():
            try:
                index, branch = todo.pop()
            except IndexError:
                return
            context = contexts[index]
            context.run(CURRENT_RUN.set, scopes[index])
            context.run(lambda: on_end(index, _Ended(branch)))  # noqa: B023 - it is called here

    threads: list[threading.Thread] = []
    for number in range(min(limit, len(branches))):
        thread = threading.Thread(target=work, name=f"durable-branch-{number + 1}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # too many in the system: those here do the work
            if not threads:
                raise
            break
        threads.append(thread)
    return threads


def run_branch(run: RunScope, branch: Callable[[], T]) -> T:
    """Run one branch in this thread: the one that has won."""
    context = contextvars.copy_context()
    context.run(CURRENT_RUN.set, _Branch(run))
    return context.run(branch)


def run_in_threads(run: RunScope, branches: Sequence[Callable[[], T]], limit: int) -> tuple[T, ...]:
    """Run branches in threads; return their results, in order.

    Raises:
        Suspended: one of them cannot go on now; all others have come as far as they can.
        BaseException: what the first branch that failed has raised, once all have ended.
    """
    ended: dict[int, Any] = {}
    scopes = [_Branch(run) for _ in branches]
    for thread in _in_threads(branches, scopes, limit, lambda: False, ended.__setitem__):
        thread.join()
    errors = [ended[index].error for index in range(len(branches))]
    _raise_first(errors)
    return tuple(ended[index].value for index in range(len(branches)))


def race_in_threads(
    run: RunScope,
    branches: Sequence[Callable[[], T]],
    limit: int,
    record: Callable[[int], object],
) -> T:
    """Run branches in threads until one returns; return its result.

    The steps of the others have ended when this returns: those whose function was running are
    stored as cancelled.

    Args:
        run: the live run.
        branches: the branches.
        limit: how many may run at a time.
        record: makes durable which one has won, given its index. It is called in the thread of that
            branch, because another one may have unwound the handler's own.

    Raises:
        Suspended: none has returned, and one cannot go on now.
        BaseException: all have failed: what the first of them has raised.
    """
    race, ended = _Race(), dict[int, Any]()
    recorded: list[_Ended] = []

    def on_end(index: int, how: _Ended) -> None:
        if how.error is None and race.decide(index):
            recorded.append(_Ended(lambda: record(index)))
        with race.lock:
            ended[index] = how
            race.changed.notify_all()

    def is_over() -> bool:
        return race.winner is not None

    scopes = [_RacingBranch(run, race, index) for index in range(len(branches))]
    _in_threads(branches, scopes, limit, is_over, on_end)
    with race.lock:
        race.changed.wait_for(
            lambda: len(ended) == len(branches) or (bool(recorded) and race.in_steps == 0)
        )
    if race.winner is None:
        _raise_first([ended[index].error for index in range(len(branches))])
        raise AssertionError("a race without a winner has errors")
    if recorded[0].error is not None:
        raise recorded[0].error
    value: T = ended[race.winner].value
    return value


def _raise_first(errors: Sequence[BaseException | None]) -> None:
    """Raise what counts most: a signal that unwinds, then the first error in order."""
    for error in errors:
        if isinstance(error, ControlSignal):
            raise Suspended from None
    for error in errors:
        if error is not None:
            raise error


# --- tasks ----------------------------------------------------------------------------------------


async def run_in_tasks(
    branches: Sequence[Callable[[], Awaitable[T]]], limit: int | None
) -> tuple[T, ...]:
    """Run branches in tasks; return their results, in order.

    Raises:
        BaseException: what the first branch that failed has raised, once all have ended.
    """
    tasks = await _ran(branches, limit, lambda task: False)
    _raise_first([_error_of(tasks[index]) for index in range(len(branches))])
    return tuple(tasks[index].result() for index in range(len(branches)))


async def race_in_tasks(
    branches: Sequence[Callable[[], Awaitable[T]]], limit: int | None
) -> tuple[int, T]:
    """Run branches in tasks until one returns, cancel the others; return its index and result.

    Raises:
        BaseException: all have failed: what the first of them has raised.
    """
    tasks = await _ran(branches, limit, _has_returned)
    errors = {index: _error_of(task) for index, task in sorted(tasks.items())}
    for index, error in errors.items():
        if error is None:
            return index, tasks[index].result()
    _raise_first(list(errors.values()))
    raise AssertionError("a race without a winner has errors")


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _has_returned(task: asyncio.Task[Any]) -> bool:
    return _error_of(task) is None


async def _ran(
    branches: Sequence[Callable[[], Awaitable[T]]],
    limit: int | None,
    is_last: Callable[[asyncio.Task[T]], bool],
) -> dict[int, asyncio.Task[T]]:
    """Run branches, at most ``limit`` at a time, until all have ended or one was the last."""
    todo = list(enumerate(branches))[::-1]
    began: dict[int, asyncio.Task[T]] = {}
    running: set[asyncio.Task[T]] = set()
    try:
        while todo or running:
            while todo and (limit is None or len(running) < limit):
                index, branch = todo.pop()
                began[index] = asyncio.create_task(_awaited(branch))
                # Nobody may ask how it has ended, if this is cancelled; asyncio would warn of that.
                began[index].add_done_callback(_error_of)
                running.add(began[index])
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            winners = [task for task in done if is_last(task)]
            if winners:
                first = min(index for index, task in began.items() if task in winners)
                losers = [task for index, task in began.items() if index != first]
                for task in losers:  # at once, before anything else is awaited
                    task.cancel()
                if running:
                    await asyncio.wait(running)
                return {first: began[first]}
    finally:
        for task in running:
            task.cancel()
    return began


async def _awaited(branch: Callable[[], Awaitable[T]]) -> T:
    return await branch()
