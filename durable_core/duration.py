"""Numbers, durations, deadlines and times: as users write and see them, and in milliseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, TypeGuard

__all__ = [
    "MAX_DURATION_MS",
    "Duration",
    "is_int",
    "is_number",
    "parse_deadline",
    "parse_duration",
    "time_of",
    "time_or_none",
]

#: How users write a duration; see :func:`parse_duration`.
Duration: TypeAlias = str | float | timedelta

_DAY_MS = 86_400_000
#: Nothing sleeps or waits longer than 366 days.
MAX_DURATION_MS = 366 * _DAY_MS
#: No number of seconds above this is a duration, whatever the longest one is.
_LARGEST_NUMBER = 10**12

_ALLOWED = (
    "allowed are a text such as '30s', '1h30m' or '2 days' (w, d, h, m, s, ms, largest first), "
    "a number of seconds, or a timedelta; from 0 to {} days"
)
_MS = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Each unit: its spellings, and its milliseconds. A day has 24 hours.
_UNITS = (
    ("weeks?|w", 604_800_000),
    ("days?|d", 86_400_000),
    ("hours?|hrs?|h", 3_600_000),
    ("minutes?|mins?|m", 60_000),
    ("seconds?|secs?|s", 1_000),
    ("milliseconds?|millis?|ms", 1),
)
# White space is allowed only after a unit, so that no text is ambiguous.
_TEXT = re.compile(
    "".join(rf"(?:([0-9]+(?:\.[0-9]+)?)\s*(?:{names})(?![a-z])\s*)?" for names, _ in _UNITS)
)


def is_int(value: object) -> TypeGuard[int]:
    """Tell whether a value is a whole number: an ``int``, such as an ``IntEnum``, but no ``bool``.

    That is the rule for all options that are whole numbers.
    """
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a value is an ``int`` or a ``float``, but no ``bool``."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def parse_duration(
    value: Duration, *, what: str = "duration", longest: int = MAX_DURATION_MS
) -> int:
    """Return a duration in milliseconds; one below a millisecond, but not 0, counts as 1.

    Args:
        value: ``"30s"``, ``"1h30m"``, ``"1.5 hours"``: numbers with units from weeks to
            milliseconds, the largest first, each once; or seconds; or a ``timedelta``.
        what: the name of the argument, for the error.
        longest: the longest duration that is allowed, milliseconds; whole days.

    Raises:
        ValueError: anything else; negative; over ``longest``. The message lists what is allowed.
    """
    ms = _milliseconds(value)
    if ms is None or not 0 <= ms <= longest:
        raise _refusal(what, value, longest)
    return round(ms) or (1 if ms > 0 else 0)


def parse_deadline(value: datetime, *, now: int, what: str = "deadline") -> int:
    """Return a point in time as epoch milliseconds; it may lie in the past.

    Args:
        value: an aware ``datetime``.
        now: epoch milliseconds.
        what: the name of the argument, for the error.

    Raises:
        ValueError: a naive ``datetime``, one over 366 days from now, or anything else.
    """
    if not isinstance(value, datetime):
        raise ValueError(f"{what} must be an aware datetime, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise ValueError(f"{what} must be an aware datetime; this one has no time zone")
    # Rounded up, so that nothing happens too early.
    at = -((_EPOCH - value) // _MS)
    if at - now > MAX_DURATION_MS:
        raise ValueError(f"{what} must be at most 366 days from now, not {value.isoformat()}")
    return at


def _milliseconds(value: object) -> float | None:
    """Return a duration in milliseconds; None for what is none."""
    if isinstance(value, str):
        return _from_text(value)
    if isinstance(value, timedelta):
        return value / _MS
    if is_number(value):
        # Compared first: an int may be too large to become a float.
        return value * 1_000.0 if 0 <= value <= _LARGEST_NUMBER else None
    return None


def _from_text(text: str) -> float | None:
    found = _TEXT.fullmatch(text.strip())
    if found is None or found.lastindex is None:
        return None
    return sum(
        float(number) * unit
        for number, (_, unit) in zip(found.groups(), _UNITS, strict=True)
        if number is not None
    )


def _refusal(what: str, value: object, longest: int) -> ValueError:
    plain = isinstance(value, (str, int, float, timedelta))
    huge = isinstance(value, int) and value.bit_length() > 64
    shown = repr(value)[:60] if plain and not huge else f"this {type(value).__name__}"
    allowed = _ALLOWED.format(longest // _DAY_MS)
    return ValueError(f"{what} cannot be {shown}: {allowed}")


def time_of(ms: int) -> datetime:
    """Return a time, epoch milliseconds, as users see it: in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def time_or_none(ms: int | None) -> datetime | None:
    """As :func:`time_of`; None for None."""
    return None if ms is None else time_of(ms)
