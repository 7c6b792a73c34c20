"""From ``Response`` objects to the bytes that are sent."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_asyncio._connection import Connection
from durable_asyncio._timeouts import Timeouts
from durable_core import Request, Response
from support.asyncio_exchange import Sink, converse, replies_in
from support.raw_http import Reply

ALL_BYTES = bytes(range(256))


class Chunks:
    """A body that notes what is done with it."""

    def __init__(self, *chunks: Any, error: BaseException | None = None) -> None:
        self.taken = self.closed = 0
        self.threads: set[int] = set()
        self._chunks = chunks
        self._error = error

    def take(self) -> Any:
        self.threads.add(threading.get_ident())
        if self.taken < len(self._chunks):
            self.taken += 1
            return self._chunks[self.taken - 1]
        if self._error is not None:
            raise self._error
        return None


class AsyncChunks(Chunks, AsyncIterator[bytes]):
    async def __anext__(self) -> bytes:
        if (chunk := self.take()) is None:
            raise StopAsyncIteration
        return chunk  # type: ignore[no-any-return] # also of wrong types

    async def aclose(self) -> None:
        self.closed += 1


class SyncChunks(Chunks, Iterator[bytes]):
    def __next__(self) -> bytes:
        if (chunk := self.take()) is None:
            raise StopIteration
        return chunk  # type: ignore[no-any-return] # also of wrong types

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed += 1


Kind = type[AsyncChunks] | type[SyncChunks]
both_kinds = pytest.mark.parametrize("kind", [AsyncChunks, SyncChunks])


def sent(
    response: Response,
    *,
    method: str = "GET",
    version: str = "1.1",
    patience: int = 1000,
    slow: int = 0,
    broken: OSError | None = None,
) -> Sink:
    """Return what a client gets that asks once and then waits for the end."""

    async def application(request: Request) -> Response:
        return response

    def set_up(connection: Connection, sink: Sink) -> None:
        sink.patience, sink.slow, sink.broken = patience, slow, broken

    data = f"{method} / HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n"
    return converse(application, data.encode(), None, timeouts=Timeouts(write=0.05), before=set_up)


def reply_to(response: Response, method: str = "GET", version: str = "1.1") -> Reply:
    """Return the response as a client sees it."""
    sink = sent(response, method=method, version=version)
    [reply] = replies_in(sink.data, method)
    assert (True, False) == (sink.closed, sink.cut)
    return reply


# Head


@given(
    st.lists(st.sampled_from([("X-One", "a"), ("x-one", "b"), ("Set-Cookie", "é\t="), ("y", "")]))
)
def test_fields_leave(fields: list[tuple[str, str]]) -> None:
    """Header fields leave in order, repeated ones too."""
    reply = reply_to(Response(headers=fields))

    assert [(name.lower(), value) for name, value in fields] == list(reply.headers[: len(fields)])


@pytest.mark.parametrize(
    ("status", "reason"), [(200, "OK"), (418, "I'm a Teapot"), (299, ""), (599, "")]
)
def test_statuses(status: int, reason: str) -> None:
    """Statuses leave as they are; those that nobody has registered have no phrase."""
    reply = reply_to(Response(status=status, body=b"x"))

    assert (status, reason, b"x") == (reply.status, reply.reason, reply.body)


def test_what_the_server_adds() -> None:
    """There is a length, a date and the end of the connection, and no name of the server."""
    reply = reply_to(Response(body=b"12345"))

    assert ["content-length", "date", "connection"] == [name for name, _ in reply.headers]
    assert "5" == reply.get("content-length")
    assert parsedate_to_datetime(reply.get("date") or "").tzinfo is not None


def test_a_date_of_the_handlers_stays() -> None:
    """One that passes on somebody else's response may pass on its date."""
    reply = reply_to(Response(headers={"Date": "yesterday"}))

    assert ["yesterday"] == reply.get_all("date")


def test_a_wrong_length_is_put_right() -> None:
    """A whole body has its own length, whatever the handler says."""
    reply = reply_to(Response(headers={"Content-Length": "7"}, body=b"12"))

    assert (["2"], b"12") == (reply.get_all("content-length"), reply.body)


