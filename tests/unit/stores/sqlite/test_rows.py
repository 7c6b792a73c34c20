"""Rows of the tables as model objects, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.model.event import Event, StoredEvent
from durable_core.stores.sqlite.reads import dump_consumed, dump_match, load_consumed, load_match

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
times = st.integers(0, 253_402_300_799_999)
stored_events = st.builds(
    StoredEvent,
    seq=st.integers(1, 2**62),
    event=st.builds(
        Event, name=texts, data=st.dictionaries(texts, json_values, max_size=3), id=texts, ts=times
    ),
    received_at=times,
)


@given(stored=stored_events)
def test_a_matched_event_comes_back_whole(stored: StoredEvent) -> None:
    """Name, data, id and times survive, with any JSON in the data."""
    assert stored == load_match(dump_match(stored))


@pytest.mark.parametrize("seen", [(), (3,), (1, 2, 2**40)])
def test_seen_numbers_come_back(seen: tuple[int, ...]) -> None:
    """None of them is the common case."""
    assert seen == load_consumed(dump_consumed(seen))
