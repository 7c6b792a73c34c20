"""What heads of responses mean to the client of a stream."""

from __future__ import annotations

import gzip
import zlib

import pytest

from durable_core.errors import ProtocolError
from durable_core.http.headers import Headers
from durable_core.wire.following_head import Head


def head(status: int = 200, **fields: str) -> Head:
    return Head(
        status=status,
        headers=Headers({name.replace("_", "-"): value for name, value in fields.items()}),
    )


def test_what_a_head_asks_for() -> None:
    """A status alone says nothing: each needs the fields that go with it."""
    assert head(307, location="/x").is_redirect
    assert not head(307).is_redirect
    assert not head(300, location="/x").is_redirect
    assert head(content_type="Text/Event-Stream ; charset=utf-8").is_stream
    assert not head(202, content_type="text/event-stream").is_stream
    assert head(202, location="/x", retry_after="1").asks_to_wait
    assert not head(202, location="/x").asks_to_wait


@pytest.mark.parametrize(
    ("value", "expected"), [("0", 0), ("7", 7000), ("1234567", None), ("Tue, 1 May", None)]
)
def test_the_time_to_come_back(value: str, expected: int | None) -> None:
    """Seconds count, within reason; a date is not understood."""
    assert expected == head(retry_after=value).retry_after_ms


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", gzip.compress(b"event: x", mtime=0)),
        ("GZip", gzip.compress(b"event: x", mtime=0)[:1]),
        ("deflate", zlib.compress(b"event: x")),
        ("zstd", b"\x28\xb5\x2f\xfd\x04\x00"),
        ("br", b"\x8b\x05\x80event: x\x03"),
    ],
    ids=("gzip", "first byte", "deflate", "zstd", "br"),
)
def test_a_stream_that_is_compressed_is_refused(coding: str, data: bytes) -> None:
    """The error says how, and what helps."""
    with pytest.raises(ProtocolError, match=f"Content-Encoding: {coding.lower()}.*'identity'"):
        head(content_encoding=coding).check_beginning(data)


@pytest.mark.parametrize("coding", ["gzip", "identity", ""])
@pytest.mark.parametrize(
    "data", [b"", b":\n\n", b"\xef\xbb\xbfevent: x\r\n", "data: é".encode()[:-1]]
)
def test_a_stream_that_a_transport_has_decoded_is_read(coding: str, data: bytes) -> None:
    """It is text, wherever it was cut, though the field still says that it was compressed."""
    head(content_encoding=coding).check_beginning(data)


def test_a_stream_that_was_not_said_to_be_compressed_may_be_anything() -> None:
    """What is no UTF-8 in it is replaced, as the standard has it."""
    head().check_beginning(b"\xff\x00")
