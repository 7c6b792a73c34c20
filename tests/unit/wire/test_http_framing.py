"""Where the body of a response ends."""

from __future__ import annotations

import pytest

from durable_core.errors import ProtocolError
from durable_core.http.headers import Headers
from durable_core.model.outgoing import ResponseHead
from durable_core.wire.http_framing import Framing, framing_of


def framed(headers: dict[str, str], *, method: str = "GET", minor: int = 1) -> Framing:
    return framing_of(method, minor, ResponseHead(status=200, headers=Headers(headers)))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, Framing(until_close=True, keeps_alive=False)),
        ({"Content-Length": "3"}, Framing(length=3)),
        ({"Content-Length": "3", "Connection": "x, Close"}, Framing(length=3, keeps_alive=False)),
        ({"Transfer-Encoding": "Chunked"}, Framing(chunked=True)),
    ],
)
def test_framing(headers: dict[str, str], expected: Framing) -> None:
    """Names and options are read without regard to case."""
    assert expected == framed(headers)


def test_an_old_server_keeps_connections_only_when_it_says_so() -> None:
    """HTTP/1.0 closes by default."""
    assert Framing(length=3, keeps_alive=False) == framed({"content-length": "3"}, minor=0)


def test_other_transfer_codings_are_refused() -> None:
    """The message names what is understood."""
    with pytest.raises(ProtocolError, match="only 'chunked' is understood"):
        framed({"transfer-encoding": "gzip"})
