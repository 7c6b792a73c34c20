"""Responses leave as the handler made them."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from durable_conformance.contract import Capability
from durable_conformance.deployment import Deployment, deployment_for
from durable_conformance.plugin import needs, requirement
from durable_conformance.programs import Gate, Program, Script, until
from durable_conformance.wire import Reply, WireError, head_of, patience
from durable_core import HTTPError, Response

_CHUNKS = (b"one ", b"", b"two ", b"x" * 100_000, b"three")


def _giving(value: Any) -> Program:
    """Return a program of one step that answers with a value, or what a function makes."""

    def program(request: Any, step: Any) -> Script:
        yield step.run("first", lambda: None)
        return value() if callable(value) else value

    return program


def _body(handler_kind: str, *parts: bytes | Gate | Exception) -> Any:
    """Return an iterator of the kind that goes with the handler: of chunks, gates and errors."""

    def chunks() -> Iterator[bytes]:
        for part in parts:
            if isinstance(part, Gate):
                part.wait_open(None)
            elif isinstance(part, Exception):
                raise part
            else:
                yield part

    async def async_chunks() -> AsyncIterator[bytes]:
        for chunk in chunks():
            yield chunk

    return chunks() if handler_kind == "sync" else async_chunks()


#: Sends what it is given, or what a function makes, as a handler's answer.
Show = Callable[[Any], Reply]


@pytest.fixture
def show(durable_subject: Any, handler_kind: str) -> Iterator[Show]:
    shown: list[Any] = []
    with deployment_for(durable_subject, handler_kind).serving(
        _giving(lambda: shown[-1])
    ) as server:

        def ask(value: Any) -> Reply:
            shown.append(value)
            return server.ask("GET", "/it")

        yield ask


@requirement("A1")
def test_statuses(deployment: Deployment) -> None:
    """Each status from 200 to 599 is sent as it is, whether or not it has a name."""
    statuses = [200, 201, 202, 299, 307, 400, 404, 418, 422, 451, 499, 500, 503, 599]

    def program(request: Any, step: Any) -> Script:
        status = int(request.query["status"])
        yield step.run("first", lambda: None)
        return Response(status=status, body=b"whatever")

    with deployment.serving(program) as server:
        replies = [server.ask("GET", f"/it?status={status}") for status in statuses]

    assert [(status, b"whatever") for status in statuses] == [
        (reply.status, reply.body) for reply in replies
    ]


@requirement("A2")
@pytest.mark.parametrize(
    ("value", "kind", "body"),
    [
        ({"a": [1, None]}, "application/json", b'{"a":[1,null]}'),
        (["x"], "application/json", b'["x"]'),
        ("All done", "application/json", b'"All done"'),
        (7, "application/json", b"7"),
        (None, "application/json", b"null"),
        (b"\x00\xff", "application/octet-stream", b"\x00\xff"),
    ],
)
def test_plain_values(show: Show, value: object, kind: str, body: bytes) -> None:
    """What a handler may return besides a Response: 200, as JSON, or as it is."""
    reply = show(value)

    assert (200, kind, body) == (reply.status, reply.get("content-type"), reply.body)


@requirement("A3")
@needs(Capability.REPEATED_FIELDS)
def test_repeated_fields_stay_apart(show: Show) -> None:
    """Each Set-Cookie is a field of its own, in order; none is joined, sorted or dropped."""
    cookies = ["b=2; Path=/", "a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT", "b=2; Path=/"]
    fields = [("set-cookie", cookie) for cookie in cookies]
    fields[1:1] = [("x-own", "1"), ("x-own", "2, 3")]
    reply = show(Response(headers=fields))

    assert cookies == reply.all("set-cookie")
    assert ["1", "2, 3"] == reply.all("x-own")


@requirement("A4")
def test_values_of_fields(show: Show) -> None:
    """They are sent whatever their length: long ones, empty ones, with inner spaces."""
    sent = {"x-long": "y" * 8000, "x-no": "", "x-inner": "a  b, c;d="}
    reply = show(Response(status=201, headers=sent, body=b"x"))

    assert sent == {name: value for name, value in reply.fields if name in sent}


@requirement("A16")
@needs(Capability.LATIN_1_FIELDS)
def test_latin_1_in_fields(show: Show) -> None:
    """An octet over 127 is sent as that octet."""
    sent = "caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{LATIN SMALL LETTER Y WITH DIAERESIS}"

    assert sent == show(Response(headers={"x-latin": sent}, body=b"x")).get("x-latin")


@requirement("A4")
def test_content_types(show: Show) -> None:
    """A content type is the handler's, to the letter."""
    sent = "text/x-own; charset=latin-1"

    assert sent == show(Response(headers={"content-type": sent}, body=b"x")).get("content-type")


