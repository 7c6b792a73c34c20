"""What following in a task adds to ``tests/unit/api/test_fetching.py``: its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from durable_core.codec.stream_events import Chunk, Final
from durable_core.errors import ConnectionLostError
from durable_core.http.headers import Headers
from durable_core.model.outgoing import OutgoingRequest
from durable_core.ports.http import AsyncFetch, AsyncFetched
from durable_core.runtime.http.outgoing import Requests
from durable_core.runtime.http.task_follower import TaskFollower
from durable_core.wire.following import Following
from durable_core.wire.following_commands import DeliveredEvent
from support.stream_clients import sse

WAIT = "http://a/?durable-run=1&durable-token=2"
SSE = {"content-type": "text/event-stream"}


def follower(fetch: AsyncFetch) -> TaskFollower:
    async def deliver(event: DeliveredEvent) -> None:
        pass

    machine = Following(
        method="GET", url=WAIT, headers=Headers(), repeatable=True, uniform=lambda: 0.0
    )
    return TaskFollower(
        machine,
        fetch=fetch,
        requests=Requests(body=None, idle_timeout=None),
        deliver=deliver,
        timeout=60,
    )


def test_any_number_of_connections_leaves_no_trace() -> None:
    """After a hundred breaks there are no more tasks, and no more to close, than at the first."""
    numbers = iter(range(1000))
    most = 0

    @asynccontextmanager
    async def fetch(request: OutgoingRequest) -> AsyncIterator[AsyncFetched]:
        nonlocal most
        most = max(most, len(following._open) + len(following._closed))
        yield AsyncFetched(200, SSE, body(next(numbers)))

    async def body(number: int) -> AsyncIterator[bytes]:
        yield b"retry: 0\n\n"
        if number == 100:
            yield sse(Final(status=200))
        yield sse(Chunk(data=number), id=str(number))
        raise ConnectionLostError("broken")

    following = follower(fetch)

    async def main() -> int:
        await following.run()
        return len(asyncio.all_tasks())

    assert 1 == asyncio.run(main())
    assert most <= 3


def test_a_transport_that_fails_when_it_is_closed() -> None:
    """The response of the machine stands."""

    @asynccontextmanager
    async def fetch(request: OutgoingRequest) -> AsyncIterator[AsyncFetched]:
        try:
            yield AsyncFetched(200, SSE, body())
        finally:
            raise LookupError("closed")

    async def body() -> AsyncIterator[bytes]:
        yield sse(Final(status=204))
        await asyncio.Event().wait()

    async def main() -> int:
        return (await follower(fetch).run()).status

    assert 204 == asyncio.run(main())
