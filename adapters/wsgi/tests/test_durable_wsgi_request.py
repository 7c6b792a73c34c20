"""From environ to Request."""

from __future__ import annotations

import io
from typing import Any
from urllib.parse import quote
from wsgiref.types import WSGIEnvironment
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core import BadRequest, HTTPError, Limits, Request
from durable_core.adapters import pull
from durable_wsgi._exchange import WSGIExchange
from support.recording_app import RecordingApp, refusal_of

LIMIT = 64

TEXT = st.text(st.characters(codec="utf-8"))
#: What HTTP lets stand in a field value, without whitespace around it.
VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"])).map(
    lambda text: text.strip(" ")
)


def environ(**changes: Any) -> WSGIEnvironment:
    """Return the environ of ``GET http://example.org/``, with changes; ``wsgi_x`` is wsgi.x."""
    made: WSGIEnvironment = {"HTTP_HOST": "example.org", "QUERY_STRING": ""}
    made |= {key.replace("wsgi_", "wsgi."): value for key, value in changes.items()}
    setup_testing_defaults(made)
    return made


def as_octets(text: str) -> str:
    """Return text as PEP 3333 has it: each octet of its UTF-8 form as one character."""
    return text.encode("utf-8").decode("latin-1")


def to_request(environ: WSGIEnvironment, limit: int) -> Request:
    """Return the request that an application is asked by; raise what it is refused with."""
    app = RecordingApp(limits=Limits(body=limit, head=10_000_000))
    status: list[str] = []

    def start_response(line: str, *_: object) -> Any:
        status.append(line)

    body = pull(app, WSGIExchange(environ, start_response))
    data = b"".join(body)
    body.close()
    if not app.requests:
        raise refusal_of(int(status[0][:3]), data)
    return app.requests[0]


def url_of(environ: WSGIEnvironment) -> str:
    return to_request(environ, LIMIT).url


def read_body(environ: WSGIEnvironment, limit: int) -> bytes:
    return to_request(environ, limit).body


class Trickle(io.BytesIO):
    """A stream that returns less than it is asked for, and remembers what was read."""

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0, "an application must say how much it wants"
        return super().read(min(size, 7))


