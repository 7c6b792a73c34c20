"""Durations, and what an event must be to end a wait, as the server reads them."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from durable_core import Request
from durable_core.machine.matching import WaitRule, resolve_match, validate_if
from durable_inngest._protocol import format_duration, literal, needs_reentry, wait_expression
from support.inngest_cel import holds

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (1_000, "1s"),
        (90_000, "1m30s"),
        (1_500, "1s500ms"),
        (216_000_000, "2d12h"),
        (1, "1ms"),
        (3_661_001, "1h1m1s1ms"),
        (4_271_001, "4271001ms"),
        (93_784_567, "1d2h3m5s"),
        (694_861_000, "694861s"),
    ],
)
def test_durations(ms: int, text: str) -> None:
    """The largest unit first; where that is long, one unit."""
    assert text == format_duration(ms)


@given(st.integers(1, 366 * 86_400_000))
def test_durations_lose_nothing(ms: int) -> None:
    """What the server adds up is what was asked for, or a little more where that is long.

    From 10 characters on it would try to read a date.
    """
    units = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
    text = format_duration(ms)
    added = sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([a-z]+)", text))
    assert 1 <= len(text) < 10
    assert 0 <= added - ms < (1_000 if ms > 7_200_000 else 1)


@pytest.mark.parametrize("ms", [0, -1, 366 * 86_400_000 + 1])
def test_durations_have_bounds(ms: int) -> None:
    """The server takes "" for nothing, and fails a run for more than 366 days."""
    with pytest.raises(ValueError, match="366 days"):
        format_duration(ms)


TRICKY = st.text(st.sampled_from(list("\"'\\\n\x00avrs.e tn/")) | st.characters())


@given(TRICKY, TRICKY)
def test_no_text_leaves_its_literal(text: str, other: str) -> None:
    """A string is one literal without escapes, whatever is in it, and means itself."""
    written = literal(text)
    assert re.fullmatch(r'(b64decode\()?"[^"\\\x00-\x1f]*"\)?', written)
    assert "event." not in written
    assert holds(f"async.data.x == {written}", {"data": {"x": text}})
    assert holds(f"async.data.x == {written}", {"data": {"x": other}}) == (text == other)


@given(st.dictionaries(TRICKY.filter(bool), JSON.filter(lambda v: v is not None), min_size=1))
def test_conditions_hold_of_what_they_are_made_of(values: dict[str, object]) -> None:
    """Any value under any name: the server finds what was written, whatever is in it."""
    paths = {f"data.{name}": value for name, value in values.items() if "." not in name}
    assume(paths)
    rule = WaitRule(event="e", conditions=validate_if(paths))
    assert holds(wait_expression(rule), {"data": values})


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("tea & cake // 'x' é", "\"tea & cake // 'x' é\""),
        ('a"b', 'b64decode("YSJi")'),
        ("c:\\", 'b64decode("Yzpc")'),
        ("vars.a", 'b64decode("dmFycy5h")'),
        ("event.data", 'b64decode("ZXZlbnQuZGF0YQ==")'),
        ("a\nb", 'b64decode("YQpi")'),
    ],
)
def test_what_the_server_would_misread(text: str, written: str) -> None:
    """It takes what stands between the quotes as it stands, and searches all of the expression."""
    assert written == literal(text)


def request(query: str = "", body: bytes = b"") -> Request:
    return Request(method="POST", url=f"http://shop.example/a?{query}", body=body)


@pytest.mark.parametrize(
    ("query", "body", "expression"),
    [
        ("id=tea", b"", 'async.data.id == "tea"'),
        ("id=7", b"", '(async.data.id == "7" || async.data.id == 7)'),
        ("id=true", b"", '(async.data.id == "true" || async.data.id == true)'),
        ("id=07", b"", 'async.data.id == "07"'),
        ("id=%22%7C%7Ctrue", b"", 'async.data.id == b64decode("Inx8dHJ1ZQ==")'),
        ("", b'{"id": 7}', "async.data.id == 7"),
        ("", b'{"id": {"a": [1, "x"]}}', 'async.data.id == dyn({"a": [1, "x"]})'),
    ],
)
def test_match_becomes_a_literal(query: str, body: bytes, expression: str) -> None:
    """The value of the run's own request stands in the expression, escaped."""
    rule = WaitRule(event="e", match=resolve_match("data.id", request(query, body)))
    assert expression == wait_expression(rule)


def test_conditions() -> None:
    """They are joined; names that are none in CEL are written as an index."""
    rule = WaitRule(event="e", conditions=validate_if({"data.in.a-b": 1, "data.x": True}))
    assert 'dyn(async.data["in"]["a-b"]) == 1 && async.data.x == true' == wait_expression(rule)
    assert "" == wait_expression(WaitRule(event="e"))
    own = WaitRule(event="e", conditions=validate_if({"data.myvars.x": 1}))
    assert 'dyn(async.data["myvars"]["x"]) == 1' == wait_expression(own)
    below = WaitRule(event="e", conditions=validate_if({"data.event.x": 1}))
    assert needs_reentry(below)
    assert not needs_reentry(own)
