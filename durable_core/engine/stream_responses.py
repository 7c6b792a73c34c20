"""Responses that are the event stream of a run, for its own client and for those that wait."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from durable_core.codec.sse import CONTENT_TYPE
from durable_core.codec.stream_events import final_of
from durable_core.engine.runs import RunManager, WorkerParts
from durable_core.errors import LeaseLost, StoreError
from durable_core.flow.attempt import Call
from durable_core.flow.driver import drive_async, drive_sync
from durable_core.flow.effects import (
    AwaitStream,
    CallUser,
    Effect,
    Flow,
    Log,
    Outcome,
    Raised,
    ReadResult,
    ReadStream,
    Returned,
    WakeReason,
)
from durable_core.flow.execution import StoredExecution
from durable_core.flow.scope import HandlerKind
from durable_core.flow.stream_reader import Attached, Reader, next_part
from durable_core.flow.wait import expiry_of, gone, too_many_clients, wanted_cursor
from durable_core.flow.wait_url import StreamWanted, WaitRequest
from durable_core.http.problem import problem
from durable_core.http.response import Response
from durable_core.machine.stream_cursor import Cursor
from durable_core.model.decision import HandoffReason
from durable_core.model.run import Phase
from durable_core.model.stream import ChunkBatch, StoredStream
from durable_core.platform import call_soon, logger
from durable_core.ports import Store, StoredResult
from durable_core.runners.live import Waiters
from durable_core.runners.settings import RegisteredEndpoint
from durable_core.runners.task import TaskRun
from durable_core.runners.thread import ThreadRun
from durable_core.runners.thread_pool import DaemonThreadPool
from durable_core.streams.log import RunLog

__all__ = [
    "AsyncBody",
    "BodyHost",
    "SharedChunks",
    "StreamResponder",
    "SyncBody",
    "TaskWaker",
    "ThreadWaker",
]


#: What every event stream has: proxies and caches must neither keep nor buffer it, and what
#: its events hold stays with the client.
_HEADERS = (
    ("content-type", CONTENT_TYPE),
    ("cache-control", "no-cache, no-store"),
    ("x-accel-buffering", "no"),
    ("referrer-policy", "no-referrer"),
)
#: After a part of so many bytes others on the loop have their turn.
_LARGE = 32 * 1024
#: A client that has not read what it was sent for so many seconds is let go.
_STALLED = 30.0
#: Threads that read stored streams for bodies on event loops. Their own, also where other reads
#: are made on the loop: a step may have pushed megabytes.
_READING_THREADS = 2
#: Of all clients at wait URLs, so many in four may read streams; the rest is for the others.
_STREAMS_OF_FOUR = 3

T = TypeVar("T")


class ThreadWaker:
    """Wakes one thread; what comes while it does not wait is not lost."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wake(self) -> None:
        """Wake it, from any thread."""
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Wait until woken; False after so many seconds without that."""
        woken = self._event.wait(seconds)
        self._event.clear()
        return woken


class TaskWaker:
    """Wakes one task; what comes while it does not wait is not lost.

    Args:
        loop: where the task runs.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_set = False
        self._waiting: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Wake it, from any thread. A loop that is closed has no reader any more."""
        if self._is_set:
            return
        self._is_set = True
        if self._waiting is None:
            return  # it looks at the flag after it has said that it waits
        if asyncio._get_running_loop() is self._loop:
            self._finish()
            return
        call_soon(self._loop, self._finish)

    async def wait(self, seconds: float) -> bool:
        """Wait until woken; False after so many seconds without that."""
        if not self._is_set:
            self._waiting = self._loop.create_future()
            timer = self._loop.call_later(seconds, self._finish)
            try:
                if not self._is_set:
                    await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        woken, self._is_set = self._is_set, False
        return woken

    def _finish(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class BodyHost(Protocol):
    """A worker, as bodies see it."""

    @property
    def stopping(self) -> bool:
        """Clients are to come again, to another process."""
        ...

    @property
    def store(self) -> Store:
        """Where stored chunks are read."""
        ...

    @property
    def waiters(self) -> Waiters:
        """The clients that wait."""
        ...

    @property
    def threads(self) -> DaemonThreadPool:
        """Where plain functions are called for tasks."""
        ...

    def run_on_background_loop(self, awaitable: Awaitable[T]) -> T:
        """Await something on the worker's own event loop, blocking this thread."""
        ...


