"""Responses whose bodies are still coming."""

from __future__ import annotations

import pytest

from durable_core.errors import ConnectionLostError
from durable_core.runtime.http.response import IncomingResponse
from durable_core.wire.http_response import ResponseParser

HEAD = b"HTTP/1.1 203 Fine\r\nx-a: b\r\n"


class Taken(IncomingResponse[bytes]):
    """Shows what a client goes through."""

    def take(self) -> bytes | None:
        return self._take()


def response_to(data: bytes) -> tuple[Taken, ResponseParser, list[bool]]:
    """Return a response of which these bytes have come, its parser, and what closing it gives."""
    parser = ResponseParser("GET")
    parser.feed(data)
    assert parser.head is not None
    done: list[bool] = []
    return Taken(parser, parser.head, bytes, done.append), parser, done


def test_head() -> None:
    """It is there from the beginning."""
    response, _, _ = response_to(HEAD + b"\r\n")

    assert (203, "b") == (response.status, response.headers["x-a"])
    assert not response.is_delimited


def test_body() -> None:
    """It is taken as it comes, to its end."""
    response, parser, done = response_to(HEAD + b"content-length: 4\r\n\r\nab")

    assert response.is_delimited
    assert [b"ab", b""] == [response.take(), response.take()]
    parser.feed(b"cd")
    assert [b"cd", None, None] == [response.take(), response.take(), response.take()]
    assert [] == done


@pytest.mark.parametrize(("body", "reusable"), [(b"ab", True), (b"a", False)])
def test_closing(body: bytes, reusable: bool) -> None:
    """It lets the connection go once, and says whether that can be used again."""
    response, _, done = response_to(HEAD + b"content-length: 2\r\n\r\n" + body)
    response.close()
    response.close()

    assert [reusable] == done


def test_what_has_come_can_be_taken_from_a_closed_response() -> None:
    """More would have to be received, and there is no connection any more."""
    response, _, _ = response_to(HEAD + b"content-length: 2\r\n\r\na")
    response.close()

    assert b"a" == response.take()
    with pytest.raises(ConnectionLostError, match="closed before its body was read"):
        response.take()
