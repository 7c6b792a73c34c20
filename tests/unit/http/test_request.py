"""What comes in."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from types import MappingProxyType
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.errors import BadRequest, HTTPError
from durable_core.http.headers import TOKEN
from durable_core.http.request import _COMMON_METHODS, Request, client_of

FORM = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}


def request_of(body: bytes, content_type: str | None = None) -> Request:
    headers = {} if content_type is None else {"content-type": content_type}
    return Request(method="POST", url="http://host/", headers=headers, body=body)


@pytest.mark.parametrize(
    ("url", "path", "query"),
    [
        ("http://host", "/", ""),
        ("http://host/", "/", ""),
        ("http://host?a=1", "/", "a=1"),
        ("http://host/a/b?x=/c?d", "/a/b", "x=/c?d"),
        ("https://host:8443/caf%C3%A9%20x?y=%20#frag?z", "/café x", "y=%20"),
        ("http://host/a?next=http://other/b", "/a", "next=http://other/b"),
        ("http://host/%ff", "/\ufffd", ""),
    ],
)
def test_path_and_query_of_a_url(url: str, path: str, query: str) -> None:
    """The path is decoded, the query text is not, and a fragment is no part of either."""
    request = Request(method="GET", url=url)
    assert path == request.path
    assert query == request.query.raw


@given(st.sampled_from(sorted(_COMMON_METHODS)) | st.text(max_size=4))
def test_a_method_is_a_token(method: str) -> None:
    """One that is known is taken as it is; any other is taken if it is a token."""
    if TOKEN.fullmatch(method):
        assert method == Request(method=method, url="http://host/").method
    else:
        with pytest.raises(ValueError, match="a method must be an RFC 9110 token"):
            Request(method=method, url="http://host/")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_an_encoded_path_is_read_back(name: str) -> None:
    """Any text put into a path, percent-encoded, is in ``path``."""
    assert f"/{name}" == Request(method="GET", url=f"http://host/{quote(name, safe='')}").path


@pytest.mark.parametrize(
    ("root", "path"),
    [("/app", "/x"), ("/app/", "/x"), ("", "/app/x"), ("/ap", "/app/x"), ("/app/x", "/")],
)
def test_path_is_below_the_mount_point(root: str, path: str) -> None:
    """``root_path`` is taken off only where it is a prefix of whole segments."""
    assert path == Request(method="GET", url="http://host/app/x?y", root_path=root).path


def test_what_is_no_request_is_refused() -> None:
    """A broken method or URL, or a body that is no bytes, is an error at once."""
    with pytest.raises(ValueError, match="RFC 9110 token"):
        Request(method="GET /", url="http://host/")
    for url in ("/path", "//host/", "/path?u=http://x/"):
        with pytest.raises(ValueError, match="absolute"):
            Request(method="GET", url=url)
    with pytest.raises(TypeError, match="not str"):
        Request(method="GET", url="http://host/", body="text")  # type: ignore[arg-type]


def test_json_body() -> None:
    """JSON is read whatever the content type; each call gives a fresh value."""
    request = request_of('{"a": ["é", 1.5, 1e3, null]}'.encode())
    assert {"a": ["é", 1.5, 1000.0, None]} == request.json()
    changed = request.json()
    assert isinstance(changed, dict)
    changed.clear()
    assert {"a": ["é", 1.5, 1000.0, None]} == request.json()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1] x",
        b"\xff",
        '{"a": 1}'.encode("utf-16"),
        b"NaN",
        b"[-Infinity]",
        b"1e999",
        b"-1e999",
        b"[" * 100_000,
        b"1" * 5000,
    ],
)
def test_malformed_json_is_a_bad_request(body: bytes) -> None:
    """Whatever is wrong with the JSON, the client hears 400."""
    with pytest.raises(BadRequest, match="the body is not"):
        request_of(body).json()


@given(st.binary())
def test_json_of_any_bytes_is_a_value_or_a_bad_request(body: bytes) -> None:
    """No body makes any other error."""
    try:
        value = request_of(body).json()
    except BadRequest:
        return
    assert value == json.loads(body)


def test_text_in_its_charset() -> None:
    """The content type names the charset; UTF-8 is the default."""
    assert request_of("é".encode()).text() == "é"
    assert request_of("é".encode("latin-1"), 'text/plain; Charset="ISO-8859-1"').text() == "é"
    request = request_of("é".encode("utf-16"), "text/plain;charset=utf-16")
    assert request.text() == "é"
    assert request.text() is request.text()


@pytest.mark.parametrize("charset", ["nope", "idna", "rot13", "unicode_escape", "iso-8859-99"])
def test_an_unknown_charset_answers_415(charset: str) -> None:
    """Only charsets are known; other codecs of Python's are not reachable."""
    with pytest.raises(HTTPError, match="not supported") as caught:
        request_of(b"x", f"text/plain; charset={charset}").text()
    assert caught.value.status == 415


def test_text_that_is_not_in_its_charset_is_a_bad_request() -> None:
    """Bytes that the charset does not have are not guessed at."""
    with pytest.raises(BadRequest, match="not valid us-ascii"):
        request_of(b"\xe9", "text/plain; charset=us-ascii").text()


def test_form_body() -> None:
    """An urlencoded form is read like a query, once."""
    request = Request(method="POST", url="http://host/", headers=FORM, body=b"a=1&a=2&b=%C3%A9")
    assert request.form().get_all("a") == ("1", "2")
    assert request.form()["b"] == "é"
    assert request.form() is request.form()


@pytest.mark.parametrize("content_type", [None, "application/json", "multipart/form-data"])
def test_a_form_of_another_content_type_answers_415(content_type: str | None) -> None:
    """Only urlencoded forms are read."""
    with pytest.raises(HTTPError, match="x-www-form-urlencoded") as caught:
        request_of(b"a=1", content_type).form()
    assert caught.value.status == 415


def test_path_params_can_be_added() -> None:
    """A router adds path parameters; all else stays."""
    request = Request(
        method="PUT", url="http://host/a/7", headers=FORM, body=b"x=1", root_path="/a"
    )
    routed = request.with_path_params({"id": "7"})
    assert {"id": "7"} == routed.path_params
    assert request == routed.with_path_params({})


@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))]
)
def test_a_request_can_be_copied(copied: Callable[[Request], Request], is_read: bool) -> None:
    """A copy, as for another process, has all that was given, also if the first was read."""
    request = Request(
        method="POST",
        url="http://host/below/path?a=1",
        headers=[("Accept", "*/*"), ("X", "1"), ("X", "2")],
        body=b"body",
        path_params=MappingProxyType({"id": "7"}),
        root_path="/below",
        client="127.0.0.1",
    ).with_principal("me")
    if is_read:
        assert "/path" == request.path
        assert "1" == request.query["a"]
        assert "body" == request.text()

    another = copied(request)

    assert request == another
    assert ("me", "/path", {"id": "7"}) == (another.principal, another.path, another.path_params)
    assert "127.0.0.1" == client_of(another)


def test_repr_shows_no_secrets() -> None:
    """The query, which may hold a token, is not printed."""
    request = Request(method="GET", url="http://host/a?durable-token=s3cret")
    assert repr(request) == "<Request GET /a>"
