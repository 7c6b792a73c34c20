"""From what a server has read to a request."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.adapter.messages import bad_request_on_error, parse_content_length, read_sized
from durable_core.errors import BadRequest, HTTPError
from durable_core.http.request import Request


@pytest.mark.parametrize(
    ("text", "expected"), [("", None), (" ", None), ("0", 0), (" 12 ", 12), ("007", 7)]
)
def test_announced_length(text: str, expected: int | None) -> None:
    """It is a number of decimal digits; without any there is none."""
    assert expected == parse_content_length(text)


@pytest.mark.parametrize("text", ["-1", "+1", "1.5", "1, 1", "x", "\u0661", "1_0"])
def test_malformed_length(text: str) -> None:
    """Anything else is a bad request."""
    with pytest.raises(BadRequest, match="content-length must be one number"):
        parse_content_length(text)


@given(body=st.binary(max_size=64), rest=st.binary(max_size=9))
def test_bodies(body: bytes, rest: bytes) -> None:
    """It is read to its announced end and no further; or, where the stream ends, to that."""
    stream = io.BytesIO(body + rest)

    assert body == read_sized(stream, len(body), 64)
    assert len(body) == stream.tell()
    assert body == read_sized(io.BytesIO(body), None, 64, ends=True)
    assert b"" == read_sized(io.BytesIO(body), None, 64)


@pytest.mark.parametrize(("length", "read"), [(65, 0), (10**30, 0), (None, 65)])
def test_over_the_limit(length: int | None, read: int) -> None:
    """413, after at most one byte more than the limit has been read."""
    stream = io.BytesIO(b"x" * 1000)
    with pytest.raises(HTTPError, match="at most 64 bytes") as caught:
        read_sized(stream, length, 64, ends=True)

    assert (413, read) == (caught.value.status, stream.tell())


class Broken(io.BytesIO):
    """Fails when it is read."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def read(self, size: int | None = -1, /) -> bytes:
        raise self._error


@pytest.mark.parametrize(
    ("stream", "status", "text"),
    [
        (io.BytesIO(b"short"), 400, "the body ended after 5 of 9 bytes"),
        (Broken(TimeoutError()), 408, "the body did not come in time"),
        (Broken(ConnectionResetError()), 400, "the body could not be read to its end"),
    ],
)
def test_a_body_that_does_not_come(stream: io.BytesIO, status: int, text: str) -> None:
    """One that is cut off, late or broken gives a clear error."""
    with pytest.raises(HTTPError) as caught:
        read_sized(stream, 9, 64)

    assert (status, text) == (caught.value.status, caught.value.detail)


def test_refusing() -> None:
    """What HTTP does not allow is a bad request; other errors pass."""
    with bad_request_on_error():
        assert "/x" == Request(method="GET", url="http://h/x", headers=[]).path
    with pytest.raises(BadRequest, match="method"), bad_request_on_error():
        Request(method="G T", url="http://h/x", headers=[])
    with pytest.raises(HTTPError, match="slow"), bad_request_on_error():
        raise HTTPError(408, "slow")
