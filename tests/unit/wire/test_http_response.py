"""The parser of responses, cut anywhere, and against servers that do it wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.errors import ConnectionLostError, ProtocolError
from durable_core.wire.http_response import ResponseParser, check_body_size

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = (
    OK + b"Transfer-Encoding: chunked\r\n\r\n"
    b"3\r\nhel\r\n1;ext=1\r\nl\r\n01 \r\no\r\n0\r\nX-Trailer: 1\r\n\r\n"
)
UNTIL_CLOSE = OK + b"\r\nhello"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + LENGTH
BARE_LF = b"HTTP/1.1 200\nContent-Length: 5\n\nhello"


def parse(*parts: bytes, method: str = "GET") -> tuple[ResponseParser, bytes]:
    parser = ResponseParser(method)
    body = b""
    for part in parts:
        parser.feed(part)
        body += parser.take()
    return parser, body


def outcome(*parts: bytes, method: str = "GET") -> tuple[object, ...]:
    parser, body = parse(*parts, method=method)
    return parser.head, body, parser.is_complete, parser.is_reusable


@pytest.mark.parametrize(
    ("stream", "reusable"),
    [
        pytest.param(LENGTH, True, id="length"),
        pytest.param(CHUNKED, True, id="chunked"),
        pytest.param(INTERIM, True, id="interim"),
        pytest.param(BARE_LF, True, id="bare-lf"),
        pytest.param(LENGTH.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), False, id="close"),
        pytest.param(LENGTH.replace(b"1.1", b"1.0"), False, id="http-1.0"),
        pytest.param(
            LENGTH.replace(b"1.1 200 OK\r\n", b"1.0 200 OK\r\nconnection: Keep-Alive\r\n"),
            True,
            id="http-1.0-keep-alive",
        ),
        pytest.param(LENGTH.replace(b": 5", b": 5, 5"), True, id="length-twice-the-same"),
        pytest.param(
            CHUNKED.replace(b"OK\r\n", b"OK\r\nContent-Length: 9\r\n"),
            False,
            id="length-and-chunks",
        ),
        pytest.param(CHUNKED.replace(b"1.1", b"1.0"), False, id="http-1.0-chunks"),
    ],
)
def test_it_does_not_matter_where_a_response_is_cut(stream: bytes, reusable: bool) -> None:
    """Each way to cut it in two, and byte by byte, gives the same head and body."""
    whole = outcome(stream)

    assert (b"hello", True, reusable) == whole[1:]
    assert whole == outcome(*(stream[i : i + 1] for i in range(len(stream))))
    for cut in range(1, len(stream)):
        assert whole == outcome(stream[:cut], stream[cut:])


def test_the_end_of_the_connection_ends_a_body_without_length() -> None:
    """It is not complete before, and the connection is gone after."""
    parser, body = parse(UNTIL_CLOSE)
    assert (b"hello", False) == (body, parser.is_complete)

    parser.feed(b"")
    assert (True, False) == (parser.is_complete, parser.is_reusable)
    assert (False, True) == (parser.is_delimited, parse(LENGTH)[0].is_delimited)


@pytest.mark.parametrize(
    ("stream", "method"),
    [
        (OK + b"content-length: 5\r\n\r\n", "HEAD"),
        (OK + b"transfer-encoding: chunked\r\n\r\n", "HEAD"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET"),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", "GET"),
        (OK + b"content-length: 0\r\n\r\n", "GET"),
    ],
)
def test_responses_without_a_body(stream: bytes, method: str) -> None:
    """They are complete with their head, whatever length it names."""
    assert (b"", True, True) == outcome(stream, method=method)[1:]


def test_the_head_is_what_the_server_sent() -> None:
    """Status, reason and fields; a folded line goes on with one space."""
    parser, _ = parse(b"HTTP/1.1 404 Not  Here\r\nA: 1\r\nb:2 \r\nA: 3\r\n  and 4\r\n\r\n")

    assert parser.head is not None
    assert (404, "Not  Here") == (parser.head.status, parser.head.reason)
    assert (("A", "1"), ("b", "2"), ("A", "3 and 4")) == parser.head.headers.raw


def test_bytes_after_the_response_spoil_the_connection() -> None:
    """What nobody asked for must not answer the next request."""
    assert (b"hello", True, False) == outcome(LENGTH + b"HTTP/1.1 408")[1:]
    assert (b"hello", True, False) == outcome(LENGTH, b"H")[1:]


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "it does not begin with HTTP/1."),
        (b"HTTP/2 200\r\n\r\n", "it does not begin with HTTP/1."),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", "it does not begin with HTTP/1."),
        (b"HTTP/1.1 20 OK\r\n\r\n", "the status line is malformed"),
        (b"HTTP/1.1 0200 OK\r\n\r\n", "the status line is malformed"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "switches protocols"),
        (OK + b"no colon\r\n\r\n", "has no colon"),
        (OK + b"a b: 1\r\n\r\n", "must be an RFC 9110 token"),
        (OK + b"a : 1\r\n\r\n", "must be an RFC 9110 token"),
        (OK + b" folded: first\r\n\r\n", "must be an RFC 9110 token"),
        (OK + b"a: 1\rb: 2\r\n\r\n", "may hold only tabs and printable"),
        (OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\n", "more than one Content-Length"),
        (OK + b"content-length: -5\r\n\r\n", "or one that is none"),
        (OK + b"content-length: 5a\r\n\r\n", "or one that is none"),
        (OK + b"transfer-encoding: gzip, chunked\r\n\r\n", "transfer coding 'gzip, chunked'"),
        (OK + b"transfer-encoding: chunked\r\n\r\nxyz\r\n", "the size of a chunk is malformed"),
        (OK + b"transfer-encoding: chunked\r\n\r\n-1\r\n", "the size of a chunk is malformed"),
        (OK + b"transfer-encoding: chunked\r\n\r\n\r\n", "the size of a chunk is malformed"),
        (OK + b"transfer-encoding: chunked\r\n\r\n1\r\nabc\r\n", "longer than its size"),
        (OK + b"transfer-encoding: chunked\r\n\r\n1\r\na\n\r\n0", "the size of a chunk"),
        (OK + b"transfer-encoding: chunked\r\n\r\n1;" + b"x" * 5000, "is too long"),
        (OK + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"a: 1\r\n" * 20_000, "is too long"),
        (OK + b"a: " + b"x" * 70_000, "the head has over 65536 bytes"),
        (b"HTTP/1.1 100 Go on\r\n\r\n" * 10_000, "the head has over 65536 bytes"),
    ],
)
def test_what_is_no_response_is_refused(stream: bytes, message: str) -> None:
    """The error says what is wrong; it comes at once, or when the bytes come one by one."""
    with pytest.raises(ProtocolError, match="response") as caught:
        parse(stream)
    assert message in str(caught.value)
    if len(stream) < 200:
        with pytest.raises(ProtocolError, match="response"):
            parse(*(stream[i : i + 1] for i in range(len(stream))))


@pytest.mark.parametrize("stream", [LENGTH, CHUNKED, INTERIM])
def test_a_truncated_response_is_an_error(stream: bytes) -> None:
    """Wherever it is cut, the end of the connection is not taken for the end of the body."""
    for cut in range(1, len(stream)):
        with pytest.raises(ConnectionLostError, match=r"in the middle of the (head|body)"):
            parse(stream[:cut], b"")


def test_no_answer_at_all_is_an_error_of_its_own() -> None:
    """That is what a kept connection gives when the server had closed it."""
    parser = ResponseParser("GET")
    with pytest.raises(ConnectionLostError, match="without an answer"):
        parser.feed(b"")
    assert not parser.has_seen_bytes


@given(st.binary(max_size=200))
def test_garbage_never_breaks_the_parser(stream: bytes) -> None:
    """Any bytes after a good start give a response or one of two errors."""
    for start in (b"", OK, OK + b"transfer-encoding: chunked\r\n\r\n"):
        try:
            parse(start + stream, b"")
        except (ProtocolError, ConnectionLostError):
            continue


def test_the_size_of_a_body_has_a_limit_where_one_is_given() -> None:
    """At the limit it passes, over it the error says what is allowed."""
    check_body_size(5, 5)
    check_body_size(5, None)
    with pytest.raises(ProtocolError, match="over 5 bytes, which is the most allowed"):
        check_body_size(6, 5)
