"""Which events end a wait."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.errors import MatchError
from durable_core.http.request import Request
from durable_core.machine.matching import (
    MatchRule,
    WaitRule,
    dump_rule,
    event_keys,
    load_rule,
    matches,
    resolve_match,
    validate_if,
)
from durable_core.model.event import Event

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SCALARS = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=5
)
PATH = ("data", "x")


def posted(body: object) -> Request:
    return Request(method="POST", url="http://h/", body=json.dumps(body).encode())


def key_of(request: Request, expression: str = "data.x") -> str:
    return resolve_match(expression, request).key


def waits(request: Request, value: object, expression: str = "data.x") -> bool:
    """Whether a wait of this request ends with an event whose ``data.x`` is the value."""
    rule = WaitRule(event="e", match=resolve_match(expression, request))
    return matches(rule, Event("e", {"x": value}))


def test_where_a_value_is_looked_up() -> None:
    """Path parameters first, then the query's first value, then the JSON body."""
    request = Request(
        method="POST",
        url="http://h/?b=q1&b=q2&c.d=q",
        path_params={"a": "p"},
        body=b'{"a": "j", "b": "j", "c": {"d": "j", "e": "j"}}',
    )
    assert MatchRule(path=("data", "a"), key="t:p") == resolve_match("data.a", request)
    assert MatchRule(path=("data", "b"), key="t:q1") == resolve_match("data.b", request)
    assert MatchRule(path=("data", "c", "d"), key="t:q") == resolve_match("data.c.d", request)
    assert MatchRule(path=("data", "c", "e"), key='j:"j"') == resolve_match("data.c.e", request)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"5", b'{"x": null}', b'{"y": 1}', b'{"x": "\\ud800"}']
)
def test_a_value_that_is_missing_or_null_is_a_match_error(body: bytes) -> None:
    """There is nothing to wait for; the error names the expression."""
    with pytest.raises(MatchError, match=r"match='data\.x'"):
        key_of(Request(method="POST", url="http://h/?y=1", body=body))
    with pytest.raises(MatchError, match=r"match='data\.x\.y'"):
        key_of(Request(method="POST", url="http://h/", body=b'{"x": "text"}'), "data.x.y")


@pytest.mark.parametrize("expression", ["", "x", "data", "data.", "data..x", "event.data.x"])
def test_an_expression_of_another_form_is_refused(expression: str) -> None:
    """A path begins with ``data.`` and has no empty name; so too in ``if_``."""
    with pytest.raises(ValueError, match=r"match must be 'data\.' and names"):
        key_of(posted({"x": 1}), expression)
    with pytest.raises(ValueError, match=r"a path of if_ must be 'data\.' and names"):
        validate_if({expression: 1})


def test_other_types_are_refused() -> None:
    """Expressions and paths are text, conditions a mapping, values JSON."""
    with pytest.raises(TypeError, match="match must be a str"):
        key_of(posted({}), 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="if_ must be a mapping"):
        validate_if([("data.x", 1)])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a path of if_ must be a str"):
        validate_if({5: 1})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"if_: the value for 'data\.x': \$\[0\]"):
        validate_if({"data.x": [(1,)]})
    with pytest.raises(ValueError, match="at least one condition"):
        validate_if({})
    with pytest.raises(ValueError, match="null never matches"):
        validate_if({"data.x": None})


@given(JSON)
def test_a_json_value_matches_itself(value: object) -> None:
    """The same JSON value in request and event ends the wait, and meets the condition."""
    assert waits(posted({"x": value}), value)
    rule = WaitRule(event="e", conditions=validate_if({"data.x": value}))
    assert matches(rule, Event("e", {"x": value}))


@given(JSON, JSON)
def test_match_and_if_compare_json_alike(wanted: object, value: object) -> None:
    """``if_`` with a value is ``match`` with that value in the request's JSON body."""
    rule = WaitRule(event="e", conditions=validate_if({"data.x": wanted}))
    assert waits(posted({"x": wanted}), value) == matches(rule, Event("e", {"x": value}))


@pytest.mark.parametrize(
    ("wanted", "value", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (1, "1", False),
        ("1", 1, False),
        ([1], [1.0], True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        (2**53 + 1, 2.0**53, False),
    ],
    ids=range(8),
)
def test_comparison_is_json_typed(wanted: object, value: object, same: bool) -> None:
    """Numbers compare by value; text, numbers and booleans are never the same."""
    assert same == waits(posted({"x": wanted}), value)


@pytest.mark.parametrize(
    ("text", "value", "same"),
    [
        ("T1", "T1", True),
        ("5", 5, True),
        ("5", 5.0, True),
        ("5", "5", True),
        ("5.0", 5, False),
        ("0.5", 0.5, True),
        ("-0.00000015", -1.5e-7, True),
        ("0.0000001", 1e-7, True),
        ("1000000000000000000000", 1e21, True),
        ("true", True, True),
        ("True", True, False),
        ("", "", True),
        ("null", None, False),
        ("[1]", [1], False),
        ("{}", {}, False),
    ],
    ids=range(15),
)
def test_text_of_a_url_compares_to_scalars(text: str, value: object, same: bool) -> None:
    """A query value or path parameter equals the scalar whose canonical text it is."""
    query = Request(method="GET", url=f"http://h/?x={quote(text)}")
    assert same == waits(query, value)
    assert same == waits(query.with_path_params({"x": text}), value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_canonical_text_of_a_number_is_exact_and_plain(value: float) -> None:
    """It reads back as the number, and has no exponent."""
    text = event_keys(Event("e", {"x": value}), PATH)[0].removeprefix("t:")
    assert value == float(text)
    assert set(text) <= set("-.0123456789")


def test_a_missing_or_null_value_in_the_event_never_matches() -> None:
    """Nor does a path through what is no object."""
    for data in ({}, {"x": None}, {"y": 1}):
        assert () == event_keys(Event("e", data), PATH)
    assert () == event_keys(Event("e", {"x": "text"}), ("data", "x", "y"))
    rule = WaitRule(event="e", conditions=validate_if({"data.x": 1}))
    assert not matches(rule, Event("e", {"x": None}))


def test_all_parts_of_a_rule_must_hold() -> None:
    """Name, match and every condition."""
    rule = WaitRule(
        event="paid",
        match=resolve_match("data.id", posted({"id": 7})),
        conditions=validate_if({"data.ok": True, "data.sum.eur": 5}),
    )
    right = {"id": 7, "ok": True, "sum": {"eur": 5}}
    assert matches(rule, Event("paid", right))
    assert not matches(rule, Event("sent", right))
    for change in ({"id": 8}, {"ok": False}, {"sum": {"eur": 6}}, {"sum": 5}):
        assert not matches(rule, Event("paid", right | change))
    assert matches(WaitRule(event="paid"), Event("paid"))


@given(
    TEXT,
    st.none() | st.builds(MatchRule, path=st.just(PATH), key=TEXT),
    st.dictionaries(TEXT.filter(lambda name: name and "." not in name), JSON, max_size=3),
)
def test_a_stored_rule_comes_back(name: str, match: MatchRule | None, wanted: Any) -> None:
    """Dumping and loading gives an equal rule."""
    conditions = {f"data.{path}": value for path, value in wanted.items()}
    rule = WaitRule(
        event=name, match=match, conditions=validate_if(conditions) if conditions else ()
    )
    assert rule == load_rule(dump_rule(rule))
