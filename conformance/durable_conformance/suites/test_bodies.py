"""Bodies of requests reach the handler as they were sent, however they were sent."""

from __future__ import annotations

import gzip
import random

import pytest

from durable_conformance.contract import Capability
from durable_conformance.deployment import LiveServer
from durable_conformance.plugin import needs, requirement
from durable_conformance.wire import Reply, head_of

_MIB = 1024 * 1024


def _body_seen(reply: Reply) -> bytes:
    """Return the body that the handler saw; what the server refused, it did not see."""
    assert 200 == reply.status, f"the answer is {reply.status}: {reply.body[:500]!r}"
    return bytes.fromhex(reply.json()["body"])


@requirement("Q9")
@pytest.mark.parametrize("size", [0, 1, 255, 65_537, _MIB])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_bodies_arrive(echo: LiveServer, method: str, size: int) -> None:
    """A body is the one that was sent, to the byte, up to the limit."""
    body = random.Random(size).randbytes(size)

    assert body == _body_seen(echo.ask(method, "/echo/x", body=body))


@requirement("Q9")
def test_a_body_in_pieces(echo: LiveServer) -> None:
    """How the network cuts it is nobody's business."""
    body = bytes(range(256))
    fields = [("Content-Length", str(len(body))), ("Connection", "close")]
    data = head_of("PUT", "/echo/x", echo.host, fields) + body
    with echo.connect() as connection:
        for start in range(0, len(data), 61):
            connection.send(data[start : start + 61])
        seen = _body_seen(connection.receive())

    assert body == seen


@requirement("Q9")
def test_no_body(echo: LiveServer) -> None:
    """Without an announced length there is none, and nobody waits for one."""
    assert b"" == _body_seen(echo.ask("POST", "/echo/x"))


@requirement("Q9")
def test_content_codings_are_the_handlers_business(echo: LiveServer) -> None:
    """A body arrives as it was sent, also a compressed one."""
    body = gzip.compress(b"hello")
    fields = (("Content-Encoding", "gzip"),)

    assert body == _body_seen(echo.ask("POST", "/echo/x", fields=fields, body=body))


@requirement("Q10")
@needs(Capability.CHUNKED_REQUESTS)
@pytest.mark.parametrize("sizes", [(1,) * 20, (0,), (10, 1000, 3), (100_000,)])
def test_chunked_bodies_arrive(echo: LiveServer, sizes: tuple[int, ...]) -> None:
    """They are put together again; extensions and trailers are not part of them."""
    chunks = [random.Random(size).randbytes(size) for size in sizes if size]
    fields = [("Transfer-Encoding", "chunked"), ("Connection", "close")]
    with echo.connect() as connection:
        connection.send(head_of("POST", "/echo/x", echo.host, fields))
        for chunk in chunks:
            connection.send(b"%X;ext=1\r\n%b\r\n" % (len(chunk), chunk))
        connection.send(b"0\r\nX-Trailer: 1\r\n\r\n")
        seen = _body_seen(connection.receive())

    assert b"".join(chunks) == seen


@requirement("Q11")
@needs(Capability.EXPECT_CONTINUE)
def test_the_body_is_asked_for(echo: LiveServer) -> None:
    """A client that waits for ``100 Continue`` gets it, and then the answer."""
    fields = [("Expect", "100-continue"), ("Content-Length", "4"), ("Connection", "close")]
    with echo.connect() as connection:
        connection.send(head_of("POST", "/echo/x", echo.host, fields))
        assert 100 == connection.receive_head().status
        connection.send(b"body")
        assert b"body" == _body_seen(connection.receive())


@requirement("Q12")
@needs(Capability.KEEP_ALIVE)
def test_one_request_after_the_other(echo: LiveServer) -> None:
    """Each on one connection gets its own answer, also when they are sent ahead."""
    bodies = [b"first", b"", b"third" * 1000]
    with echo.connect() as connection:
        for body in bodies:
            fields = [("Content-Length", str(len(body)))]
            connection.send(head_of("POST", "/echo/x", echo.host, fields) + body)
        seen = [_body_seen(connection.receive()) for _ in bodies]

    assert bodies == seen
