"""What following in a task adds to ``test_durable_client.py``: its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import httpx2

from durable_client._async import TaskDriver
from durable_client._follow import DeliveredEvent, StreamClient
from durable_client._transport import RequestFactory
from durable_core.codec.stream_events import Chunk, Final
from durable_core.http.headers import Headers
from support.scripted_server import ScriptedServer, plain
from support.stream_clients import fetch_in_task, sse

WAIT = "http://a/?durable-run=1&durable-token=2"
SSE = {"content-type": "text/event-stream"}

Handler = Callable[[httpx2.Request], httpx2.Response]


class Body(httpx2.AsyncByteStream):
    """A response body of these pieces."""

    def __init__(self, pieces: AsyncIterator[bytes], fails: bool = False) -> None:
        self._pieces = pieces
        self._fails = fails

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            yield piece

    async def aclose(self) -> None:
        if self._fails:
            raise LookupError("closed")


def driver(handler: Handler) -> TaskDriver:
    async def deliver(event: DeliveredEvent) -> None:
        pass

    machine = StreamClient(
        method="GET", url=WAIT, headers=Headers(), repeatable=True, uniform=lambda: 0.0
    )
    return TaskDriver(
        machine,
        client=httpx2.AsyncClient(transport=httpx2.MockTransport(handler)),
        requests=RequestFactory(body=None, idle_timeout=None),
        deliver=deliver,
        timeout=60,
    )


def test_any_number_of_connections_leaves_no_trace() -> None:
    """After a hundred breaks there are no more tasks, and no more to close, than at the first."""
    numbers = iter(range(1000))
    most = 0

    def handler(request: httpx2.Request) -> httpx2.Response:
        nonlocal most
        most = max(most, len(following._connections._open) + len(following._connections._closed))
        return httpx2.Response(200, headers=SSE, stream=Body(body(next(numbers))))

    async def body(number: int) -> AsyncIterator[bytes]:
        yield b"retry: 0\n\n"
        if number == 100:
            yield sse(Final(status=200))
        yield sse(Chunk(data=number), id=str(number))
        raise httpx2.ReadError("broken")

    following = driver(handler)

    async def main() -> int:
        await following.run()
        return len(asyncio.all_tasks())

    assert 1 == asyncio.run(main())
    assert most <= 3


def test_an_http_client_that_fails_when_it_is_closed() -> None:
    """The response of the machine stands."""

    async def body() -> AsyncIterator[bytes]:
        yield sse(Final(status=204))
        await asyncio.Event().wait()

    def handler(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers=SSE, stream=Body(body(), fails=True))

    async def main() -> int:
        return (await driver(handler).run()).status

    assert 204 == asyncio.run(main())


def test_a_plain_iterator_is_a_body() -> None:
    """It is sent in chunks, as it comes."""

    def pieces() -> Iterator[bytes]:
        yield b"one"
        yield b"two"

    with ScriptedServer(lambda peer: peer.answer(plain("done"))) as server:
        fetch_in_task(server.origin, method="POST", body=pieces())

    assert (b"onetwo", "chunked") == (
        server.heard[0].body,
        server.heard[0].headers["transfer-encoding"],
    )