class Broken(io.BytesIO):
    """A stream that cannot be read."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def read(self, size: int | None = -1, /) -> bytes:
        raise self._error


@given(path=TEXT, root=st.sampled_from(["", "/shop", "/caf\u00e9/x"]))
def test_path_round_trip(path: str, root: str) -> None:
    """Any path comes out as it was before it was decoded, below any mount point."""
    request = to_request(
        environ(SCRIPT_NAME=as_octets(root), PATH_INFO=as_octets(f"/{path}")), LIMIT
    )

    assert (f"/{path}", root) == (request.path, request.root_path)
    assert request.url.isascii()


@given(path=TEXT, unquoted=st.sampled_from(["", "/", "/:@", "!$&'()*+,;=-._~"]))
def test_encoding_of_the_path_is_kept(path: str, unquoted: str) -> None:
    """The path keeps the encoding the client chose where the server shows the request target."""
    raw = f"/{quote(path, safe=unquoted)}"

    request = to_request(environ(RAW_URI=f"{raw}?q", PATH_INFO=as_octets(f"/{path}")), LIMIT)

    assert (f"http://example.org{raw}", f"/{path}") == (request.url, request.path)


@given(query=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#")))
def test_query_is_kept_verbatim(query: str) -> None:
    """All that may stand in a query stays as it is."""
    url = url_of(environ(QUERY_STRING=query))

    assert f"http://example.org/?{query}".removesuffix("?" * (not query)) == url


@given(pairs=st.lists(st.tuples(TEXT, TEXT)))
def test_query_round_trip(pairs: list[tuple[str, str]]) -> None:
    """Any parameters come out as they went in."""
    query = "&".join(f"{quote(name)}={quote(value)}" for name, value in pairs)

    assert tuple(pairs) == to_request(environ(QUERY_STRING=query), LIMIT).query.items()


@given(value=VALUES)
def test_header_round_trip(value: str) -> None:
    """Any field value that HTTP allows comes out as it went in."""
    assert value == to_request(environ(HTTP_X_OWN=value), LIMIT).headers["x-own"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"PATH_INFO": ""}, "http://example.org/"),
        ({"PATH_INFO": "", "SCRIPT_NAME": "/shop"}, "http://example.org/shop"),
        ({"PATH_INFO": "/a%?#b c"}, "http://example.org/a%25%3F%23b%20c"),
        ({"PATH_INFO": "/a/b", "RAW_URI": "/a%2fb"}, "http://example.org/a%2fb"),
        ({"PATH_INFO": "/a/b", "REQUEST_URI": "/a%2Fb?x"}, "http://example.org/a%2Fb"),
        ({"PATH_INFO": "/a/b", "REQUEST_URI": "http://y/a%2Fb"}, "http://y/a%2Fb"),
        ({"PATH_INFO": "/b", "SCRIPT_NAME": "/a", "RAW_URI": "/%61/b"}, "http://example.org/%61/b"),
        ({"PATH_INFO": "/a/b", "RAW_URI": "/other"}, "http://example.org/a/b"),
        ({"PATH_INFO": "/a/b", "RAW_URI": "//a/b"}, "http://example.org/a/b"),
        ({"PATH_INFO": "/\xe9", "RAW_URI": "/\xe9"}, "http://example.org/%E9"),
        ({"QUERY_STRING": "a b#c\xe9"}, "http://example.org/?a%20b%23c%E9"),
        ({"HTTP_HOST": "[::1]:80"}, "http://[::1]:80/"),
        ({"HTTP_HOST": "", "SERVER_NAME": "::1", "SERVER_PORT": "80"}, "http://[::1]/"),
        ({"HTTP_HOST": "", "SERVER_NAME": "h", "SERVER_PORT": "81"}, "http://h:81/"),
        ({"HTTP_HOST": "", "SERVER_NAME": "/run/x", "SERVER_PORT": ""}, "http://localhost/"),
        (
            {
                "HTTP_HOST": "",
                "SERVER_NAME": "h",
                "SERVER_PORT": "443",
                "wsgi_url_scheme": "https",
            },
            "https://h/",
        ),
    ],
)
def test_url(changes: dict[str, str], expected: str) -> None:
    """The URL is rebuilt as PEP 3333 says, the path encoded as it was if that is known."""
    assert expected == url_of(environ(**changes))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ["a", "/", "%41", "a:", "+", "a://"])
def test_long_urls_take_linear_time(unit: str) -> None:
    """No path can keep the adapter busy: a megabyte of it is done in no time."""
    path = "/" + unit * (1_000_000 // len(unit))

    assert url_of(environ(PATH_INFO=path, RAW_URI=path, QUERY_STRING=path)).endswith(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"HTTP_HOST": "a/b?"},
        {"HTTP_HOST": "a,b"},
        {"HTTP_HOST": "user@host"},
        {"HTTP_HOST": "host:80x"},
        {"HTTP_HOST": "\xe9"},
        {"PATH_INFO": "/\u20ac"},
        {"SCRIPT_NAME": "/\u20ac"},
        {"QUERY_STRING": "\u20ac"},
        {"REQUEST_METHOD": "G T"},
        {"REQUEST_METHOD": ""},
        {"HTTP_X": "a\r\nb"},
        {"HTTP_X": "a\0"},
        {"HTTP_X": "\u20ac"},
        {"HTTP_": "nameless"},
    ],
)
def test_what_http_does_not_allow_is_a_bad_request(changes: dict[str, str]) -> None:
    """A malformed method, URL or field is the client's error, not the server's."""
    with pytest.raises(BadRequest):
        to_request(environ(**changes), LIMIT)


def test_headers() -> None:
    """Fields are found by their names; those that CGI has in other places are read from there."""
    request = to_request(
        environ(
            HTTP_X_OWN="1",
            CONTENT_TYPE="x/y",
            CONTENT_LENGTH="0",
            HTTP_CONTENT_TYPE="wrong",
            HTTP_CONTENT_LENGTH="9",
        ),
        LIMIT,
    )

    expected = {
        "content-length": "0",
        "content-type": "x/y",
        "host": "example.org",
        "x-own": "1",
    }
    assert expected == dict(request.headers.items())


def test_absent_type_and_length() -> None:
    """What CGI says with an empty text is that there is no such field."""
    request = to_request(environ(CONTENT_TYPE="", CONTENT_LENGTH=""), LIMIT)

    assert ["host"] == [name for name, _ in request.headers.items()]


@given(body=st.binary(max_size=LIMIT), rest=st.binary(max_size=9))
def test_body_ends_where_it_was_announced_to(body: bytes, rest: bytes) -> None:
    """The body is read to its length and no further."""
    stream = Trickle(body + rest)

    assert body == read_body(environ(CONTENT_LENGTH=str(len(body)), wsgi_input=stream), LIMIT)
    assert len(body) == stream.tell()


@given(body=st.binary(max_size=LIMIT))
def test_body_without_length(body: bytes) -> None:
    """Without a length it is read to its end where the server marks that, else not at all."""
    terminated = environ(wsgi_input=Trickle(body), wsgi_input_terminated=True)
    endless = environ(wsgi_input=Trickle(body))

    assert (body, b"") == (read_body(terminated, LIMIT), read_body(endless, LIMIT))


@pytest.mark.parametrize(
    "changes",
    [
        {"CONTENT_LENGTH": str(LIMIT + 1)},
        {"CONTENT_LENGTH": "9" * 5000},
        {"wsgi_input_terminated": True},
    ],
)
def test_body_over_the_limit(changes: dict[str, Any]) -> None:
    """413, after at most one byte more than the limit has been read."""
    stream = Trickle(b"x" * 1000)

    with pytest.raises(HTTPError, match="at most 64 bytes") as caught:
        read_body(environ(wsgi_input=stream, **changes), LIMIT)

    assert 413 == caught.value.status
    assert stream.tell() == (LIMIT + 1 if "wsgi_input_terminated" in changes else 0)


@pytest.mark.parametrize(
    ("stream", "status", "text"),
    [
        (io.BytesIO(b"short"), 400, "the body ended after 5 of 9 bytes"),
        (Broken(TimeoutError()), 408, "the body did not come in time"),
        (Broken(ConnectionResetError()), 400, "the body could not be read to its end"),
    ],
)
def test_body_that_does_not_come(stream: io.BytesIO, status: int, text: str) -> None:
    """A body that is cut off, late or broken gives a clear error."""
    with pytest.raises(HTTPError) as caught:
        read_body(environ(CONTENT_LENGTH="9", wsgi_input=stream), LIMIT)

    assert (status, text) == (caught.value.status, caught.value.detail)


def test_request_is_whole() -> None:
    """Method, URL, fields and body are put together."""
    request = to_request(
        environ(
            REQUEST_METHOD="POST",
            SCRIPT_NAME="/shop",
            PATH_INFO="/cart",
            QUERY_STRING="id=1",
            CONTENT_LENGTH="2",
            wsgi_input=io.BytesIO(b"{}"),
        ),
        LIMIT,
    )

    expected = Request(
        method="POST",
        url="http://example.org/shop/cart?id=1",
        headers={"host": "example.org", "content-length": "2"},
        body=b"{}",
        root_path="/shop",
    )
    assert expected == request
