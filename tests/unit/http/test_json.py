"""JSON text, made without an encoder for each value."""

from __future__ import annotations

import json
import json.encoder

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.http.json import chunk_encoder

_COMPACT = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
)
_ASCII = json.JSONEncoder(check_circular=False, separators=(",", ":"))

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
)


def dump(encoder: json.JSONEncoder, value: object) -> str:
    return "".join(chunk_encoder(encoder)(value, 0))


@given(_values)
def test_the_text_is_the_encoder_s(value: object) -> None:
    """Whatever the value and the encoder's options."""
    assert _ASCII.encode(value) == dump(_ASCII, value)
    for number in (float("inf"), -float("inf")):
        assert _ASCII.encode([number]) == dump(_ASCII, [number])
    try:
        expected = _COMPACT.encode(value)
    except ValueError:
        with pytest.raises(ValueError, match="JSON compliant"):
            dump(_COMPACT, value)
    else:
        assert expected == dump(_COMPACT, value)


def test_without_an_encoder_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts are the same."""
    value: object = {"a": [1, -2.5, 1e300, True, None, {}, []], 'q"\n\u2028': "\N{SNOWMAN}\x7f\x00"}
    quick = chunk_encoder(_COMPACT)
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)
    plain = chunk_encoder(_COMPACT)

    assert "".join(plain(value, 0)) == "".join(quick(value, 0))
    for chunks in (quick, plain):
        with pytest.raises(ValueError, match="JSON compliant"):
            chunks(float("nan"), 0)


@pytest.mark.parametrize(
    "encoder", [json.JSONEncoder(indent=1), json.JSONEncoder(sort_keys=True), json.JSONEncoder()]
)
def test_options_that_the_quick_one_has_not(encoder: json.JSONEncoder) -> None:
    """Are kept."""
    value = {"b": 1, "a": [2]}
    assert encoder.encode(value) == dump(encoder, value)


def test_a_value_that_contains_itself() -> None:
    """Is refused, and does no harm to what comes after."""
    value: list[object] = []
    value.append(value)
    chunks = chunk_encoder(_COMPACT)
    with pytest.raises(RecursionError):
        chunks(value, 0)
    assert "[1]" == "".join(chunks([1], 0))


def test_what_json_has_no_form_for() -> None:
    """Is refused by its type, or encoded as the encoder's ``default`` says."""
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        dump(_COMPACT, {1, 2})
    encoder = json.JSONEncoder(default=lambda value: f"{value.imag:g}j", check_circular=False)
    assert '["1j"]' == dump(encoder, [1j])