@requirement("A5")
@pytest.mark.parametrize("size", [0, 1, 256, 65_537, 3 * 1024 * 1024])
def test_bodies(show: Show, size: int) -> None:
    """A body is sent to the byte, with its length."""
    body = random.Random(size).randbytes(size)
    reply = show(Response(body=body))

    assert body == reply.body
    assert str(size) == reply.get("content-length")


@requirement("A6")
@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_content(deployment: Deployment, status: int) -> None:
    """There is no body, and nothing is said about its length or coding."""
    with deployment.serving(_giving(Response(status=status, headers={"x-own": "1"}))) as server:
        fields = [("Connection", "close")]
        head = head_of("GET", "/it", server.host, fields)
        data = server.exchange(head)
        reply = server.ask("GET", "/it")

    assert b"" == data.partition(b"\r\n\r\n")[2]
    assert (status, "1", None) == (reply.status, reply.get("x-own"), reply.get("transfer-encoding"))
    assert status == 304 or reply.get("content-length") is None


@requirement("A7")
@pytest.mark.parametrize(
    "field",
    [
        ("content-length", "3"),
        ("content-length", "3000"),
        ("transfer-encoding", "chunked"),
        ("connection", "upgrade"),
    ],
)
def test_handlers_cannot_break_the_framing(show: Show, field: tuple[str, str]) -> None:
    """Fields that are the server's business do no harm: the body arrives all the same."""
    reply = show(Response(headers=[field, ("x-own", "1")], body=b"body"))

    assert (200, b"body", "1") == (reply.status, reply.body, reply.get("x-own"))


@requirement("A8")
def test_streamed_bodies_arrive(show: Show, handler_kind: str) -> None:
    """The chunks are sent in order, all of them, and the end is marked."""
    reply = show(Response(status=201, body=_body(handler_kind, *_CHUNKS)))

    assert (201, b"".join(_CHUNKS)) == (reply.status, reply.body)


@requirement("A8")
def test_a_streamed_body_may_be_empty(show: Show, handler_kind: str) -> None:
    """No chunks are an empty body."""
    assert b"" == show(Response(body=_body(handler_kind))).body


@requirement("A8")
def test_head_of_a_streamed_body(deployment: Deployment) -> None:
    """There are no chunks on the wire, and the run completes."""
    with deployment.serving(
        _giving(lambda: Response(body=_body(deployment.handler_kind, *_CHUNKS)))
    ) as server:
        head = head_of("HEAD", "/it", server.host, [("Connection", "close")])
        data = server.exchange(head)
        phases = server.phases()

    assert (b"HTTP/1.1 200", b"") == (data[:12], data.partition(b"\r\n\r\n")[2])
    assert ["completed"] == phases


@requirement("A8")
def test_a_run_that_streamed_is_complete(deployment: Deployment) -> None:
    """It is so when the last chunk has been made."""
    with deployment.serving(
        _giving(lambda: Response(body=_body(deployment.handler_kind, *_CHUNKS)))
    ) as server:
        server.ask("GET", "/it")
        assert ["completed"] == server.phases()


@requirement("A9")
def test_a_broken_stream_is_seen_to_be_broken(deployment: Deployment) -> None:
    """A client cannot take what it got for a whole body: it breaks off, or is no success."""
    error = ValueError("the database is gone")
    whole = False
    with deployment.serving(
        _giving(lambda: Response(body=_body(deployment.handler_kind, b"x" * 9, error)))
    ) as server:
        try:
            whole = server.ask("GET", "/it").status < 500
        except (WireError, ConnectionError):
            pass
        assert not whole
        assert ["failed"] == server.phases()


