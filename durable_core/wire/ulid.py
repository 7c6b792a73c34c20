"""ULIDs: 26 characters of Crockford base 32 that sort by time (github.com/ulid/spec)."""

from __future__ import annotations

import re

__all__ = ["is_ulid", "make_ulid", "ulid_time"]

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
#: Two digits for each ten bits: half the lookups of one digit for each five.
_PAIRS = tuple(high + low for high in _DIGITS for low in _DIGITS)
_SHAPE = re.compile(f"[0-7][{_DIGITS}]{{25}}")
_AS_PYTHON_DIGITS = str.maketrans(_DIGITS, "0123456789abcdefghijklmnopqrstuv")


def make_ulid(ms: int, entropy: bytes) -> str:
    """Return a ULID.

    Args:
        ms: epoch milliseconds, 0 to 2**48 - 1.
        entropy: exactly 10 random bytes.

    Raises:
        ValueError: an argument out of range.
    """
    if not 0 <= ms < 1 << 48:
        raise ValueError(f"the time of a ULID must be 0 to 2**48 - 1 milliseconds, not {ms}")
    if len(entropy) != 10:
        raise ValueError(f"a ULID takes 10 random bytes, not {len(entropy)}")
    first, last = int.from_bytes(entropy[:5], "big"), int.from_bytes(entropy[5:], "big")
    pairs = _PAIRS
    return (
        f"{pairs[ms >> 40]}{pairs[ms >> 30 & 1023]}{pairs[ms >> 20 & 1023]}"
        f"{pairs[ms >> 10 & 1023]}{pairs[ms & 1023]}"
        f"{pairs[first >> 30]}{pairs[first >> 20 & 1023]}"
        f"{pairs[first >> 10 & 1023]}{pairs[first & 1023]}"
        f"{pairs[last >> 30]}{pairs[last >> 20 & 1023]}"
        f"{pairs[last >> 10 & 1023]}{pairs[last & 1023]}"
    )


def ulid_time(text: str) -> int:
    """Return the epoch milliseconds of a ULID; ``ValueError`` if it is none."""
    if not is_ulid(text):
        raise ValueError("not a ULID: it must be 26 characters of Crockford base 32, upper case")
    return int(text[:10].translate(_AS_PYTHON_DIGITS), 32)


def is_ulid(text: str) -> bool:
    """Tell whether the text is a ULID in canonical form (upper case)."""
    return _SHAPE.fullmatch(text) is not None
