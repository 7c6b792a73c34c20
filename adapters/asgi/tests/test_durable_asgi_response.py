"""From responses to ASGI messages."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_asgi._exchange import ASGIExchange
from durable_asgi._types import Send
from durable_core import Response
from durable_core.adapters import converse_async
from support.asgi_exchange import Exchange, http_scope
from support.recording_app import RecordingApp


async def send_response(response: Response, exchange: Exchange, send: Send | None = None) -> None:
    """Have a response sent."""
    own = ASGIExchange(exchange.scope, exchange.receive, send or exchange.send)
    await converse_async(RecordingApp(response), own)


def sent(response: Response, *, head: bool = False) -> Exchange:
    """Return an exchange in which this response has been sent."""
    exchange = Exchange(http_scope(method="HEAD" if head else "GET"))
    asyncio.run(send_response(response, exchange))
    return exchange


class Chunks:
    """A body that notes what is done with it."""

    def __init__(self, *chunks: Any, error: Exception | None = None) -> None:
        self.taken = 0
        self.closed = 0
        self.threads: set[int] = set()
        self._chunks = chunks
        self._error = error

    def take(self) -> bytes | None:
        self.threads.add(threading.get_ident())
        if self.taken < len(self._chunks):
            self.taken += 1
            chunk: bytes = self._chunks[self.taken - 1]
            return chunk
        if self._error is not None:
            raise self._error
        return None


class AsyncChunks(Chunks, AsyncIterator[bytes]):
    async def __anext__(self) -> bytes:
        if (chunk := self.take()) is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        self.closed += 1


class SyncChunks(Chunks, Iterator[bytes]):
    def __next__(self) -> bytes:
        if (chunk := self.take()) is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed += 1


class Cycle:
    """What uvicorn has for each request, with its ``send``."""

    __module__ = "uvicorn.protocols.http.h11_impl"

    def __init__(self) -> None:
        self.flow = self
        self.write_paused = False
        self.is_changed = False
        self.messages: list[Any] = []

    async def send(self, message: Any) -> None:
        if self.is_changed:
            await asyncio.sleep(0)
        self.messages.append(message)


def test_uvicorn_takes_parts_without_waiting() -> None:
    """Unless the client is behind; if it waited after all, that would be an error."""

    async def exchange() -> list[object]:
        cycle = Cycle()
        own = ASGIExchange(http_scope(), Exchange(http_scope()).receive, cycle.send)
        seen: list[object] = [own.is_ready()]
        await own.begin(200, [("content-type", "text/event-stream")])
        seen.append(own.is_ready())
        own.write_now(b"now")
        seen.append(cycle.messages[-1])
        cycle.write_paused = True
        seen.append(own.is_ready())
        cycle.is_changed = True
        with pytest.raises(RuntimeError, match="has not taken"):
            own.write_now(b"later")
        return seen

    part = {"type": "http.response.body", "body": b"now", "more_body": True}
    assert [False, True, part, False] == asyncio.run(exchange())


def test_of_other_servers_and_middleware_that_is_not_known() -> None:
    """Their ``send`` may wait for anything, and is called in the task of the request only."""

    async def exchange() -> list[bool]:
        cycle, other = Cycle(), Exchange(http_scope())

        async def middleware(message: Any) -> None:
            await cycle.send(message)

        seen = []
        for send in (other.send, middleware):
            own = ASGIExchange(http_scope(), other.receive, send)
            await own.begin(200, [])
            seen.append(own.is_ready())
        return seen

    assert [False, False] == asyncio.run(exchange())


Kind = type[AsyncChunks] | type[SyncChunks]
both_kinds = pytest.mark.parametrize("kind", [AsyncChunks, SyncChunks])


# Head


@given(st.lists(st.sampled_from([("X-One", "a"), ("x-one", "b"), ("Set-Cookie", "é"), ("y", "")])))
def test_headers_stay(fields: list[tuple[str, str]]) -> None:
    """Fields are sent in order, repeated ones as such, names in lower case, values as octets."""
    wanted = [(name.lower().encode(), value.encode("latin-1")) for name, value in fields]

    assert [*wanted, (b"content-length", b"4")] == sent(
        Response(headers=fields, body=b"body")
    ).headers


@pytest.mark.parametrize("head", [False, True])
@given(body=st.binary(max_size=300))
def test_length_of_a_whole_body(head: bool, body: bytes) -> None:
    """A whole body has its own length, whatever the handler said; to HEAD it is only that."""
    exchange = sent(Response(headers={"content-length": "7"} if body else {}, body=body), head=head)

    assert [(b"content-length", b"%d" % len(body))] == exchange.headers
    assert (b"" if head else body) == exchange.body
    assert 2 == len(exchange.sent)


def test_length_that_a_handler_of_head_knows() -> None:
    """A handler that answers HEAD itself may say how long the body would have been."""
    exchange = sent(Response(headers={"content-length": "7"}), head=True)

    assert [(b"content-length", b"7")] == exchange.headers


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_content(status: int) -> None:
    """They have neither a body nor a length."""
    exchange = sent(
        Response(status=status, headers={"content-length": "1", "etag": "x"}, body=b"x")
    )

    assert (status, [(b"etag", b"x")], b"") == (exchange.status, exchange.headers, exchange.body)


def test_length_of_a_streamed_body() -> None:
    """It is the handler's to know."""
    response = Response(headers={"content-length": "2"}, body=iter([b"a", b"b"]))

    assert [(b"content-length", b"2")] == sent(response).headers
    assert [] == sent(Response(body=iter([b"a"]))).headers


