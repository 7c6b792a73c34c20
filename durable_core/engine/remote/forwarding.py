"""Sending a stream to the server, in posts that are not too large for it.

The server keeps nothing: who comes to it after the end would wait in vain. So the end is told again
a little later, where a client is known to be on its way; readers leave at the first one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial

from durable_core.engine.remote.streams import StreamChannel, StreamEmitter
from durable_core.errors import EngineUnavailableError
from durable_core.flow.execution import Execution
from durable_core.http.response import Response
from durable_core.platform import run_logger

__all__ = [
    "StreamForwarder",
]

#: When the end of a stream is told again, seconds after it.
_AGAIN = (1.0, 5.0)


class StreamForwarder:
    """Makes streams that the server passes on.

    Args:
        post: posts a part of a run's stream; raises EngineUnavailableError if it cannot.
        loop: where it is used.
        most: how many bytes the server takes in one post.
        watched: is told of the steps of runs, and their chunks, by run id.
        is_followed: tells whether a client was sent from here to the server's stream of a run.
    """

    def __init__(
        self,
        post: Callable[[str, AsyncIterator[bytes]], Awaitable[None]],
        loop: asyncio.AbstractEventLoop,
        *,
        most: int,
        watched: Callable[[str, bytes], None],
        is_followed: Callable[[str], bool],
    ) -> None:
        self._post_part = post
        self._most = most
        self._watched = watched
        self._is_followed = is_followed
        self._loop = loop
        self._last: dict[str, asyncio.Task[None]] = {}

    def open(self, ex: Execution) -> StreamEmitter:
        """Return the stream of an execution; what it is given is posted as it comes."""
        run_id, channel = ex.run.id, StreamChannel()
        self._loop.call_soon_threadsafe(self._start, run_id, channel)
        again = self._again if self._is_followed(run_id) else None
        return _ForwardedStream(run_id, channel, partial(self._watched, run_id), again)

    def respond(self, run_id: str, response: Response, failed: bool) -> None:
        """Post how a run has ended; on the loop."""
        channel = StreamChannel()
        StreamEmitter(run_id, channel).respond(response, failed=failed)
        self._start(run_id, channel)

    def _again(self, run_id: str, response: Response, failed: bool) -> None:
        """Let the end of a run be told again, from any thread."""
        tell = partial(self.respond, run_id, response, failed)
        for delay in _AGAIN:
            self._loop.call_soon_threadsafe(self._loop.call_later, delay, tell)

    def _start(self, run_id: str, channel: StreamChannel) -> None:
        """Post a stream, after what an earlier call of the endpoint has left to be posted."""
        task = self._loop.create_task(self._follow(self._last.get(run_id), run_id, channel))
        self._last[run_id] = task
        task.add_done_callback(lambda done: self._forget(run_id, done))

    def _forget(self, run_id: str, task: asyncio.Task[None]) -> None:
        if self._last.get(run_id) is task:
            del self._last[run_id]

    async def _follow(
        self, before: asyncio.Task[None] | None, run_id: str, channel: StreamChannel
    ) -> None:
        if before is not None:
            await asyncio.wait((before,))
        await self._post(run_id, channel)

    async def _post(self, run_id: str, channel: StreamChannel) -> None:
        """Post until the channel is at its end. What cannot be sent is lost, for readers only."""
        async with aclosing(channel.chunks()) as coming:
            rest = b""
            try:
                while rest or (rest := await anext(coming, b"")):
                    post = _Post(rest, coming, self._most)
                    await self._post_part(run_id, post.chunks())
                    rest = post.rest
            except EngineUnavailableError as error:
                run_logger(run_id, "").warning("its stream could not be passed on: %s", error)


class _ForwardedStream(StreamEmitter):
    """See ``StreamEmitter``; ``again`` is told how the run has ended."""

    def __init__(
        self,
        run_id: str,
        channel: StreamChannel,
        watched: Callable[[bytes], None],
        again: Callable[[str, Response, bool], None] | None,
    ) -> None:
        super().__init__(run_id, channel, watched)
        self._again = again

    def respond(self, response: Response, *, failed: bool) -> None:
        """Send the run's response, and end."""
        super().respond(response, failed=failed)
        if self._again is not None:
            self._again(self._run_id, response, failed)


class _Post:
    """As much of a stream as one post may have, in whole events.

    An event that is larger than that is cut: readers put it together again.

    Args:
        first: what it begins with.
        coming: what follows.
        most: how many bytes it may have.

    Attributes:
        rest: what was taken from ``coming`` and is for the next post.
    """

    def __init__(self, first: bytes, coming: AsyncIterator[bytes], most: int) -> None:
        self.rest = first
        self._coming = coming
        self._most = most

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes of this post as they come."""
        left = self._most
        while self.rest:
            data, self.rest = _cut(self.rest, left, self._most)
            if data:
                left -= len(data)
                yield data
            if self.rest:
                return
            self.rest = await anext(self._coming, b"")


def _cut(data: bytes, left: int, most: int) -> tuple[bytes, bytes]:
    """Return what still fits into a post, and what does not."""
    if len(data) <= left:
        return data, b""
    end = data.rfind(b"\n\n", 0, left) + 2
    if end < 2:
        end = left if left == most else 0
    return data[:end], data[end:]
