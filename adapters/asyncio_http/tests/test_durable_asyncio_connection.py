"""What happens on one connection over time, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from durable_asyncio import Timeouts
from durable_asyncio._connection import Connection
from durable_core import Request, Response
from support.asyncio_exchange import Sink, conversation, converse, replies_in
from support.harness import until_async

GET = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000\r\n\r\n"


async def answer(request: Request) -> Response:
    return Response.text(request.path)


class Waiting:
    """An application that waits until the client has sent more, or is gone."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.asked: list[str] = []
        self._connection: Connection | None = None

    def set_up(self, connection: Connection, sink: Sink) -> None:
        self._connection = connection

    async def __call__(self, request: Request) -> Response:
        self.asked.append(request.path)
        assert self._connection is not None
        try:
            if request.path == "/wait":
                connection = self._connection
                await until_async(lambda: connection._incoming)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Response.text(request.path)


def test_a_client_that_goes_cancels_its_request() -> None:
    """The end of the connection is noticed while the request is answered."""
    application = Waiting()

    sink = converse(application, GET % b"wait", before=application.set_up)

    assert (["/wait"], 1) == (application.asked, application.cancelled)
    assert (b"", True) == (bytes(sink.data), sink.cut)


def test_a_client_that_has_said_all_may_wait_a_little() -> None:
    """A half-closed connection gets an answer that does not take long."""

    async def application(request: Request) -> Response:
        await asyncio.sleep(0.05)  # so long that the client is watched
        return Response.text("here")

    sink = converse(application, GET % b"x")

    assert (b"here", True) == (replies_in(sink.data, "GET")[0].body, sink.closed)


def test_requests_that_are_sent_ahead_are_kept() -> None:
    """Bytes that come while the client is watched belong to the next request, all of them."""
    application = Waiting()

    pieces = (GET % b"wait", LAST[:1], LAST[1:7], LAST[7:], None)
    sink = converse(application, *pieces, before=application.set_up)

    assert (["/wait", "/last"], 0) == (application.asked, application.cancelled)
    assert [b"/wait", b"/last"] == [r.body for r in replies_in(sink.data, "GET", "GET")]
    assert sink.closed


def test_a_client_that_sends_very_much_ahead_is_answered() -> None:
    """What it sends is not taken in without limit while one request is being answered."""
    seen: list[int] = []

    async def application(request: Request) -> Response:
        if request.path == "/first":
            buffer = connections[0]._incoming._buffer
            await until_async(lambda: len(buffer) >= 65536)
            for _ in range(100):  # in which more would come in, if it was wanted
                await asyncio.sleep(0)
            seen.append(len(buffer))
        return Response()

    connections: list[Connection] = []
    padded = GET.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 2000 + b"\r\n\r\n")
    pieces = (GET % b"first", *[padded % b"more"] * 100, LAST)
    sink = converse(application, *pieces, before=lambda made, _: connections.append(made))

    assert 102 == len(replies_in(sink.data, *["GET"] * 102))
    assert seen[0] < 2 * 65536


def test_a_cancellation_from_elsewhere_passes() -> None:
    """Only the watch's own cancellation means that the client is gone."""

    async def main() -> Sink:
        waiting = asyncio.Event()

        async def application(request: Request) -> Response:
            waiting.set()
            await asyncio.get_running_loop().create_future()
            raise AssertionError("nothing ends this wait but a cancellation")

        sinks: list[Sink] = []
        connections: list[Connection] = []

        def set_up(connection: Connection, sink: Sink) -> None:
            connections.append(connection)
            sinks.append(sink)

        serving = asyncio.create_task(conversation(application, GET % b"x", None, before=set_up))
        await waiting.wait()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        return sinks[0]

    assert asyncio.run(main()).cut


# Time-outs