class SharedChunks:
    """What readers are being sent of stored streams: in memory once, however many they are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: WeakValueDictionary[tuple[object, ...], ChunkBatch] = WeakValueDictionary()

    def share(self, run_id: str, stored: StoredStream) -> StoredStream:
        """Return the same with the batches that another reader has already; they never change."""
        with self._lock:
            chunks = tuple(
                self._batches.setdefault((run_id, each.number, each.start, each.attempt), each)
                for each in stored.chunks
            )
        return replace(stored, chunks=chunks)


class _Body:
    """The stream of a run, part by part; the subclasses add how to wait and to call.

    Args:
        worker: whose process this is.
        reader: whom it is for.
        chunks: what all bodies of the worker are sending.
        close: called once, when there is nothing more to send, or nobody to send it to.
        deadline: ``time.monotonic`` from which a client that waits has to come again; None for one
            that is attached.
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

    def _next_part(self) -> Flow[bytes | None]:
        """Return the next part; None at the end."""
        part: bytes | None = None
        try:
            # The first part is the metadata: a client gets on by one more, however late it is.
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
    """A stream that is iterated in threads, one at a time. It blocks while there is nothing."""

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
            return self._call(effect.call)
        if isinstance(effect, ReadStream | ReadResult):
            return self._read(effect)
        return self._log(effect)

    def _call(self, call: Call) -> Outcome:
        try:
            value = call.fn(*call.args, **(call.kwargs or {}))
            if inspect.isawaitable(value):
                value = self._worker.run_on_background_loop(value)
        except Exception as error:
            return Raised(error)
        return Returned(value)


class AsyncBody(_Body, AsyncIterator[bytes]):
    """A stream that is iterated on an event loop, on which nothing of it blocks.

    A client that does not take what it was sent is let go after a while: the server then has the
    connection, and nothing else of the client is kept.

    Args:
        worker, reader, chunks, close, deadline: as above.
        waker: of the task.
        readers: where the store is read.
    """

    def __init__(
        self,
        worker: BodyHost,
        reader: Reader,
        chunks: SharedChunks,
        waker: TaskWaker,
        close: Callable[[], None],
        readers: DaemonThreadPool,
        deadline: float | None = None,
    ) -> None:
        super().__init__(worker, reader, chunks, close, deadline)
        self._waker = waker
        self._readers = readers
        self._loop = asyncio.get_running_loop()
        self._sent_at: float | None = None
        self._is_watched = False

    async def __anext__(self) -> bytes:
        self._sent_at = None
        part = await drive_async(self._next_part(), self._perform)
        if part is None:
            raise StopAsyncIteration
        if len(part) >= _LARGE:
            await asyncio.sleep(0)  # there may be a lot more, and no server need wait in between
        self._sent_at = self._loop.time()
        self._watch(_STALLED)
        return part

    async def aclose(self) -> None:
        """The server sends no more of it."""
        self._end()

    def _watch(self, seconds: float) -> None:
        if not self._is_watched:
            self._is_watched = True
            self._loop.call_later(seconds, self._look_after_client)

    def _look_after_client(self) -> None:
        self._is_watched = False
        if self._sent_at is None or self._close is None:
            return  # it has asked for more, or is gone
        idle = self._loop.time() - self._sent_at
        if idle < _STALLED:
            self._watch(_STALLED - idle)
            return
        logger.info("run %s: a client does not read its stream, it is let go", self._reader.run_id)
        self._end()

    def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, AwaitStream):
            return self._wait(effect)
        if isinstance(effect, CallUser):
            return self._call(effect.call)
        if isinstance(effect, ReadStream | ReadResult):
            return _in_thread(self._readers, self._read, effect)
        return self._log(effect)

    async def _wait(self, effect: AwaitStream) -> WakeReason:
        return self._reason(await self._waker.wait(self._time_to_wait(effect)))

    async def _call(self, call: Call) -> Outcome:
        kwargs = call.kwargs or {}
        try:
            if inspect.iscoroutinefunction(call.fn):
                return Returned(await call.fn(*call.args, **kwargs))
            threads = self._worker.threads
            value = await self._loop.run_in_executor(threads, lambda: call.fn(*call.args, **kwargs))
            if inspect.isawaitable(value):
                value = await value
        except Exception as error:
            return Raised(error)
        return Returned(value)


async def _in_thread(pool: DaemonThreadPool, function: Callable[..., T], *args: object) -> T:
    try:
        waiting = asyncio.get_running_loop().run_in_executor(pool, function, *args)
    except RuntimeError as error:  # the pool was shut down
        raise StoreError(f"the store is not read any more: {error}") from error
    return await waiting


