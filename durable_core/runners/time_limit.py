"""Calls of a plain function that may take only so long.

Nothing can stop a plain function. It runs in a thread of its own; when its time is over, the thread
is abandoned, and what becomes of the function later is dropped. These threads are in no pool, so
that abandoned ones take no place there.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

from durable_core.flow.attempt import Call

__all__ = ["LimitedCall", "call_in_time", "time_is_over"]


class LimitedCall:
    """A call in a thread of its own, with a copy of the context of where it is made.

    Args:
        call: the function and its arguments.
        on_end: called in that thread, once the function has ended.
    """

    def __init__(self, call: Call, on_end: Callable[[], object]) -> None:
        self._call = call
        self._on_end = on_end
        self._value: object = None
        self._error: BaseException | None = None
        #: The function has ended.
        self.ended = False
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._run,), name="durable-timed-step", daemon=True
        )
        thread.start()

    def _run(self) -> None:
        call = self._call
        try:
            self._value = call.fn(*call.args, **(call.kwargs or {}))
        except StopIteration as error:
            # As a coroutine would (PEP 479); a future cannot hold a StopIteration.
            self._error = RuntimeError("the function raised StopIteration")
            self._error.__cause__ = error
        except BaseException as error:
            self._error = error
        self.ended = True
        self._on_end()

    def result(self) -> object:
        """Return what the function has returned, or raise what it has raised."""
        if self._error is not None:
            raise self._error
        return self._value


def call_in_time(call: Call, timeout: int) -> object:
    """Call a plain function in a thread of its own; return its result.

    Args:
        call: the function and its arguments.
        timeout: how long to wait for it, milliseconds.

    Raises:
        TimeoutError: it took longer.
        BaseException: what the function raised.
    """
    ended = threading.Event()
    limited = LimitedCall(call, ended.set)
    if not ended.wait(timeout / 1000):
        raise time_is_over(timeout)
    return limited.result()


def time_is_over(timeout: int) -> TimeoutError:
    """Return the error of an attempt that took longer than this number of milliseconds."""
    return TimeoutError(f"the attempt took longer than {timeout / 1000:g} s (timeout=)")
