"""Durations and deadlines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.duration import MAX_DURATION_MS, parse_deadline, parse_duration

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SPELLINGS = {
    "w": ("w", "week", "weeks"),
    "d": ("d", "day", "days"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
    "m": ("m", "min", "mins", "minute", "minutes"),
    "s": ("s", "sec", "secs", "second", "seconds"),
    "ms": ("ms", "millis", "millisecond", "milliseconds"),
}
MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("30s", 30_000),
        ("1h30m", 5_400_000),
        ("2 days", 172_800_000),
        ("1.5h", 5_400_000),
        ("500ms", 500),
        ("1w", 604_800_000),
        ("1m500ms", 60_500),
        (" 1 hour 30 mins ", 5_400_000),
        ("366d", MAX_DURATION_MS),
        ("0s", 0),
        ("0.0001s", 1),
        (0, 0),
        (0.0, 0),
        (-0.0, 0),
        (30, 30_000),
        (0.07, 70),
        (1e-9, 1),
        (366 * 86_400, MAX_DURATION_MS),
        (timedelta(days=2), 172_800_000),
        (timedelta(microseconds=1), 1),
        (timedelta(0), 0),
    ],
)
def test_what_users_write(value: str | float | timedelta, ms: int) -> None:
    """Texts, seconds and timedeltas; what is above 0 never becomes 0."""
    assert ms == parse_duration(value)


@given(
    st.lists(
        st.sampled_from(list(MS)).flatmap(
            lambda unit: st.tuples(
                st.just(unit), st.sampled_from(SPELLINGS[unit]), st.integers(0, 20)
            )
        ),
        min_size=1,
        unique_by=lambda part: part[0],
    ),
    st.sampled_from(["", " ", "  "]),
    st.sampled_from(["", " "]),
)
def test_a_text_is_the_sum_of_its_parts(
    parts: list[tuple[str, str, int]], before_unit: str, between: str
) -> None:
    """Every spelling of every unit, the largest first, with or without spaces."""
    parts.sort(key=lambda part: -MS[part[0]])
    text = between.join(f"{number}{before_unit}{spelling}" for _, spelling, number in parts)
    assert sum(number * MS[unit] for unit, _, number in parts) == parse_duration(text)


@given(st.text() | st.floats() | st.integers() | st.timedeltas())
def test_any_value_is_a_duration_in_range_or_a_value_error(value: str | float | timedelta) -> None:
    """There is no third outcome."""
    try:
        ms = parse_duration(value)
    except ValueError:
        return
    assert 0 <= ms <= MAX_DURATION_MS


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "30",
        "s",
        "30 x",
        "-1s",
        "1m1h",
        "1s1s",
        "1d and 2h",
        "1e3s",
        "1.s",
        "1,5h",
        "30S",
        "367d",
        "1h" + " " * 10_000 + "x",
        "9" * 10_000 + "s",
        "\u0663s",
        True,
        False,
        None,
        b"30s",
        [30],
        Decimal(30),
        -1,
        -0.001,
        float("nan"),
        float("inf"),
        366 * 86_400 + 1,
        10**5000,
        timedelta(-1),
        timedelta.max,
    ],
    ids=range(31),
)
def test_anything_else_is_a_value_error_that_says_what_is_allowed(value: Any) -> None:
    """The message names the argument and what it may be."""
    with pytest.raises(ValueError, match=r"timeout cannot be .*: allowed are .*'1h30m'.* 366 days"):
        parse_duration(value, what="timeout")


@given(st.datetimes(timezones=st.timezones(), max_value=datetime(2100, 1, 1)))
def test_a_deadline_is_epoch_milliseconds_in_utc(at: datetime) -> None:
    """Whatever its time zone; never before the time itself, and less than 1 ms after it."""
    now = 4_200_000_000_000
    late = EPOCH + timedelta(milliseconds=parse_deadline(at, now=now)) - at
    assert timedelta(0) <= late < timedelta(milliseconds=1)


def test_what_is_no_deadline_is_a_value_error() -> None:
    """A naive datetime, another type, or more than 366 days away."""
    with pytest.raises(ValueError, match="at must be an aware datetime; this one has no time zone"):
        parse_deadline(datetime(2024, 1, 1), now=0, what="at")
    for other in ("2024-01-01", 5, None, EPOCH.date()):
        with pytest.raises(ValueError, match="at must be an aware datetime, not "):
            parse_deadline(other, now=0, what="at")  # type: ignore[arg-type]
    latest = EPOCH + timedelta(days=366)
    assert parse_deadline(latest, now=0) == MAX_DURATION_MS
    with pytest.raises(ValueError, match="at most 366 days from now"):
        parse_deadline(latest + timedelta(microseconds=1), now=0)
    for extreme in (datetime.max, datetime.min):
        for hours in (-23, 23):
            zone = timezone(timedelta(hours=hours))
            at = extreme.replace(tzinfo=zone)
            if extreme is datetime.max:
                with pytest.raises(ValueError, match="at most 366 days"):
                    parse_deadline(at, now=0)
            else:
                assert parse_deadline(at, now=0) < 0
