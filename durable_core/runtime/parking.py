"""Where the steps of an ``async def`` handler wait that cannot finish now."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from durable_core.ports import Clock

__all__ = ["Parked", "Parking"]

#: Timers look at the clock at least this often, seconds, so that a step of the clock is noticed.
_LONGEST_TIMER = 30.0


class Parking:
    """The parked steps of one run. Everything happens on its loop.

    Args:
        loop: the loop.
        clock: says when a step is due.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._places: dict[str, Parked] = {}

    def __len__(self) -> int:
        return len(self._places)

    @contextmanager
    def place(self, op_id: str, due_at: int | None) -> Iterator[Parked]:
        """Park a step for as long as the context lasts.

        Args:
            op_id: the step.
            due_at: when to wake it (epoch milliseconds; it may be woken earlier), None for never.
        """
        future = Parked(loop=self._loop)
        self._places[op_id] = future
        timer = None if due_at is None else self._timer(op_id, due_at)
        try:
            yield future
        finally:
            if timer is not None:
                timer.cancel()
            del self._places[op_id]

    def wake(self, op_id: str) -> None:
        """Wake that step, if it is parked."""
        future = self._places.get(op_id)
        if future is not None and not future.done():
            future.set_result(None)

    def wake_all(self) -> None:
        """Wake every parked step."""
        for op_id in list(self._places):
            self.wake(op_id)

    def cancel_all(self) -> None:
        """Cancel every parked step."""
        for future in self._places.values():
            future.cancel()

    def _timer(self, op_id: str, due_at: int) -> asyncio.TimerHandle:
        left = (due_at - self._clock.now()) / 1000
        return self._loop.call_later(max(0.0, min(left, _LONGEST_TIMER)), self.wake, op_id)


class Parked(asyncio.Future[None]):
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
