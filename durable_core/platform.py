"""The operating system: threads, logs, signals, closing connections, clock and randomness."""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from durable_core.codec.tokens import make_ulid
from durable_core.errors import ConfigurationError

__all__ = [
    "SystemClock",
    "SystemIds",
    "call_soon",
    "check_threading",
    "host_id",
    "is_reset_on_close",
    "lingering_close",
    "logger",
    "reset_on_close",
    "run_logger",
    "stop_on_signals",
]


# --- environment ----------------------------------------------------------------------------------
#
# Servers on which the engine cannot work, because their threads are not system threads.


def check_threading() -> None:
    """Refuse to start without operating-system threads.

    Raises:
        ConfigurationError: gevent or eventlet has patched them, or uWSGI runs without threads.
    """
    for library, patched in (("gevent", _gevent_patched), ("eventlet", _eventlet_patched)):
        if patched():
            raise ConfigurationError(
                f"{library} has patched the threading module; the engine needs real threads. "
                "Use a server with threads (gunicorn's gthread worker, waitress) instead"
            )
    if _uwsgi_without_threads():
        raise ConfigurationError("uWSGI runs without threads; start it with --enable-threads")


def _gevent_patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _eventlet_patched() -> bool:
    patcher = sys.modules.get("eventlet.patcher")
    return patcher is not None and bool(patcher.is_monkey_patched("thread"))


def _uwsgi_without_threads() -> bool:
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None:
        return False
    options = getattr(uwsgi, "opt", {})
    return not (options.get("enable-threads") or options.get("threads"))


def call_soon(loop: AbstractEventLoop, call: Callable[..., object], *args: object) -> bool:
    """Call on the thread of an event loop; False, and nothing is done, if the loop is closed.

    The tasks of a closed loop are gone, so no task waits for the call any more.
    """
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        return False
    return True


# --- logs -----------------------------------------------------------------------------------------
#
# Logging: one logger for the library, the run id in every record about a run.

#: The logger of the library. Where the application configures no logging, its warnings and errors
#: go to stderr, as those of any logger do.
logger = logging.getLogger("durable")


class _RunLogger(logging.LoggerAdapter[logging.Logger]):
    """Puts the run id before the message, and into the record as ``run_id``."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the run id."""
        extra = self.extra or {}
        kwargs["extra"] = {**extra, **(kwargs.get("extra") or {})}
        return f"run {extra['run_id']}: {msg}", kwargs


def run_logger(run_id: str, function_id: str) -> logging.LoggerAdapter[logging.Logger]:
    """Return a logger for one run."""
    return _RunLogger(logger, {"run_id": run_id, "function_id": function_id})


# --- signals --------------------------------------------------------------------------------------
#
# Stopping on a signal.

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signals(leave: Callable[[], object], wake: int = -1) -> Iterator[None]:
    """Call ``leave`` on SIGTERM and SIGINT; restore the former handlers afterwards.

    Outside the main thread it does nothing, because no handler can be set there.

    Args:
        leave: called in the main thread, between two of its instructions.
        wake: a file descriptor to which each signal writes a byte. Python runs handlers between two
            instructions of the main thread. So a signal right before a wait does not end the wait,
            unless the thread waits for this descriptor too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {each: signal.signal(each, lambda *_: leave()) for each in _SIGNALS}
    former_wake = signal.set_wakeup_fd(wake, warn_on_full_buffer=False) if wake >= 0 else None
    try:
        yield
    finally:
        if former_wake is not None:
            signal.set_wakeup_fd(former_wake)
        for each, handler in former.items():
            signal.signal(each, handler)


# --- closing --------------------------------------------------------------------------------------
#
# Closing a connection without the loss of sent data.

_LINGER_BYTES, _LINGER_SECONDS = 8 * 1024 * 1024, 2.0
#: The value of SO_LINGER with which closing discards unsent data and resets the connection.
_RESET = struct.pack("ii", 1, 0)


def lingering_close(connection: socket.socket) -> None:
    """Send no more, and read and discard data for a while.

    Closing a connection with unread data resets it, and the client may lose the response. Returns
    when the client closes, after 2 seconds, or after 8 MiB.
    """
    deadline, most = time.monotonic() + _LINGER_SECONDS, _LINGER_BYTES
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while most > 0 and (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            chunk = connection.recv(65536)
            if not chunk:
                return
            most -= len(chunk)


def reset_on_close(connection: socket.socket) -> None:
    """Reset the connection when it is closed, so the client notices that data is missing."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def is_reset_on_close(connection: socket.socket) -> bool:
    """Return whether :func:`reset_on_close` was called."""
    option = connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET))
    return option == _RESET


# --- platform -------------------------------------------------------------------------------------


class SystemClock:
    """Wall-clock time."""

    def now(self) -> int:
        """Return the time as epoch milliseconds."""
        return time.time_ns() // 1_000_000


class SystemIds:
    """Random ULIDs and numbers."""

    def ulid(self, now: int) -> str:
        """Return a fresh ULID for that time (epoch milliseconds)."""
        return make_ulid(now, os.urandom(10))

    def uniform(self) -> float:
        """Return a random number in [0, 1)."""
        return random.random()


def host_id() -> str:
    """Return a name for this host since its last boot; process ids are unique only within it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()}/{boot}"
