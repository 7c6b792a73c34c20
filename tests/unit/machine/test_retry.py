"""The retry schedule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.errors import RetryAfterError
from durable_core.machine.retry import (
    MAX_RETRIES,
    RetryPolicy,
    delay_ms,
    retry_after_delay_ms,
    validate_retries,
)

POLICIES = st.builds(
    lambda base, more, factor, jitter: RetryPolicy(
        base=base / 1000, max=(base + more) / 1000, factor=factor, jitter=jitter
    ),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.floats(1, 1e300),
    st.floats(0, 1),
)
U = st.floats(0, 1, exclude_max=True)
DAY = 86_400_000


def test_the_default_schedule() -> None:
    """1, 2, 4, ... seconds up to an hour, of which at least half is waited."""
    policy = RetryPolicy()
    most = 1 - 2**-53
    assert [500, 1_000, 2_000, 4_000] == [delay_ms(policy, n, 0.0) for n in (1, 2, 3, 4)]
    assert [1_000, 2_000, 4_000, 8_000] == [delay_ms(policy, n, most) for n in (1, 2, 3, 4)]
    assert delay_ms(policy, 21, most) == 3_600_000
    assert delay_ms(policy, 1, 0.5) == 750


@given(POLICIES, st.integers(1, 10**6), U)
def test_a_delay_keeps_within_the_jitter_of_its_longest(
    policy: RetryPolicy, failures: int, u: float
) -> None:
    """No delay is over ``max`` or below its share without jitter, however many failures."""
    longest = delay_ms(RetryPolicy(**{**fields(policy), "jitter": 0.0}), failures, u)
    assert 0 <= longest <= round(policy.max * 1000)
    delay = delay_ms(policy, failures, u)
    assert longest * (1 - policy.jitter) - 1 <= delay <= longest + 1


@given(POLICIES, st.integers(1, 10**6), U)
def test_delays_do_not_shrink(policy: RetryPolicy, failures: int, u: float) -> None:
    """With the same random number the next delay is at least as long."""
    assert delay_ms(policy, failures, u) <= delay_ms(policy, failures + 1, u)


def test_no_failure_no_delay() -> None:
    """There is no retry before a failure."""
    with pytest.raises(ValueError, match="1 or more"):
        delay_ms(RetryPolicy(), 0, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"base": -1},
        {"base": "soon"},
        {"max": 4, "base": 5},
        {"max": "367 days"},
        {"factor": 0.9},
        {"factor": float("inf")},
        {"factor": float("nan")},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"jitter": float("nan")},
    ],
)
def test_a_policy_out_of_range_is_refused(change: dict[str, Any]) -> None:
    """Every field has a range."""
    [*_, name] = change
    with pytest.raises(ValueError, match=rf"{name} (must|cannot) "):
        RetryPolicy(**change)


@pytest.mark.parametrize("change", [{"jitter": True}, {"factor": "2"}])
def test_a_policy_of_other_types_is_refused(change: dict[str, Any]) -> None:
    """Every field has a type."""
    with pytest.raises(TypeError, match="must be a number"):
        RetryPolicy(**change)


def test_retries_are_0_to_20() -> None:
    """The number of retries is an int in range."""
    assert [0, 3, MAX_RETRIES] == [validate_retries(n) for n in (0, 3, 20)]
    for other in (-1, 21, 3.0, True, "3", None, 10**5000):
        with pytest.raises(ValueError, match=r"int from 0 to 20|digits"):
            validate_retries(other)


@pytest.mark.parametrize(
    ("asked", "delay"),
    [
        (0, 0),
        (1.5, 1_500),
        (86_400, DAY),
        (86_401, DAY),
        (10**400, DAY),
        (1e308, DAY),
        (datetime(2024, 1, 1, 0, 0, 10, tzinfo=UTC), 10_000),
        (datetime(2023, 1, 1, tzinfo=UTC), 0),
        (datetime.max.replace(tzinfo=UTC), DAY),
    ],
    ids=range(9),
)
def test_retry_after_is_held_to_a_day(asked: float | datetime, delay: int) -> None:
    """Seconds or a time; what is past is now, what is over a day is a day."""
    now = (datetime(2024, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(
        milliseconds=1
    )
    assert delay == retry_after_delay_ms(RetryAfterError("later", asked), int(now))


def test_delays_are_given_as_durations() -> None:
    """As texts, seconds or timedelta; they are read as seconds."""
    policy = RetryPolicy(base="300ms", max=timedelta(minutes=1))
    assert RetryPolicy(base=0.3, max=60) == policy
    assert "RetryPolicy(base=0.3, factor=2.0, max=60.0, jitter=0.5)" == repr(policy)


def fields(policy: RetryPolicy) -> dict[str, Any]:
    return {name: getattr(policy, name) for name in ("base", "factor", "max", "jitter")}
