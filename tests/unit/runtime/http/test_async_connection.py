"""Connections of tasks: what ``test_connection.py`` and ``test_async_client.py`` leave out."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable

import pytest

from durable_core.errors import ConnectionLostError
from durable_core.model.outgoing import Timeouts
from durable_core.runtime.http.async_connection import AsyncConnection, connect_async
from durable_core.runtime.http.budget import Budget
from durable_core.wire.urls import Origin, parse_url
from support.scripted_server import Peer, Script, ScriptedServer

BUDGET = Budget(Timeouts(idle=10))


def connected(script: Script, then: Callable[[AsyncConnection], Awaitable[None]]) -> None:
    """Connect to a server that does this, and do that with the connection."""

    async def main() -> None:
        connection = await connect_async(parse_url(server.origin).origin, None, BUDGET)
        try:
            await then(connection)
        finally:
            await connection.close()

    with ScriptedServer(script) as server:
        asyncio.run(main())


def test_a_connection_is_not_stale_as_long_as_nothing_comes() -> None:
    """Asking does not take anything from it."""
    asked = threading.Event()

    def script(peer: Peer) -> None:
        assert asked.wait(10)
        peer.say("hello")
        peer.wait_for_close()

    async def then(connection: AsyncConnection) -> None:
        assert not connection.is_stale()
        asked.set()
        assert b"hello" == await connection.receive(BUDGET)
        assert not connection.is_stale()

    connected(script, then)


@pytest.mark.parametrize("last", [b"", b"unasked"])
def test_a_connection_is_stale_when_anything_came(last: bytes) -> None:
    """Its end, or bytes that nobody asked for."""
    done = threading.Event()

    def script(peer: Peer) -> None:
        peer.say(b"first", last)
        peer.close()
        done.set()

    async def then(connection: AsyncConnection) -> None:
        assert b"first" == (await connection.receive(BUDGET))[:5]
        assert await asyncio.to_thread(done.wait, 10)
        assert connection.is_stale()

    connected(script, then)


def test_sending_on_a_broken_connection_is_an_error() -> None:
    """It says what the system says."""
    connected_to, done = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        assert connected_to.wait(10)
        peer.reset()
        done.set()

    async def then(connection: AsyncConnection) -> None:
        connected_to.set()
        assert await asyncio.to_thread(done.wait, 10)
        with pytest.raises(ConnectionLostError, match="the connection broke: "):
            await connection.send(b"x" * 10_000_000, BUDGET)

    connected(script, then)


def test_connecting_may_be_cancelled_at_any_moment() -> None:
    """After any number of turns of the loop nothing is left open."""

    async def main(origin: Origin) -> None:
        for turns in range(12):
            task = asyncio.ensure_future(connect_async(origin, None, BUDGET))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            done = await asyncio.gather(task, return_exceptions=True)
            if isinstance(done[0], AsyncConnection):
                await done[0].close()

    with ScriptedServer(*[Peer.wait_for_close] * 12) as server:
        asyncio.run(main(parse_url(server.origin).origin))
        gc.collect()  # a socket that was left open would warn now, and warnings are errors
