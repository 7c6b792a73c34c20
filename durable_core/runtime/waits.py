"""When a stored event ends a pending wait; the part of it that every store shares."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from durable_core.machine.matching import event_keys, load_rule, matches
from durable_core.model.events import Event, StoredEvent

__all__ = ["answers", "match_keys"]

_load_rule = lru_cache(maxsize=1024)(load_rule)


def match_keys(event: Event, match_path: str) -> tuple[str, ...]:
    """Return the values of ``Pending.match_key`` that the event answers to at that path.

    Args:
        event: an event with the name that is waited for.
        match_path: as in ``Pending``: names joined by dots, or "" for waits without ``match``.
    """
    return event_keys(event, tuple(match_path.split("."))) if match_path else ("",)


def answers(stored: StoredEvent, *, rule: str, mark: int, seen: Collection[int]) -> bool:
    """Tell whether the event ends a wait with this rule, mark and seen numbers (``Pending``)."""
    if stored.seq <= mark or stored.seq in seen:
        return False
    return matches(_load_rule(rule), stored.event)
