"""A pool of daemon threads: unlike ``concurrent.futures``, it never keeps a process from ending."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
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
        # Handing a call over takes half of what it takes by a condition, whose lock the thread that
        # wakes would have to wait for.
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._spare = 0  # threads that wait for a call; below 0, calls that wait for a thread
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

        self.run_soon(call)
        return future

    def run_soon(self, call: Callable[[], None]) -> None:
        """Run a call that raises nothing in a thread. It takes half of what a future takes.

        Raises:
            RuntimeError: as of :meth:`submit`.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the {self._name} threads have been stopped")
            if self._spare <= 0 and not self._add_thread():
                raise RuntimeError(f"no {self._name} thread can be started")
            self._spare -= 1
            self._calls.put(call)

    def _add_thread(self) -> bool:
        """Start one more thread if there may be more; False if there is none at all."""
        if self._threads < self._size:
            name = f"{self._name}-{self._threads + 1}"
            with contextlib.suppress(RuntimeError):  # too many in the system: those here go on
                threading.Thread(target=self._work, name=name, daemon=True).start()
                self._threads += 1
                self._spare += 1
        return self._threads > 0

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Take no more calls; threads end after what is queued. Never waits."""
        with self._lock:
            self._closed = True
            if cancel_futures:
                self._drop_calls()
            for _ in range(self._threads):
                self._calls.put(None)
            self._threads = 0

    def _drop_calls(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self._calls.get_nowait()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # and what it holds, while the thread waits
            with self._lock:
                self._spare += 1
