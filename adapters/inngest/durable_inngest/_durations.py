"""Durations as the server reads them."""

from __future__ import annotations

from durable_core.machine.duration import MAX_DURATION_MS

__all__ = ["format_duration"]

_UNITS = (
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
)
#: Text as long as this may be a date to the server, which tries that first.
_DATE = 10


def format_duration(ms: int) -> str:
    """Return a duration as text such as ``"1h30m"``: the largest unit first, none of them zero.

    Where that has 10 characters or more, it is in one unit: milliseconds, else seconds.

    Args:
        ms: milliseconds, from 1 to those of 366 days, which is the most that the server allows. It
            is never made shorter; beyond two hours it may be made longer, by less than a second.
    """
    if not 1 <= ms <= MAX_DURATION_MS:
        raise ValueError(f"a duration for the server must be 1 ms to 366 days, not {ms} ms")
    text = _in_units(ms)
    if len(text) >= _DATE:
        text = f"{ms}ms"
    if len(text) >= _DATE:
        text = _in_units(-(-ms // 1000) * 1000)
    return text if len(text) < _DATE else f"{-(-ms // 1000)}s"


def _in_units(ms: int) -> str:
    parts = []
    for unit, length in _UNITS:
        number, ms = divmod(ms, length)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts)
