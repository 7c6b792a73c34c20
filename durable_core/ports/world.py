"""Time, and what is fresh or random."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Clock", "Ids"]


class Clock(Protocol):
    """Wall-clock time."""

    def now(self) -> int:
        """Return the time as epoch milliseconds."""
        ...


class Ids(Protocol):
    """New names and random numbers."""

    def ulid(self, now: int) -> str:
        """Return a fresh ULID for that time (epoch milliseconds)."""
        ...

    def uniform(self) -> float:
        """Return a random number in [0, 1)."""
        ...
