"""A clock that can be set from outside: the wall clock of the soak's host jumps, without root.

The offset is in a file of 8 bytes that all processes map into memory. The engine takes all
wall-clock time from its port ``Clock``. Monotonic time does not jump when an administrator sets the
clock, so nothing else has to be shifted.
"""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path

from durable_core.platform import SystemClock

__all__ = ["ShiftedClock"]

_OFFSET = struct.Struct("<q")


class ShiftedClock:
    """The system's time plus an offset that another process sets.

    Args:
        path: the file with the offset; it is made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_OFFSET.pack(0))
        with path.open("r+b") as file:
            self._offset = mmap.mmap(file.fileno(), _OFFSET.size)

    def now(self) -> int:
        """Return the time as epoch milliseconds."""
        [offset] = _OFFSET.unpack_from(self._offset)
        return time.time_ns() // 1_000_000 + int(offset)

    def elapsed(self) -> float:
        """Return what does not jump."""
        return SystemClock.elapsed()

    def shift(self, offset: int) -> None:
        """Set the offset, milliseconds, for all processes that map the file."""
        _OFFSET.pack_into(self._offset, 0, offset)
