"""A pool of daemon threads: unlike ``concurrent.futures``, it never keeps a process from ending."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

__all__ = ["DaemonThreadPool", "detach_current_thread"]

P = ParamSpec("P")
T = TypeVar("T")


class _Here(threading.local):
    """How the thread of a pool leaves it; None in other threads."""

    leave: Callable[[], None] | None = None


_HERE = _Here()


def detach_current_thread() -> None:
    """Take the call that runs in this thread for ended, as it may never be.

    If the thread is one of a pool, another one takes its place, and this one ends with the call.
    """
    if _HERE.leave is not None:
        _HERE.leave()


class DaemonThreadPool(Executor):
    """Runs calls in up to ``size`` threads, made as they are needed, first come first served."""

    def __init__(self, size: int, name: str) -> None:
        if size < 1:
            raise ValueError(f"a pool must have at least one thread, not {size}")
        self._size = size
        self._name = name
        self._calls: deque[Callable[[], bool]] = deque()
        self._condition = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run the call in a thread; the future has its outcome.

        Raises:
            RuntimeError: the pool was shut down, or has no thread and can start none.
        """
        future: Future[T] = Future()

        def call() -> bool:
            """Make the call; False if the thread has left the pool meanwhile."""
            if not future.set_running_or_notify_cancel():
                return True
            _HERE.leave = lambda: self._replace_this_thread(future)
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                if future.done():
                    return False
                future.set_exception(error)
            else:
                if future.done():
                    return False
                future.set_result(result)
            return True

        with self._condition:
            if self._closed:
                raise RuntimeError(f"the {self._name} threads have been stopped")
            self._calls.append(call)
            if self._idle >= len(self._calls):
                self._condition.notify()
            elif not self._add_thread():
                self._calls.pop()
                raise RuntimeError(f"no {self._name} thread can be started")
        return future

    def _add_thread(self) -> bool:
        """Start one more thread if there may be more; False if there is none at all."""
        if self._threads < self._size:
            name = f"{self._name}-{self._threads + 1}"
            with contextlib.suppress(RuntimeError):  # too many in the system: those here go on
                threading.Thread(target=self._work, name=name, daemon=True).start()
                self._threads += 1
        return self._threads > 0

    def _replace_this_thread(self, future: Future[Any]) -> None:
        _HERE.leave = None
        with self._condition:
            self._threads -= 1
            if self._calls:
                self._add_thread()  # if it cannot, whoever submits the next call does
        future.set_result(None)

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Take no more calls; threads end after what is queued. Never waits."""
        with self._condition:
            self._closed = True
            if cancel_futures:
                self._calls.clear()
            self._condition.notify_all()

    def _work(self) -> None:
        while True:
            with self._condition:
                self._idle += 1
                while not self._calls:
                    if self._closed:
                        self._idle -= 1
                        self._threads -= 1
                        return
                    self._condition.wait()
                self._idle -= 1
                call = self._calls.popleft()
            if not call():
                return
