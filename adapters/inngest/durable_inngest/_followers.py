"""Sending a stream to the server, in posts that are not too large for it.

The server keeps nothing: who comes to it after the end would wait in vain. So the end is told again
a little later, where a client is known to be on its way; readers leave at the first one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from contextvars import copy_context
from functools import partial
from typing import Protocol

from durable_core.engine.runs import RunExecutor
from durable_core.errors import ClientError
from durable_core.flow.execution import Execution
from durable_core.flow.scope import HandlerKind
from durable_core.http.response import Response
from durable_core.platform import run_logger
from durable_core.runners.host import RunHost
from durable_core.runners.settings import RegisteredEndpoint
from durable_core.runners.task import TaskRun
from durable_core.runners.thread import ThreadRun
from durable_core.runners.thread_pool import DaemonThreadPool
from durable_inngest._client import ServerClient
from durable_inngest._execution import RemoteExecution, remote
from durable_inngest._streams import Channel, Emitter

__all__ = [
    "Tee",
    "follow",
    "stream_response",
]


# --- following ------------------------------------------------------------------------------------
#
# A client that wants the run as an event stream, while it is attached.

#: Proxies and caches must neither keep nor buffer a stream.
_HEADERS = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache, no-store"),
    ("x-accel-buffering", "no"),
    ("referrer-policy", "no-referrer"),
)


class _Node(RunHost, Protocol):
    """What this needs of its node."""

    servers: DaemonThreadPool
    running: RunExecutor[RemoteExecution]


def follow(
    node: _Node, ex: RemoteExecution, endpoint: RegisteredEndpoint, loop: asyncio.AbstractEventLoop
) -> Channel:
    """Run an execution for a client that gets its stream; return that.

    Args:
        node: hosts the run.
        ex: the execution.
        endpoint: has the handler.
        loop: where the handler runs, if it is ``async def``.
    """
    channel = Channel()
    emitter = Emitter(ex.run.id, channel)
    ex.followed, ex.stream = True, emitter
    if ex.link is not None:
        ex.link.emitter = emitter
    execute = node.flows.execute(ex)
    if endpoint.kind is HandlerKind.ASYNC_DEF:
        run = TaskRun(node, ex, endpoint.handler, loop=loop)
        loop.call_soon_threadsafe(node.running.run_in_task, run, execute, emitter.end)
    else:
        thread = ThreadRun(node, ex, endpoint.handler, own_thread=True)
        done = node.servers.submit(copy_context().run, node.running.run_in_thread, thread, execute)
        done.add_done_callback(lambda _: emitter.end())
    return channel


def stream_response(channel: Channel, *, asynchronous: bool) -> Response:
    """Return the response whose body is the stream."""
    body = channel.chunks() if asynchronous else iter(channel)
    return Response(headers=_HEADERS, body=body)


# --- followers ------------------------------------------------------------------------------------

#: The server takes posts of 1,024,000 bytes.
_MOST = 1_000_000
#: When the end of a stream is told again, seconds after it.
_AGAIN = (1.0, 5.0)


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
        self._last: dict[str, asyncio.Task[None]] = {}

    def open(self, ex: Execution) -> Emitter:
        """Return the stream of an execution; what it is given is posted as it comes."""
        run_id, channel = ex.run.id, Channel()
        self._loop.call_soon_threadsafe(self._start, run_id, channel)
        again = self._again if remote(ex).results.is_followed(run_id) else None
        return _TeeEmitter(run_id, channel, partial(self._watched, run_id), again)

    def _again(self, run_id: str, response: Response, failed: bool) -> None:
        """Let the end of a run be told again, from any thread."""

        def tell() -> None:
            channel = Channel()
            Emitter(run_id, channel).respond(response, failed=failed)
            self._start(run_id, channel)

        for delay in _AGAIN:
            self._loop.call_soon_threadsafe(self._loop.call_later, delay, tell)

    def _start(self, run_id: str, channel: Channel) -> None:
        """Post a stream, after what an earlier call of the endpoint has left to be posted."""
        task = self._loop.create_task(self._follow(self._last.get(run_id), run_id, channel))
        self._last[run_id] = task
        task.add_done_callback(lambda done: self._forget(run_id, done))

    def _forget(self, run_id: str, task: asyncio.Task[None]) -> None:
        if self._last.get(run_id) is task:
            del self._last[run_id]

    async def _follow(
        self, before: asyncio.Task[None] | None, run_id: str, channel: Channel
    ) -> None:
        if before is not None:
            await asyncio.wait((before,))
        await self._post(run_id, channel)

    async def _post(self, run_id: str, channel: Channel) -> None:
        """Post until the channel is at its end. What cannot be sent is lost, for readers only."""
        async with aclosing(channel.chunks()) as coming:
            rest = b""
            try:
                while rest or (rest := await anext(coming, b"")):
                    post = _Post(rest, coming)
                    await self._client.tee(run_id, post.chunks())
                    rest = post.rest
            except ClientError as error:
                run_logger(run_id, "").warning("its stream could not be passed on: %s", error)


class _TeeEmitter(Emitter):
    """See ``Emitter``; ``again`` is told how the run has ended."""

    def __init__(
        self,
        run_id: str,
        channel: Channel,
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

    Attributes:
        rest: what was taken from ``coming`` and is for the next post.
    """

    def __init__(self, first: bytes, coming: AsyncIterator[bytes]) -> None:
        self.rest = first
        self._coming = coming

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes of this post as they come."""
        left = _MOST
        while self.rest:
            data, self.rest = _cut(self.rest, left)
            if data:
                left -= len(data)
                yield data
            if self.rest:
                return
            self.rest = await anext(self._coming, b"")


def _cut(data: bytes, left: int) -> tuple[bytes, bytes]:
    """Return what still fits into a post, and what does not."""
    if len(data) <= left:
        return data, b""
    end = data.rfind(b"\n\n", 0, left) + 2
    if end < 2:
        end = left if left == _MOST else 0
    return data[:end], data[end:]
