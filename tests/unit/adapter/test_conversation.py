"""One conversation, in a thread, pulled by a server, and on an event loop."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest

from durable_core import HTTPError, Limits, Request, Response, step, stream
from durable_core.adapters import (
    AsyncExchange,
    ClientDisconnectedError,
    Exchange,
    Fields,
    PulledExchange,
    converse,
    converse_async,
    pull,
    refuse,
    refuse_async,
)
from support.harness import Lab, until_async
from support.recording_app import RecordingApp
from support.streams import asks_stream


class Script:
    """What a client sends, and what the server does with what it is given.

    Args:
        pieces: of the body; an error is raised in its place.
        fails: the call that fails, once, and what it raises.
        known: what the exchange knows of the request.

    Attributes:
        calls: what the exchange was told.
        sizes: what it was asked to read.
        sent: the body.
    """

    def __init__(
        self, *pieces: bytes | Exception, fails: tuple[str, Exception] | None = None, **known: Any
    ) -> None:
        self.calls: list[str] = []
        self.sizes: list[int] = []
        self.head: list[tuple[int, Fields]] = []
        self.sent = b""
        self.error: BaseException | None = None
        self.gone = False
        self.known = known
        self._pieces = list(pieces)
        self._fails = fails

    def read(self, size: int) -> bytes:
        self.sizes.append(size)
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, Exception):
            raise piece
        if len(piece) > size:
            self._pieces.insert(0, piece[size:])
        return piece[:size]

    def call(self, name: str) -> None:
        if self._fails is not None and self._fails[0] == name:
            error, self._fails = self._fails[1], None
            raise error
        self.calls.append(name)

    def begin(self, status: int, fields: Fields) -> None:
        self.call("begin")
        self.head.append((status, fields))

    def write(self, data: bytes) -> None:
        assert data
        self.call("write")
        self.sent += data

    def abort(self, error: BaseException) -> None:
        self.calls.append("abort")
        self.error = error

    @property
    def status(self) -> int:
        [(status, _)] = self.head
        return status

    @property
    def fields(self) -> dict[str, str]:
        [(_, fields)] = self.head
        return dict(fields)


class InThread(Exchange):
    def __init__(self, script: Script) -> None:
        self._script = script
        vars(self).update(script.known)

    def send_continue(self) -> None:
        self._script.call("continue")

    def read(self, size: int) -> bytes:
        return self._script.read(size)

    def is_gone(self) -> bool:
        return self._script.gone

    def begin(self, status: int, fields: Fields) -> None:
        self._script.begin(status, fields)

    def write(self, data: bytes) -> None:
        self._script.write(data)

    def end(self) -> None:
        self._script.call("end")

    def abort(self, error: BaseException) -> None:
        self._script.abort(error)


class Pulled(InThread, PulledExchange):
    def begin(self, status: int, fields: Fields) -> None:
        self._script.begin(status, fields)
        self.begun = True

    def write(self, data: bytes) -> None:
        self._script.write(data)
        PulledExchange.write(self, data)


class OnLoop(AsyncExchange):
    def __init__(self, script: Script) -> None:
        self._script = script
        vars(self).update(script.known)

    async def send_continue(self) -> None:
        self._script.call("continue")

    async def read(self, size: int) -> bytes:
        await asyncio.sleep(0)
        return self._script.read(size)

    async def is_gone(self) -> bool:
        await until_async(lambda: self._script.gone)
        return True

    async def begin(self, status: int, fields: Fields) -> None:
        self._script.begin(status, fields)

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(0)
        self._script.write(data)

    async def end(self) -> None:
        self._script.call("end")

    async def abort(self, error: BaseException) -> None:
        self._script.abort(error)


Converse = Callable[[RecordingApp, Script], Script]


def in_thread(app: RecordingApp, script: Script) -> Script:
    converse(app, InThread(script))
    return script


def pulled(app: RecordingApp, script: Script) -> Script:
    body = pull(app, Pulled(script))
    data = b"".join(body)
    body.close()
    assert script.sent == data
    return script


def on_loop(app: RecordingApp, script: Script) -> Script:
    asyncio.run(converse_async(app, OnLoop(script)))
    return script


@pytest.fixture(params=[in_thread, pulled, on_loop])
def talk(request: pytest.FixtureRequest) -> Converse:
    """Each way to have the conversation."""
    way: Converse = request.param
    return way


@pytest.fixture(params=["plain", "async"])
def streamed(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A streamed body of each kind: of chunks, and of errors that it raises."""

    def plain(*parts: Any, closed: list[str] | None = None) -> Generator[Any]:
        try:
            for part in parts:
                if isinstance(part, Exception):
                    raise part
                yield part
        finally:
            if closed is not None:
                closed.append("closed")

    async def asynchronous(*parts: Any, closed: list[str] | None = None) -> AsyncIterator[Any]:
        chunks = plain(*parts, closed=closed)
        try:
            for chunk in chunks:
                yield chunk
        finally:
            chunks.close()

    return plain if request.param == "plain" else asynchronous


