"""Requests as bytes."""

from __future__ import annotations

import pytest

from durable_core.model.outgoing import OutgoingRequest
from durable_core.wire.http_request import LAST_CHUNK, encode_chunk, encode_request_head
from durable_core.wire.urls import parse_url

DEFAULTS = b"accept: */*\r\naccept-encoding: identity\r\nuser-agent: durable-core\r\n"


def head(request: OutgoingRequest) -> bytes:
    return encode_request_head(request, parse_url(request.url))


def test_a_request_without_a_body() -> None:
    """The request line, the host, the fields given and those that are always sent."""
    request = OutgoingRequest(url="http://a.example:81/x?y=1#z", headers={"X-A": "1"})
    expected = b"GET /x?y=1 HTTP/1.1\r\nhost: a.example:81\r\nX-A: 1\r\n" + DEFAULTS + b"\r\n"

    assert expected == head(request)


def test_fields_given_replace_the_usual_ones() -> None:
    """Whoever names a field that is always sent decides on its value."""
    given = {"Host": "b", "Accept": "a/b", "accept-encoding": "gzip", "User-Agent": "me"}
    expected = b"Host: b\r\nAccept: a/b\r\naccept-encoding: gzip\r\nUser-Agent: me\r\n\r\n"

    assert b"GET / HTTP/1.1\r\n" + expected == head(OutgoingRequest(url="http://a", headers=given))


@pytest.mark.parametrize(
    ("method", "body", "expected"),
    [
        ("POST", b"abc", b"content-length: 3"),
        ("GET", b"", b"content-length: 0"),
        ("POST", None, b"content-length: 0"),
        ("POST", [b"a"], b"transfer-encoding: chunked"),
    ],
)
def test_the_framing_of_a_body(
    method: str, body: bytes | list[bytes] | None, expected: bytes
) -> None:
    """Bytes have a length, an iterable comes in chunks; a POST without a body says so."""
    request = OutgoingRequest(method=method, url="http://a", body=body)

    assert head(request).endswith(b"\r\n" + expected + b"\r\n\r\n")


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "connection", "expect"])
def test_framing_is_not_the_callers(name: str) -> None:
    """Fields that say how the message is framed are refused, whatever their value."""
    with pytest.raises(ValueError, match="is set by the transport; leave it out"):
        head(OutgoingRequest(url="http://a", headers={name: "1"}))


def test_chunks() -> None:
    """An empty chunk would end the body, so there is none."""
    assert (b"b\r\nhello world\r\n", b"") == (encode_chunk(b"hello world"), encode_chunk(b""))
    assert b"0\r\n\r\n" == LAST_CHUNK
