"""What a parked step of an ``async def`` handler waits on."""

from __future__ import annotations

import asyncio
import sys
from types import FrameType

__all__ = ["Parked"]


class Parked(asyncio.Future[None]):
    """A future that knows whether it was cancelled because a sibling failed.

    A task group whose body or other task has failed may end a branch that sleeps; a timeout may
    not, for a sleep outlives the process and the timeout does not. To the task both are a
    cancellation. They differ in who calls for it, and that is still on the stack when the future
    is cancelled: tasks and ``gather`` pass a cancellation on at once.
    """

    sibling_failed = False

    def cancel(self, msg: object = None) -> bool:
        """Cancel it, and note why."""
        self.sibling_failed = _sibling_failed(sys._getframe(1))
        return super().cancel(msg)


def _sibling_failed(frame: FrameType | None) -> bool:
    """Tell whether a task group is ending its tasks because one of them, or its body, failed."""
    while frame is not None:
        if frame.f_globals.get("__name__") == asyncio.TaskGroup.__module__:
            if frame.f_code.co_name == "_on_task_done":
                return True
            error = frame.f_locals.get("et")  # what the body of ``async with`` has raised
            if isinstance(error, type) and not issubclass(error, asyncio.CancelledError):
                return True
        frame = frame.f_back
    return False