def answer(talk: Converse, response: Response, **known: Any) -> Script:
    app = RecordingApp(response)
    try:
        return talk(app, Script(**known))
    finally:
        app.close()


# Requests


def test_a_request_is_read_whole(talk: Converse) -> None:
    """Its body in pieces, no more of it than was announced, and what the server knows."""
    app = RecordingApp(Response.text("hi"))
    fields = [("content-length", "5"), ("host", "h")]
    known: dict[str, Any] = {"method": "POST", "target": "/a?b", "fields": fields}
    known |= {"root_path": "/r", "path_params": {"id": "1"}, "route": "/{id}", "max_wait": 2.0}
    script = talk(app, Script(b"he", b"lloGET", **known))

    [request] = app.requests
    assert ("POST", "http://h/a?b", b"hello") == (request.method, request.url, request.body)
    assert ("/r", {"id": "1"}) == (request.root_path, dict(request.path_params))
    assert [(2.0, "/{id}")] == app.asked
    assert ([5, 3], ["begin", "write", "end"]) == (script.sizes, script.calls)
    assert (200, b"hi", "2") == (script.status, script.sent, script.fields["content-length"])


def test_a_body_without_a_length(talk: Converse) -> None:
    """It ends where the server says, and may be as long as the limit."""
    app = RecordingApp(limits=Limits(body=10))
    talk(app, Script(b"12345", b"67890"))

    assert b"1234567890" == app.requests[0].body


@pytest.mark.parametrize(
    ("pieces", "fields", "status"),
    [
        ((b"x" * 11,), [], 413),
        ((), [("content-length", "11"), ("expect", "100-continue")], 413),
        ((), [("x", "y" * 2000)], 431),
        ((b"123",), [("content-length", "5")], 400),
        ((TimeoutError(),), [("content-length", "5")], 408),
        ((b"1", BrokenPipeError()), [("content-length", "5")], 400),
        ((HTTPError(422, "odd chunks"),), [("transfer-encoding", "chunked")], 422),
        ((), [("host", "[:]")], 400),
    ],
)
def test_refusals(
    talk: Converse, pieces: tuple[Any, ...], fields: list[tuple[str, str]], status: int
) -> None:
    """A problem document; nobody is asked, nor is a body asked for."""
    app = RecordingApp(limits=Limits(body=10, head=1000))
    script = talk(app, Script(*pieces, fields=fields))

    assert ([], status, ["begin", "write", "end"]) == (app.requests, script.status, script.calls)
    assert status == json.loads(script.sent)["status"]


def test_a_client_that_goes_within_its_request(talk: Converse) -> None:
    """It gets no answer."""
    app = RecordingApp()
    if talk is pulled:
        with pytest.raises(StopIteration):
            next(pull(app, Pulled(Script(ClientDisconnectedError("gone"), method="POST"))))
        return
    script = talk(app, Script(ClientDisconnectedError("gone"), method="POST"))

    assert ([], ["abort"]) == (app.requests, script.calls)
    assert isinstance(script.error, ClientDisconnectedError)


def test_the_body_is_asked_for(talk: Converse) -> None:
    """A client that waits for that is told before its body is read."""
    fields = [("Expect", "100-continue"), ("Content-Length", "4")]
    script = talk(RecordingApp(), Script(b"body", fields=fields, method="POST"))

    assert ["continue", "begin", "end"] == script.calls


# Responses


@pytest.mark.parametrize(("status", "method"), [(200, "HEAD"), (204, "GET"), (304, "GET")])
def test_no_body_where_there_is_none(
    talk: Converse, streamed: Callable[..., Any], status: int, method: str
) -> None:
    """A stream is made all the same, and closed."""
    closed: list[str] = []
    body = streamed(b"a", b"b", closed=closed)
    script = answer(talk, Response(status=status, body=body), method=method)

    assert (["begin", "end"], ["closed"]) == (script.calls, closed)
    assert ["begin", "end"] == answer(talk, Response(status=status, body=b"x"), method=method).calls


def test_streams(talk: Converse, streamed: Callable[..., Any]) -> None:
    """The chunks are sent one by one, but for empty ones, and the body is closed."""
    closed: list[str] = []
    script = answer(talk, Response(body=streamed(b"a", b"", bytearray(b"b"), closed=closed)))

    assert (b"ab", ["begin", "write", "write", "end"]) == (script.sent, script.calls)
    assert (["closed"], {}) == (closed, script.fields)


