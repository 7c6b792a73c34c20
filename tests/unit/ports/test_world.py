"""Time and chance."""

from __future__ import annotations

import time

from durable_core.platform import SystemClock, SystemIds
from durable_core.ports import Clock, Ids


def test_clock_of_the_system() -> None:
    """A clock counts milliseconds since the epoch."""
    clock: Clock = SystemClock()
    before = time.time() * 1_000

    assert before - 1 <= clock.now() <= time.time() * 1_000


def test_ids_of_the_system() -> None:
    """Ids for one time differ, sort after those of an earlier one, and chance is below 1."""
    ids: Ids = SystemIds()

    assert ids.ulid(5) != ids.ulid(5)
    assert ids.ulid(5) < ids.ulid(6)
    assert all(0 <= ids.uniform() < 1 for _ in range(100))
