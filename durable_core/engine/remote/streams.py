"""The stream of a run: to the attached client, and after the handoff through the server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial

from durable_core.codec.sse import KEEP_ALIVE, encode_event
from durable_core.codec.stream_events import (
    Commit,
    Metadata,
    RedirectInfo,
    Rollback,
    StreamEvent,
    chunk_data,
    dump_stream_event,
    final_of,
)
from durable_core.errors import EngineUnavailableError
from durable_core.flow.attempt import StepAttempt
from durable_core.flow.execution import Execution
from durable_core.http.response import Response
from durable_core.model.step import Memo
from durable_core.model.stream import ChunkBatch
from durable_core.platform import call_soon, run_logger

__all__ = [
    "StreamChannel",
    "StreamEmitter",
    "StreamForwarder",
    "stream_response",
]


#: Of what nobody has taken yet, bytes; a reader that falls further behind is let go.
_MOST = 8 * 1024 * 1024
#: Seconds of silence after which a comment keeps the connection open.
_KEEP_ALIVE = 15.0
#: Proxies and caches must neither keep nor buffer a stream.
_HEADERS = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache, no-store"),
    ("x-accel-buffering", "no"),
    ("incremental", "?1"),  # the same for any proxy (RFC 10036)
    ("referrer-policy", "no-referrer"),
)


class StreamChannel:
    """Bytes from any thread, for one reader: a thread, or a task."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._data: deque[bytes] = deque()
        self._size = 0
        self._closed = False
        self._reader: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def put(self, data: bytes) -> None:
        """Add bytes, unless it is closed."""
        with self._changed:
            if self._closed:
                return
            self._data.append(data)
            self._size += len(data)
            self._closed = self._size > _MOST
            self._wake()

    def close(self) -> None:
        """End it, after what is there."""
        with self._changed:
            self._closed = True
            self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._reader is not None:
            loop, event = self._reader
            call_soon(loop, event.set)

    def _take(self) -> bytes | None:
        """Return what is there; None at the end, b"" if there may be more."""
        data = b"".join(self._data)
        self._data.clear()
        self._size = 0
        return data or (None if self._closed else b"")

    def __iter__(self) -> Iterator[bytes]:
        """Yield bytes as they come, and comments when none do."""
        while True:
            with self._changed:
                deadline = time.monotonic() + _KEEP_ALIVE
                while not (self._data or self._closed) and time.monotonic() < deadline:
                    self._changed.wait(_KEEP_ALIVE)
                data = self._take()
            if data is None:
                return
            yield data or KEEP_ALIVE

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield bytes as they come, and comments when none do, in a task."""
        event = asyncio.Event()
        with self._changed:
            self._reader = asyncio.get_running_loop(), event
        while True:
            event.clear()
            with self._changed:
                data = self._take()
            if data is None:
                return
            if data:
                yield data
                continue
            try:
                await asyncio.wait_for(event.wait(), _KEEP_ALIVE)
            except TimeoutError:
                yield KEEP_ALIVE


class StreamEmitter:
    """What an execution streams to; see ``durable_core.flow.effects.Stream``.

    Args:
        run_id: the run.
        channel: where the events go.
        watched: is told of steps and their chunks, too.
    """

    def __init__(
        self, run_id: str, channel: StreamChannel, watched: Callable[[bytes], None] | None = None
    ) -> None:
        self._run_id = run_id
        self._channel = channel
        self._watched = watched
        self._tell(Metadata(run_id=run_id))

    def push(self, inside: StepAttempt | None, text: str) -> None:
        """Send a chunk, given as JSON."""
        if inside is None or not inside.function_ended:
            data = chunk_data(text, inside.op.id if inside is not None else None)
            self._tell_all(encode_event("inngest.stream", data))

    def commit(self, op_id: str) -> None:
        """Tell readers that the chunks of a step count."""
        self._tell_all(_encoded(Commit(step_id=op_id)))

    def roll_back(self, inside: StepAttempt) -> None:
        """Tell readers that the chunks of an attempt do not count."""
        self._tell_all(_encoded(Rollback(step_id=inside.op.id)))

    def redirect(self, url: str) -> None:
        """Tell the reader where the stream goes on after a handoff."""
        self._tell(RedirectInfo(run_id=self._run_id, url=url))

    def respond(self, response: Response, *, failed: bool) -> None:
        """Send the run's response, and end."""
        self._tell(final_of(response, failed=failed))
        self.end()

    def end(self) -> None:
        """End the stream here; the run may go on elsewhere."""
        self._channel.close()

    def unsaved(self, memos: Sequence[Memo]) -> tuple[tuple[ChunkBatch, ...], str | None]:
        """Return nothing: the server keeps no chunks."""
        return (), None

    def begin_handoff(self) -> bool:
        """Do nothing: a handoff ends the stream when the server has the run."""
        return True

    def detach(self) -> None:
        """End the stream here."""
        self.end()

    def _tell(self, event: StreamEvent) -> None:
        self._channel.put(_encoded(event))

    def _tell_all(self, data: bytes) -> None:
        self._channel.put(data)
        if self._watched is not None:
            self._watched(data)


def _encoded(event: StreamEvent) -> bytes:
    name, data = dump_stream_event(event)
    return encode_event(name, data)


def stream_response(channel: StreamChannel, *, asynchronous: bool) -> Response:
    """Return the response whose body is the stream."""
    body = channel.chunks() if asynchronous else iter(channel)
    return Response(headers=_HEADERS, body=body)


# --- forwarding -----------------------------------------------------------------------------------
#
# Sending a stream to the server, in posts that are not too large for it.
#
# The server keeps nothing: whoever comes to it after the end would wait in vain. So the end is told
# again a little later, where a client is known to be on its way; readers leave at the first one.

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
