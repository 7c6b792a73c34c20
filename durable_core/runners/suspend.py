"""Where the steps of an ``async def`` handler wait that cannot finish now."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from types import FrameType

from durable_core.flow.effects import Outcome, Raised, Unwound
from durable_core.flow.execution import Execution
from durable_core.platform import run_logger
from durable_core.ports import Clock
from durable_core.runners.host import RunHost

__all__ = [
    "HandlerUnwinder",
    "ParkedFuture",
    "ParkedSteps",
    "ReplayOrder",
]


# --- turns ----------------------------------------------------------------------------------------
#
# The order in which the steps of a replayed handler are answered.

#: Ticks of the loop from one turn to the next. Code that waits for the first of several steps
#: (``asyncio.wait`` with ``FIRST_COMPLETED``, a task or two in between) must see that one alone,
#: as it did when it really was the first, and have time to cancel the others.
_TICKS_BETWEEN = 6


class ReplayOrder:
    """Lets those who ask at a time go on one by one, the lowest number first.

    Args:
        loop: where they effect.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap
        self._letting_go = False

    async def wait_turn(self, number: int) -> None:
        """Return in the next tick, or after those with a lower number who ask until then."""
        future: asyncio.Future[None] = self._loop.create_future()
        heappush(self._waiting, (number, next(self._asked), future))
        if not self._letting_go:
            self._letting_go = True
            self._loop.call_soon(self._release_next, 0)
        await future

    def _release_next(self, ticks: int) -> None:
        """Let one go on in so many ticks, and the next one later."""
        if ticks:
            self._loop.call_soon(self._release_next, ticks - 1)
            return
        while self._waiting:
            _, _, future = heappop(self._waiting)
            if not future.done():
                future.set_result(None)
                break
        self._letting_go = bool(self._waiting)
        if self._letting_go:
            self._loop.call_soon(self._release_next, _TICKS_BETWEEN - 1)


# --- suspend --------------------------------------------------------------------------------------

#: Timers look at the clock at least this often, seconds, so that a step of the clock is noticed.
_LONGEST_TIMER = 30.0


class ParkedSteps:
    """The parked steps of one run. Everything happens on its loop.

    Args:
        loop: the loop.
        clock: says when a step is due.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._futures: dict[str, ParkedFuture] = {}

    def __len__(self) -> int:
        return len(self._futures)

    @contextmanager
    def park(self, op_id: str, due_at: int | None) -> Iterator[ParkedFuture]:
        """Park a step for as long as the context lasts.

        Args:
            op_id: the step.
            due_at: when to wake it (epoch milliseconds; it may be woken earlier), None for never.
        """
        future = ParkedFuture(loop=self._loop)
        self._futures[op_id] = future
        timer = None if due_at is None else self._timer(op_id, due_at)
        try:
            yield future
        finally:
            if timer is not None:
                timer.cancel()
            del self._futures[op_id]

    def wake(self, op_id: str) -> None:
        """Wake that step, if it is parked."""
        future = self._futures.get(op_id)
        if future is not None and not future.done():
            future.set_result(None)

    def wake_all(self) -> None:
        """Wake every parked step."""
        for op_id in list(self._futures):
            self.wake(op_id)

    def cancel_all(self) -> None:
        """Cancel every parked step."""
        for future in self._futures.values():
            future.cancel()

    def _timer(self, op_id: str, due_at: int) -> asyncio.TimerHandle:
        left = (due_at - self._clock.now()) / 1000
        return self._loop.call_later(max(0.0, min(left, _LONGEST_TIMER)), self.wake, op_id)


class ParkedFuture(asyncio.Future[None]):
    """A future that knows whether it may be cancelled: not by a timeout.

    Code that has seen another step finish or fail may end a branch that sleeps: replay sees the
    same. So may a task group one of whose tasks, or whose body, has failed. A timeout may not, for
    a sleep outlives the process and the timeout does not. To the task all are a cancellation. They
    differ in who calls for it, and that is still on the stack when the future is cancelled: tasks
    and ``gather`` pass a cancellation on at once. So do the scopes and groups of anyio; what they
    tell again later is told by the deadline of the scope.
    """

    may_be_cancelled = False

    def cancel(self, msg: object = None) -> bool:
        """Cancel it, and note why."""
        self.may_be_cancelled = _is_decision(sys._getframe(1))
        return super().cancel(msg)


#: What counts time in the process, as modules, and as functions of ``asyncio.tasks``.
_TIMERS = frozenset({"asyncio.timeouts", "async_timeout"})
_TIMED = frozenset({"wait_for", "_cancel_and_wait"})
#: The functions by which a task group of anyio ends its tasks, and by which any one sees a failure.
_GROUP_ENDS = frozenset({"__aexit__", "task_done"})
_TASK_FAILED = frozenset({"_on_task_done", "task_done"})


def _is_decision(frame: FrameType | None) -> bool:
    """Tell whether a cancellation is the handler's decision, or follows from a failure in it."""
    in_group = False
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if _counts_time(frame, module):
            return False
        if _ends_group(frame, module):
            in_group = True
            if frame.f_code.co_name in _TASK_FAILED or _body_has_failed(frame):
                return True
        frame = frame.f_back
    return not in_group  # a group that is cancelled itself does not know by whom


def _counts_time(frame: FrameType, module: str) -> bool:
    if module == "asyncio.tasks":
        return frame.f_code.co_name in _TIMED
    if module.startswith("anyio."):
        # A scope cancels for any reason; only its deadline tells.
        deadline = getattr(frame.f_locals.get("origin"), "deadline", None)
        return isinstance(deadline, float) and deadline <= asyncio.get_running_loop().time()
    return module in _TIMERS or module.partition(".")[0] in _TIMERS


