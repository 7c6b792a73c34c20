"""The system's clock and randomness, behind the core's ports."""

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
# Where the engine cannot work: servers whose threads are not threads.


def check_threading() -> None:
    """Refuse to start where threads are not threads.

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

    Then the tasks of the loop are gone, and with them those who waited for the call.
    """
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        return False
    return True


# --- logs -----------------------------------------------------------------------------------------
#
# Logging: one logger for the library, the run id in every record about a run.

#: The logger of the library; quiet unless the application configures logging.
logger = logging.getLogger("durable")
logger.addHandler(logging.NullHandler())


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
# Leaving on a signal.

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signals(leave: Callable[[], object], wake: int = -1) -> Iterator[None]:
    """Call ``leave`` on SIGTERM and SIGINT; restore the former handlers afterwards.

    Nothing is done outside the main thread, where no handler can be set.

    Args:
        leave: called in the main thread, between two of its instructions.
        wake: a file descriptor that something is written to on each signal. Handlers run when the
            main thread gets to it: a signal that comes right before that thread begins to wait
            does not end the wait, unless it waits for this descriptor, too.
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
# How a connection ends without the loss of what was sent on it.

_LINGER_BYTES, _LINGER_SECONDS = 8 * 1024 * 1024, 2.0
#: As the option SO_LINGER: closing discards what is unsent, and resets the connection.
_RESET = struct.pack("ii", 1, 0)


def lingering_close(connection: socket.socket) -> None:
    """Send no more, and read for a while what nobody wants.

    Closing a connection with unread data resets it, and the client may lose the answer. Returns
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
    """Have the connection reset when it is closed: the client sees that something is missing."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def is_reset_on_close(connection: socket.socket) -> bool:
    """Tell whether :func:`reset_on_close` was called."""
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
    """Return a name for this host since it was started: process ids mean something only there."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()}/{boot}"
