"""When what works in a process starts and stops: once, again after a fork, and at the exit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from durable_core.http.problem import problem
from durable_core.http.response import Response, with_headers
from durable_core.platform import check_threading, log_to_stderr, logger, process_id

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "ProcessLifecycle",
    "running_loop",
    "shutting_down_response",
]


class _Host(Protocol):
    """What works in one process."""

    pid: int

    def has_tasks_on(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Tell whether runs are live on this loop."""
        ...

    def stop(self, timeout: float) -> None:
        """Hand all runs over, and let go."""
        ...


H = TypeVar("H", bound=_Host)


class ProcessLifecycle(Generic[H]):
    """The host of the process that asks: started once, left alone after a fork, stopped at exit.

    Args:
        start: makes the host and starts it. May be called from any thread, once at a time.

    Attributes:
        last: the host that was started last, here or in the parent of a forked process.
        stopping_pid: the process in which a stop is under way; 0 if none is.
    """

    def __init__(self, start: Callable[[], H]) -> None:
        self._start = start
        self.last: H | None = None
        self.stopping_pid = 0
        #: By process: a fork may have happened while a thread of the parent held its lock.
        self._locks: dict[int, threading.RLock] = {}
        self._at_exit = False

    @property
    def host(self) -> H | None:
        """The host of this process, if it was started."""
        host = self.last
        return host if host is not None and host.pid == process_id() else None

    @property
    def stopping(self) -> bool:
        """Whether a stop is under way in this process."""
        return self.stopping_pid == process_id()

    @property
    def lock(self) -> threading.RLock:
        """Held while the host of this process starts or stops."""
        return self._locks.setdefault(process_id(), threading.RLock())

    def started(self) -> H:
        """Return the host of this process, started now if it was not.

        Raises:
            ConfigurationError: the engine is set up wrongly, or threads do not work here.
            StoreError: the host could not start.
        """
        host = self.last
        if host is not None and host.pid == process_id():
            return host
        with self.lock:
            host = self.host
            if host is None:
                import atexit

                check_threading()
                log_to_stderr()
                host = self.last = self._start()
                if not self._at_exit:
                    self._at_exit = True
                    atexit.register(self._stop_at_exit)
            return host

    def stop(self, timeout: float) -> None:
        """Stop the host of this process, if there is one.

        Raises:
            RuntimeError: called on the event loop that its runs need.
        """
        host = self.host
        if host is None:
            return
        if running_loop() is not None and host.has_tasks_on(running_loop()):
            raise RuntimeError(
                "stop() would block the event loop that its runs need; use 'await stop_async()'"
            )
        with self.lock:
            if self.last is not host:
                return
            self.stopping_pid = process_id()
            try:
                host.stop(timeout)
            finally:
                self.last = None
                self.stopping_pid = 0

    def _stop_at_exit(self) -> None:
        try:
            self.stop(10.0)
        except Exception:
            logger.exception("could not stop in good order")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop of this thread, if one runs."""
    from asyncio import get_running_loop

    try:
        return get_running_loop()
    except RuntimeError:
        return None


def shutting_down_response() -> Response:
    """Return the answer to a request that comes while the process stops."""
    response = problem(503, "shutting-down", detail="the server is shutting down")
    return with_headers(response, (("retry-after", "1"),))
