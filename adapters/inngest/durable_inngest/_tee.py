"""Sending a stream to the server, in posts that are not too large for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial

from durable_core.errors import ClientError
from durable_core.flow.execution import Execution
from durable_core.runtime.logs import run_logger
from durable_inngest._client import ServerClient
from durable_inngest._streams import Channel, Emitter

__all__ = ["Tee"]

#: A post may have 1,024,000 bytes; the last event of one may be as large as this is lower.
_MOST = 512_000


class Tee:
    """Makes streams that the server passes on.

    Args:
        client: calls the server.
        loop: where it is used.
        watched: is told of the steps of runs, and their chunks, by run id.
    """

    def __init__(
        self,
        client: ServerClient,
        loop: asyncio.AbstractEventLoop,
        watched: Callable[[str, bytes], None],
    ) -> None:
        self._watched = watched
        self._client = client
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, ex: Execution) -> Emitter:
        """Return the stream of an execution; what it is given is posted as it comes."""
        channel = Channel()
        self._loop.call_soon_threadsafe(self._start, ex.run.id, channel)
        return Emitter(ex.run.id, channel, partial(self._watched, ex.run.id))

    def _start(self, run_id: str, channel: Channel) -> None:
        task = self._loop.create_task(self._post(run_id, channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _post(self, run_id: str, channel: Channel) -> None:
        """Post until the channel is at its end. What cannot be sent is lost, for readers only."""
        async with aclosing(channel.chunks()) as coming:
            try:
                while True:
                    first = await anext(coming, None)
                    if first is None:
                        return
                    await self._client.tee(run_id, _some(first, coming))
            except ClientError as error:
                run_logger(run_id, "").warning("its stream could not be passed on: %s", error)


async def _some(first: bytes, coming: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield chunks until they are as many bytes as one post should have."""
    size = len(first)
    yield first
    while size < _MOST:
        data = await anext(coming, None)
        if data is None:
            return
        size += len(data)
        yield data
