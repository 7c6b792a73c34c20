"""How an ``async def`` handler is suspended: its parked steps, its end, the order of its replay."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush

from durable_core.errors import Suspended, WaitInterruptedError
from durable_core.flow.effects import Outcome, Raised, Unwound
from durable_core.flow.execution import Execution
from durable_core.platform import run_logger
from durable_core.ports import Clock
from durable_core.runners.host import RunHost
from durable_core.runners.run_tasks import ParkedFuture, RunTasks

__all__ = ["HandlerUnwinder", "ParkedSteps", "ReplayOrder"]

#: Timers look at the clock at least this often, seconds, so that a step of the clock is noticed.
_LONGEST_TIMER = 30.0


class ParkedSteps:
    """The parked steps of one run. Everything happens on its loop.

    Args:
        loop: the loop.
        clock: says when a step is due.

    Attributes:
        futures: what the parked steps wait for, by op id.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self.futures: dict[str, ParkedFuture] = {}

    def __len__(self) -> int:
        return len(self.futures)

    @contextmanager
    def park(self, op_id: str, due_at: int | None) -> Iterator[ParkedFuture]:
        """Park a step for as long as the context lasts.

        Args:
            op_id: the step.
            due_at: when to wake it (epoch milliseconds; it may be woken earlier), None for never.
        """
        future = ParkedFuture(loop=self._loop)
        self.futures[op_id] = future
        if due_at is not None:
            self._set_timer(future, due_at)
        try:
            yield future
        finally:
            if future.timer is not None:
                future.timer.cancel()
            del self.futures[op_id]

    def _set_timer(self, future: ParkedFuture, due_at: int) -> None:
        left = max(0.0, (due_at - self._clock.now()) / 1000)
        future.due = self._loop.time() + left
        wait = min(left, _LONGEST_TIMER)
        future.timer = self._loop.call_later(wait, self._wake_if_due, future, due_at)

    def _wake_if_due(self, future: ParkedFuture, due_at: int) -> None:
        if self._clock.now() < due_at:
            self._set_timer(future, due_at)
        elif not future.done():
            future.set_result(None)

    def wake(self, op_id: str) -> None:
        """Wake that step, if it is parked."""
        future = self.futures.get(op_id)
        if future is not None and not future.done():
            future.set_result(None)

    def wake_all(self) -> None:
        """Wake every parked step."""
        for op_id in list(self.futures):
            self.wake(op_id)

    def cancel_all(self) -> None:
        """Cancel every parked step."""
        for future in self.futures.values():
            future.cancel()


