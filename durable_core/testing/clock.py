"""A clock that tests move, and ids without randomness."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count

from durable_core.duration import parse_deadline
from durable_core.platform import make_ulid

__all__ = ["FakeClock", "FakeIds"]

_START = datetime(2030, 1, 1, tzinfo=UTC)


class FakeClock:
    """A clock that stands still until it is moved. A harness moves its own.

    Args:
        start: the first time, an aware ``datetime``; 2030-01-01 00:00 UTC by default.

    Raises:
        ValueError: a naive ``datetime``, or none.
    """

    def __init__(self, start: datetime = _START) -> None:
        now = round(start.timestamp() * 1000) if isinstance(start, datetime) else 0
        self._now = parse_deadline(start, now=now, what="start")

    def now(self) -> int:
        """Return the time as epoch milliseconds."""
        return self._now

    def elapsed(self) -> float:
        """Return the time as epoch seconds: nothing sets this clock back."""
        return self._now / 1000

    @property
    def time(self) -> datetime:
        """The time as an aware ``datetime`` in UTC."""
        return datetime.fromtimestamp(self._now / 1000, UTC)

    def move_to(self, now: int) -> None:
        """Move the clock to a time in epoch milliseconds; an earlier time changes nothing."""
        self._now = max(self._now, now)

    def __repr__(self) -> str:
        """Show the time."""
        return f"<FakeClock {self.time.isoformat()}>"


class FakeIds:
    """Ids that grow by one, and no randomness."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def ulid(self, now: int) -> str:
        """Return a ULID for that time (epoch milliseconds), greater than all before it."""
        return make_ulid(now, next(self._numbers).to_bytes(10))

    def uniform(self) -> float:
        """Return 0.0."""
        return 0.0
