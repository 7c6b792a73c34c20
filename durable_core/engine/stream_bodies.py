"""The body of an event stream, for threads and for tasks: it waits, reads the store, and ends."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from durable_core.codec.ui_stream import UIMessageStream
from durable_core.engine.hooks import call_hook, call_hook_async
from durable_core.errors import StoreError
from durable_core.flow.driver import drive_async, drive_sync
from durable_core.flow.effects import (
    AwaitStream,
    CallUser,
    Effect,
    Flow,
    Log,
    ReadResult,
    ReadStream,
    WakeReason,
)
from durable_core.flow.stream_reader import Reader, immediate_part, next_part
from durable_core.model.run import Phase
from durable_core.model.stream import ChunkBatch, StoredStream
from durable_core.platform import call_soon, logger
from durable_core.ports import Store, StoredResult
from durable_core.runners.live import Waiters
from durable_core.runners.thread_pool import DaemonThreadPool

__all__ = [
    "AsyncBody",
    "BodyHost",
    "Connection",
    "PartLimit",
    "SharedChunks",
    "StoreReaders",
    "SyncBody",
    "TaskWaker",
    "ThreadWaker",
]

#: After a part of this size, in bytes, other tasks of the event loop get their turn.
_LARGE = 32 * 1024
#: So many bodies of an event loop make a large part in one round of the loop.
_TURNS = 8
#: A stream gets this many parts in a time of this length, seconds, and then what has come together
#: meanwhile: a part takes as long as ten chunks, in this process and in that of the client.
_BURST = 4
_BURST_SECONDS = 0.002
#: Seconds without reading after which a client is disconnected from the stream.
_STALLED = 30.0

T = TypeVar("T")


class ThreadWaker:
    """Wakes one thread. A wake-up before the thread waits ends its next wait."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wake(self) -> None:
        """Wake the thread, from any other one."""
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Wait to be woken; return False if that did not happen within ``seconds``."""
        woken = self._event.wait(seconds)
        self._event.clear()
        return woken


class TaskWaker:
    """Wakes one task. A wake-up before the task waits ends its next wait.

    Args:
        loop: where the task runs.

    Attributes:
        at_once: called in place of waking the task, on its loop and only while it waits. It returns
            whether that is done: if not, the task is woken. None if the task is always woken.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.at_once: Callable[[], bool] | None = None
        self._is_set = False
        self._waiting: asyncio.Future[None] | None = None
        self._deadline = 0.0  # of the last wait
        self._timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Wake the task, from any thread. Does nothing if the loop is closed."""
        if self._is_set:
            return
        is_here = asyncio._get_running_loop() is self._loop
        if is_here and self._waiting is not None and self.at_once is not None and self.at_once():
            return
        self._is_set = True
        if self._waiting is None:
            return  # wait() checks the flag after it has set _waiting
        if is_here:
            self._finish()
        else:
            call_soon(self._loop, self._finish)

    async def wait(self, seconds: float) -> bool:
        """Wait to be woken; return False if that did not happen within ``seconds``."""
        if not self._is_set:
            self._waiting = self._loop.create_future()
            self._deadline = self._loop.time() + seconds
            self._set_timer()
            try:
                if not self._is_set:
                    await self._waiting
            finally:
                self._waiting = None
        woken, self._is_set = self._is_set, False
        return woken

    def close(self) -> None:
        """Wait no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        """See that a timer fires at the deadline, or before it.

        One that fires too early is set again. So a stream that flows has a timer every few seconds,
        not one for each chunk.
        """
        if self._timer is not None:
            if self._timer.when() <= self._deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        if self._waiting is None:
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            self._finish()

    def _finish(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class PartLimit:
    """Lets parts of one stream follow each other at once, and not too many of them.

    A client that gets a chunk now and then, or an answer after a few, waits for nothing. Chunks
    that come faster than that are sent together.

    Args:
        now: the clock of the event loop.

    Attributes:
        added_at: when the last part was counted.
    """

    added_at = 0.0

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._begun = -math.inf
        self._parts = 0

    def add(self) -> bool:
        """Count a part that is sent; return False, and count none, if it is to come later."""
        now = self._now()
        if now - self._begun >= _BURST_SECONDS:
            self._begun, self._parts = now, 0
        if self._parts >= _BURST:
            return False
        self._parts += 1
        self.added_at = now
        return True

    async def wait(self) -> None:
        """Wait until the next part may be made."""
        if self._parts >= _BURST:
            left = self._begun + _BURST_SECONDS - self._now()
            if left > 0:
                await asyncio.sleep(left)


class BodyHost(Protocol):
    """What bodies need of a worker."""

    @property
    def stopping(self) -> bool:
        """Whether the worker stops: clients then continue at another process."""
        ...

    @property
    def store(self) -> Store:
        """The store with the chunks."""
        ...

    @property
    def waiters(self) -> Waiters:
        """The clients that wait."""
        ...

    @property
    def threads(self) -> DaemonThreadPool:
        """The threads that call plain functions for tasks."""
        ...

    def run_on_background_loop(self, awaitable: Awaitable[T]) -> T:
        """Await something on the worker's own event loop, blocking this thread."""
        ...


class Connection(Protocol):
    """The connection of a client, for writing to it without waiting."""

    def is_ready(self) -> bool:
        """Whether the client has taken what was sent before."""
        ...

    def write_now(self, data: bytes) -> None:
        """Send a part of the body; only if the connection is ready."""
        ...


class SharedChunks:
    """The stored chunks that readers are being sent: in memory once, for all readers together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: WeakValueDictionary[tuple[object, ...], ChunkBatch] = WeakValueDictionary()

    def share(self, run_id: str, stored: StoredStream) -> StoredStream:
        """Return an equal stream, with the batches that another reader has already in memory."""
        with self._lock:
            chunks = tuple(
                self._batches.setdefault((run_id, each.place, each.attempt), each)
                for each in stored.chunks
            )
        return replace(stored, chunks=chunks)


class StoreReaders:
    """The threads that read the store for bodies on event loops.

    A step may have pushed megabytes, so these reads are never made on a loop. What they return
    becomes parts there, of up to 64 KiB. Were all readers given theirs at once, the loop would
    stand still until the parts of all are made; so a few of them have their turn at a time.

    Args:
        threads: how many there are.
    """

    def __init__(self, threads: int) -> None:
        self._pool = DaemonThreadPool(threads, "durable-stream")
        self._lock = threading.Lock()
        self._turns: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}

    def turns(self, loop: asyncio.AbstractEventLoop) -> asyncio.Semaphore:
        """Return what a body of the loop holds while it waits for its next large part."""
        with self._lock:
            turns = self._turns.get(loop)
            if turns is None:
                # A semaphore that was waited for refers to its loop: a weak key would never go.
                for closed in [each for each in self._turns if each.is_closed()]:
                    del self._turns[closed]
                turns = self._turns[loop] = asyncio.Semaphore(_TURNS)
            return turns

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """Call a function that reads the store.

        Raises:
            StoreError: the store is not read any more.
        """
        loop = asyncio.get_running_loop()
        async with self.turns(loop):
            try:
                waiting = loop.run_in_executor(self._pool, function, *args)
            except RuntimeError as error:  # the pool was shut down
                raise StoreError(f"the store is not read any more: {error}") from error
            return await waiting

    def shutdown(self) -> None:
        """Read the store no more."""
        self._pool.shutdown()


class _Body:
    """The stream of a run, part by part. Subclasses know how to wait and how to call functions.

    Args:
        worker: the worker of this process.
        reader: the client's position in the stream.
        chunks: the chunks that all bodies of the worker are sending.
        close: called once, at the end of the stream or when the client is gone.
        deadline: when the stream of a waiting client ends, so that the client comes again
            (``time.monotonic``); None for an attached client.
    """

    def __init__(
        self,
        worker: BodyHost,
        reader: Reader,
        chunks: SharedChunks,
        close: Callable[[], None],
        deadline: float | None,
    ) -> None:
        self._worker = worker
        self._reader = reader
        self._chunks = chunks
        self._close: Callable[[], None] | None = close
        self._deadline = deadline
        self._parts = 0

    @property
    def messages(self) -> UIMessageStream | None:
        """What makes a UI message stream of the events; None for the events themselves."""
        return self._reader.messages

    def _next_part(self) -> Flow[bytes | None]:
        """Return the next part; None at the end."""
        part: bytes | None = None
        try:
            # The first part is the metadata. A client always gets one more, and so makes progress.
            if self._parts < 2 or not self._is_late():
                part = yield from next_part(self._reader)
        except StoreError as error:
            if not self._worker.stopping:
                text = "the stream of run %s was cut short: %s"
                logger.error(text, self._reader.run_id, error)
        finally:
            if part is None:
                self._end()
        self._parts += 1
        return part

    def _end(self) -> None:
        self._reader.stop()
        close, self._close = self._close, None
        if close is not None:
            close()

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _must_end(self) -> bool:
        return self._worker.stopping or self._worker.waiters.released or self._is_late()

    def _time_to_wait(self, effect: AwaitStream) -> float:
        seconds = effect.for_ms / 1000
        if self._reader.attached is not None:
            return seconds
        if self._must_end():
            return 0.0
        if self._deadline is None:
            return seconds
        return min(seconds, max(0.0, self._deadline - time.monotonic()))

    def _reason(self, woken: bool) -> WakeReason:
        if self._must_end():
            return WakeReason.STOPPING
        return WakeReason.MORE if woken else WakeReason.TIME_OUT

    def _read(self, effect: ReadStream | ReadResult) -> StoredStream | StoredResult | Phase | None:
        app, store = self._reader.env.app, self._worker.store
        if isinstance(effect, ReadResult):
            return store.result(app, effect.run_id)
        cursor = effect.cursor
        stored = store.read_stream(
            app,
            effect.run_id,
            done=cursor.done,
            outside=cursor.outside,
            most=effect.most,
            begin=effect.begin,
        )
        return None if stored is None else self._chunks.share(effect.run_id, stored)

    def _log(self, effect: Effect) -> None:
        assert isinstance(effect, Log)  # a reader asks for nothing else
        logger.warning("run %s: %s", self._reader.run_id, effect.text, exc_info=effect.error)


class SyncBody(_Body, Iterator[bytes]):
    """A stream that is iterated by one thread at a time, which blocks until there is a part."""

    def __init__(
        self,
        worker: BodyHost,
        reader: Reader,
        chunks: SharedChunks,
        waker: ThreadWaker,
        close: Callable[[], None],
        deadline: float | None = None,
    ) -> None:
        super().__init__(worker, reader, chunks, close, deadline)
        self._waker = waker

    def __next__(self) -> bytes:
        part = drive_sync(self._next_part(), self._perform, nullcontext())
        if part is None:
            raise StopIteration
        return part

    def close(self) -> None:
        """The server sends no more of it."""
        self._end()

    def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, AwaitStream):
            return self._reason(self._waker.wait(self._time_to_wait(effect)))
        if isinstance(effect, CallUser):
            return call_hook(effect.call, self._worker.run_on_background_loop)
        if isinstance(effect, ReadStream | ReadResult):
            return self._read(effect)
        return self._log(effect)


class AsyncBody(_Body, AsyncIterator[bytes]):
    """A stream that is iterated on an event loop, without blocking it.

    A client that has read nothing for 30 seconds is disconnected from the stream: the server keeps
    its connection, and nothing else of the client is kept.

    Args:
        worker, reader, chunks, close, deadline: see ``_Body``.
        waker: wakes the task.
        readers: the threads that read the store.
    """

    def __init__(
        self,
        worker: BodyHost,
        reader: Reader,
        chunks: SharedChunks,
        waker: TaskWaker,
        close: Callable[[], None],
        readers: StoreReaders,
        deadline: float | None = None,
    ) -> None:
        super().__init__(worker, reader, chunks, close, deadline)
        self._waker = waker
        self._readers = readers
        self._loop = asyncio.get_running_loop()
        self._sent_at: float | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._limit = PartLimit(self._loop.time)
        self._written_at: float | None = None  # by a push, while the task waits
        self._error: Exception | None = None

    def write_through(self, connection: Connection) -> None:
        """Let a push write to the connection, in place of waking the task that sends this body.

        So a chunk needs no turn of the loop. It is done while the task waits for the next part and
        has sent all others. Where a chunk needs more than the log (the store, a function of the
        application) or has to wait, the task sends it.
        """
        self._connection = connection
        self._waker.at_once = self._write_at_once

    def _write_at_once(self) -> bool:
        """Write what is new; False if the task must."""
        try:
            if not self._connection.is_ready() or not self._limit.add():
                return False
            part = immediate_part(self._reader)
            if not part:
                return False
            self._connection.write_now(part)
        except Exception as error:  # which is not for the code that pushes
            self._error = error
            return False
        self._written_at = self._limit.added_at
        return True

    async def __anext__(self) -> bytes:
        self._sent_at = None
        await self._limit.wait()
        part = await drive_async(self._next_part(), self._perform)
        if part is None:
            raise StopAsyncIteration
        if len(part) >= _LARGE:
            async with self._readers.turns(self._loop):
                await asyncio.sleep(0)  # the server may take all parts without ever waiting
        else:
            self._limit.add()
        self._sent_at = self._loop.time()
        self._set_timer(_STALLED)
        return part

    async def aclose(self) -> None:
        """The server sends no more of it."""
        self._end()

    def _end(self) -> None:
        super()._end()
        self._waker.close()
        if self._stall_timer is not None:
            self._stall_timer.cancel()  # it would keep what the client has been sent
            self._stall_timer = None

    def _set_timer(self, seconds: float) -> None:
        if self._stall_timer is None and self._close is not None:
            self._stall_timer = self._loop.call_later(seconds, self._disconnect_if_stalled)

    def _disconnect_if_stalled(self) -> None:
        self._stall_timer = None
        if self._sent_at is None or self._close is None:
            return  # the client has asked for more, or is gone
        idle = self._loop.time() - self._sent_at
        if idle < _STALLED:
            self._set_timer(_STALLED - idle)
            return
        logger.info(
            "run %s: a client does not read its stream and is disconnected from it",
            self._reader.run_id,
        )
        self._end()

    def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, AwaitStream):
            return self._wait(effect)
        if isinstance(effect, CallUser):
            return call_hook_async(effect.call, self._worker.threads)
        if isinstance(effect, ReadStream | ReadResult):
            return self._readers.call(self._read, effect)
        return self._log(effect)

    async def _wait(self, effect: AwaitStream) -> WakeReason:
        """Wait for news; for so long after the last part, whoever has sent it."""
        woken, seconds = False, self._time_to_wait(effect)
        while not woken and seconds > 0:
            self._written_at = None
            woken = await self._waker.wait(seconds)
            if self._error is not None:
                raise self._error
            if self._written_at is None:
                break
            silent = self._loop.time() - self._written_at
            seconds = min(effect.for_ms / 1000 - silent, self._time_to_wait(effect))
        return self._reason(woken)