class HandlerUnwinder:
    """Ends the handler of one run before it has returned. Everything happens on its loop.

    The handler runs between :meth:`handler_runs` and :meth:`handler_ended`. When each of its
    tasks waits for parked steps, it is cancelled. From then on nothing that it does counts; if it
    goes on for longer than the unwind time, the run goes on without it.

    Args:
        host: the worker.
        ex: the execution.
        loop: where it runs.
        tasks: of the handler.
    """

    _task: asyncio.Task[object] | None = None
    _go_on_without: Callable[[], None] | None = None  # None while no handler runs
    _begun = False
    #: The task of the handler was cancelled, and may not have met that yet.
    has_cancelled = False
    #: The handler was unwound, and has gone on since, so it can know of that.
    _met_unwinding = False
    #: The handler has gone on from a step that was refused: how it ends does not count.
    saw_refused_step = False
    _limit: asyncio.TimerHandle | None = None  # of what the handler awaits of its own
    _deadline: asyncio.TimerHandle | None = None  # of its end once it was cancelled
    _run_limit: asyncio.TimerHandle | None = None  # of the run

    def __init__(
        self, host: RunHost, ex: Execution, loop: asyncio.AbstractEventLoop, tasks: RunTasks
    ) -> None:
        self._host = host
        self._ex = ex
        self._loop = loop
        self._is_occupied: Callable[[], bool] = _never
        self.parked = ParkedSteps(loop, ex.env.clock)
        self.tasks = tasks

    # -- the handler ------------------------------------------------------------------------

    @property
    def handler_has_ended(self) -> bool:
        """Whether the handler has ended; a step that parks now is of a task that it left behind."""
        return not self._handling

    @property
    def _handling(self) -> bool:
        return self._go_on_without is not None

    def handler_runs(
        self,
        task: asyncio.Task[object],
        is_occupied: Callable[[], bool],
        go_on_without: Callable[[], None],
    ) -> None:
        """Note that the handler runs.

        Args:
            task: its task.
            is_occupied: tells whether the run does something besides waiting in parked steps.
            go_on_without: called if the handler does not end when it should.
        """
        self._task = task
        self._is_occupied = is_occupied
        self._go_on_without = go_on_without
        self.tasks.join_run(self.parked.futures, self._may_suspend, self.unwind)

    def cut_short(self, error: BaseException) -> Outcome | Unwound:
        """Return how a handler ended that a cancellation or a signal ended: ours, or its own."""
        if self._ex.closed or self.loop_is_ending():
            if self._task is not None:
                while self._task.cancelling():
                    self._task.uncancel()
            return Unwound()
        if self._ex.stopping and isinstance(error, Suspended):
            return Unwound()  # of suspend_at_once()
        return Raised(RuntimeError(f"the handler was cancelled by its own code: {error!r}"))

    def handler_ended(self, outcome: Outcome | Unwound) -> Outcome | Unwound:
        """Return what counts of how the handler has ended.

        Raises:
            CancelledError: nothing does, for the run has gone on without it.
        """
        if self._go_on_without is None:
            raise asyncio.CancelledError
        self._go_on_without = None
        self._is_occupied = _never
        self.tasks.close()
        if self.parked.futures:  # of tasks that the handler has left behind
            self.parked.cancel_all()
        for timer in (self._limit, self._deadline, self._run_limit):
            if timer is not None:
                timer.cancel()
        if not self._begun:
            return Unwound() if self.saw_refused_step else outcome
        if not isinstance(outcome, Unwound) and self._met_unwinding:
            self._warn_swallowed()
        return Unwound()

    # -- when to end it ---------------------------------------------------------------------

    def limit_own_wait(self) -> None:
        """From now on, do not let the handler await something of its own for ever."""
        if self._limit is None:
            limit = self._host.max_own_wait
            self._limit = self._loop.call_later(limit, self._end_own_wait, self._ex.activity)

    def _end_own_wait(self, activity: int) -> None:
        self._limit = None
        if not self.parked:
            return
        if not self._may_suspend() or self._ex.activity != activity:
            self.limit_own_wait()
        elif (op_id := self.tasks.step_in_long_time_out()) is not None:
            name = self._ex.awaited.get(op_id, "")
            self.parked.futures[op_id].set_exception(
                WaitInterruptedError(
                    f"a time-out around step {name!r} will end before the step does, and is not "
                    f"kept when the run is suspended, {self._host.max_own_wait:g} seconds after "
                    "the step began to wait (Settings.max_own_wait): use the step's own timeout= "
                    "instead, or put the time-out into the function that the step calls"
                )
            )
        else:
            if not self.tasks.all_wait_for_steps:  # else the loop is too slow to have seen it
                self._warn_own_wait()
            self.unwind()

    def _may_suspend(self) -> bool:
        """Return whether there are calls of steps in progress, and all of them are parked."""
        if self._begun or not self._handling or not self.parked.futures:
            return False
        return not self._is_occupied()

    def unwind_if_idle(self) -> None:
        """End the handler if no step is in flight."""
        if self._ex.in_flight == 0 and self._handling:
            self.unwind()

    def unwind_if_overdue(self) -> None:
        """End the handler if its run is past its deadline, else look again when it may be."""
        deadline = self._ex.deadline
        if deadline is None or not self._handling:
            return
        if self._run_limit is not None:
            self._run_limit.cancel()
        left = (deadline - self._ex.env.clock.now()) / 1000
        if left <= 0:
            self.unwind()
        else:
            wait = min(left, _LONGEST_TIMER)
            self._run_limit = self._loop.call_later(wait, self.unwind_if_overdue)

    def unwind(self) -> None:
        """Cancel the handler and what is parked. From here on nothing it does counts."""
        if self._begun or not self._handling or self._task is None:
            return
        self._begin()
        # A handler that ends before this is called goes on from its last step, whose end was the
        # moment to suspend it, and awaits nothing more.
        self._loop.call_soon(self._note_met)
        self.has_cancelled = True
        self._task.cancel()
        self.parked.cancel_all()
        self.limit_unwinding()

    def unwind_here(self) -> bool:
        """Begin to unwind a handler whose only task is about to park; its caller raises the rest.

        Returns False, and does nothing, if the handler may do something else.
        """
        if self._begun or not self._handling or self.parked.futures:
            return False
        if not self.tasks.are_one_task or self.tasks.has_pending_time_out:
            return False
        self._begin()
        self._met_unwinding = True
        return True

    def _begin(self) -> None:
        self._begun = True
        self._ex.close()

    def limit_unwinding(self) -> None:
        """From now on, do not let the handler go on for ever although it is unwound."""
        self._deadline = self._loop.call_later(self._host.unwind_time, self._abandon)

    def _note_met(self) -> None:
        self._met_unwinding = True

    def _abandon(self) -> None:
        """The handler does not end although it was cancelled: give the run up without it."""
        go_on, self._go_on_without = self._go_on_without, None
        if go_on is None:
            return
        run_logger(self._ex.run.id, self._ex.run.function_id).warning(
            "%s was cancelled to be suspended and still runs %g seconds later; the run goes on "
            "without it",
            self._ex.run.function_id,
            self._host.unwind_time,
        )
        go_on()

    # -- whose cancellation it is -----------------------------------------------------------

    def ends_parked_steps(self) -> bool:
        """Return whether the end of the handler is why parked steps are cancelled now."""
        return self._ex.closed or not self._handling or self.loop_is_ending()

    def loop_is_ending(self) -> bool:
        """Return whether the loop is being shut down. The run then continues elsewhere."""
        if not self._host.loops.is_shutting_down(self._loop):
            return False
        self._begun = True
        self._ex.stop()
        self._ex.close()
        return True

    def _warn_own_wait(self) -> None:
        awaited = "something that is no step"
        if self.tasks.has_pending_time_out:
            awaited = "what a time-out is around, which begins anew when the run goes on"
        run_logger(self._ex.run.id, self._ex.run.function_id).warning(
            "%s is suspended at step %s; for %g seconds it has also awaited %s",
            self._ex.run.function_id,
            _list_names([self._ex.awaited.get(op_id, "") for op_id in self.parked.futures]),
            self._host.max_own_wait,
            awaited,
        )

    def _warn_swallowed(self) -> None:
        run_logger(self._ex.run.id, self._ex.run.function_id).warning(
            "%s swallowed the cancellation that suspends it at step %s; what it returned or "
            "raised after that is discarded",
            self._ex.run.function_id,
            _list_names([*self._ex.awaited.values()]) or "(none)",
        )