class StreamResponder:
    """Answers with event streams.

    Args:
        worker: the worker that it is a part of.
        runs: runs the executions.
    """

    def __init__(self, worker: WorkerParts, runs: RunManager) -> None:
        self._worker = worker
        self._runs = runs
        self._readers = DaemonThreadPool(_READING_THREADS, "durable-stream")
        self._chunks = SharedChunks()
        self._lock = threading.Lock()
        self._waiting = self._in_threads = 0

    def stop(self) -> None:
        """Read the store no more."""
        self._readers.shutdown()

    # -- the client whose request begins a run ----------------------------------------------

    def serve(self, endpoint: RegisteredEndpoint, ex: StoredExecution) -> Response:
        """Begin a run, and answer with its stream, which is iterated by threads."""
        waker = ThreadWaker()
        client = _AttachedClient(self._worker, ex, waker.wake)
        loop = self._worker.loops.background_loop.loop
        client.detach = self._start(endpoint, ex, client, loop, here=False)
        return _answer(SyncBody(self._worker, client.reader, self._chunks, waker, client.close))

    def serve_async(self, endpoint: RegisteredEndpoint, ex: StoredExecution) -> Response:
        """Begin a run, and answer with its stream, which is iterated on this loop."""
        loop = asyncio.get_running_loop()
        waker = TaskWaker(loop)
        client = _AttachedClient(self._worker, ex, waker.wake)
        client.detach = self._start(endpoint, ex, client, loop, here=True)
        reader, close = client.reader, client.close
        return _answer(AsyncBody(self._worker, reader, self._chunks, waker, close, self._readers))

    def _start(
        self,
        endpoint: RegisteredEndpoint,
        ex: StoredExecution,
        client: _AttachedClient,
        loop: asyncio.AbstractEventLoop,
        *,
        here: bool,
    ) -> Callable[[], None]:
        """Have the handler begin, on the loop or in a thread; return what a gone client means."""
        if endpoint.kind is HandlerKind.ASYNC_DEF:
            task_run = TaskRun(self._worker, ex, endpoint.handler, client.reply, loop=loop)

            def begin() -> None:
                self._runs.run_in_task(task_run, self._worker.flows.execute(ex), client.ended)

            if here:
                begin()
            elif not call_soon(loop, begin):
                client.ended()
            return lambda: _detach(task_run)
        run = ThreadRun(self._worker, ex, endpoint.handler, client.reply, own_thread=True)
        done = self._worker.servers.submit(
            copy_context().run, self._runs.run_in_thread, run, self._worker.flows.execute(ex)
        )
        done.add_done_callback(lambda _: client.ended())
        return lambda: self._detach_in_thread(run)

    def _detach_in_thread(self, run: ThreadRun) -> None:
        """Detaching a thread commits, which must not hold up whoever closes the body."""
        if run.ex.attached and not run.ex.closed:
            try:
                self._worker.threads.submit(run.detach, HandoffReason.DISCONNECT)
            except RuntimeError:
                pass  # stopped: what was in flight has been detached or given up

    # -- clients that wait ------------------------------------------------------------------

    def wait(self, wanted: WaitRequest, stream: StreamWanted) -> Response:
        """Answer at the wait URL with the stream of a run, which is iterated by threads.

        It ends after the time that this server holds clients, and they come again. If such streams
        have many threads already, it ends once the client has what there is.
        """
        admitted = self._admit(wanted, stream)
        if isinstance(admitted, Response):
            return admitted
        if not self._exists(wanted.run_id):
            return gone()
        waker = ThreadWaker()
        is_crowded = (
            self._in_threads >= self._worker.env.limits.thread_streams
            or not self._worker.waiters.has_thread_for(wanted.run_id)
        )
        joined = self._join(
            wanted.run_id, admitted, waker.wake, in_thread=True, holds_thread=not is_crowded
        )
        if joined is None:
            return too_many_clients()
        reader, close = joined
        deadline = time.monotonic() + (0 if is_crowded else wanted.max_wait_ms / 1000)
        deadline = min(deadline, admitted.deadline)
        return _answer(SyncBody(self._worker, reader, self._chunks, waker, close, deadline))

    async def wait_async(self, wanted: WaitRequest, stream: StreamWanted) -> Response:
        """Answer at the wait URL with the stream of a run, which is iterated on this loop."""
        admitted = self._admit(wanted, stream)
        if isinstance(admitted, Response):
            return admitted
        if not await self._worker.reads.wait(self._exists, wanted.run_id):
            return gone()
        waker = TaskWaker(asyncio.get_running_loop())
        joined = self._join(wanted.run_id, admitted, waker.wake)
        if joined is None:
            return too_many_clients()
        reader, close = joined
        deadline = admitted.deadline
        return _answer(
            AsyncBody(self._worker, reader, self._chunks, waker, close, self._readers, deadline)
        )

    def _admit(self, wanted: WaitRequest, stream: StreamWanted) -> _Admitted | Response:
        env = self._worker.env
        expiry = expiry_of(env, wanted)
        if isinstance(expiry, Response):
            return expiry
        cursor = wanted_cursor(wanted, stream)
        if isinstance(cursor, Response):
            return cursor
        deadline = time.monotonic() + (expiry - env.clock.now()) / 1000
        return _Admitted(cursor, stream.from_handoff and cursor is None, deadline)

    def _exists(self, run_id: str) -> bool:
        return bool(self._worker.store.stream_versions(self._worker.env.app, (run_id,)))

    def _join(
        self,
        run_id: str,
        admitted: _Admitted,
        wake: Callable[[], None],
        *,
        in_thread: bool = False,
        holds_thread: bool = False,
    ) -> tuple[Reader, Callable[[], None]] | None:
        """Return a reader that has signed up, and how it signs off; None if there are too many."""
        streams, waiters, env = self._worker.streams, self._worker.waiters, self._worker.env

        def look() -> None:
            reader.check_store = True
            wake()

        def close() -> None:
            waiters.remove(run_id, look, in_thread=holds_thread)
            streams.leave(log, wake, look)
            self._count(-1, in_thread=in_thread)

        if not self._count(1, in_thread=in_thread):
            return None
        reader = Reader(
            env,
            run_id,
            RunLog(run_id),
            cursor=admitted.cursor,
            from_handoff=admitted.from_handoff,
        )
        log = reader.log = streams.join(run_id, wake, look)
        if not waiters.add(run_id, look, in_thread=holds_thread):
            streams.leave(log, wake, look)
            self._count(-1, in_thread=in_thread)
            return None
        return reader, close

    def _count(self, change: int, *, in_thread: bool) -> bool:
        """Count a stream that begins or ends; False, without counting, if it is one too many."""
        most = max(1, self._worker.env.limits.waiting_clients * _STREAMS_OF_FOUR // 4)
        with self._lock:
            if change > 0 and self._waiting >= most:
                return False
            self._waiting += change
            self._in_threads += change if in_thread else 0
            return True


@dataclass(frozen=True, slots=True)
class _Admitted:
    """Where a client that waits begins, and until when (``time.monotonic``) its token is good."""

    cursor: Cursor | None
    from_handoff: bool
    deadline: float


class _AttachedClient:
    """The client whose request begins a run, and that reads its stream on the same connection.

    Args:
        worker: where the run is executed.
        ex: the execution, which has not begun.
        wake: wakes the reader.

    Attributes:
        reader: of the stream.
        detach: what a client that is gone means to the run.
    """

    def __init__(self, worker: WorkerParts, ex: StoredExecution, wake: Callable[[], None]) -> None:
        self._streams, self._ex, self._wake = worker.streams, ex, wake
        self._lock = threading.Lock()
        self._look: Callable[[], None] | None = None
        self._is_gone = False
        self._is_answered = False
        self.detach: Callable[[], None] = lambda: None
        ex.followed = True
        publisher = worker.streams.open(ex)
        assert publisher is not None  # it has not begun
        self._log = publisher.log
        self._log.attach()
        self._log.follow(wake)
        attached = Attached(options=ex.options, request=ex.request)
        self.reader = Reader(ex.env, ex.run.id, self._log, attached=attached)

    def reply(self, response: Response) -> None:
        """Send the response when all before it is sent."""
        failed = self._ex.run.phase is not Phase.COMPLETED
        self._is_answered = True
        self._log.set_final(final_of(response, failed=failed))

    def ended(self) -> None:
        """The execution is over, whether or not there was an answer.

        If another process has the run now, the client reads on as one that waits. A second
        connection would begin at the beginning: no handoff was stored.
        """
        ex, log = self._ex, self._log
        if isinstance(ex.fault, LeaseLost) and not (log.handed_off or self._is_answered):
            with self._lock:
                if not self._is_gone:
                    self._look = self._check_store
                    self._streams.watch(log, self._look)
            log.lose_lease()
            return
        if not ex.stored and not log.handed_off:
            detail = f"run {ex.run.id} ended without an answer"
            log.set_final(final_of(problem(500, "internal-error", detail=detail), failed=True))
        log.detach()

    def close(self) -> None:
        """The client is gone, or has all."""
        with self._lock:
            self._is_gone = True
        self._streams.leave(self._log, self._wake, self._look)
        self.detach()

    def _check_store(self) -> None:
        self.reader.check_store = True
        self._wake()


def _answer(body: SyncBody | AsyncBody) -> Response:
    return Response(headers=_HEADERS, body=body)


def _detach(run: TaskRun) -> None:
    if run.ex.attached and not run.ex.closed:
        run.detach(HandoffReason.DISCONNECT)
