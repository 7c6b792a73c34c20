"""Durations as the server reads them."""

from __future__ import annotations

__all__ = ["format_duration"]

_UNITS = (
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
)


def format_duration(ms: int) -> str:
    """Return a duration as text such as ``"1h30m"``: the largest unit first, none of them zero.

    Args:
        ms: milliseconds, 1 or more. Fractions of a second are kept: a sleep is never shorter than
            what was asked for.
    """
    if ms < 1:
        raise ValueError(f"a duration for the server must be 1 ms or more, not {ms}")
    parts = []
    for unit, length in _UNITS:
        number, ms = divmod(ms, length)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts)