def test_chunked_coding(talk: Converse, streamed: Callable[..., Any]) -> None:
    """Where the server has no framing of its own, the kit has, for bodies of unknown length."""
    script = answer(talk, Response(body=streamed(b"a" * 17, b"b")), chunked=True)
    whole = answer(talk, Response(body=b"abc"), chunked=True)
    head = answer(talk, Response(body=streamed(b"a")), chunked=True, method="HEAD")

    assert b"11\r\n" + b"a" * 17 + b"\r\n1\r\nb\r\n0\r\n\r\n" == script.sent
    assert "chunked" == script.fields["transfer-encoding"]
    assert (b"abc", {"content-length": "3"}) == (whole.sent, whole.fields)
    assert (b"", {}) == (head.sent, head.fields)


@pytest.mark.parametrize(
    ("chunks", "length", "sent"),
    [
        ((b"one", b"two"), "6", b"onetwo"),
        ((b"one", b"two", b""), "6", b"onetwo"),
        ((b"one", b"two", b"three"), "6", b"one"),
        ((b"one", b"two"), "5", b"one"),
        ((b"one", b"two"), "7", b"onetwo"),
        ((), "1", b""),
        ((b"one",), "0", b""),
        ((), "0", b""),
    ],
)
def test_declared_lengths(
    talk: Converse,
    streamed: Callable[..., Any],
    chunks: tuple[bytes, ...],
    length: str,
    sent: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A stream is held to the length that it declares: no client takes another for whole."""
    script = answer(
        talk,
        Response(headers={"content-length": length}, body=streamed(*chunks)),
        target="/x?token",
    )
    is_right = sum(map(len, chunks)) == int(length)

    assert ("end" if is_right else "abort") == script.calls[-1]
    assert (sent, length) == (script.sent, script.fields["content-length"])
    assert is_right or ["the response to GET /x broke"] == caplog.messages
    assert is_right or len(script.sent) < int(length) or length == "0"


@pytest.mark.parametrize("part", [ZeroDivisionError(), OSError("its own"), "text"])
def test_streams_that_break(
    talk: Converse, streamed: Callable[..., Any], part: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection is cut after the head, the log has the error, the body is closed."""
    closed: list[str] = []
    script = answer(talk, Response(body=streamed(b"a", part, closed=closed)))

    assert (["begin", "write", "abort"], ["closed"]) == (script.calls, closed)
    assert not isinstance(script.error, ClientDisconnectedError)
    assert ["the response to GET / broke"] == caplog.messages


@pytest.mark.parametrize("name", ["begin", "write", "end"])
def test_clients_that_go(talk: Converse, streamed: Callable[..., Any], name: str) -> None:
    """Whatever the server says it by; the body is closed, and nothing logged as an error."""
    closed: list[str] = []
    script = Script(fails=(name, BrokenPipeError()))
    app = RecordingApp(Response(body=streamed(b"a", closed=closed)))
    if talk is pulled and name == "begin":
        with pytest.raises(StopIteration):
            next(pull(app, Pulled(script)))
    else:
        talk(app, script)
    app.close()

    assert "abort" == script.calls[-1]
    assert isinstance(script.error, ClientDisconnectedError)
    assert (["closed"] if name != "begin" else []) == closed


def test_a_client_that_goes_between_chunks(talk: Converse) -> None:
    """No more of the stream is made."""
    script = Script()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        script.gone = True
        yield b"b"
        if talk is on_loop:
            await asyncio.sleep(60)
        raise AssertionError("nobody is there")

    app = RecordingApp(Response(body=chunks()))
    talk(app, script)
    app.close()

    assert "abort" == script.calls[-1]
    assert isinstance(script.error, ClientDisconnectedError)


def test_a_head_that_is_not_taken(talk: Converse, caplog: pytest.LogCaptureFixture) -> None:
    """A 500 takes its place; the log has why."""
    script = talk(RecordingApp(Response.text("hi")), Script(fails=("begin", ValueError("odd"))))

    assert (500, ["begin", "write", "end"]) == (script.status, script.calls)
    assert b"internal-error" in script.sent
    assert ["the response to GET / broke"] == caplog.messages


def test_a_server_that_takes_no_head_at_all(talk: Converse) -> None:
    """The connection is cut; it is not tried for ever."""

    class Broken(Script):
        def begin(self, status: int, fields: Fields) -> None:
            self.calls.append("begin")
            raise ValueError("never")

    script = Broken()
    if talk is pulled:
        with pytest.raises(StopIteration):
            next(pull(RecordingApp(), Pulled(script)))
    else:
        talk(RecordingApp(), script)

    assert ["begin", "begin", "abort"] == script.calls


def test_a_body_that_cannot_be_closed(talk: Converse, caplog: pytest.LogCaptureFixture) -> None:
    """The response is whole all the same, and the log says so."""

    class Stuck:
        def __iter__(self) -> Iterator[bytes]:
            return iter((b"a",))

        def close(self) -> None:
            raise RuntimeError("stuck")

    script = answer(talk, Response(body=Stuck()))

    assert (b"a", ["begin", "write", "end"]) == (script.sent, script.calls)
    assert ["a response body could not be closed"] == caplog.messages


# What is special to each way


def test_abort_may_raise(caplog: pytest.LogCaptureFixture) -> None:
    """Servers that cut connections when applications fail get the error, and log it themselves."""

    class Raising(InThread):
        def abort(self, error: BaseException) -> None:
            raise error

    with pytest.raises(ZeroDivisionError):
        converse(
            RecordingApp(Response(body=(1 // 0 for _ in "a"))),  # type: ignore[misc]
            Raising(Script()),
        )
    assert [] == caplog.messages


def test_a_server_that_stops_pulling() -> None:
    """The body is closed where it stands; closing twice does nothing."""
    closed: list[str] = []

    def chunks() -> Iterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            closed.append("closed")

    script = Script()
    body = pull(RecordingApp(Response(body=chunks())), Pulled(script))
    assert ["begin"] == script.calls
    assert b"a" == next(body)
    body.close()
    body.close()

    assert (["closed"], ["begin", "write", "abort"]) == (closed, script.calls)


def test_a_gone_client_cancels_the_handler() -> None:
    """On an event loop it is noticed while the answer is made."""
    script = Script()
    cancelled: list[str] = []

    class Slow(RecordingApp):
        async def respond_async(
            self, request: Request, *, max_wait: float, route: str | None
        ) -> Response:
            script.gone = True
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append("cancelled")
                raise
            raise AssertionError

    on_loop(Slow(), script)

    assert (["cancelled"], ["abort"]) == (cancelled, script.calls)


def test_a_cancellation_from_elsewhere_passes() -> None:
    """A server that cancels gets its CancelledError; the body is closed before."""
    closed: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            await asyncio.sleep(60)
        finally:
            closed.append("closed")

    async def main() -> None:
        script = Script()
        app = RecordingApp(Response(body=chunks()))
        task = asyncio.create_task(converse_async(app, OnLoop(script)))
        while not script.sent:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ["closed"] == closed


@pytest.mark.parametrize("way", ["thread", "loop"])
def test_a_refusal_of_the_server_itself(way: str, caplog: pytest.LogCaptureFixture) -> None:
    """A server that cannot even parse a request answers it as the kit does."""
    script, app, error = Script(method="HEAD"), RecordingApp(), HTTPError(503, "full")
    exchange: InThread | OnLoop
    with caplog.at_level(logging.INFO, "durable.adapter"):
        if way == "thread":
            exchange = InThread(script)
            refuse(app, exchange, error)
        else:
            exchange = OnLoop(script)
            asyncio.run(refuse_async(app, exchange, error))

    assert (503, ["begin", "end"], True) == (script.status, script.calls, exchange.refused)
    assert ["a request was refused: 503 full"] == caplog.messages


class Ready(OnLoop):
    """A connection that takes parts at once."""

    def is_ready(self) -> bool:
        return True

    def write_now(self, data: bytes) -> None:
        self._script.call("write_now")
        self._script.sent += data


@pytest.mark.parametrize(
    ("known", "expected"), [({}, 2), ({"chunked": True}, 0), ({"method": "HEAD"}, 0)]
)
def test_what_a_run_pushes_is_written_at_once(known: dict[str, Any], expected: int) -> None:
    """The chunk and its commit; not where the kit frames the body, and not for a HEAD request."""
    script = Script(**known)

    async def push() -> None:
        await asyncio.sleep(0.003)
        stream.push("x")
        await asyncio.sleep(0.003)

    async def handler(request: Request) -> str:
        await step.run("b", int)
        await step.run("a", push)
        return "done"

    async def exchange() -> None:
        lab = Lab()
        response = await lab.endpoint(handler).handle_async(asks_stream())
        await converse_async(RecordingApp(response), Ready(script))
        await lab.durable.stop_async(5.0)

    asyncio.run(exchange())

    assert expected == script.calls.count("write_now")
    assert ("HEAD" not in known.values()) is (b"inngest.response" in script.sent)
