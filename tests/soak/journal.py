"""The journal: what really happened, in one order for all processes.

Handlers and steps write what they do, clients what they were told, and the soak what it did to the
processes. It is one append-only file. The kernel puts the lines in one order, and a line that was
written survives ``kill -9`` of the writer. There is no fsync: the machine does not fail, and an
fsync of this file would slow the store's own down.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Journal", "Line"]

#: One line: ``what`` happened, ``at`` (system-wide monotonic time, seconds), and further facts.
Line: TypeAlias = dict[str, Any]


class Journal:
    """An append-only file of JSON lines, open for writing in this process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, what: str, **facts: object) -> None:
        """Append a line; it is in the file when this returns."""
        line = {"what": what, "pid": os.getpid(), "at": time.monotonic(), **facts}
        os.write(self._fd, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read_lines(path: Path, start: int = 0) -> Iterator[tuple[int, Line]]:
    """Yield each whole line from an offset on, with the offset after it."""
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return  # it is being written
            start += len(line)
            yield start, json.loads(line)
