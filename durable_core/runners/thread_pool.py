"""A pool of daemon threads: unlike ``concurrent.futures``, it never keeps a process from ending."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

__all__ = ["DaemonThreadPool"]

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreadPool(Executor):
    """Runs calls in order, in up to ``size`` threads, which are started when they are needed."""

    def __init__(self, size: int, name: str) -> None:
        if size < 1:
            raise ValueError(f"a pool must have at least one thread, not {size}")
        self._size = size
        self._name = name
        self._calls: deque[Callable[[], None]] = deque()
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

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

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
            call()