@pytest.mark.parametrize(
    "name", ["Connection", "keep-alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade"]
)
def test_fields_of_the_server_are_dropped(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is about the connection is not a handler's to say; the log tells so."""
    reply = reply_to(Response(headers={name: "keep-alive"}, body=b"1"))

    assert ("close", b"1") == (reply.get("connection"), reply.body)
    assert {"content-length", "date", "connection"} == {name for name, _ in reply.headers}
    assert [f"the response header {name!r} was dropped: only the server may set it"] == [
        record.getMessage() for record in caplog.records
    ]


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("body", [b"", b"unwanted", SyncChunks(b"unwanted")])
def test_statuses_without_content(status: int, body: Any) -> None:
    """They have neither a body nor a length."""
    reply = reply_to(Response(status=status, headers={"content-length": "8"}, body=body))

    assert (b"", None) == (reply.body, reply.get("content-length"))
    assert reply.get("transfer-encoding") is None


# Whole bodies


@pytest.mark.parametrize("body", [b"", b"x", ALL_BYTES, ALL_BYTES * 5000])
def test_whole_bodies(body: bytes) -> None:
    """All octets leave."""
    assert body == reply_to(Response(body=body)).body


@pytest.mark.parametrize("body", [b"", ALL_BYTES])
def test_to_head_only_the_length_is_told(body: bytes) -> None:
    """HEAD gets the fields that GET would get."""
    reply = reply_to(Response(body=body), "HEAD")

    assert (b"", str(len(body))) == (reply.body, reply.get("content-length"))


def test_to_head_the_handler_may_tell_the_length() -> None:
    """A handler that answers HEAD itself need not make the body."""
    reply = reply_to(Response(headers={"content-length": "1000"}), "HEAD")

    assert ["1000"] == reply.get_all("content-length")


# Streamed bodies


@both_kinds
def test_streams(kind: Kind) -> None:
    """Chunks leave as they are, empty ones not at all, and the body is closed, once."""
    body = kind(b"one", b"", bytearray(b"two"), memoryview(b"three"))

    sink = sent(Response(body=body))

    [reply] = replies_in(sink.data, "GET")
    assert ("chunked", b"onetwothree") == (reply.get("transfer-encoding"), reply.body)
    assert b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n" in sink.data
    assert (4, 1) == (body.taken, body.closed)


@both_kinds
def test_streams_to_http_1_0(kind: Kind) -> None:
    """Such a client knows no chunks: the end of the connection is the end of the body."""
    reply = reply_to(Response(body=kind(b"one", b"two")), version="1.0")

    assert ("close", None) == (reply.get("connection"), reply.get("transfer-encoding"))
    assert b"onetwo" == reply.body


@both_kinds
def test_streams_to_head(kind: Kind) -> None:
    """To HEAD nothing is sent, but all is done, and the body closed."""
    body = kind(b"one", b"two")

    reply = reply_to(Response(body=body), "HEAD")

    assert ("chunked", b"") == (reply.get("transfer-encoding"), reply.body)
    assert (2, 1) == (body.taken, body.closed)


@both_kinds
def test_streams_with_a_length(kind: Kind) -> None:
    """A handler that knows the length of its stream may say so."""
    reply = reply_to(Response(headers={"content-length": "6"}, body=kind(b"one", b"two")))

    assert ("6", None, b"onetwo") == (
        reply.get("content-length"),
        reply.get("transfer-encoding"),
        reply.body,
    )


def test_plain_iterables_have_a_thread_of_their_own() -> None:
    """One thread makes all chunks and closes the body, and it is not the event loop's."""
    body = SyncChunks(b"one", b"two")

    sent(Response(body=body))

    assert 1 == len(body.threads)
    assert threading.get_ident() not in body.threads


@pytest.mark.parametrize("broken", [ConnectionResetError(), BrokenPipeError(), None])
def test_generators_are_ended(broken: OSError | None) -> None:
    """A generator whose client is gone, or takes nothing more, does not go on."""
    ended = []

    def chunks() -> Iterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            ended.append("plain")

    async def async_chunks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            ended.append("async")

    for body in (chunks(), async_chunks()):
        assert sent(Response(body=body), patience=3, broken=broken).cut

    assert ["plain", "async"] == ended


@both_kinds
def test_a_body_that_is_not_begun_is_closed(kind: Kind) -> None:
    """Also where the head could not be sent."""
    body = kind(b"one")

    sink = sent(Response(body=body), patience=0, broken=BrokenPipeError())

    assert (0, 1, True) == (body.taken, body.closed, sink.cut)


# Failures


@both_kinds
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_stream_that_breaks_is_cut(
    kind: Kind, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client must see that there should be more; the log has the traceback."""
    body = kind(b"one", error=RuntimeError("out of chunks"))

    sink = sent(Response(body=body), version=version)

    assert (True, False, 1) == (sink.cut, sink.closed, body.closed)
    assert b"one" in sink.data
    assert not sink.data.endswith(b"0\r\n\r\n")
    [record] = caplog.records
    assert "the response to GET / broke" == record.getMessage()
    assert record.exc_info is not None
    assert "out of chunks" == str(record.exc_info[1])


@both_kinds
@pytest.mark.parametrize("chunk", ["text", 5, [b"x"]])
def test_chunks_must_be_bytes(kind: Kind, chunk: object, caplog: pytest.LogCaptureFixture) -> None:
    """Anything else is an error of the handler's."""
    body = kind(chunk)

    assert sent(Response(body=body)).cut
    assert 1 == body.closed
    assert "must be bytes, not" in caplog.text


@both_kinds
@pytest.mark.parametrize("length", ["5", "7"])
def test_a_stream_of_another_length_is_cut(
    kind: Kind, length: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A response that is longer or shorter than it says is not sent to its end."""
    body = kind(b"one", b"two")

    sink = sent(Response(headers={"content-length": length}, body=body))

    assert (True, 1) == (sink.cut, body.closed)
    assert len(sink.data.partition(b"\r\n\r\n")[2]) < int(length)
    assert "content-length" in caplog.text


@both_kinds
def test_a_length_that_is_none_is_dropped(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """The body is sent without it, and the log says so."""
    reply = reply_to(Response(headers={"content-length": "five"}, body=kind(b"one")))

    assert (200, b"one", None) == (reply.status, reply.body, reply.get("content-length"))
    assert "it is not one number" in caplog.text


class Unclosable(AsyncChunks):
    async def aclose(self) -> None:
        raise RuntimeError("it is stuck")


def test_a_body_that_cannot_be_closed_was_sent_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """That is logged, and the response stays whole."""
    assert b"one" == reply_to(Response(body=Unclosable(b"one"))).body
    assert "it is stuck" in caplog.text


def test_a_slow_client_is_cut_off() -> None:
    """Nobody waits for ever for a client that takes nothing of a large body."""
    sink = sent(Response(body=b"x" * 200_000), patience=2)

    assert (True, False) == (sink.cut, sink.closed)
    assert 3 * 65536 == len(sink.data)


def test_a_slow_client_that_takes_something_gets_all() -> None:
    """The time begins anew whenever it has taken a part, as between two writes."""
    sink = sent(Response(body=b"x" * 200_000), patience=2, slow=4)

    assert (False, True) == (sink.cut, sink.closed)
    assert bytes(sink.data).endswith(b"x" * 200_000)


def test_answers_are_logged_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    """A query may hold a token, and a path that is decoded a line that looks like the log's."""

    async def application(request: Request) -> Response:
        return Response(status=404)

    data = b"GET /a%0Ab?durable-token=secret HTTP/1.1\r\nHost: x\r\n\r\nGET bad HTTP/1.1\r\n\r\n"
    with caplog.at_level(logging.DEBUG, "durable"):
        converse(application, data, None)

    assert [
        "GET /a%0Ab 404",
        "a request was refused: 400 the head of the request is malformed",
    ] == [record.getMessage() for record in caplog.records]