@pytest.mark.parametrize("name", ["Connection", "Transfer-Encoding", "Keep-Alive", "Upgrade"])
def test_fields_of_the_server(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is the server's business is dropped, and that is said."""
    assert [(b"content-length", b"0")] == sent(Response(headers={name: "x"})).headers
    assert [f"the response header {name!r} was dropped: only the server may set it"] == (
        caplog.messages
    )


# Streams


@both_kinds
def test_chunks_are_sent_one_by_one(kind: Kind) -> None:
    """Each chunk is a message of its own, but for empty ones; the last message is empty."""
    body = kind(b"a", b"", bytearray(b"b"), memoryview(b"c"))
    exchange = sent(Response(body=body))

    assert [(b"a", True), (b"b", True), (b"c", True), (b"", False)] == [
        (message["body"], message.get("more_body", False)) for message in exchange.sent[1:]
    ]
    assert all(type(message["body"]) is bytes for message in exchange.sent[1:])
    assert 1 == body.closed


def test_plain_iterables() -> None:
    """A body may be any iterable, with nothing to close."""
    assert b"abab" == sent(Response(body=[b"ab", b"ab"])).body


def test_body_that_is_closed_itself() -> None:
    """An iterable that makes iterators, and is closed itself, is closed."""

    class File:
        closed = 0

        def __iter__(self) -> Iterator[bytes]:
            return iter((b"x",))

        def close(self) -> None:
            self.closed += 1

    file = File()

    assert (b"x", 1) == (sent(Response(body=file)).body, file.closed)


def test_plain_iterables_never_block_the_loop() -> None:
    """They are iterated, and closed, in threads, while the loop does something else."""
    body = SyncChunks(b"a", b"b")

    async def main() -> None:
        loop_thread = threading.get_ident()
        await send_response(Response(body=body), Exchange())
        assert loop_thread not in body.threads

    asyncio.run(main())
    assert 1 == body.closed


@both_kinds
@pytest.mark.parametrize(("status", "head"), [(200, True), (304, False)])
def test_body_that_nobody_gets_is_made_all_the_same(kind: Kind, status: int, head: bool) -> None:
    """Where there is no content, what the iterator does is done and not sent."""
    body = kind(b"a", b"b")
    exchange = sent(Response(status=status, body=body), head=head)

    assert (2, 1, b"", 2) == (body.taken, body.closed, exchange.body, len(exchange.sent))


@both_kinds
def test_back_pressure(kind: Kind) -> None:
    """A chunk is made only when the server has taken the one before."""
    body = kind(b"a", b"b")

    async def main() -> None:
        exchange = Exchange()
        exchange.flowing.clear()
        sending = asyncio.create_task(send_response(Response(body=body), exchange))
        for _ in range(20):
            await asyncio.sleep(0)
            await asyncio.to_thread(lambda: None)
        assert (1, 1) == (body.taken, len(exchange.sent))
        exchange.flowing.set()
        await sending
        assert b"ab" == exchange.body

    asyncio.run(main())
    assert 1 == body.closed


@both_kinds
def test_broken_body(kind: Kind) -> None:
    """What a body raises reaches the server, which then knows that the response is not whole."""
    body = kind(b"a", error=ZeroDivisionError())

    async def main() -> None:
        exchange = Exchange()
        with pytest.raises(ZeroDivisionError):
            await send_response(Response(body=body), exchange)
        assert [True] == [message["more_body"] for message in exchange.sent[1:]]

    asyncio.run(main())
    assert 1 == body.closed


@both_kinds
def test_chunk_of_a_wrong_type(kind: Kind) -> None:
    """Text is no chunk, and the error says so."""
    body = kind("text")

    async def main() -> None:
        with pytest.raises(TypeError, match="must be bytes, not str"):
            await send_response(Response(body=body), Exchange())

    asyncio.run(main())
    assert 1 == body.closed


@both_kinds
@pytest.mark.parametrize("when", ["http.response.start", "http.response.body"])
def test_server_says_that_the_client_is_gone(kind: Kind, when: str) -> None:
    """An OSError of the server ends the stream, which is closed."""
    body = kind(b"a", b"b")

    async def send(message: Any) -> None:
        if message["type"] == when:
            raise BrokenPipeError

    async def main() -> None:
        await send_response(Response(body=body), Exchange(), send)

    asyncio.run(main())
    assert (int(when.endswith("body")), 1) == (body.taken, body.closed)


@both_kinds
def test_os_error_of_a_body_is_its_own(kind: Kind) -> None:
    """It has nothing to do with the client."""
    body = kind(error=FileNotFoundError())

    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await send_response(Response(body=body), Exchange())

    asyncio.run(main())


def test_cancelled_while_a_thread_makes_a_chunk() -> None:
    """The iterator is closed when the chunk is made, never while it is."""
    making, go_on = threading.Event(), threading.Event()
    closed: list[str] = []

    def chunks() -> Iterator[bytes]:
        try:
            making.set()
            assert go_on.wait(20)
            yield b"a"
            raise AssertionError("nobody asks for more")
        finally:
            closed.append("closed")

    async def main() -> None:
        sending = asyncio.create_task(send_response(Response(body=chunks()), Exchange()))
        await asyncio.to_thread(making.wait, 20)
        sending.cancel()
        await asyncio.sleep(0)
        assert [] == closed
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await sending

    asyncio.run(main())
    assert ["closed"] == closed
