"""Time and chance, made predictable."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from durable_core.platform import ulid_time
from durable_core.testing.clock import FakeClock, FakeIds


def test_clock_stands_still_until_it_is_moved() -> None:
    """It shows the start, then the time it was moved to, and never goes back."""
    clock = FakeClock(datetime(2031, 5, 1, 12, tzinfo=UTC))
    start = clock.now()

    assert datetime(2031, 5, 1, 12, tzinfo=UTC) == clock.time
    clock.move_to(start + 1500)
    clock.move_to(start)
    assert start + 1500 == clock.now()
    assert "<FakeClock 2031-05-01T12:00:01.500000+00:00>" == repr(clock)


def test_start_must_be_aware() -> None:
    """A start without a time zone is refused."""
    text: Any = "2030-01-01"
    with pytest.raises(ValueError, match="start must be an aware datetime, not str"):
        FakeClock(text)
    with pytest.raises(ValueError, match="no time zone"):
        FakeClock(datetime(2031, 5, 1, 12))


def test_ids_are_in_order() -> None:
    """Ids of one time are in the order in which they were made; there is no chance."""
    ids = FakeIds()
    made = [ids.ulid(1_000) for _ in range(3)]

    assert sorted(set(made)) == made
    assert 1_000 == ulid_time(made[0])
    assert {0.0} == {ids.uniform() for _ in range(3)}
