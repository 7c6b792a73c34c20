"""What the client for tasks does beyond what both clients do (``test_client.py``)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from durable_core.errors import ConfigurationError
from durable_core.model.outgoing import OutgoingRequest
from durable_core.runtime.http.async_client import AsyncHTTPClient
from support.scripted_server import Peer, ScriptedServer, chunked, plain

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("said", [b"", CHUNKED + chunked(b"some")], ids=["head", "body"])
def test_a_cancelled_task_closes_its_connection(said: bytes) -> None:
    """Cancelled while it waits for the head or the body, it ends at once and closes."""

    async def main(server: ScriptedServer, said_it: Callable[[], Awaitable[object]]) -> None:
        async with AsyncHTTPClient() as client:

            async def ask() -> None:
                async with await client.send(OutgoingRequest(url=server.origin)) as response:
                    await response.read()

            task = asyncio.create_task(ask())
            await said_it()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    heard = threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(said)
        heard.set()
        peer.wait_for_close()

    with ScriptedServer(script) as server:
        asyncio.run(main(server, lambda: asyncio.to_thread(heard.wait, 10)))


def test_an_async_body_is_sent_as_it_comes() -> None:
    """The server has the first piece while the second is still to be made."""
    arrived = threading.Event()

    def script(peer: Peer) -> None:
        peer._file.readline()
        while peer._file.readline() != b"\r\n":
            pass
        assert b"3\r\n" == peer._file.readline()
        assert b"one\r\n" == peer._file.readline()
        arrived.set()
        assert b"two" == peer._chunks()
        peer.say(plain("thanks"))

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        assert await asyncio.to_thread(arrived.wait, 10)
        yield b"two"

    async def main(server: ScriptedServer) -> bytes:
        async with AsyncHTTPClient() as client:
            request = OutgoingRequest(method="POST", url=server.origin, body=pieces())
            async with await client.send(request) as response:
                return await response.read()

    with ScriptedServer(script) as server:
        assert b"thanks" == asyncio.run(main(server))


def test_many_requests_at_once_need_no_threads() -> None:
    """Fifty requests wait for their answers at the same time, and the loop starts no thread."""
    gate = threading.Barrier(50)

    def script(peer: Peer) -> None:
        heard = peer.hear()
        gate.wait(20)
        peer.say(plain(heard.body))

    async def ask(client: AsyncHTTPClient, url: str, body: bytes) -> bytes:
        async with await client.send(OutgoingRequest(method="PUT", url=url, body=body)) as response:
            return await response.read()

    async def main(server: ScriptedServer) -> tuple[list[bytes], list[str]]:
        async with AsyncHTTPClient() as client:
            asking = [ask(client, server.origin, b"%d" % number) for number in range(50)]
            bodies = await asyncio.gather(*asking)
            return bodies, [t.name for t in threading.enumerate() if "asyncio" in t.name]

    with ScriptedServer(*[script] * 50) as server:
        assert ([b"%d" % number for number in range(50)], []) == asyncio.run(main(server))


def test_a_client_belongs_to_one_loop() -> None:
    """Its connections would not work in another."""
    client = AsyncHTTPClient()

    async def ask() -> None:
        await client.send(OutgoingRequest(url="nowhere"))

    with pytest.raises(ValueError, match="must be absolute"):
        asyncio.run(ask())
    with pytest.raises(ConfigurationError, match="belongs to another event loop"):
        asyncio.run(ask())


def test_fetch_is_a_transport() -> None:
    """The context gives status, headers and the body as it comes."""

    async def main(server: ScriptedServer) -> tuple[int, list[bytes]]:
        async with (
            AsyncHTTPClient() as client,
            client.fetch(OutgoingRequest(url=server.origin)) as fetched,
        ):
            return fetched.status, [data async for data in fetched.body]

    with ScriptedServer(lambda peer: peer.answer(plain("hello"))) as server:
        assert (200, [b"hello"]) == asyncio.run(main(server))
