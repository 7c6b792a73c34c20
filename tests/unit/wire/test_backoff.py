"""How long a client waits before it comes back."""

from __future__ import annotations

import pytest

from durable_core.wire.backoff import Backoff


def test_delays_double_up_to_a_limit() -> None:
    """From a quarter of a second to half a minute, spread by up to a half, then no more."""
    longest = Backoff(limit=10, uniform=lambda: 1.0)
    shortest = Backoff(limit=10, uniform=lambda: 0.0)
    delays = [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000, None]

    assert delays == [longest.fail() for _ in range(11)]
    assert [d and d // 2 for d in delays] == [shortest.fail() for _ in range(11)]


def test_a_success_begins_anew() -> None:
    """Only failures in a row count."""
    backoff = Backoff(limit=2, uniform=lambda: 1.0)
    assert [250, 500, None] == [backoff.fail() for _ in range(3)]
    assert 2 == backoff.failures
    backoff.succeed()
    assert [250, 500, None] == [backoff.fail() for _ in range(3)]


def test_the_server_may_ask_for_more() -> None:
    """Its time is the least to wait, and its ``retry`` the first delay."""
    backoff = Backoff(limit=9, uniform=lambda: 1.0)
    assert 3000 == backoff.fail(at_least_ms=3000)
    backoff.first_ms = 100
    assert 200 == backoff.fail()


def test_no_server_makes_a_client_spin() -> None:
    """A ``retry`` of nothing, again and again with something new each time, is 20 ms at least."""
    backoff = Backoff(limit=9, uniform=lambda: 1.0)
    backoff.first_ms = 0
    first = backoff.fail()
    second = backoff.fail()
    backoff.succeed()
    assert [20, 40, 20] == [first, second, backoff.fail()]


def test_a_limit_is_not_negative() -> None:
    """A negative limit is refused, and 0 lets no attempt pass."""
    with pytest.raises(ValueError, match="must be 0 or more, not -1"):
        Backoff(limit=-1, uniform=lambda: 1.0)
    assert Backoff(limit=0, uniform=lambda: 1.0).fail() is None
