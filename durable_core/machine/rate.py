"""Whether another run may begin under a rate limit: a token bucket, kept as one time.

This is the generic cell rate algorithm (GCRA) of ITU-T I.371. The bucket holds ``limit`` runs and
refills evenly within ``period``. What is stored is the time at which it will be full again.
"""

from __future__ import annotations

__all__ = ["next_start", "spend"]

#: Sums of fractions of a period may be off by so much, milliseconds.
_ROUNDING = 0.001


def next_start(full_at: float | None, now: int, *, limit: int, period: int) -> int:
    """Return when the next run may begin, epoch milliseconds; at most ``now`` if it may now.

    Args:
        full_at: when the bucket will be full; None if it is.
        now: epoch milliseconds.
        limit, period: at most so many runs, refilled within so many milliseconds.
    """
    wait_until = spend(full_at, now, limit=limit, period=period) - period
    return now if wait_until <= now + _ROUNDING else -int(-wait_until // 1)


def spend(full_at: float | None, now: int, *, limit: int, period: int) -> float:
    """Return when the bucket will be full if a run begins now; see :func:`next_start`."""
    return max(now, full_at or 0.0) + period / limit
