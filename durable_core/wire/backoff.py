"""How long a client waits before it comes back to a stream."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Backoff"]

_FIRST_MS = 250
_MOST_MS = 30_000
#: The first delay at least, whatever the server says: it must not make a client spin.
_LEAST_MS = 20


class Backoff:
    """Delays that double with each failure, spread at random, and a limit of failures in a row.

    Args:
        limit: how many times in a row it may be tried; 0 or more.
        uniform: returns a random number in [0, 1).
    """

    __slots__ = ("_failures", "_limit", "_uniform", "first_ms")

    def __init__(self, *, limit: int, uniform: Callable[[], float]) -> None:
        if limit < 0:
            raise ValueError(f"the limit of reconnections must be 0 or more, not {limit!r}")
        self._limit = limit
        self._uniform = uniform
        self._failures = 0
        self.first_ms = _FIRST_MS

    @property
    def failures(self) -> int:
        """How many failures there were in a row."""
        return self._failures

    def succeed(self) -> None:
        """Begin to count anew."""
        self._failures = 0

    def fail(self, *, at_least_ms: int = 0) -> int | None:
        """Count a failure, and return how many ms to wait; None when that was one too many.

        The delay is the doubled one times a random factor from 0.5 to 1, and never under
        ``at_least_ms``, which the server asks for.
        """
        if self._failures >= self._limit:
            return None
        delay = min(max(self.first_ms, _LEAST_MS) << self._failures, _MOST_MS)
        self._failures += 1
        return max(at_least_ms, round(delay * (0.5 + self._uniform() / 2)))
