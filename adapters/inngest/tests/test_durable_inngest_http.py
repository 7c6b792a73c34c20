"""Exchanges with the server: its connections, limits of time, and what goes wrong."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from durable_core.engines.remote import Answered
from durable_core.errors import (
    ClientError,
    ConnectFailedError,
    ConnectionLostError,
    ProtocolError,
    RequestTimeoutError,
)
from durable_inngest import _http
from durable_inngest._http import Call, Connections, Timeouts, check_url
from support.scripted_server import Peer, Script, ScriptedServer, plain

T = TypeVar("T")

TLS = Path(__file__).parents[3] / "tests" / "data" / "tls"

both_loops = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)

QUICK = Timeouts(connect=5.0, idle=5.0, whole=10.0)
DONE = plain("done", headers=["X-Own: yes"])


def call(server: ScriptedServer, path: str = "/", **options: Any) -> Call:
    return Call(url=server.origin + path, **{"timeouts": QUICK, **options})


def exchange(*calls: Call) -> list[Answered]:
    """Make the calls one after the other, on the connections of one loop."""

    async def main(connections: Connections) -> list[Answered]:
        return [await connections.exchange(each, 1000) for each in calls]

    return on_a_loop(main)


def on_a_loop(main: Callable[[Connections], Awaitable[T]]) -> T:
    async def run() -> T:
        connections = Connections()
        try:
            return await main(connections)
        finally:
            await connections.close()

    return asyncio.run(run())


def answers(*parts: bytes) -> Script:
    """Answer one request after the other on a connection, and wait for its end."""

    def script(peer: Peer) -> None:
        for part in parts:
            peer.answer(part)
        peer.wait_for_close()

    return script


def test_a_connection_is_kept() -> None:
    """One for any number of calls, one after the other."""
    with ScriptedServer(answers(DONE, DONE, DONE)) as server:
        got = exchange(*[call(server, method="POST", body=b"in", headers={"x-a": "b"})] * 3)

    assert [(200, "yes", b"done")] * 3 == [
        (each.status, each.headers["x-own"], each.body) for each in got
    ]
    assert [(0, b"in", "b")] * 3 == [
        (heard.connection, heard.body, heard.headers["x-a"]) for heard in server.heard
    ]


def breaks_when_asked_again(peer: Peer) -> None:
    peer.answer(DONE)
    peer.hear()
    peer.reset()


def test_a_kept_connection_that_breaks_is_replaced() -> None:
    """As long as nothing of an answer has come, and the request may be sent twice."""
    with ScriptedServer(breaks_when_asked_again, answers(DONE)) as server:
        assert [200, 200] == [each.status for each in exchange(*[call(server)] * 2)]

    with (
        ScriptedServer(breaks_when_asked_again, answers(DONE)) as server,
        pytest.raises(ConnectionLostError),
    ):
        exchange(*[call(server, repeatable=False)] * 2)


def test_a_kept_connection_that_was_closed_is_not_used() -> None:
    """The system knows that, though the loop was too busy to see it."""
    has_closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(DONE)
        peer.close()
        has_closed.set()

    async def main(connections: Connections) -> int:
        await connections.exchange(call(server), 1000)
        assert has_closed.wait(10)  # on the loop
        answered = await connections.exchange(call(server, repeatable=False), 1000)
        return answered.status

    with ScriptedServer(script, answers(DONE)) as server:
        assert 200 == on_a_loop(main)


def test_a_connection_that_was_not_used_for_long_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each request has a new one then; no more than some are kept at all."""
    monkeypatch.setattr(_http, "_KEEP", 0.0)
    with ScriptedServer(answers(DONE), answers(DONE)) as server:
        exchange(*[call(server)] * 2)

    assert [0, 1] == [heard.connection for heard in server.heard]


