"""Calls of a plain function that may take only so long.

Nothing can stop a plain function. It runs in a thread of its own; when its time is over, the thread
is abandoned, and what becomes of the function later is dropped. These threads are in no pool, so
that abandoned ones take no place there. A function that can be made to end says how
(:func:`when_abandoned`).
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from contextvars import ContextVar

from durable_core.flow.attempt import Call

__all__ = ["LimitedCall", "call_in_time", "time_is_over", "when_abandoned"]

#: The call whose function runs now.
_CURRENT: ContextVar[LimitedCall | None] = ContextVar("durable_limited_call", default=None)


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
        self._lock = threading.Lock()
        self._is_abandoned = False
        self._end_early: Callable[[], object] | None = None
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._run,), name="durable-timed-step", daemon=True
        )
        thread.start()

    def _run(self) -> None:
        call = self._call
        _CURRENT.set(self)
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

    def abandon(self) -> None:
        """Make the function end, if it has said how: nobody waits for it any more."""
        with self._lock:
            self._is_abandoned = True
            end_early = self._end_early
        if end_early is not None:
            end_early()

    def set_early_end(self, end_early: Callable[[], object]) -> None:
        """See :func:`when_abandoned`."""
        with self._lock:
            self._end_early = end_early
            if not self._is_abandoned:
                return
        end_early()

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
        limited.abandon()
        raise time_is_over(timeout)
    return limited.result()


def when_abandoned(end_early: Callable[[], object]) -> None:
    """Say how the function that runs now is made to end once nobody waits for it any more.

    Args:
        end_early: called once its time is over, in another thread; at once if it is over already.
            It is not called for a function whose time nothing limits.
    """
    limited = _CURRENT.get()
    if limited is not None:
        limited.set_early_end(end_early)


def time_is_over(timeout: int) -> TimeoutError:
    """Return the error of an attempt that took longer than this number of milliseconds."""
    return TimeoutError(f"the attempt took longer than {timeout / 1000:g} s (timeout=)")
