"""When the host of a process starts and stops."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from durable_core.flow.env import AppConfig
from durable_core.platform import check_threading, log_to_stderr, logger

__all__ = [
    "ProcessLifecycle",
    "running_loop",
]


class _Host(Protocol):
    """What this needs of a host."""

    pid: int
    env: AppConfig
    #: How the log calls the server.
    server_name: str

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
        make: makes the host. May be called from any thread, once at a time.
    """

    def __init__(self, make: Callable[[], H]) -> None:
        self._make = make
        self._host: H | None = None
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._at_exit = False
        #: A stop is under way.
        self.stopping = False

    @property
    def host(self) -> H | None:
        """The host of this process, if it was started."""
        host = self._host
        return host if host is not None and host.pid == os.getpid() else None

    def started(self) -> H:
        """Return the host of this process, started now if it was not.

        Raises:
            ConfigurationError: the engine is set up wrongly, or threads do not work here.
        """
        host = self.host
        if host is not None:
            return host
        if self._pid != os.getpid():
            # A fork may have happened while a thread of the parent held the lock.
            self._lock, self._pid, self.stopping = threading.RLock(), os.getpid(), False
        with self._lock:
            host = self.host
            if host is None:
                check_threading()
                log_to_stderr()
                host = self._host = self._make()
                logger.info("%s started, with %s", host.env.app, host.server_name)
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
        with self._lock:
            if self._host is not host:
                return
            self.stopping = True
            try:
                host.stop(timeout)
            finally:
                self._host = None
                self.stopping = False

    def _stop_at_exit(self) -> None:
        try:
            self.stop(10.0)
        except Exception:
            logger.exception("could not stop in good order")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop of this thread, if one runs."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
