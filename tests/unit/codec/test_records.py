"""Stored requests and responses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.codec.records import dump_head, dump_request, load_request, load_response
from durable_core.errors import HeaderNotStoredError
from durable_core.http.headers import SENSITIVE_HEADERS
from durable_core.http.request import Request
from durable_core.http.response import Response

FIELDS = st.lists(
    st.tuples(
        st.sampled_from(["Host", "X-Tag", "x-tag", "Cookie", "AUTHORIZATION"]),
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_categories=["Cc"])),
    ).map(lambda field: (field[0], field[1].strip())),
    max_size=6,
)
ALL = SENSITIVE_HEADERS
REQUESTS = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST", "PURGE"]),
    url=st.text().map(lambda text: f"http://host/{text}"),
    headers=FIELDS,
    body=st.binary(),
    path_params=st.dictionaries(st.text(), st.text()),
    root_path=st.sampled_from(["", "/app"]),
)


@given(REQUESTS)
def test_a_request_comes_back_whole(request: Request) -> None:
    """With all headers stored, nothing is lost, not even the spelling of the names."""
    loaded = load_request(dump_request(request, stored_headers=ALL), request.body)
    assert request == loaded
    assert request.headers.raw == loaded.headers.raw


@given(REQUESTS)
def test_credentials_are_not_stored(request: Request) -> None:
    """Of credential headers the names are kept, and every other header is as it was."""
    loaded = load_request(dump_request(request, stored_headers=frozenset()), request.body)
    assert request.headers.without(ALL) == loaded.headers.without(ALL)
    assert ALL & set(request.headers) == loaded.headers.withheld


def test_a_withheld_header_can_be_told_from_an_absent_one() -> None:
    """Replay raises for a header that was there, and says None for one that was not."""
    request = Request(method="GET", url="http://h/", headers={"Authorization": "Bearer s3cret"})
    text = dump_request(request, stored_headers=frozenset({"cookie"}))
    assert "s3cret" not in text
    loaded = load_request(text, b"")
    with pytest.raises(HeaderNotStoredError):
        loaded.headers.get("authorization")
    assert loaded.headers.get("cookie") is None


def test_what_was_withheld_stays_withheld() -> None:
    """Storing a loaded request again gives the same text, even if more is to be stored now."""
    request = Request(method="GET", url="http://h/", headers={"cookie": "a=1"})
    text = dump_request(request, stored_headers=frozenset())
    assert text == dump_request(load_request(text, b""), stored_headers=ALL)


def test_the_text_is_ascii() -> None:
    """Every store can hold it, whatever bytes the client put into its URL."""
    request = Request(method="GET", url="http://h/\ud800é")
    assert dump_request(request, stored_headers=ALL).isascii()


@given(st.integers(200, 599), FIELDS, st.binary())
def test_a_response_comes_back_whole(
    status: int, fields: list[tuple[str, str]], body: bytes
) -> None:
    """Status, headers with repeats and spelling, and body."""
    response = Response(status=status, headers=fields, body=body)
    loaded = load_response(dump_head(response), body)
    assert response == loaded
    assert response.headers.raw == loaded.headers.raw
