"""Texts that rule stored events out."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from durable_core.machine.matching import MatchRule, WaitRule, dump_rule, event_keys, validate_if
from durable_core.model.event import Event
from durable_core.stores.sqlite.events import event_prefilter
from durable_core.stores.sqlite.reads import dump_data

TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
NAMES = TEXT.filter(lambda name: name and "." not in name)
NUMBERS = (
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(10**17), 10**17).map(float)
    | st.decimals(-1, 1, places=6).map(float)
)
VALUES = st.recursive(
    st.booleans() | NUMBERS | TEXT | NUMBERS.map(str) | st.sampled_from(["true", "0", "1e5"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
)


def might_match(rule: WaitRule, event: Event) -> bool:
    """Ask SQLite, as the store does."""
    db = sqlite3.connect(":memory:")
    try:
        texts = event_prefilter(dump_rule(rule))
        assert 3 == len(texts)
        looked = [(dump_data(event), text) for text in texts]
        return any(db.execute("SELECT instr(?, ?)", each).fetchone()[0] for each in looked)
    finally:
        db.close()


@given(st.lists(NAMES, min_size=1, max_size=3), VALUES, st.dictionaries(TEXT, VALUES, max_size=3))
@example(["n"], 0, {})
@example(["n"], -0.0, {})
@example(["n"], {"a": [0.0, {"b": 1e16}], "c": None}, {})
@example(["n"], [[], {}, ""], {})
@example(["n"], "9" * 5000, {})
@example(["n"], int("9" * 4000), {})
@example(["n"], 1e16, {})
@example(["n"], 0.00001, {})
@example(["n"], 'quo"te\\ \x00 \u2028', {})
def test_no_event_that_matches_is_ruled_out(
    path: list[str], value: Any, others: dict[str, Any]
) -> None:
    """Whatever the value, by whatever of its keys, and beside whatever else is in the data."""
    data = value
    for name in reversed(path):
        data = {**others, name: data}
    event = Event("e", data)
    whole = ("data", *path)
    for key in event_keys(event, whole):
        assert might_match(WaitRule(event="e", match=MatchRule(path=whole, key=key)), event)
    conditions = validate_if({".".join(whole): value})
    assert might_match(WaitRule(event="e", conditions=conditions), event)


@pytest.mark.parametrize("key", ["t:no", 'j:"no"', "t:5", "j:5", "t:true", "j:true", "j:0.25"])
def test_others_are_ruled_out(key: str) -> None:
    """An event with another value, or with that value elsewhere, is not even read."""
    rule = WaitRule(event="e", match=MatchRule(path=("data", "n"), key=key))
    for data in ({"n": "yes", "m": "no"}, {"n": 7, "m": 5}, {"n": False, "m": True}, {"m": 0.25}):
        assert not might_match(rule, Event("e", data))


@pytest.mark.parametrize(
    ("key", "others"),
    [
        ("j:0", [1, -1, 10, "0", [0]]),
        ("t:0", [1, "00", 7, True]),
        ("j:12345678901234567890", [1234567890123456789, 1.5]),
        ("t:0.0000001", [1, 1e-8]),
        ("j:1e-07", [1e-08]),
        ('j:{"id":"A-17","n":1}', [{"id": "A-18", "n": 1}, {"n": 1}, {"ID": "A-17"}]),
        ('j:["A","B"]', [["C", "B"], ["B", "A"], "A"]),
        ("j:[7]", [[1, 7], [], 7]),
        ("j:[]", [[1], {}]),
        ("j:{}", [{"a": 1}, []]),
    ],
)
def test_other_numbers_objects_and_arrays_are_ruled_out(key: str, others: list[Any]) -> None:
    """The values whose text may be written in several ways, or has parts."""
    rule = WaitRule(event="e", match=MatchRule(path=("data", "n"), key=key))
    for value in others:
        assert not might_match(rule, Event("e", {"n": value}))


def test_a_rule_without_values_rules_nothing_out() -> None:
    """Any event of the name may end such a wait."""
    assert ("", "", "") == event_prefilter(dump_rule(WaitRule(event="e")))
    assert might_match(WaitRule(event="e"), Event("e", {}))


def test_the_value_that_rules_out_the_most_is_searched_for() -> None:
    """Only one is; the others are compared when the event is read."""
    match = MatchRule(path=("data", "list"), key="j:[1]")
    conditions = validate_if({"data.ok": True, "data.number": "order-17"})
    rule = WaitRule(event="e", match=match, conditions=conditions)
    assert ('"number":"order-17"',) * 3 == event_prefilter(dump_rule(rule))
