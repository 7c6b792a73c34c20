"""The part of an engine that is the same for all: what works in a process starts and stops."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from durable_core.errors import ConfigurationError
from durable_core.http.problem import problem
from durable_core.http.response import Response, with_headers
from durable_core.platform import check_threading, log_to_stderr, logger, process_id
from durable_core.runners.settings import RegisteredEndpoint, Settings, add_endpoint

if TYPE_CHECKING:
    import asyncio

    from durable_core.flow.env import AppConfig, Limits
    from durable_core.runners.event_loops import Loops
    from durable_core.runners.thread_pool import DaemonThreadPool

__all__ = [
    "ProcessEngine",
    "running_loop",
    "shutting_down_response",
]


T = TypeVar("T")


class _Host(Protocol):
    """What works in one process."""

    pid: int
    loops: Loops
    #: Where plain functions serve clients.
    routes: DaemonThreadPool

    def has_tasks_on(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Tell whether runs are live on this loop."""
        ...

    def drain(self) -> None:
        """Hand every client on; the runs go on."""
        ...

    def stop(self, timeout: float) -> None:
        """Hand all runs over, and let go."""
        ...

    def run_on_background_loop(self, awaitable: Awaitable[T]) -> T:
        """Await something on the host's own event loop, blocking this thread."""
        ...


H = TypeVar("H", bound=_Host)


class ProcessEngine(ABC, Generic[H]):
    """What all engines have: the endpoints of one application, and a host in each process.

    The host is started once, left alone after a fork, and stopped at the exit.

    Args:
        settings: threads, tasks and times of a host.

    Attributes:
        settings: those; the defaults if none were given.
        endpoints: the handlers by key.
        native_hosts: what adapters for frameworks keep with an engine.
    """

    #: What errors call it.
    name: str
    #: What all runs of the application share; set when it is attached.
    env: AppConfig

    def __init__(self, settings: Settings | None) -> None:
        if settings is not None and not isinstance(settings, Settings):
            raise ConfigurationError(f"settings= must be a Settings object, not {settings!r}")
        self.settings = settings or Settings()
        self.endpoints: dict[str, RegisteredEndpoint] = {}
        self.native_hosts: dict[Any, Any] = {}
        #: The host that was started last, here or in the parent of a forked process.
        self._last: H | None = None
        #: The process in which a stop is under way; 0 if none is.
        self._stopping_pid = 0
        #: By process: a fork may have happened while a thread of the parent held its lock.
        self._locks: dict[int, threading.RLock] = {}
        self._at_exit = False

    @abstractmethod
    def _start_host(self) -> H:
        """Make the host of this process, and start it.

        Raises:
            ConfigurationError: the engine is set up wrongly.
            StoreError: it cannot start.
        """

    @property
    def limits(self) -> Limits:
        """The upper bounds of the application."""
        return self.env.limits

    def _refuse_second_application(self) -> None:
        """Raise a ``ConfigurationError`` if the engine works for an application already."""
        if hasattr(self, "env"):
            raise ConfigurationError(f"the engine works for {self.env.app!r} already")

    def register(self, endpoint: RegisteredEndpoint) -> None:
        """Add an endpoint.

        Raises:
            DuplicateEndpointError: another function has its key.
        """
        add_endpoint(self.endpoints, endpoint)

    @property
    def host(self) -> H | None:
        """The host of this process, if it was started."""
        host = self._last
        return host if host is not None and host.pid == process_id() else None

    @property
    def _is_stopping(self) -> bool:
        """Whether a stop is under way in this process."""
        return self._stopping_pid == process_id()

    @property
    def _lock(self) -> threading.RLock:
        """Held while the host of this process starts or stops."""
        return self._locks.setdefault(process_id(), threading.RLock())

    def started(self) -> H:
        """Return the host of this process, started now if it was not.

        Raises:
            ConfigurationError: the engine is set up wrongly, or threads do not work here.
            StoreError: the host could not start.
        """
        host = self._last
        if host is not None and host.pid == process_id():
            return host
        with self._lock:
            host = self.host
            if host is None:
                import atexit

                check_threading()
                log_to_stderr()
                host = self._last = self._start_host()
                if not self._at_exit:
                    self._at_exit = True
                    atexit.register(self._stop_at_exit)
            return host

    def drain(self) -> None:
        """Hand every client on that waits in this process."""
        host = self.host
        if host is not None:
            host.drain()

    def stop(self, timeout: float) -> None:
        """Stop the host of this process, if there is one: its runs go on elsewhere.

        Args:
            timeout: seconds that steps in flight have.

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
            if self._last is not host:
                return
            self._stopping_pid = process_id()
            try:
                host.stop(timeout)
            finally:
                self._last = None
                self._stopping_pid = 0

    def run_on_background_loop(self, awaitable: Awaitable[T]) -> T:
        """Await something on the host's own event loop."""
        return self.started().run_on_background_loop(awaitable)

    def replay_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop that handlers are replayed on."""
        return self.started().loops.replay_loop

    async def call_in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Call a plain function that serves a client, without blocking the event loop."""
        from asyncio import get_running_loop

        return await get_running_loop().run_in_executor(self.started().routes, function, *args)

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
