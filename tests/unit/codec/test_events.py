"""Events as JSON text."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.codec.records import (
    check_event,
    check_events,
    dump_event,
    load_event,
    parse_events,
)
from durable_core.errors import BadRequest, LimitExceededError
from durable_core.model.event import Event

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
NAMES = st.text(min_size=1, max_size=255)
EVENTS = st.builds(
    Event,
    name=NAMES,
    data=st.dictionaries(st.text(), JSON),
    id=st.none() | NAMES,
    ts=st.none() | st.integers(min_value=0, max_value=253_402_300_799_999),
)


@given(EVENTS)
def test_round_trip(event: Event) -> None:
    """The text of an event is read back as the same event."""
    assert event == load_event(dump_event(event))


@given(st.lists(EVENTS, min_size=1, max_size=4))
def test_parse_takes_what_dump_writes(events: list[Event]) -> None:
    """A client may send an event in the form it is stored in, one or many, nulls and all."""
    bodies = [{"name": e.name, "data": dict(e.data), "id": e.id, "ts": e.ts} for e in events]

    assert tuple(events) == parse_events(bodies)
    assert (events[0],) == parse_events(bodies[0])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "an array of events must not be empty"),
        ("go", "event 0 must be a JSON object"),
        (None, "event 0 must be a JSON object"),
        ({}, "event 0 has no name"),
        ([{"name": "a"}, {"data": {}}], "event 1 has no name"),
        ([{"name": "a"}, []], "event 1 must be a JSON object"),
        ({"name": "a", "z": 1, "user": 2}, "event 0 has unknown members: 'user', 'z'"),
        ({"name": None}, "event 0: "),
        ({"name": ""}, "event 0: event name must have 1 to 255 characters, not 0"),
        ({"name": "a", "data": [1]}, "event 0: event data must be a JSON object, not list"),
        ([{"name": "a"}, {"name": "b", "id": 7}], "event 1: event id must be a str, not int"),
        ({"name": "a", "ts": 1.5}, "event 0: event ts must be an int or None, not float"),
        ({"name": "a", "ts": -1}, "event 0: event ts must be epoch milliseconds"),
    ],
)
def test_parse_says_what_is_wrong_and_where(value: Any, text: str) -> None:
    """What is no event is refused with 400, and the number of the element."""
    with pytest.raises(BadRequest, match=re.escape(text)):
        parse_events(value)


def test_size_limit_is_of_the_data_in_bytes() -> None:
    """The data may have exactly ``largest`` bytes of UTF-8 as JSON, and not one more."""
    event = Event("trip", {"who": "é"})  # {"who":"é"}

    assert event is check_event(event, 12)
    with pytest.raises(LimitExceededError, match=r"'trip' has 12 bytes.* at most 11 are allowed"):
        check_event(event, 11)


def test_data_that_is_not_json() -> None:
    """Data that JSON cannot hold is a TypeError that names the event and the path."""
    with pytest.raises(TypeError, match=r"the data of event 'trip' is not JSON: .*\bwhen\b"):
        check_event(Event("trip", {"when": [object()]}), 1_000)


def test_check_events() -> None:
    """One event is as good as a list of one."""
    assert (Event("a"),) == check_events(Event("a"), most=1000, largest=100)
    assert (Event("a"), Event("b")) == check_events(
        [Event("a"), Event("b")], most=1000, largest=100
    )
    with pytest.raises(LimitExceededError):
        check_events(Event("a", {"x": "y" * 100}), most=1000, largest=100)
    with pytest.raises(LimitExceededError, match=r"3 events.*at most 2"):
        check_events([Event("a")] * 3, most=2, largest=100)
