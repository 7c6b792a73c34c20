"""Whether another run may begin under a rate limit: a token bucket, kept as one time.

This is the generic cell rate algorithm (GCRA) of ITU-T I.371. The bucket holds ``limit`` runs and
refills evenly within ``period``. What is stored is the time at which it will be full again.
"""

from __future__ import annotations

__all__ = ["next_start", "spend"]


def next_start(full_at: float | None, now: int, *, limit: int, period: int) -> int:
    """Return when the next run may begin, epoch milliseconds; at most ``now`` if it may now.

    Args:
        full_at: when the bucket will be full; None if it is.
        now: epoch milliseconds.
        limit, period: at most so many runs, refilled within so many milliseconds.
    """
    ready = _parts(full_at, now, limit, period) - period * limit
    return now if ready <= now * limit else -(-ready // limit)


def spend(full_at: float | None, now: int, *, limit: int, period: int) -> float:
    """Return when the bucket will be full if a run begins now; see :func:`next_start`."""
    return _parts(full_at, now, limit, period) / limit


def _parts(full_at: float | None, now: int, limit: int, period: int) -> int:
    """Return when the bucket will be full if a run begins now, in parts of 1/limit milliseconds.

    One run is ``period`` such parts. They are whole numbers, because many sums of fractions drift.

    An empty bucket is full after one period. One that seems to need longer was filled by another
    clock or for another period: the clock was set back, or a deployment has shortened the period.
    """
    full = now * limit
    if full_at is not None:
        full = min(max(full, round(full_at * limit)), full + period * limit)
    return full + period
