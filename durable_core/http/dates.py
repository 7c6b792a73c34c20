"""Times in header fields."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["http_date"]

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def http_date(ms: int) -> str:
    """Return a moment (epoch milliseconds) as an HTTP-date (RFC 9110 section 5.6.7).

    The names are English, whatever the locale of the process.
    """
    at = datetime.fromtimestamp(ms // 1000, UTC)
    day, month = _DAYS[at.weekday()], _MONTHS[at.month - 1]
    return f"{day}, {at.day:02} {month} {at.year:04} {at:%H:%M:%S} GMT"
