"""Events as values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from durable_core.model.event import Event, StoredEvent


def test_an_event_has_a_name_and_perhaps_more() -> None:
    """Only the name is needed; each event has its own empty data."""
    event = Event("trip/approved")
    assert (event.name, event.data, event.id, event.ts) == ("trip/approved", {}, None, None)
    assert event.data is not Event("trip/approved").data
    assert StoredEvent(seq=1, event=event, received_at=5).event is event


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "x" * 256},
        {"name": "\ud800"},
        {"name": "x", "id": ""},
        {"name": "x", "id": "i" * 256},
        {"name": "x", "ts": -1},
        {"name": "x", "ts": 253_402_300_800_000},
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    """Names and ids have 1 to 255 characters that UTF-8 can hold; times are not negative."""
    with pytest.raises(ValueError, match=r"event (name|id|ts) must"):
        Event(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": 5},
        {"name": "x", "data": [1]},
        {"name": "x", "data": None},
        {"name": "x", "id": 7},
        {"name": "x", "ts": 1.5},
        {"name": "x", "ts": True},
    ],
)
def test_other_types_are_refused(fields: dict[str, Any]) -> None:
    """Nothing is converted silently."""
    with pytest.raises(TypeError, match=r"event (name|data|id|ts) must"):
        Event(**fields)


def test_time() -> None:
    """When it happened, as people and programs read it."""
    assert datetime(2024, 1, 1, 0, 0, 1, 500_000, UTC) == Event("x", ts=1_704_067_201_500).time
    assert datetime.max.year == getattr(Event("x", ts=253_402_300_799_999).time, "year", None)
    assert Event("x").time is None
