"""Durations and deadlines as users write them, in milliseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

__all__ = ["MAX_DURATION_MS", "parse_deadline", "parse_duration"]

#: Nothing sleeps or waits longer than 366 days.
MAX_DURATION_MS = 366 * 86_400_000

_ALLOWED = (
    "allowed are a text such as '30s', '1h30m' or '2 days' (w, d, h, m, s, ms, largest first), "
    "a number of seconds, or a timedelta; from 0 to 366 days"
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


def parse_duration(value: str | float | timedelta, *, what: str = "duration") -> int:
    """Return a duration in milliseconds; one below a millisecond, but not 0, counts as 1.

    Args:
        value: ``"30s"``, ``"1h30m"``, ``"1.5 hours"``: numbers with units from weeks to
            milliseconds, the largest first, each once; or seconds; or a ``timedelta``.
        what: the name of the argument, for the error.

    Raises:
        ValueError: anything else; negative; over 366 days. The message lists what is allowed.
    """
    ms = _milliseconds(value, what)
    if not 0 <= ms <= MAX_DURATION_MS:
        raise _refusal(what, value)
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


def _milliseconds(value: object, what: str) -> float:
    if isinstance(value, str):
        return _from_text(value, what)
    if isinstance(value, timedelta):
        return value / _MS
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # Compared first: an int may be too large to become a float.
        return value * 1_000.0 if 0 <= value <= MAX_DURATION_MS else -1.0
    raise _refusal(what, value)


def _from_text(text: str, what: str) -> float:
    found = _TEXT.fullmatch(text.strip())
    if found is None or found.lastindex is None:
        raise _refusal(what, text)
    return sum(
        float(number) * unit
        for number, (_, unit) in zip(found.groups(), _UNITS, strict=True)
        if number is not None
    )


def _refusal(what: str, value: object) -> ValueError:
    plain = isinstance(value, (str, int, float, timedelta))
    huge = isinstance(value, int) and value.bit_length() > 64
    shown = repr(value)[:60] if plain and not huge else f"this {type(value).__name__}"
    return ValueError(f"{what} cannot be {shown}: {_ALLOWED}")
