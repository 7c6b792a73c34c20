"""Event streams: the page is sent what has changed, and does not ask for it.

One thread of the process looks whether anything was committed, and wakes the streams. Each stream
then makes its document anew, and sends it if it is another one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from durable_core import Durable
from durable_core.errors import DurableError
from durable_core.inspection import StreamedChunk

__all__ = [
    "AsyncBody",
    "Changes",
    "Feed",
    "Source",
    "SyncBody",
    "encode",
    "encode_chunks",
    "end_in_time",
]

_logger = logging.getLogger("durable.dashboard")
#: Seconds between two looks at the store while somebody watches; and without a change of it until
#: the streams look all the same, for what only the process knows, such as the step in progress.
_LOOK, _LOOK_ANYWAY = 0.1, 2.0
#: Seconds from one document to the next, at least. A document that takes long to make has a pause
#: of so many times as long after it.
_PAUSE, _SHARE = 0.2, 4.0
#: Seconds without an event after which a comment is sent: that finds out who is gone.
_KEEP_ALIVE = 15.0
_COMMENT = b":\n\n"
#: Milliseconds after which a browser comes again when a stream has ended.
_RETRY = 1_000

#: Makes a stream: it returns the event to send now, None if nothing is new. It may block.
Source: TypeAlias = Callable[[], bytes | None]


def encode(event: str, document: object, id: str = "") -> bytes:
    """Return a server-sent event with a JSON document."""
    head = f"id: {id}\n" if id else ""
    return f"{head}event: {event}\ndata: {json.dumps(document)}\n\n".encode("ascii")


def encode_chunks(chunks: Iterator[StreamedChunk]) -> Iterator[bytes]:
    """Yield what a run has stored of its stream, in the form of live streams; then the end."""
    yield encode("reset", {})
    try:
        for chunk in chunks:
            yield encode("inngest.stream", {"data": chunk.data, "hashedStepId": chunk.step})
    except DurableError as error:  # such as chunks that are encrypted with another key
        _logger.error("the stream of a run cannot be read: %s", error)
    yield encode("end", {})


async def end_in_time(body: Any, seconds: float) -> AsyncIterator[bytes]:
    """Yield the parts of a stream that a task sends, for so many seconds at most."""
    deadline = asyncio.get_running_loop().time() + seconds
    try:
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    part = await anext(body)
            except (StopAsyncIteration, TimeoutError):
                return  # the browser comes again, and says what it has
            yield part
    finally:
        await body.aclose()


class Changes:
    """Wakes streams when something was committed, in whatever process.

    Args:
        durable: the application.
    """

    def __init__(self, durable: Durable[Any]) -> None:
        self._durable = durable
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self._was_started = self._has_ended = False
        self.in_threads = 0

    @property
    def is_over(self) -> bool:
        """Whether the process is about to stop: streams end, for servers wait for them."""
        if self._has_ended:
            return True
        health = self._durable.health()
        return bool(health.get("draining")) or (self._was_started and not health["started"])

    def start(self, *, server_threads: int | None = None) -> None:
        """Allow streams; called by a server of the dashboard alone, like the two below."""
        self._has_ended = False

    def drain(self) -> None:
        """End all streams: a server that stops waits for those who read them."""
        self._has_ended = True
        self._wake_all()

    def stop(self, timeout: float, /) -> None:
        """As :meth:`drain`."""
        self.drain()

    def join(self, wake: Callable[[], None], *, in_thread: bool = False) -> None:
        """Have ``wake`` called at each change, from another thread."""
        self._was_started = self._durable.health()["started"]
        with self._lock:
            self._wakers.append(wake)
            self.in_threads += in_thread
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._watch, name="durable-dashboard", daemon=True
                )
                self._thread.start()

    def leave(self, wake: Callable[[], None], *, in_thread: bool = False) -> None:
        """Undo :meth:`join`; the arguments are the same."""
        with self._lock:
            self._wakers.remove(wake)
            self.in_threads -= in_thread

    def _watch(self) -> None:
        looked, seen = 0.0, None
        wakeups = None
        while True:
            with self._lock:
                if not self._wakers:
                    self._thread = None
                    return
            try:
                if wakeups is None:
                    store = self._durable.engine.store
                    assert store is not None  # the dashboard refuses other engines
                    wakeups = store.wakeups()
                wakeups.wait(_LOOK, eager=False)
                changed = wakeups.changed()
            except DurableError:
                wakeups, changed = None, True  # the streams will say so
                time.sleep(_LOOK)
            health = self._durable.health()
            if health["started"]:  # perhaps after the streams: the first other request does it
                self._was_started = True
            # A store in memory has no other process whose commits it could tell.
            news = health.get("commits"), health.get("draining"), health["started"]
            if changed or news != seen or time.monotonic() - looked > _LOOK_ANYWAY:
                looked, seen = time.monotonic(), news
                self._wake_all()

    def _wake_all(self) -> None:
        with self._lock:
            wakers = list(self._wakers)
        for wake in wakers:
            wake()


@dataclass(frozen=True, slots=True)
class _AwaitChange:
    """To be woken by a change, or after so many seconds; the answer tells whether there was one."""

    seconds: float


@dataclass(frozen=True, slots=True)
class _Pause:
    """To wait for so many seconds, whatever changes."""

    seconds: float


#: What a feed asks for: to wait, or to have a function called.
_Ask: TypeAlias = _AwaitChange | _Pause | Source


class Feed:
    """The parts of one stream, whoever sends them: a thread or a task.

    Args:
        source: makes the events.
        changes: what wakes it.
        deadline: when the stream ends, so that its client comes again (``time.monotonic``).
    """

    def __init__(self, source: Source, changes: Changes, deadline: float) -> None:
        self._source = source
        self._changes = changes
        self._deadline = deadline
        self._has_begun = False
        self._not_before = 0.0

    def next_part(self) -> Generator[_Ask, Any, bytes | None]:
        """Return the next part; None at the end."""
        if not self._has_begun:
            self._has_begun = True
            first = yield from self._call()
            return f"retry: {_RETRY}\n\n".encode() + (first or b"")
        quiet_until = time.monotonic() + _KEEP_ALIVE
        while not self._must_end():
            now = time.monotonic()
            if now >= quiet_until:
                return _COMMENT
            woken = yield _AwaitChange(max(0.0, min(quiet_until, self._deadline) - now))
            if not woken or self._must_end():
                continue
            pause = self._not_before - time.monotonic()
            if pause > 0:
                yield from self._rest(pause)
            part = yield from self._call()
            if part is not None:
                return part
        return None

    def _rest(self, seconds: float) -> Generator[_Ask, Any, None]:
        """Wait, woken or not: several changes make one event."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._must_end():
            yield _Pause(left)

    def _call(self) -> Generator[_Ask, Any, bytes | None]:
        began = time.monotonic()
        part: bytes | None = yield self._source
        took = time.monotonic() - began
        self._not_before = time.monotonic() + max(_PAUSE, _SHARE * took)
        return part

    def _must_end(self) -> bool:
        return time.monotonic() >= self._deadline or self._changes.is_over


