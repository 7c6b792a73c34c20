"""Strict JSON."""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.codec.json import MAX_DEPTH, Codec, JSONCodec, canonical_json, check_json

CODEC: Codec = JSONCodec()
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=12
)


class Colour(StrEnum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


class Plain(Enum):
    X = 1


class Text(str):
    __slots__ = ()


@dataclass
class Point:
    x: int


def same(one: object, other: object) -> bool:
    """Equal, with the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return repr(one) == repr(other)


def nested(depth: int, leaf: object) -> object:
    value: object = leaf
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@given(JSON)
def test_what_is_let_in_comes_back_the_same(value: object) -> None:
    """Decoding gives an equal value of the same types, in the same order."""
    assert same(value, CODEC.decode(CODEC.encode(value)))


@given(st.recursive(SCALARS | st.just(()) | st.just(b"") | st.floats(), st.lists, max_leaves=5))
def test_a_value_comes_back_the_same_or_is_refused(value: object) -> None:
    """There is nothing between: a silent change is never possible."""
    try:
        text = CODEC.encode(value)
    except TypeError:
        return
    assert same(value, CODEC.decode(text))


REFUSED: dict[str, object] = {
    "tuple": (1, 2),
    "set": {1},
    "bytes": b"x",
    "decimal": Decimal(1),
    "dataclass": Point(1),
    "enum": Plain.X,
    "int enum": Number.ONE,
    "str enum": Colour.RED,
    "str subclass": Text("x"),
    "dict subclass": OrderedDict(a=1),
    "list subclass": type("List", (list,), {})(),
    "nan": float("nan"),
    "infinity": float("inf"),
    "minus infinity": -float("inf"),
    "lone surrogate": "\ud800",
    "object": object(),
    "huge int": 10**5000,
    "complex": 1j,
}


@pytest.mark.parametrize("value", list(REFUSED.values()), ids=list(REFUSED))
def test_what_json_would_change_or_lose_is_refused_with_its_path(value: object) -> None:
    """Each refused value is found wherever it stands, and its path is named."""
    for whole, path in (
        (value, r"\$: "),
        ([1, [value]], r"\$\[1\]\[0\]: "),
        ({"items": [{}, {}, {"price": value}]}, r"\$\.items\[2\]\.price: "),
        ({"a b": {'"': value}}, r'\$\["a b"\]\["\\""\]: '),
    ):
        with pytest.raises(TypeError, match="^" + path):
            CODEC.encode(whole)
        with pytest.raises(TypeError, match="^" + path):
            check_json(whole)


@pytest.mark.parametrize("key", [1, None, True, 1.5, Colour.RED, Text("x"), "\udfff"], ids=repr)
def test_other_keys_are_refused(key: Any) -> None:
    """Keys are exactly str, and text that UTF-8 can hold; the path leads to their dict."""
    with pytest.raises(TypeError, match=r"^\$\.a\[0\]"):
        CODEC.encode({"a": [{"ok": 1, key: 2}]})


def test_the_message_names_the_type_and_what_is_allowed() -> None:
    """A user sees what the value is, and what it should be."""
    with pytest.raises(TypeError, match=r"type decimal\.Decimal .* allowed are str, int, "):
        CODEC.encode([Decimal(1)])


def test_depth_is_limited() -> None:
    """The deepest value that is let in comes back; one level more is refused."""
    for deepest in (nested(MAX_DEPTH, 1), nested(MAX_DEPTH - 1, []), nested(MAX_DEPTH - 1, {})):
        assert same(deepest, CODEC.decode(CODEC.encode(deepest)))
        with pytest.raises(TypeError, match="nested over 100 deep"):
            CODEC.encode([deepest])


def test_a_value_that_contains_itself_is_refused_at_once() -> None:
    """A cycle, even one that branches, ends with an error and not with a hang."""
    loop: list[object] = []
    loop.extend([loop, loop, loop])
    with pytest.raises(TypeError, match=r"^\$\.a\[0\]: the value contains itself"):
        CODEC.encode({"a": loop})


def test_a_value_may_occur_twice() -> None:
    """The same list in two places is no cycle."""
    part = [1]
    assert CODEC.encode([part, part]) == "[[1],[1]]"


def test_large_ints_survive_up_to_the_limit_of_python() -> None:
    """Ints are exact; what Python itself does not convert is refused with advice."""
    largest = 10 ** (sys.get_int_max_str_digits() - 1)
    assert largest == CODEC.decode(CODEC.encode(largest))
    with pytest.raises(TypeError, match=r"^\$: the int has too many digits.*hex"):
        CODEC.encode(largest * 10)


def test_text_is_compact() -> None:
    """No white space, and text as itself."""
    assert CODEC.encode({"a": ["é", 1]}) == '{"a":["é",1]}'


@given(JSON, JSON)
def test_canonical_text_is_equal_just_for_equal_values(one: object, other: object) -> None:
    """One text stands for one JSON value: key order does not count, True is not 1, 1.0 is 1."""
    assert (canonical_json(one) == canonical_json(other)) == json_equal(one, other)


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.0), (0, -0.0), ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}), ([1e3], [1000])]
)
def test_canonical_text_of_values_that_are_equal_in_json(one: object, other: object) -> None:
    """Numbers count by value, objects regardless of order."""
    assert canonical_json(one) == canonical_json(other)


def json_equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(json_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(json_equal(one[k], other[k]) for k in one)
    return bool(one == other)
