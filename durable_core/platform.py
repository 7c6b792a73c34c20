"""The operating system: threads, logs, clock, randomness, and where a store lies."""

from __future__ import annotations

import logging
import os
import random
import re
import sys
import time
from collections.abc import Callable, MutableMapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from durable_core.errors import ConfigurationError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = [
    "SystemClock",
    "SystemIds",
    "call_soon",
    "check_threading",
    "host_id",
    "is_ulid",
    "log_to_stderr",
    "logger",
    "make_ulid",
    "process_id",
    "run_logger",
    "store_path",
    "ulid_time",
]


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


#: The logger of the library. Where the application configures no logging, its warnings and errors
#: go to stderr, as those of any logger do.
logger = logging.getLogger("durable")


#: The levels that DURABLE_LOG may name.
_LEVELS = ("debug", "info", "warning", "error", "critical")


def log_to_stderr() -> None:
    """Write the library's log to stderr, from the level on that ``DURABLE_LOG`` names.

    Does nothing where the variable is not set. Where the application has configured logging, only
    the level is set.

    Raises:
        ConfigurationError: it names no level.
    """
    level = os.environ.get("DURABLE_LOG", "")
    if not level:
        return
    if level.lower() not in _LEVELS:
        raise ConfigurationError(f"DURABLE_LOG must be one of {', '.join(_LEVELS)}, not {level!r}")
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(level.upper())


class _RunLogger(logging.LoggerAdapter[logging.Logger]):
    """Puts the run id before the message, and into the record as ``run_id``."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the run id."""
        extra = self.extra or {}
        kwargs["extra"] = {**extra, **(kwargs.get("extra") or {})}
        return f"run {extra['run_id']}: {msg}", kwargs


def run_logger(
    run_id: str, function_id: str, trace_id: str | None = None
) -> logging.LoggerAdapter[logging.Logger]:
    """Return a logger for one run, whose records have these attributes."""
    extra = {"run_id": run_id, "function_id": function_id, "trace_id": trace_id}
    return _RunLogger(logger, extra)


_process_id = os.getpid()


def process_id() -> int:
    """Return the id of this process, as ``os.getpid`` does, without a call of the system.

    It is asked for at each request and each commit. On a virtual machine ``os.getpid`` may take
    0.75 us, this takes 0.05 us.
    """
    return _process_id


def _note_fork() -> None:
    global _process_id
    _process_id = os.getpid()
    _random_digits.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


class SystemClock:
    """The clocks of the system."""

    def now(self) -> int:
        """Return the time as epoch milliseconds."""
        return time.time_ns() // 1_000_000

    #: See ``Clock.elapsed``; every checkpoint reads it, so it is no function in Python. Only Linux
    #: has a clock that also counts while the machine sleeps and is never set.
    elapsed = staticmethod(
        partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    )


#: ULIDs: 26 characters of Crockford base 32 that sort by time (github.com/ulid/spec).
_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
#: Two digits for each ten bits: half the lookups of one digit for each five.
_PAIRS = tuple(high + low for high in _DIGITS for low in _DIGITS)
_ULID_SHAPE = re.compile(f"[0-7][{_DIGITS}]{{25}}")
_AS_PYTHON_DIGITS = str.maketrans(_DIGITS, "0123456789abcdefghijklmnopqrstuv")


def make_ulid(ms: int, entropy: bytes) -> str:
    """Return a ULID.

    Args:
        ms: epoch milliseconds, 0 to 2**48 - 1.
        entropy: exactly 10 random bytes.

    Raises:
        ValueError: an argument out of range.
    """
    if len(entropy) != 10:
        raise ValueError(f"a ULID takes 10 random bytes, not {len(entropy)}")
    first, last = int.from_bytes(entropy[:5], "big"), int.from_bytes(entropy[5:], "big")
    pairs = _PAIRS
    return (
        f"{_time_digits(ms)}"
        f"{pairs[first >> 30]}{pairs[first >> 20 & 1023]}"
        f"{pairs[first >> 10 & 1023]}{pairs[first & 1023]}"
        f"{pairs[last >> 30]}{pairs[last >> 20 & 1023]}"
        f"{pairs[last >> 10 & 1023]}{pairs[last & 1023]}"
    )


def _time_digits(ms: int) -> str:
    if not 0 <= ms < 1 << 48:
        raise ValueError(f"the time of a ULID must be 0 to 2**48 - 1 milliseconds, not {ms}")
    pairs = _PAIRS
    return (
        f"{pairs[ms >> 40]}{pairs[ms >> 30 & 1023]}{pairs[ms >> 20 & 1023]}"
        f"{pairs[ms >> 10 & 1023]}{pairs[ms & 1023]}"
    )


def ulid_time(text: str) -> int:
    """Return the epoch milliseconds of a ULID; ``ValueError`` if the text is not a ULID."""
    if not is_ulid(text):
        raise ValueError("not a ULID: it must be 26 characters of Crockford base 32, upper case")
    return int(text[:10].translate(_AS_PYTHON_DIGITS), 32)


def is_ulid(text: str) -> bool:
    """Return whether the text is a ULID in canonical form (upper case)."""
    return _ULID_SHAPE.fullmatch(text) is not None


#: The random ends of ULIDs that are still to be made. A forked process empties this: it must not
#: make the ULIDs of its parent.
_random_digits: list[str] = []
#: How many are made at once. One alone takes 1.3 us, half of it in a call of the system.
_RANDOM_AHEAD = 64
#: Each byte as a digit, by its last five bits.
_DIGIT_OF_BYTE = (_DIGITS * 8).encode("ascii")


def _more_random_digits() -> str:
    text = os.urandom(16 * _RANDOM_AHEAD).translate(_DIGIT_OF_BYTE).decode("ascii")
    _random_digits.extend(text[at : at + 16] for at in range(16, len(text), 16))
    return text[:16]


class SystemIds:
    """Random ULIDs and numbers."""

    def ulid(self, now: int) -> str:
        """Return a fresh ULID for that time (epoch milliseconds)."""
        try:
            digits = _random_digits.pop()
        except IndexError:
            digits = _more_random_digits()
        return _time_digits(now) + digits

    def uniform(self) -> float:
        """Return a random number in [0, 1)."""
        return random.random()


def host_id() -> str:
    """Return a name for this host since its last boot; process ids are unique only within it."""
    import socket  # which takes longer to load than all of this module

    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()}/{boot}"


#: A URL, or a "URI filename" of SQLite's, which needs no slashes.
_URL = re.compile(r"(file(?=:)|[A-Za-z][A-Za-z0-9+.-]*(?=://))")


def store_path(store: str | os.PathLike[str]) -> str:
    """Return the path of a SQLite file, absolute as of now.

    Raises:
        ConfigurationError: it is empty, a URL, SQLite's name of a database in memory, or no path.
    """
    if not isinstance(store, (str, os.PathLike)):
        raise ConfigurationError(f"the path of a store is a str or an os.PathLike, not {store!r}")
    if isinstance(store, str) and (scheme := _URL.match(store)) is not None:
        raise ConfigurationError(
            "store= (or DURABLE_STORE) is the path of a SQLite file, or a store; "
            f"a {scheme[1]} URL is neither"
        )
    if store == ":memory:":
        raise ConfigurationError(
            "store=':memory:' names no file; for runs that end with the process, as in tests, "
            "give store=durable_core.stores.MemoryStore()"
        )
    if isinstance(store, str) and not store:
        raise ConfigurationError("store= must not be empty")
    return os.path.abspath(store)