def test_some_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were used last; the rest is closed at once."""
    monkeypatch.setattr(_http, "_MOST_KEPT", 1)
    all_there = threading.Barrier(2)

    def script(peer: Peer) -> None:
        peer.hear()
        all_there.wait(10)
        peer.say(DONE)
        peer.wait_for_close()

    async def main(connections: Connections) -> list[int]:
        await asyncio.gather(*[connections.exchange(call(server), 1000) for _ in range(2)])
        return [len(idle) for idle in connections._idle.values()]

    with ScriptedServer(script, script) as server:
        assert [1] == on_a_loop(main)


def test_a_new_connection_that_breaks_is_not_replaced() -> None:
    """Its server is not there, or has refused."""
    with (
        ScriptedServer(lambda peer: peer.hear(), answers(DONE)) as server,
        pytest.raises(ConnectionLostError),
    ):
        exchange(call(server))

    assert 1 == len(server.heard)


@both_loops
def test_head_and_body_go_out_together(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """One piece is one packet, and one turn of the server."""
    pieces = []

    def script(peer: Peer) -> None:
        pieces.append(peer._socket.recv(65536))
        peer.say(DONE)
        peer.wait_for_close()

    async def main() -> Answered:
        connections = Connections()
        made = call(server, "/in?a=b", method="POST", body=b"body", headers={"x-a": "b"})
        answered = await connections.exchange(made, 1000)
        await connections.close()
        return answered

    with ScriptedServer(script) as server, asyncio.Runner(loop_factory=new_loop) as runner:
        assert 200 == runner.run(main()).status

    assert [
        f"POST /in?a=b HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\n"
        "accept-encoding: identity\r\nx-a: b\r\ncontent-length: 4\r\n\r\nbody"
    ] == [piece.decode() for piece in pieces]


def test_a_server_that_takes_nothing() -> None:
    """The body is not made far ahead of what it takes; in the end it is a time-out."""
    made = 0

    async def parts() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(10_000):
            made += 1
            yield b"x" * 65536

    may_end = threading.Event()
    timeouts = Timeouts(connect=5.0, idle=0.2)
    with ScriptedServer(lambda peer: may_end.wait(10)) as server:
        with pytest.raises(RequestTimeoutError, match=r"nothing moved for 0\.2 s"):
            exchange(call(server, method="POST", body=parts(), timeouts=timeouts, repeatable=False))
        may_end.set()

    assert made < 1000


@both_loops
def test_a_large_answer(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """It is whole, though it comes faster than it is taken."""
    body = bytes(range(256)) * 16_384

    async def main() -> list[bytes]:
        connections = Connections()
        got = [(await connections.exchange(call(server), len(body))).body for _ in range(2)]
        await connections.close()
        return got

    with (
        ScriptedServer(answers(plain(body), plain(body))) as server,
        asyncio.Runner(loop_factory=new_loop) as runner,
    ):
        assert [body, body] == runner.run(main())


def test_a_field_that_comes_twice() -> None:
    """It has both values."""
    with ScriptedServer(answers(plain("", headers=["X-A: 1", "x-a: 2"]))) as server:
        [got] = exchange(call(server))

    assert "1, 2" == got.headers["x-a"]


@both_loops
def test_tls(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A connection is encrypted, and kept, where its certificate is trusted; else it is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")

    async def main() -> list[int]:
        connections = Connections()
        got = [(await connections.exchange(call(server), 1000)).status for _ in range(2)]
        await connections.close()
        return got

    with (
        ScriptedServer(answers(DONE, DONE), tls=context) as server,
        asyncio.Runner(loop_factory=new_loop) as runner,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(
            _http, "_default_tls", lambda: ssl.create_default_context(cafile=TLS / "cert.pem")
        )
        assert [200, 200] == runner.run(main())
    assert [0, 0] == [heard.connection for heard in server.heard]

    with (
        ScriptedServer(answers(DONE), tls=context) as server,
        asyncio.Runner(loop_factory=new_loop) as runner,
        pytest.raises(ConnectFailedError, match=r"(?i)certificate"),
    ):
        runner.run(main())


def test_a_server_without_tls() -> None:
    """What does not agree on TLS is no connection."""
    with (
        ScriptedServer(lambda peer: peer.say("HTTP/1.1 400 Bad Request\r\n\r\n")) as server,
        pytest.raises(ConnectFailedError),
    ):
        exchange(Call(url=server.origin.replace("http:", "https:"), timeouts=QUICK))


def test_an_exchange_that_is_cancelled() -> None:
    """Its connection is closed, and the next exchange has another one."""

    async def main(connections: Connections) -> int:
        running = asyncio.ensure_future(connections.exchange(call(server), 1000))
        await asyncio.to_thread(heard.wait, 10)
        running.cancel()
        await asyncio.wait((running,))
        return (await connections.exchange(call(server), 1000)).status

    heard = threading.Event()

    def script(peer: Peer) -> None:
        peer.hear()
        heard.set()
        peer.wait_for_close()

    with ScriptedServer(script, answers(DONE)) as server:
        assert 200 == on_a_loop(main)


def test_a_body_is_sent_as_it_comes() -> None:
    """The server has the first part before the second is made."""
    has_first = threading.Event()

    def script(peer: Peer) -> None:
        seen = b""
        while b"one" not in seen:
            seen += peer._socket.recv(4096)
        has_first.set()
        while not seen.endswith(b"0\r\n\r\n"):
            seen += peer._socket.recv(4096)
        assert b"3\r\ntwo\r\n" in seen
        peer.say(DONE)
        peer.wait_for_close()

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        assert await asyncio.to_thread(has_first.wait, 10)
        yield b"two"

    with ScriptedServer(script) as server:
        [got] = exchange(call(server, method="POST", body=parts(), repeatable=False))

    assert 200 == got.status


@pytest.mark.parametrize(
    ("timeouts", "message"),
    [
        (Timeouts(connect=5.0, idle=0.1), r"nothing moved for 0\.1 s"),
        (Timeouts(connect=5.0, idle=None, whole=0.1), r"the exchange took over 0\.1 s"),
    ],
)
def test_a_server_that_does_not_answer(timeouts: Timeouts, message: str) -> None:
    """It is a time-out, and the connection is closed."""
    with (
        ScriptedServer(lambda peer: peer.wait_for_close()) as server,
        pytest.raises(RequestTimeoutError, match=message),
    ):
        exchange(call(server, timeouts=timeouts))


def test_a_timer_of_uvloop_may_fire_early() -> None:
    """The end of an exchange is known by its time-out alone, and not by looking at a clock."""
    timeouts = Timeouts(connect=5.0, idle=None, whole=0.02)

    async def main() -> int:
        connections, count = Connections(), 0
        for _ in range(25):
            with pytest.raises(RequestTimeoutError):
                await connections.exchange(call(server, timeouts=timeouts), 1000)
            count += 1
        await connections.close()
        return count

    with (
        ScriptedServer(*[lambda peer: peer.wait_for_close()] * 25) as server,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        assert 25 == runner.run(main())


def test_nobody_listens() -> None:
    """The error says what the system says."""
    with ScriptedServer() as server:
        pass
    with pytest.raises(ConnectFailedError, match="no connection to it: "):
        exchange(call(server))


def test_an_answer_that_is_too_large() -> None:
    """It is not read to its end."""
    with (
        ScriptedServer(answers(plain(b"x" * 1001))) as server,
        pytest.raises(ProtocolError, match="has over 1000 bytes"),
    ):
        exchange(call(server))


def test_an_answer_that_breaks_off() -> None:
    """It is not asked for again, though its connection was kept: it had begun."""

    def script(peer: Peer) -> None:
        peer.answer(DONE)
        peer.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab")

    with ScriptedServer(script, answers(DONE)) as server, pytest.raises(ClientError):
        exchange(*[call(server)] * 2)


def test_connections_in_use_are_closed_when_their_exchanges_end() -> None:
    """Closing does not cut them off; nothing is kept afterwards."""
    heard, may_answer = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.hear()
        heard.set()
        assert may_answer.wait(10)
        peer.say(DONE)
        peer.wait_for_close()

    async def main(connections: Connections) -> Answered:
        running = asyncio.ensure_future(connections.exchange(call(server), 1000))
        await asyncio.to_thread(heard.wait, 10)
        await connections.close()
        may_answer.set()
        return await running

    with ScriptedServer(script) as server:
        assert 200 == on_a_loop(main).status


def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """URLs have tokens and event keys, headers have the signing key."""
    caplog.set_level(logging.INFO)
    with ScriptedServer(answers(DONE)) as server:
        made = call(server, "/e/secret?token=secret", headers={"authorization": "secret"})
        exchange(made)

    assert "secret" not in caplog.text
    assert "secret" not in repr(made)


@pytest.mark.parametrize(
    "url", ["box:8288", "ftp://box", "http:///x", "http://[::1", "http://box:0x", "http://a b/"]
)
def test_urls_that_cannot_be_used(url: str) -> None:
    """The server's URL is checked when the engine is made."""
    with pytest.raises(ValueError, match="it "):
        check_url(url)
