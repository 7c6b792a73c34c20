"""Requests that are made, and their time-outs."""

from __future__ import annotations

from typing import Any

import pytest

from durable_core.model.outgoing import OutgoingBody, OutgoingRequest, Timeouts


@pytest.mark.parametrize(
    ("method", "body", "given", "expected"),
    [
        ("GET", None, None, True),
        ("PUT", b"x", None, True),
        ("POST", b"x", None, False),
        ("POST", b"x", True, True),
        ("GET", None, False, False),
        ("PUT", [b"x"], None, False),
        ("PUT", [b"x"], True, False),
    ],
)
def test_what_may_be_sent_twice(
    method: str, body: OutgoingBody, given: bool | None, expected: bool
) -> None:
    """The method decides, or the caller; a body that comes in chunks can be sent only once."""
    request = OutgoingRequest(method=method, url="http://a", body=body, idempotent=given)

    assert expected == request.idempotent


@pytest.mark.parametrize("method", ["", "GE T", "CONNECT", "G\r\nET"])
def test_methods_that_cannot_be_sent(method: str) -> None:
    """What is no token, and what would make a tunnel, is refused."""
    with pytest.raises(ValueError, match="must be a token other than CONNECT"):
        OutgoingRequest(method=method, url="http://a")


@pytest.mark.parametrize("body", ["text", {"a": b""}, 5])
def test_bodies_that_are_not_bytes(body: object) -> None:
    """Text is refused, as the caller must choose its encoding."""
    with pytest.raises(TypeError, match="must be bytes, an iterable of bytes or None"):
        OutgoingRequest(url="http://a", body=body)  # type: ignore[arg-type] # is what is tested


def test_a_buffer_is_copied() -> None:
    """A bytearray that changes later does not change the request."""
    buffer: Any = bytearray(b"ab")
    assert b"ab" == OutgoingRequest(url="http://a", body=buffer).body


def test_repr_hides_the_url() -> None:
    """A URL may hold a token."""
    assert "<OutgoingRequest GET>" == repr(OutgoingRequest(url="http://a?token=secret"))


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["connect", "idle", "whole"])
def test_timeouts_are_positive(name: str, seconds: float) -> None:
    """Each of them is refused by its name."""
    with pytest.raises(ValueError, match=f"the {name} time-out must be seconds above 0"):
        Timeouts(**{name: seconds})