@requirement("A13")
@pytest.mark.parametrize("length", [3, 7, 12])
def test_a_stream_of_another_length(deployment: Deployment, length: int) -> None:
    """A stream that is not as long as it declares is not taken for whole, nor waited for."""
    response = lambda: Response(  # noqa: E731
        headers={"content-length": str(length)},
        body=_body(deployment.handler_kind, b"one ", b"two ", b"3"),
    )
    reply = None
    with deployment.serving(_giving(response)) as server:
        try:
            reply = server.ask("GET", "/it")
        except (WireError, ConnectionError):
            pass

    assert reply is None or reply.status >= 500 or reply.body == b"one two 3"


@requirement("A13")
def test_a_stream_of_its_own_length(deployment: Deployment) -> None:
    """One that keeps to it is whole, and its run completes."""
    response = lambda: Response(  # noqa: E731
        headers={"content-length": "9"}, body=_body(deployment.handler_kind, b"one ", b"two ", b"3")
    )
    with deployment.serving(_giving(response)) as server:
        assert b"one two 3" == server.ask("GET", "/it").body
        assert ["completed"] == server.phases()


@requirement("A14")
@needs(Capability.STREAMING)
def test_a_stream_whose_client_goes(deployment: Deployment) -> None:
    """Its body is closed, so that its run ends, long before all of it is made."""
    chunks = [b"x" * 65536] * 20_000
    with deployment.serving(
        _giving(lambda: Response(body=_body(deployment.handler_kind, *chunks)))
    ) as server:
        with server.connect() as connection:
            connection.send(head_of("GET", "/it", server.host))
            connection.receive_head()
        until(lambda: server.phases() == ["failed"], "the run ended")


@requirement("A15")
@needs(Capability.STREAMING)
@needs(Capability.CLIENT_DISCONNECT)
def test_an_idle_stream_whose_client_goes(deployment: Deployment) -> None:
    """That is noticed although nothing is sent."""
    ended, over = threading.Event(), threading.Event()

    def idle() -> Iterator[bytes]:
        try:
            yield b"first"
            while not over.wait(0.01):
                yield b""
        finally:
            ended.set()

    async def async_idle() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            while not over.is_set():
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    body = idle if deployment.handler_kind == "sync" else async_idle
    with deployment.serving(_giving(lambda: Response(body=body()))) as server:
        with server.connect() as connection:
            connection.send(head_of("GET", "/it", server.host))
            next(connection.pieces(connection.receive_head()))
        try:
            assert ended.wait(patience())
        finally:
            over.set()  # lest a server that has not noticed waits for it
        until(lambda: server.phases() == ["failed"], "the run ended")


@requirement("A10")
@needs(Capability.STREAMING)
def test_chunks_leave_as_they_are_made(deployment: Deployment) -> None:
    """The first is with the client while the second is not made yet."""
    gate = deployment.gate()
    body = lambda: Response(body=_body(deployment.handler_kind, b"first", gate, b"second"))  # noqa: E731
    with deployment.serving(_giving(body)) as server, server.connect() as connection:
        connection.send(head_of("GET", "/it", server.host))
        head = connection.receive_head()
        pieces = connection.pieces(head)
        first = next(pieces)
        gate.wait_reached()
        gate.open()
        rest = b"".join(pieces)

    assert (b"first", b"second") == (first, rest)


@requirement("A11")
def test_http_errors_of_handlers(deployment: Deployment) -> None:
    """An ``HTTPError`` is the response that it describes, as a problem document."""

    def program(request: Any, step: Any) -> Script:
        yield step.run("first", lambda: None)
        raise HTTPError(418, "no coffee", {"x-own": "yes"})

    with deployment.serving(program) as server:
        reply = server.ask("GET", "/it")

    assert (418, "yes") == (reply.status, reply.get("x-own"))
    assert "application/problem+json" == reply.get("content-type")
    assert (418, "no coffee") == (reply.json()["status"], reply.json()["detail"])


@requirement("A12")
def test_plain_functions_that_fail(deployment: Deployment) -> None:
    """A bug is answered with 500, tells nothing about itself, and harms no other request."""

    def broken(request: Any) -> object:
        raise RuntimeError("a secret of the server")

    with deployment.serving(
        more=lambda _: {"GET /broken": broken, "GET /ok": lambda _: "ok"}
    ) as server:
        reply = server.ask("GET", "/broken")
        assert "ok" == server.ask("GET", "/ok").json()

    assert 500 == reply.status
    assert b"secret" not in reply.body
