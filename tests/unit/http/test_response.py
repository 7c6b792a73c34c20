"""What goes out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.http.headers import Headers
from durable_core.http.response import Response

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=8,
)


@given(JSON)
def test_plain_values_become_json(value: object) -> None:
    """What a handler returns, a str and None too, is the body as JSON."""
    response = Response.from_value(value)
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert isinstance(response.body, bytes)
    assert value == json.loads(response.body)


def test_json_is_compact_utf8() -> None:
    """No needless white space, and text as itself."""
    assert Response.json({"a": ["é", 1]}).body == '{"a":["é",1]}'.encode()


def test_bytes_and_responses_stay_as_they_are() -> None:
    """Bytes are sent as they are, and so is a response."""
    response = Response.from_value(b"\x00\xff")
    assert response.body == b"\x00\xff"
    assert response.headers["content-type"] == "application/octet-stream"
    assert Response.from_value(response) is response


@pytest.mark.parametrize("value", [object(), (1, 2), Decimal(1), {1, 2}])
def test_other_values_are_refused_by_name(value: object) -> None:
    """The error says what the handler returned and what it may."""
    with pytest.raises(TypeError, match=f"Response, dict, .*not {type(value).__name__}"):
        Response.from_value(value)


def test_values_without_json_form_are_refused() -> None:
    """NaN has no JSON form, nor has an object inside a list."""
    with pytest.raises(ValueError, match="JSON"):
        Response.from_value(float("nan"))
    with pytest.raises(TypeError, match="JSON"):
        Response.from_value([object()])


def test_text_html_and_their_headers() -> None:
    """Each kind has its content type, unless the headers name one."""
    assert Response.text("é").body == "é".encode()
    assert Response.text("x").headers["content-type"] == "text/plain; charset=utf-8"
    html = Response.html("<p>", 404, {"X-A": "1"})
    assert html.status == 404
    assert Headers({"x-a": "1", "content-type": "text/html; charset=utf-8"}) == html.headers
    own = Response.json({}, 201, [("Content-Type", "application/vnd.api+json")])
    assert Headers({"content-type": "application/vnd.api+json"}) == own.headers


def test_redirect_escapes_what_a_header_cannot_hold() -> None:
    """A URL keeps its own escapes and delimiters; line ends and other text are escaped."""
    assert Response.redirect("/a?b=%20&c=1#d").headers["location"] == "/a?b=%20&c=1#d"
    assert Response.redirect("/é\r\nx: y", 303).headers["location"] == "/%C3%A9%0D%0Ax:%20y"
    assert Response.redirect("/").status == 302
    with pytest.raises(ValueError, match="303"):
        Response.redirect("/", 200)
    with pytest.raises(TypeError, match="takes a str, not int"):
        Response.redirect(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [0, 100, 199, 600])
def test_a_status_that_is_not_final_is_refused(status: int) -> None:
    """A handler gives a final status, 200 to 599."""
    with pytest.raises(ValueError, match="200 to 599"):
        Response(status=status)


def test_a_status_may_have_a_name() -> None:
    """An ``HTTPStatus`` is an int; what is kept is the plain number."""
    for response in (Response(status=HTTPStatus.CREATED), Response.json({}, HTTPStatus.CREATED)):
        assert (201, int) == (response.status, type(response.status))


def test_other_types_are_refused() -> None:
    """Statuses are ints; bodies are bytes or iterables of them, and not text or mappings."""
    with pytest.raises(TypeError, match="not bool"):
        Response(status=True)
    for body in ("text", {"a": 1}, 5):
        with pytest.raises(TypeError, match="a response body must be"):
            Response(body=body)  # type: ignore[arg-type]


def test_streaming_bodies() -> None:
    """Iterators, sync and async, are kept as they are and said to stream."""

    def chunks() -> Iterator[bytes]:
        yield b"a"

    async def async_chunks() -> AsyncIterator[bytes]:
        yield b"a"

    assert Response(body=chunks()).is_streaming
    assert Response(body=async_chunks()).is_streaming
    assert Response(body=[b"a", b"b"]).is_streaming
    assert not Response(body=b"ab").is_streaming
    assert Response(body=memoryview(b"ab")).body == b"ab"
    assert repr(Response(body=b"ab")) == "<Response 200, 2 bytes>"
    assert repr(Response(status=201, body=[])) == "<Response 201, streaming>"


@pytest.mark.parametrize("kind", ["text", "html"])
def test_text_of_another_type(kind: str) -> None:
    """The error names the method and the type."""
    make: Any = getattr(Response, kind)
    with pytest.raises(TypeError, match=rf"Response\.{kind} takes a str, not bytes"):
        make(b"x")
