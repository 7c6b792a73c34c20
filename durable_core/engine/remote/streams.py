"""The stream of a run: to the attached client, and after the handoff to whoever passes it on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

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
from durable_core.flow.attempt import StepAttempt
from durable_core.http.response import Response
from durable_core.model.step import Memo
from durable_core.model.stream import ChunkBatch
from durable_core.platform import call_soon

__all__ = [
    "StreamChannel",
    "StreamEmitter",
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
            data = chunk_data(text, inside.op_id if inside is not None else None)
            self._tell_all(encode_event("inngest.stream", data))

    def commit(self, op_id: str) -> None:
        """Tell readers that the chunks of a step count."""
        self._tell_all(_encoded(Commit(step_id=op_id)))

    def roll_back(self, inside: StepAttempt) -> None:
        """Tell readers that the chunks of an attempt do not count."""
        self._tell_all(_encoded(Rollback(step_id=inside.op_id)))

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