def _list_names(names: Sequence[str]) -> str:
    """Return names of steps for a line of the log, the first few."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(repr, names[:_MOST_NAMES])) + more


def _never() -> bool:
    """Nothing of a run whose handler has ended keeps it from being suspended."""
    return False


#: Steps that a line of the log names.
_MOST_NAMES = 5
#: Ticks of the loop from one turn to the next. Code that waits for the first of several steps
#: (``asyncio.wait`` with ``FIRST_COMPLETED``, a task or two in between) must see that one alone,
#: as it did when it really was the first, and have time to cancel the others.
_TICKS_BETWEEN = 6
#: Turns that are taken without a tick of the loop, after which others on the loop get one.
_MAX_TURNS_AT_ONCE = 100


class ReplayOrder:
    """Answers the steps of a replayed handler one by one, in the order of their numbers.

    Args:
        loop: the loop that the handler runs on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap
        self._is_releasing = False
        self._last = 0  # the number of the step that had its turn last
        self._at_once = 0

    def take_turn(self, number: int) -> bool:
        """Take the turn of a step that has nothing to wait for; False if it has to wait.

        For a handler with a single task: no code can see in which order its steps are answered.
        """
        is_next = number == self._last + 1 and not self._waiting
        if not is_next or self._at_once == _MAX_TURNS_AT_ONCE:
            return False
        self._last = number
        self._at_once += 1
        return True

    async def wait_turn(self, number: int) -> None:
        """Return in the next tick, or after the steps with lower numbers that ask until then."""
        self._at_once = 0
        future: asyncio.Future[None] = self._loop.create_future()
        heappush(self._waiting, (number, next(self._asked), future))
        if not self._is_releasing:
            self._is_releasing = True
            self._loop.call_soon(self._release_next, 0)
        await future
        self._last = number

    def _release_next(self, ticks: int) -> None:
        """Answer one step after this number of ticks, and the next one later."""
        if ticks:
            self._loop.call_soon(self._release_next, ticks - 1)
            return
        while self._waiting:
            _, _, future = heappop(self._waiting)
            if not future.done():
                future.set_result(None)
                break
        self._is_releasing = bool(self._waiting)
        if self._is_releasing:
            self._loop.call_soon(self._release_next, _TICKS_BETWEEN - 1)
