"""The system's clock and randomness, behind the core's ports."""

from __future__ import annotations

import os
import random
import socket
import time
from pathlib import Path

from durable_core.wire.ulid import make_ulid

__all__ = ["SystemClock", "SystemIds", "host_id"]


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
