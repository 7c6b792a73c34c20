"""Which connections are kept for the next request: one policy for threads and for tasks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from durable_core.wire.urls import Origin

__all__ = ["IdleConnections", "PoolLimits"]

_ConnectionT = TypeVar("_ConnectionT")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """How many connections are kept open between requests, and how long.

    Args:
        per_origin: for one server; 0 keeps none.
        in_all: for all servers together.
        seconds: how long one is kept; most servers close it after 5 s and more.

    Raises:
        ValueError: a negative number.
    """

    per_origin: int = 8
    in_all: int = 32
    seconds: float = 15.0

    def __post_init__(self) -> None:
        if min(self.per_origin, self.in_all, self.seconds) < 0:
            raise ValueError("the limits of a pool must be 0 or more")


class IdleConnections(Generic[_ConnectionT]):
    """The connections that serve no request now; the caller locks, closes and tells the time."""

    __slots__ = ("_idle", "_limits")

    def __init__(self, limits: PoolLimits) -> None:
        self._limits = limits
        self._idle: deque[tuple[float, Origin, _ConnectionT]] = deque()

    def take(self, origin: Origin) -> _ConnectionT | None:
        """Return the connection to this server that was used last, None where there is none."""
        for entry in reversed(self._idle):
            if entry[1] == origin:
                self._idle.remove(entry)
                return entry[2]
        return None

    def put(self, origin: Origin, connection: _ConnectionT, now: float) -> list[_ConnectionT]:
        """Keep a connection; return those that are to be closed for it, itself perhaps.

        Args:
            origin: the server.
            connection: one that has just served a request.
            now: monotonic time in seconds.
        """
        self._idle.append((now, origin, connection))
        closing = self.expire(now)
        if len(self._idle) <= min(self._limits.per_origin, self._limits.in_all):
            return closing
        same = [entry for entry in self._idle if entry[1] == origin]
        surplus = same[: max(0, len(same) - self._limits.per_origin)]
        rest = [entry for entry in self._idle if entry not in surplus]
        surplus += rest[: max(0, len(rest) - self._limits.in_all)]
        for entry in surplus:
            self._idle.remove(entry)
        return closing + [entry[2] for entry in surplus]

    def expire(self, now: float) -> list[_ConnectionT]:
        """Give up the connections that were kept long enough, and return them."""
        expired = []
        while self._idle and self._idle[0][0] + self._limits.seconds <= now:
            expired.append(self._idle.popleft()[2])
        return expired

    def clear(self) -> list[_ConnectionT]:
        """Give up all connections, and return them."""
        connections = [entry[2] for entry in self._idle]
        self._idle.clear()
        return connections
