"""Query and form parameters."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.errors import BadRequest, MissingParameter
from durable_core.http.request import FormParams, QueryParams

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@given(st.lists(st.tuples(TEXT, TEXT)))
def test_what_was_encoded_is_read_back(pairs: list[tuple[str, str]]) -> None:
    """Names and values of any text, repeats and blanks survive, in order."""
    encoded = urlencode(pairs)
    assert tuple(pairs) == QueryParams(encoded).items()
    assert tuple(pairs) == FormParams.parse(encoded.encode()).items()


@given(st.text())
def test_any_query_text_can_be_read(raw: str) -> None:
    """No query text makes an error."""
    assert raw == QueryParams(raw).raw
    QueryParams(raw).items()


def test_first_value_and_all_values() -> None:
    """The first value of a name is its value; all of them can be asked for."""
    query = QueryParams("a=1&b=&a=2&c")
    assert query["a"] == "1"
    assert query.get("a") == "1"
    assert query.get_all("a") == ("1", "2")
    assert (query["b"], query["c"]) == ("", "")
    assert ["a", "b", "c"] == list(query)
    assert ("a", "b", "c") == query.keys()
    assert len(query) == 3
    assert "b" in query
    assert "d" not in query


def test_a_missing_parameter_answers_400_and_is_a_key_error() -> None:
    """The error names the parameter; it is a bad request and a KeyError."""
    with pytest.raises(MissingParameter, match="query parameter 'cart' is missing") as caught:
        QueryParams("a=1")["cart"]
    assert isinstance(caught.value, KeyError)
    assert caught.value.status == 400
    with pytest.raises(MissingParameter, match="form field 'cart' is missing"):
        FormParams.parse(b"")["cart"]
    assert QueryParams("").get("cart", "none") == "none"
    assert QueryParams("").get_all("cart") == ()


def test_bytes_that_are_not_utf8_are_replaced_in_a_query() -> None:
    """A URL that a person mistyped still has a reading."""
    assert QueryParams("a=%ff")["a"] == "\ufffd"


@pytest.mark.parametrize("body", [b"a=%ff", b"a=\xff", b"a=%zz", b"a=%4", b"%"])
def test_a_malformed_form_is_a_bad_request(body: bytes) -> None:
    """A form is written by a program; one that is broken is refused."""
    with pytest.raises(BadRequest, match="the form body"):
        FormParams.parse(body)


def test_equality_and_repr() -> None:
    """Parameters are equal when they read the same; values are not printed."""
    assert QueryParams("a=1&b=2") == QueryParams("a=%31&b=2")
    assert hash(QueryParams("a=1")) == hash(QueryParams("a=%31"))
    assert QueryParams("a=1&b=2") != QueryParams("b=2&a=1")
    assert QueryParams("a=1") != "a=1"
    assert repr(QueryParams("token=s3cret")) == "QueryParams('token')"


def test_a_form_has_a_limit_of_fields() -> None:
    """A small body must not become a million objects."""
    assert 1000 == len(FormParams.parse(b"&".join([b"a=1"] * 1000)).items())
    for separator in (b"&a=1", b"&"):
        with pytest.raises(BadRequest, match="more than 1000 fields"):
            FormParams.parse(separator * 1000)