@pytest.mark.parametrize(
    ("pieces", "slow"),
    [
        ((b"G",), "head"),
        ((GET[:-1],), "head"),
        ((POST,), "body"),
        ((POST, b"x" * 50), "body"),
        ((b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",), "body"),
    ],
)
def test_unfinished_requests_get_408(pieces: tuple[bytes, ...], slow: str) -> None:
    """A client that does not go on with its request is told so."""
    timeouts = Timeouts(**{"head": 5.0, "body": 5.0, "keep_alive": 5.0, slow: 0.02})

    sink = converse(answer, *pieces, None, timeouts=timeouts)

    [reply] = replies_in(sink.data, "GET")
    assert (408, "close", True) == (reply.status, reply.get("connection"), sink.closed)


@pytest.mark.parametrize(("pieces", "slow"), [((), "head"), ((GET % b"",), "keep_alive")])
def test_idle_connections_are_closed(pieces: tuple[bytes, ...], slow: str) -> None:
    """A client that sends nothing is told nothing."""
    timeouts = Timeouts(**{"head": 5.0, "body": 5.0, "keep_alive": 5.0, slow: 0.02})

    sink = converse(answer, *pieces, None, timeouts=timeouts)

    assert len(pieces) == len(replies_in(sink.data, *["GET"] * len(pieces)))
    assert sink.closed


def test_dripping_heads_come_too_late() -> None:
    """The time is for the whole head: a byte now and then does not extend it."""
    timeouts = Timeouts(head=0.1)
    drops = [bytes([byte]) for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000]

    sink = converse(answer, *drops, None, timeouts=timeouts)

    assert 408 == replies_in(sink.data, "GET")[0].status


def test_bodies_that_go_on_have_more_time() -> None:
    """Each 1,000 bytes are worth a second."""
    timeouts = Timeouts(body=0.01)
    pieces: list[bytes | float] = [b"x" * 1000, 0.05, b"x", 0.05, b"x" * 999, 0.05, b"x" * 1000]

    async def slowly(request: Request) -> Response:
        return Response.text(str(len(request.body)))

    sink = converse(slowly, POST, *pieces, GET % b"", timeouts=timeouts)

    assert [b"3000", b"0"] == [r.body for r in replies_in(sink.data, "POST", "GET")]


# Draining


@pytest.mark.parametrize("pieces", [(), (GET % b"x",)])
def test_draining_ends_idle_connections(pieces: tuple[bytes, ...]) -> None:
    """They are closed without a word, and those that become idle are not waited for."""
    endless = Timeouts(head=1000, keep_alive=1000)

    async def main() -> Sink:
        async with asyncio.timeout(20):
            return await conversation(answer, *pieces, None, timeouts=endless, before=drained)

    def drained(connection: Connection, sink: Sink) -> None:
        connection.drain()

    sink = asyncio.run(main())

    assert (b"", True) == (bytes(sink.data), sink.closed)


@pytest.mark.parametrize("pieces", [(b"GET",), (POST, b"x")])
def test_draining_refuses_unfinished_requests(pieces: tuple[bytes, ...]) -> None:
    """A client that is still sending is asked to come again later."""

    async def main() -> Sink:
        made: list[tuple[Connection, Sink]] = []
        task = asyncio.create_task(
            conversation(answer, *pieces, None, before=lambda *each: made.append(each))
        )
        await asyncio.sleep(0)  # it begins
        [(connection, sink)] = made
        await sink.waited_for.wait()
        connection.drain()
        return await task

    sink = asyncio.run(main())

    [reply] = replies_in(sink.data, "GET")
    assert (503, "1", "close") == (reply.status, reply.get("retry-after"), reply.get("connection"))


def test_the_answer_in_flight_is_the_last() -> None:
    """It says that the connection ends, and what was sent ahead gets no answer."""
    connections: list[Connection] = []

    async def application(request: Request) -> Response:
        connections[0].drain()
        return Response.text(request.path)

    data = GET % b"1" + GET % b"2"
    sink = converse(application, data, None, before=lambda made, _: connections.append(made))

    [reply] = replies_in(sink.data, "GET")
    assert (b"/1", "close", True) == (reply.body, reply.get("connection"), sink.closed)


def test_a_stream_in_flight_is_the_last_answer() -> None:
    """Also where its head could not say so any more."""
    connections: list[Connection] = []

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one "
        connections[0].drain()
        yield b"two"

    async def application(request: Request) -> Response:
        return Response(body=chunks())

    data = GET % b"1" + GET % b"2"
    sink = converse(application, data, None, before=lambda made, _: connections.append(made))

    [reply] = replies_in(sink.data, "GET")
    assert (b"one two", None, True) == (reply.body, reply.get("connection"), sink.closed)
