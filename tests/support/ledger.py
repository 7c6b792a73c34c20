"""A ledger of side effects: what steps really did, in order, across processes and crashes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Entry", "Ledger", "assert_no_step_ran_again"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the ledger.

    Attributes:
        trip: which request it belongs to.
        point: the step, or the place between steps.
        mark: "begin" and "end" of a step's function; "at" for a place between steps.
        pid: the process.
        at: system-wide monotonic time, seconds.
    """

    trip: str
    point: str
    mark: str
    pid: int
    at: float


class Ledger:
    """An append-only file. Lines are whole and on disk when :meth:`add` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, trip: str, point: str, mark: str) -> None:
        """Append an entry for this process and moment."""
        entry = Entry(trip=trip, point=point, mark=mark, pid=os.getpid(), at=time.monotonic())
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, json.dumps(asdict(entry)).encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)

    def entries(self, trip: str | None = None) -> list[Entry]:
        """Return the entries in the order in which they were made."""
        if not self._path.exists():
            return []
        # Others may be writing: the last line may not be whole yet.
        lines = self._path.read_text("utf-8").split("\n")[:-1]
        found = [Entry(**json.loads(line)) for line in lines]
        return [entry for entry in found if trip in (None, entry.trip)]

    def find(self, trip: str, point: str, mark: str) -> list[Entry]:
        """Return the entries of one kind."""
        return [each for each in self.entries(trip) if (each.point, each.mark) == (point, mark)]

    def begun(self, trip: str) -> dict[str, int]:
        """Return how often each step's function was called."""
        counts: dict[str, int] = {}
        for entry in self.entries(trip):
            if entry.mark == "begin":
                counts[entry.point] = counts.get(entry.point, 0) + 1
        return counts


def assert_no_step_ran_again(entries: Sequence[Entry]) -> None:
    """Fail if a step of a sequential run began after a later one had: that was checkpointed.

    The checkpoint of a step is durable before the next step's function is called. So the order in
    which steps *first* begin is the order of the run, and none of them may begin again once its
    successor has begun.
    """
    order: list[str] = []
    for entry in entries:
        if entry.mark != "begin":
            continue
        if entry.point not in order:
            order.append(entry.point)
        assert order[-1] == entry.point, (
            f"step {entry.point!r} of {entry.trip} ran again in process {entry.pid} after step "
            f"{order[-1]!r} had begun"
        )
