"""Bad input gets a clear answer and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from durable_conformance.contract import Capability
from durable_conformance.deployment import LiveServer, deployment_for
from durable_conformance.plugin import needs, requirement
from durable_conformance.programs import CallLog, Script
from durable_conformance.wire import head_of
from durable_core import Limits, Request

_LIMITS = Limits(body=1000, head=4096)


@pytest.fixture
def call_log() -> CallLog:
    return CallLog()


@pytest.fixture
def server(durable_subject: Any, handler_kind: str, call_log: CallLog) -> Iterator[LiveServer]:
    def program(request: Request, step: Any) -> Script:
        size = yield step.run("work", call_log.record, "work", len(request.body))
        return size

    deployment = deployment_for(durable_subject, handler_kind)
    with deployment.serving(program, limits=_LIMITS, methods="POST") as served:
        yield served


@pytest.fixture
def untouched(server: LiveServer, call_log: CallLog) -> Iterator[None]:
    """Nothing has run when the case ends, and the server still serves."""
    before = call_log.count("work")
    yield
    assert before == call_log.count("work")
    assert 4 == server.ask("POST", "/it", body=b"good").json()


def _status(data: bytes) -> int:
    """Return the status of an answer; 0 if there is none, or one without a head (HTTP/0.9)."""
    return int(data.split(b" ", 2)[1]) if data.startswith(b"HTTP/1.") else 0


@requirement("B1")
@pytest.mark.parametrize(
    "head",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST /it HTTP/1.1\r\nHost: x\r\nno colon\r\nContent-Length: 0\r\n\r\n",
        b"POST /it HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST /it HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /it HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody5",
        b"POST /it HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: odd\r\n\r\n0\r\n\r\n",
        b"POST /it HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n"
        b"4\r\nbody\r\n0\r\n\r\n",
        b"POST /it HTTP/1.1\r\nHost: x\r\nHost: y\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=[
        *("garbage", "tls", "no-colon", "length-word", "length-negative", "lengths", "coding"),
        *("coding-and-length", "hosts"),
    ],
)
@pytest.mark.usefixtures("untouched")
def test_malformed_requests(server: LiveServer, head: bytes) -> None:
    """They are refused, or the connection is closed; no handler sees them."""
    status = _status(server.exchange(head, end=True))

    assert status == 0 or 400 <= status < 600


@requirement("B2")
@pytest.mark.usefixtures("untouched")
def test_a_body_over_the_limit(server: LiveServer) -> None:
    """413 as a problem document, with no run."""
    reply = server.ask("POST", "/it", body=b"x" * 1001)

    assert (413, "application/problem+json") == (reply.status, reply.get("content-type"))


@requirement("B2")
@pytest.mark.usefixtures("untouched")
def test_a_body_over_the_limit_is_not_waited_for(server: LiveServer) -> None:
    """An announced length is enough to be refused."""
    with server.connect() as connection:
        connection.send(head_of("POST", "/it", server.host, [("Content-Length", "99999999999")]))
        assert 413 == connection.receive().status


@requirement("B2")
@needs(Capability.EXPECT_CONTINUE)
@pytest.mark.usefixtures("untouched")
def test_a_body_over_the_limit_is_not_asked_for(server: LiveServer) -> None:
    """A client that waits for ``100 Continue`` is refused in its place."""
    fields = [("Content-Length", "1001"), ("Expect", "100-continue")]
    with server.connect() as connection:
        connection.send(head_of("POST", "/it", server.host, fields))
        assert 413 == connection.receive_head().status


@requirement("B2")
def test_a_body_at_the_limit(server: LiveServer) -> None:
    """The limit itself is allowed."""
    assert 1000 == server.ask("POST", "/it", body=b"x" * 1000).json()


@requirement("B3")
@needs(Capability.HEAD_LIMIT)
@pytest.mark.parametrize("where", ["target", "field", "fields"])
@pytest.mark.usefixtures("untouched")
def test_a_head_over_the_limit(server: LiveServer, where: str) -> None:
    """431, wherever in the head it is too much."""
    target = "/it?" + "x" * 5000 if where == "target" else "/it"
    fields = {"field": [("X-Own", "y" * 5000)], "fields": [("X-Own", "y" * 90)] * 60}
    sent = [*fields.get(where, []), ("Content-Length", "0")]
    with server.connect() as connection:
        connection.send(head_of("POST", target, server.host, sent))
        assert 431 == connection.receive().status


@requirement("B4")
@pytest.mark.usefixtures("untouched")
def test_a_body_that_is_cut_off(server: LiveServer) -> None:
    """A handler sees a request whole, or not at all."""
    head = head_of("POST", "/it", server.host, [("Content-Length", "10")])
    status = _status(server.exchange(head + b"four", end=True))

    assert status in (0, 400, 408)


@requirement("B4")
@pytest.mark.usefixtures("untouched")
def test_chunks_are_taken_or_refused(server: LiveServer, call_log: CallLog) -> None:
    """A chunked body is never taken for none."""
    head = head_of("POST", "/it", server.host, [("Transfer-Encoding", "chunked")])
    with server.connect() as connection:
        connection.send(head + b"2\r\nab\r\n0\r\n\r\n")
        reply = connection.receive()

    if reply.status == 200:
        assert 2 == reply.json()
        call_log.take_back("work")
    else:
        assert reply.status in (400, 411, 501)


@requirement("B5")
@pytest.mark.usefixtures("untouched")
def test_no_such_path(server: LiveServer) -> None:
    """404 as a problem document."""
    reply = server.ask("POST", "/nothing-here")

    assert (404, "application/problem+json") == (reply.status, reply.get("content-type"))


@requirement("B5")
@pytest.mark.usefixtures("untouched")
def test_another_method(server: LiveServer) -> None:
    """405 with the methods that there are."""
    reply = server.ask("DELETE", "/it")

    assert 405 == reply.status
    assert {"OPTIONS", "POST"} == set((reply.get("allow") or "").split(", "))
