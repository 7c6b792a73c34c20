"""What the three order services have in common: no framework, and nothing durable."""

from __future__ import annotations

import secrets

__all__ = ["charge", "reserve", "ship"]

PRICES = {"tea": 4, "cake": 7}


def reserve(item: str) -> str:
    """Take an item out of the stock; return the id of the order."""
    return f"{item}-{secrets.token_hex(3)}"


def charge(order: str, item: str) -> int:
    """Charge the price; return it. A real one would send the order's id as idempotency key."""
    return PRICES[item]


def ship(order: str) -> str:
    """Send the parcel; return its number."""
    return f"parcel-of-{order}"
