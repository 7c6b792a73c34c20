"""Waits and events that a store compares without knowing their values."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from durable_core.codec.json import canonical_json
from durable_core.machine.blinding import MIRROR, Blinder
from durable_core.machine.matching import (
    MatchRule,
    WaitRule,
    dump_rule,
    match_keys,
    wait_matches,
)
from durable_core.model.event import Event, StoredEvent
from durable_core.model.step import Op, OpKind, Pending
from durable_core.stores.sqlite.events import event_prefilter
from durable_core.stores.sqlite.reads import dump_json

BLINDER = Blinder(b"k" * 16)
# Few values, so that they often meet, of all kinds, with those that are equal in one way only.
SCALARS = st.sampled_from([None, True, False, 0, 1, 1.0, 10, 1e-7, "1", "true", "", "a", "0.1"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2)
    ),
    max_leaves=4,
)
DATA = st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3)
PATHS = st.sampled_from([("data", "x"), ("data", "y"), ("data", "x", "y"), ("data", "z", "x", "y")])
KEYS = st.builds(lambda value: f"j:{canonical_json(value)}", VALUES) | st.sampled_from(
    ["t:1", "t:true", "t:a", "t:", "t:0.1", "t:0.0000001"]
)
MATCHES = st.none() | st.builds(lambda path, key: MatchRule(path=path, key=key), PATHS, KEYS)
CONDITIONS = st.lists(
    st.tuples(PATHS, VALUES.filter(lambda value: value is not None).map(canonical_json)), max_size=2
)


def wait_of(match: MatchRule | None, conditions: list[Any]) -> Pending:
    rule = WaitRule(event="e", match=match, conditions=tuple(conditions))
    return Pending(
        op=Op(id="op", name="wait", kind=OpKind.WAIT),
        due_at=0,
        event="e",
        rule=dump_rule(rule),
        match_path="" if match is None else ".".join(match.path),
        match_key="" if match is None else match.key,
    )


def is_found(pending: Pending, event: Event) -> bool:
    """Tell what a store finds out: by the index of keys, then by the rule."""
    stored = StoredEvent(seq=1, event=event, received_at=0)
    keys = match_keys(event, pending.match_path)
    return pending.match_key in keys and wait_matches(stored, rule=pending.rule, mark=0, seen=())


@given(MATCHES, CONDITIONS, DATA)
def test_a_store_decides_as_it_would_in_clear_text(
    match: MatchRule | None, conditions: list[Any], data: dict[str, object]
) -> None:
    """A blinded wait ends with the mirror of an event exactly if the wait ends with the event."""
    pending, event = wait_of(match, conditions), Event("e", data)

    blinded = BLINDER.wait(pending)
    mirror = replace(event, data={"$": "?", MIRROR: BLINDER.data(data)})

    assert is_found(pending, event) == is_found(blinded, mirror)


@given(MATCHES, CONDITIONS, DATA)
def test_the_prefilter_finds_what_matches(
    match: MatchRule | None, conditions: list[Any], data: dict[str, object]
) -> None:
    """SQLite's search for text does not rule out the mirror of an event that ends the wait."""
    pending, event = wait_of(match, conditions), Event("e", data)
    text = dump_json({"$": "?", MIRROR: BLINDER.data(data)})

    if is_found(pending, event):
        assert any(needle in text for needle in event_prefilter(BLINDER.wait(pending).rule))


def test_nothing_is_left_in_clear_text() -> None:
    """Neither names nor values are in what is stored; another key gives other hashes."""
    match = MatchRule(path=("data", "name"), key="t:secret-a")
    pending = wait_of(match, [(("data", "deep", "name"), '"secret-b"')])
    data = {"name": "secret-a", "deep": {"name": ["secret-b", {"name": 4711}]}}

    blinded = BLINDER.wait(pending)
    shown = json.dumps([blinded.rule, blinded.match_path, blinded.match_key, BLINDER.data(data)])

    assert not [word for word in ("secret", "name", "deep", "4711") if word in shown]
    other = Blinder(b"l" * 16)
    assert other.wait(pending).match_key != blinded.match_key
    assert other.data(data) != BLINDER.data(data)


def test_what_is_no_wait_stays() -> None:
    """A step that will be retried has no rule."""
    pending = Pending(op=Op(id="op", name="a", kind=OpKind.RUN), due_at=0, error="{}")
    assert BLINDER.wait(pending) is pending
