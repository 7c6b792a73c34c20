"""Chores, on a clock that the tests move."""

from __future__ import annotations

import time

import pytest

from durable_core.engine.scheduler import PeriodicTask


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose only element is the time."""
    times = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: times[0])
    return times


def test_a_chore_is_done_at_once_and_then_every_so_often(now: list[float]) -> None:
    """However often somebody comes round, and once however long nobody did."""
    done: list[float] = []
    chore = PeriodicTask(5.0, lambda: done.append(now[0]))
    for time_ in (100.0, 104.9, 105.0, 109.0, 127.0, 128.0):
        now[0] = time_
        chore.run_if_due()
    assert [100.0, 105.0, 127.0] == done


def test_a_chore_that_fails_waits_for_its_next_time(now: list[float]) -> None:
    """It does not keep others from theirs by failing in each round."""

    def fail() -> None:
        raise ZeroDivisionError

    chore = PeriodicTask(5.0, fail)
    with pytest.raises(ZeroDivisionError):
        chore.run_if_due()
    now[0] += 4.0
    chore.run_if_due()


def test_a_chore_may_be_hastened(now: list[float]) -> None:
    """There is more to do: it comes again in a moment."""
    done: list[float] = []
    chore = PeriodicTask(5.0, lambda: done.append(now[0]))
    chore.run_if_due()
    chore.run_soon()
    for _ in range(3):
        now[0] += 0.0625
        chore.run_if_due()
    assert [100.0, 100.125] == done