def _ends_group(frame: FrameType, module: str) -> bool:
    if module.startswith("anyio."):
        return frame.f_code.co_name in _GROUP_ENDS
    return module == asyncio.TaskGroup.__module__


def _body_has_failed(frame: FrameType) -> bool:
    """Tell whether the body of ``async with`` has raised; asyncio and anyio name that each so."""
    error = frame.f_locals.get("et") or type(frame.f_locals.get("exc_val"))
    return issubclass(error, BaseException) and not issubclass(error, asyncio.CancelledError)


# --- unwinding ------------------------------------------------------------------------------------
#
# Putting an ``async def`` handler away: when it is quiet, or when it is told to go.


class HandlerUnwinder:
    """Ends the handler of one run before it has returned. Everything happens on its loop.

    The handler runs between :meth:`handler_begins` and :meth:`handler_ended`. When something is
    parked and nothing else happens for the settle time, its task is cancelled. From then on nothing
    that it does counts; if it goes on for longer than the unwind time, the run goes on without it.

    Args:
        host: the engine.
        ex: the execution.
        loop: where it runs.
        parking: the steps that are parked.
    """

    def __init__(
        self, host: RunHost, ex: Execution, loop: asyncio.AbstractEventLoop, parking: ParkedSteps
    ) -> None:
        self._host = host
        self._ex = ex
        self._loop = loop
        self._parked = parking
        self._task: asyncio.Task[object] | None = None
        self._go_on_without: Callable[[], None] | None = None  # None while no handler runs
        self._begun = False
        #: The handler has gone on from a step that was refused: how it ends does not count.
        self.saw_refused_step = False
        self._watching = False
        self._deadline: asyncio.TimerHandle | None = None

    # -- the handler ------------------------------------------------------------------------

    @property
    def handler_has_ended(self) -> bool:
        """Tell whether a step that parks now is one of a task that has outlived the handler."""
        return not self._handling

    @property
    def _handling(self) -> bool:
        return self._go_on_without is not None

    def handler_begins(self, go_on_without: Callable[[], None]) -> None:
        """Note that the current task is about to call the handler.

        Args:
            go_on_without: called if the handler does not end when it should.
        """
        self._task = asyncio.current_task()
        self._go_on_without = go_on_without

    def cut_short(self, error: BaseException) -> Outcome | Unwound:
        """Return how a handler ended that a cancellation or a signal ended: ours, or its own."""
        if self._ex.closed or self.loop_is_ending():
            if self._task is not None:
                while self._task.cancelling():
                    self._task.uncancel()
            return Unwound()
        return Raised(RuntimeError(f"the handler was cancelled by its own code: {error!r}"))

    def handler_ended(self, outcome: Outcome | Unwound) -> Outcome | Unwound:
        """Return what counts of how the handler has ended.

        Raises:
            CancelledError: nothing does, for the run has gone on without it.
        """
        if not self._handling:
            raise asyncio.CancelledError
        self._go_on_without = None
        self._parked.cancel_all()  # of tasks that the handler has left behind
        if self._deadline is not None:
            self._deadline.cancel()
        if not self._begun:
            return Unwound() if self.saw_refused_step else outcome
        if not isinstance(outcome, Unwound):
            self._warn_swallowed()
        return Unwound()

    # -- when to end it ---------------------------------------------------------------------

    def watch(self) -> None:
        """Look whether the handler is quiet when it has been so for the settle time."""
        if not self._watching:
            self._watching = True
            self._loop.call_later(self._host.settle_time, self._look, self._ex.activity)

    def _look(self, activity: int) -> None:
        self._watching = False
        if not self._handling or self._begun or not self._parked:
            return
        if self._ex.is_idle and self._ex.activity == activity:
            self.unwind()
        else:
            self.watch()

    def unwind_if_idle(self) -> None:
        """End the handler if no step is in flight."""
        if self._ex.in_flight == 0 and self._handling:
            self.unwind()

    def unwind(self) -> None:
        """Cancel the handler and what is parked. From here on nothing it does counts."""
        if self._begun or not self._handling or self._task is None:
            return
        self._begun = True
        self._ex.close()
        self._task.cancel()
        self._parked.cancel_all()
        self._deadline = self._loop.call_later(self._host.unwind_time, self._abandon)

    def _abandon(self) -> None:
        """The handler does not end although it was cancelled: give the run up without it."""
        go_on, self._go_on_without = self._go_on_without, None
        if go_on is None:
            return
        run_logger(self._ex.run.id, self._ex.run.function_id).warning(
            "%s was cancelled to be put away and still runs %g seconds later; the run goes on "
            "without it",
            self._ex.run.function_id,
            self._host.unwind_time,
        )
        go_on()

    # -- whose cancellation it is -----------------------------------------------------------

    def ends_parked_steps(self) -> bool:
        """Tell whether a parked step that is cancelled now ends with the handler."""
        return self._ex.closed or not self._handling or self.loop_is_ending()

    def loop_is_ending(self) -> bool:
        """Tell whether the loop is being shut down; the run then goes on elsewhere."""
        if not self._host.loops.is_shutting_down(self._loop):
            return False
        self._begun = True
        self._ex.stop()
        self._ex.close()
        return True

    def _warn_swallowed(self) -> None:
        run_logger(self._ex.run.id, self._ex.run.function_id).warning(
            "%s swallowed the cancellation that puts it away at step %s; what it returned or "
            "raised after that is discarded",
            self._ex.run.function_id,
            ", ".join(repr(name) for name in self._ex.awaited.values()) or "(none)",
        )
