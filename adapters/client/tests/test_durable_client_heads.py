"""What the head of a response says, and the pauses between connections."""

from __future__ import annotations

import gzip
import zlib

import pytest

from durable_client._follow import (
    Backoff,
    Head,
)
from durable_core.errors import (
    ProtocolError,
)
from durable_core.http.headers import Headers

# Heads


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


# Delays


def test_delays_double_up_to_a_limit() -> None:
    """From a quarter of a second to half a minute, spread by up to a half, then no more."""
    longest = Backoff(limit=10, uniform=lambda: 1.0)
    shortest = Backoff(limit=10, uniform=lambda: 0.0)
    delays = [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000, None]

    assert delays == [longest.fail() for _ in range(11)]
    assert [d and d // 2 for d in delays] == [shortest.fail() for _ in range(11)]


def test_a_success_begins_anew() -> None:
    """Only failures in a row count."""
    backoff = Backoff(limit=2, uniform=lambda: 1.0)
    assert [250, 500, None] == [backoff.fail() for _ in range(3)]
    assert 2 == backoff.failures
    backoff.succeed()
    assert [250, 500, None] == [backoff.fail() for _ in range(3)]


def test_the_server_may_ask_for_a_longer_delay() -> None:
    """Its time is the least to wait, and its ``retry`` the first delay."""
    backoff = Backoff(limit=9, uniform=lambda: 1.0)
    assert 3000 == backoff.fail(at_least_ms=3000)
    backoff.first_ms = 100
    assert 200 == backoff.fail()


def test_a_retry_of_nothing_does_not_make_a_client_spin() -> None:
    """It counts as 20 ms at least, however often something new comes."""
    backoff = Backoff(limit=9, uniform=lambda: 1.0)
    backoff.first_ms = 0
    first = backoff.fail()
    second = backoff.fail()
    backoff.succeed()
    assert [20, 40, 20] == [first, second, backoff.fail()]


def test_a_limit_is_not_negative() -> None:
    """A negative limit is refused, and 0 lets no attempt pass."""
    with pytest.raises(ValueError, match="must be 0 or more, not -1"):
        Backoff(limit=-1, uniform=lambda: 1.0)
    assert Backoff(limit=0, uniform=lambda: 1.0).fail() is None
