"""Exchanges with the server: its connections, limits of time, and what goes wrong."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import pytest
import uvloop

from durable_core.errors import (
    ClientError,
    ConnectFailedError,
    ConnectionLostError,
    ProtocolError,
    RequestTimeoutError,
)
from durable_inngest._http import Answered, Call, Connections, Timeouts, check_url
from support.scripted_server import Peer, Script, ScriptedServer, plain

T = TypeVar("T")

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


def test_a_new_connection_that_breaks_is_not_replaced() -> None:
    """Its server is not there, or has refused."""
    with (
        ScriptedServer(lambda peer: peer.hear(), answers(DONE)) as server,
        pytest.raises(ConnectionLostError),
    ):
        exchange(call(server))

    assert 1 == len(server.heard)


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
