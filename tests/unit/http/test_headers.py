"""Header fields as a value."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.errors import HeaderNotStoredError
from durable_core.http.headers import _COMMON_NAMES, SENSITIVE_HEADERS, TOKEN, Headers
from support.source_tree import ROOT

NAMES = st.sampled_from(["Accept", "accept", "ACCEPT", "X-One", "x-one", "X-Two"])
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=5)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


@given(FIELDS)
def test_lookup_is_like_a_dict_of_lists_by_lower_case_name(fields: list[tuple[str, str]]) -> None:
    """Every value of a name is found in order, whatever the case it is asked in."""
    model: dict[str, list[str]] = {}
    for name, value in fields:
        model.setdefault(name.lower(), []).append(value)
    headers = Headers(fields)
    assert list(model) == list(headers)
    assert len(model) == len(headers)
    for name, values in model.items():
        assert tuple(values) == headers.get_all(name.upper())
        assert values[0] == headers[name.title()]
        assert name.title() in headers


@given(FIELDS)
def test_raw_keeps_everything(fields: list[tuple[str, str]]) -> None:
    """Order, repeats and spelling survive in ``raw``; ``items`` has the names in lower case."""
    headers = Headers(fields)
    assert tuple(fields) == headers.raw
    assert tuple((name.lower(), value) for name, value in fields) == headers.items()


@given(FIELDS)
def test_equality_ignores_case_and_agrees_with_hash(fields: list[tuple[str, str]]) -> None:
    """Headers that differ in the case of names only are equal, and so are their hashes."""
    one, other = Headers(fields), Headers([(name.swapcase(), value) for name, value in fields])
    assert one == other
    assert hash(one) == hash(other)


@given(FIELDS, NAMES, VALUES)
def test_with_set_leaves_one_value_and_the_others(
    fields: list[tuple[str, str]], name: str, value: str
) -> None:
    """``with_set`` replaces all values of one name and touches no other."""
    changed = Headers(fields).with_set(name, value)
    assert (value,) == changed.get_all(name)
    assert Headers(fields).without([name]) == changed.without([name])


def test_made_from_a_mapping_or_from_headers() -> None:
    """A mapping and other headers are taken as well as pairs."""
    assert Headers([("A", "1")]) == Headers({"a": "1"}) == Headers(Headers({"A": "1"}))


def test_absent_field() -> None:
    """An absent field is a KeyError, the default, no values, and not contained."""
    headers = Headers()
    with pytest.raises(KeyError):
        headers["accept"]
    assert headers.get("accept") is None
    assert headers.get("accept", "*/*") == "*/*"
    assert () == headers.get_all("accept")
    assert "accept" not in headers
    assert 5 not in headers


def test_whitespace_around_a_value_is_dropped() -> None:
    """Spaces and tabs around a value are no part of it (RFC 9110, section 5.5)."""
    assert Headers({"a": "\t x y \t"})["a"] == "x y"


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\n", "é", "a\x00"])
def test_a_name_that_is_no_token_is_refused(name: str) -> None:
    """Names must be RFC 9110 tokens."""
    with pytest.raises(ValueError, match="RFC 9110 token"):
        Headers({name: "x"})
    with pytest.raises(ValueError, match="RFC 9110 token"):
        Headers().with_set(name, "x")


@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\x00b", "a\x7fb", "€", "\n"])
def test_a_value_that_could_break_a_message_is_refused(value: str) -> None:
    """Controls, line ends above all, and what is not Latin-1 cannot be sent."""
    with pytest.raises(ValueError, match="'a' may hold only"):
        Headers({"a": value})
    with pytest.raises(ValueError, match="'a' may hold only"):
        Headers().with_set("a", value)


def test_other_types_are_refused() -> None:
    """Names and values are text; nothing is converted silently."""
    with pytest.raises(TypeError, match="not int"):
        Headers({"a": 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not bytes"):
        Headers([(b"a", "1")])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="a mapping, or pairs of a name and a value"):
        Headers(["accept: */*"])  # type: ignore[list-item]


def test_a_withheld_field_never_looks_absent() -> None:
    """Each way to look up a withheld field raises, and names the field and the option."""
    headers = Headers({"host": "x"}, withheld=["authorization"])
    for look in (
        lambda: headers["Authorization"],
        lambda: headers.get("authorization"),
        lambda: headers.get_all("AUTHORIZATION"),
        lambda: "authorization" in headers,
    ):
        with pytest.raises(HeaderNotStoredError, match=r"'authorization'.*store_headers="):
            look()
    assert ["host"] == list(headers)
    assert frozenset({"authorization"}) == Headers(headers).withheld


def test_setting_or_dropping_a_withheld_field_settles_it() -> None:
    """After ``with_set`` or ``without`` the field is no longer withheld."""
    headers = Headers(withheld=["cookie"])
    assert headers.with_set("Cookie", "a=1")["cookie"] == "a=1"
    assert "cookie" not in headers.without(["Cookie"])


def test_repr_hides_credentials() -> None:
    """Credentials are not printed."""
    shown = repr(Headers({"Authorization": "Bearer s3cret", "Set-Cookie": "s3cret", "Host": "x"}))
    assert "s3cret" not in shown
    assert "('Host', 'x')" in shown


def test_trusted_headers_are_like_checked_ones() -> None:
    """The unchecked way in makes the same value."""
    assert Headers({"Host": "x"}) == Headers._trusted([("Host", "x")])
    assert Headers({"Host": "x"}) != "Host: x"


ANY_NAME = (
    st.sampled_from(sorted(_COMMON_NAMES))
    | st.text(max_size=4)
    | st.from_regex(r"[a-zA-Z0-9-]{0,4}", fullmatch=True)
)
#: Also with spaces around, line ends, and what Python takes for a space or for a digit.
ANY_VALUE = st.text(max_size=4) | st.text(" \t\n\r\x0b\x7f\x85\xa0\xb2aZ~\u0661\u2028", max_size=6)


@given(ANY_NAME, ANY_VALUE)
def test_plain_fields_are_judged_as_all_others(name: str, value: str) -> None:
    """What is taken without a regular expression is what one allows."""
    stripped = value.strip(" \t")
    allowed = TOKEN.fullmatch(name) and all(
        char == "\t" or " " <= char <= "~" or "\x80" <= char <= "\xff" for char in stripped
    )
    try:
        taken = Headers([(name, value)]).raw
    except ValueError:
        assert not allowed
    else:
        assert allowed
        assert ((name, stripped),) == taken


@given(st.lists(st.tuples(ANY_NAME, ANY_VALUE), max_size=5))
def test_fields_are_taken_one_by_one(fields: list[tuple[str, str]]) -> None:
    """All are kept in order if each would be; else the first that would not is the error."""
    try:
        expected: object = tuple(pair for field in fields for pair in Headers([field]).raw)
    except ValueError as error:
        expected = str(error)
    for made in (fields, tuple(fields), iter(fields), [list(field) for field in fields]):
        try:
            taken: object = Headers(made).raw  # type: ignore[arg-type] # lists are no tuples
        except ValueError as error:
            taken = str(error)
        assert expected == taken


def test_common_names_are_tokens_in_lower_case() -> None:
    """They are taken for names without a further look."""
    assert all(TOKEN.fullmatch(name) and name == name.lower() for name in _COMMON_NAMES)


@given(FIELDS, st.frozensets(NAMES.map(str.lower)))
def test_withheld_fields(fields: list[tuple[str, str]], names: frozenset[str]) -> None:
    """What is withheld is withheld, all else stays as it is."""
    headers = Headers(fields, withheld=["cookie"])
    left = headers._withhold(names)

    assert tuple(pair for pair in fields if pair[0].lower() not in names) == left.raw
    assert {"cookie", *names.intersection(headers.keys())} == left.withheld


def test_the_credential_headers_are_documented() -> None:
    """The page of the options names all of them, and no other."""
    page = (ROOT / "docs" / "reference" / "options.md").read_text("utf-8")
    table = page.partition("### Credential headers")[2].partition("| --- |")[2].partition("\n\n")[0]

    assert SENSITIVE_HEADERS == set(re.findall(r"`([a-z-]+)`", table))


def test_the_identity_of_a_client() -> None:
    """It is that of credential headers, in any order; a withheld one raises."""
    one = Headers([("X-API-Key", "k"), ("Cookie", "c"), ("x-csrf-token", "1")])
    same = Headers([("cookie", "c"), ("x-api-key", "k"), ("accept", "*/*")])

    assert one.identity() == same.identity()
    assert Headers({"x-api-key": "k"}).identity() != Headers({"api-key": "k"}).identity()
    with pytest.raises(HeaderNotStoredError):
        Headers(withheld=["x-api-key"]).identity()
