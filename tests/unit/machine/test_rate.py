"""The token bucket of rate limits, as one stored time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.machine.rate import next_start, spend

_HOUR = 3_600_000


def _empty(now: int, *, limit: int, period: int) -> float:
    """Return the state of a bucket after as many runs as it holds have begun."""
    full_at: float | None = None
    for _ in range(limit):
        assert next_start(full_at, now, limit=limit, period=period) <= now
        full_at = spend(full_at, now, limit=limit, period=period)
    assert full_at is not None
    return full_at


@given(limit=st.integers(1, 500), period=st.integers(1_000, 10 * _HOUR), now=st.integers(0, 2**41))
def test_an_empty_bucket_refills_evenly(limit: int, period: int, now: int) -> None:
    """After a burst the next run may begin when one part of the period is over."""
    full_at = _empty(now, limit=limit, period=period)
    wait = next_start(full_at, now, limit=limit, period=period) - now
    assert wait == pytest.approx(period / limit, abs=1.01)


@given(
    limit=st.integers(1, 50),
    period=st.integers(1_000, 10 * _HOUR),
    back=st.integers(0, 1_000 * _HOUR),
)
def test_a_clock_that_is_set_back_empties_the_bucket_and_no_more(
    limit: int, period: int, back: int
) -> None:
    """However far the clock was set back, a run may begin after one part of the period."""
    now = 2_000 * _HOUR
    full_at = _empty(now, limit=limit, period=period)
    now -= back
    wait = next_start(full_at, now, limit=limit, period=period) - now
    assert wait <= period / limit + 1.01


def test_a_shorter_period_holds_at_once() -> None:
    """A deployment that shortens the period does not make clients wait out the old one."""
    full_at = _empty(0, limit=1, period=1_000 * _HOUR)
    assert 1_000 == next_start(full_at, 0, limit=1, period=1_000)