class SyncBody(Iterator[bytes]):
    """A stream that a thread of the server sends.

    Args:
        feed: its parts.
        changes: what wakes it.
        woken: set when there may be a new part.
        close: called once, when the stream has ended.
    """

    def __init__(
        self, feed: Feed, changes: Changes, woken: threading.Event, close: Callable[[], None]
    ) -> None:
        self._feed = feed
        self._changes = changes
        self._woken = woken
        self._close = close
        self._is_open = True
        changes.join(woken.set, in_thread=True)

    def __next__(self) -> bytes:
        part = self._next_part() if self._is_open else None
        if part is None:
            self.close()
            raise StopIteration
        return part

    def close(self) -> None:
        """The server sends no more of it."""
        if self._is_open:
            self._is_open = False
            self._changes.leave(self._woken.set, in_thread=True)
            self._close()

    def _next_part(self) -> bytes | None:
        flow = self._feed.next_part()
        answer: Any = None
        while True:
            try:
                ask = flow.send(answer)
            except StopIteration as end:
                part: bytes | None = end.value
                return part
            answer = self._perform(ask)

    def _perform(self, ask: _Ask) -> Any:
        if isinstance(ask, _Pause):
            return time.sleep(ask.seconds)
        if not isinstance(ask, _AwaitChange):
            return ask()
        woken = self._woken.wait(ask.seconds)
        self._woken.clear()
        return woken


class AsyncBody(AsyncIterator[bytes]):
    """A stream that a task of the server sends; ``feed`` and ``changes`` as of a thread's."""

    def __init__(self, feed: Feed, changes: Changes) -> None:
        self._feed = feed
        self._changes = changes
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._is_open = True
        changes.join(self._wake)

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._woken.set)
        except RuntimeError:
            pass  # the loop is closed, and so is the stream

    async def __anext__(self) -> bytes:
        part = await self._next_part() if self._is_open else None
        if part is None:
            await self.aclose()
            raise StopAsyncIteration
        return part

    async def aclose(self) -> None:
        """The server sends no more of it."""
        if self._is_open:
            self._is_open = False
            self._changes.leave(self._wake)

    async def _next_part(self) -> bytes | None:
        flow = self._feed.next_part()
        answer: Any = None
        while True:
            try:
                ask = flow.send(answer)
            except StopIteration as end:
                part: bytes | None = end.value
                return part
            answer = await self._perform(ask)

    async def _perform(self, ask: _Ask) -> Any:
        if isinstance(ask, _Pause):
            return await asyncio.sleep(ask.seconds)
        if not isinstance(ask, _AwaitChange):
            return await asyncio.to_thread(ask)
        try:
            async with asyncio.timeout(ask.seconds):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True
