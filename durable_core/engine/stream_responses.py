"""Answering with a stream: to the client whose request begins a run, and to those who wait."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import nullcontext
from contextvars import copy_context
from typing import Any, Protocol, TypeVar

from durable_core.codec.sse import CONTENT_TYPE
from durable_core.codec.stream_events import final_of
from durable_core.engine.runs import RunManager, WorkerParts
from durable_core.errors import StoreError
from durable_core.flow.checkpoint import StoredExecution
from durable_core.flow.effects import (
    AwaitStream,
    Call,
    CallUser,
    Effect,
    LogWarning,
    Outcome,
    Raised,
    ReadResult,
    ReadStream,
    Returned,
    WakeReason,
    drive_async,
    drive_sync,
)
from durable_core.flow.scope import HandlerKind
from durable_core.flow.stream_reader import Attached, Reader, next_part
from durable_core.flow.wait import (
    StreamWanted,
    WaitRequest,
    expiry_of,
    gone,
    too_many_clients,
    wanted_cursor,
)
from durable_core.http.problem import problem
from durable_core.http.response import Response
from durable_core.machine.stream_cursor import Cursor
from durable_core.model.decision import HandoffReason
from durable_core.model.run import Phase
from durable_core.platform import call_soon, logger
from durable_core.ports import Store, StoredResult
from durable_core.runners.settings import RegisteredEndpoint
from durable_core.runners.store_reads import StoreReads
from durable_core.runners.task import TaskRun
from durable_core.runners.thread import ThreadRun
from durable_core.runners.thread_pool import DaemonThreadPool
from durable_core.streams.log import RunLog

__all__ = [
    "AsyncBody",
    "BodyHost",
    "StreamResponder",
    "SyncBody",
    "TaskWaker",
    "ThreadWaker",
]


# --- signals --------------------------------------------------------------------------------------
#
# Waking a reader, be it a thread or a task.


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


# --- bodies ---------------------------------------------------------------------------------------
#
# Response bodies that are the stream of a run: one flow, iterated by threads or on a loop.

T = TypeVar("T")

#: After a part of so many bytes others on the loop have their turn.
_LARGE = 32 * 1024


class BodyHost(Protocol):
    """What bodies need of the node."""

    @property
    def stopping(self) -> bool:
        """No client may be held any more."""
        ...

    @property
    def store(self) -> Store:
        """Where stored chunks are read."""
        ...

    @property
    def reads(self) -> StoreReads:
        """How an event loop reads the store."""
        ...

    @property
    def threads(self) -> DaemonThreadPool:
        """Where plain functions are called for tasks."""
        ...

    def run_on_background_loop(self, awaitable: Awaitable[T]) -> T:
        """Await something on the node's own event loop, blocking this thread."""
        ...


class _Body:
    """What the two have in common.

    Args:
        host: the node.
        reader: what is iterated.
        close: called once, when there is nothing more to send or the server closes the body.
    """

    def __init__(self, host: BodyHost, reader: Reader, close: Callable[[], None]) -> None:
        self._host = host
        self._reader = reader
        self._close: Callable[[], None] | None = close

    def _end(self) -> None:
        self._reader.finished = True
        close, self._close = self._close, None
        if close is not None:
            close()

    def _perform_at_once(self, effect: Effect) -> Any:
        app, store = self._reader.env.app, self._host.store
        if isinstance(effect, ReadStream):
            cursor = effect.cursor
            return store.read_stream(
                app, effect.run_id, done=cursor.done, outside=cursor.outside, most=effect.most
            )
        if isinstance(effect, ReadResult):
            return store.result(app, effect.run_id)
        assert isinstance(effect, LogWarning)  # a reader asks for nothing else
        logger.warning("run %s: %s", self._reader.run_id, effect.text, exc_info=effect.error)
        return None

    def _woken(self, woken: bool) -> WakeReason:
        if self._host.stopping:
            return WakeReason.STOPPING
        return WakeReason.MORE if woken else WakeReason.TIME_OUT

    def _lost(self, error: StoreError) -> None:
        """The store cannot be read: the client has to come again."""
        if not self._host.stopping:
            logger.error("the stream of run %s was cut short: %s", self._reader.run_id, error)


class SyncBody(_Body, Iterator[bytes]):
    """A stream that is iterated in threads, one at a time. It blocks while there is nothing.

    ``deadline`` (``time.monotonic``) is when a client that waits has to come again.
    """

    def __init__(
        self,
        host: BodyHost,
        reader: Reader,
        signal: ThreadWaker,
        close: Callable[[], None],
        deadline: float | None = None,
    ) -> None:
        super().__init__(host, reader, close)
        self._signal = signal
        self._deadline = deadline

    def __next__(self) -> bytes:
        part: bytes | None = None
        try:
            part = drive_sync(next_part(self._reader), self._perform, nullcontext())
        except StoreError as error:
            self._lost(error)
        finally:
            if part is None:
                self._end()
        if part is None:
            raise StopIteration
        return part

    def close(self) -> None:
        """The server sends no more of it."""
        self._end()

    def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, AwaitStream):
            return self._await_more(effect.for_ms / 1000)
        if isinstance(effect, CallUser):
            return self._invoke(effect.call)
        return self._perform_at_once(effect)

    def _await_more(self, seconds: float) -> WakeReason:
        if self._deadline is None:
            return self._woken(self._signal.wait(seconds))
        left = self._deadline - time.monotonic()
        if left <= 0:
            return WakeReason.STOPPING
        woken = self._woken(self._signal.wait(min(seconds, left)))
        return WakeReason.MORE if woken is WakeReason.TIME_OUT and left < seconds else woken

    def _invoke(self, call: Call) -> Outcome:
        try:
            value = call.fn(*call.args, **(call.kwargs or {}))
            if inspect.isawaitable(value):
                value = self._host.run_on_background_loop(value)
        except Exception as error:
            return Raised(error)
        return Returned(value)


class AsyncBody(_Body, AsyncIterator[bytes]):
    """A stream that is iterated on an event loop."""

    def __init__(
        self, host: BodyHost, reader: Reader, signal: TaskWaker, close: Callable[[], None]
    ) -> None:
        super().__init__(host, reader, close)
        self._signal = signal

    async def __anext__(self) -> bytes:
        part: bytes | None = None
        try:
            part = await drive_async(next_part(self._reader), self._perform)
        except StoreError as error:
            self._lost(error)
        finally:
            if part is None:
                self._end()
        if part is None:
            raise StopAsyncIteration
        if len(part) >= _LARGE:
            await asyncio.sleep(0)  # there may be a lot more, and no server need wait in between
        return part

    async def aclose(self) -> None:
        """The server sends no more of it."""
        self._end()

    def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, AwaitStream):
            return self._await_more(effect.for_ms / 1000)
        if isinstance(effect, CallUser):
            return self._invoke(effect.call)
        return self._host.reads.call(self._perform_at_once, effect)

    async def _await_more(self, seconds: float) -> WakeReason:
        return self._woken(await self._signal.wait(seconds))

    async def _invoke(self, call: Call) -> Outcome:
        kwargs = call.kwargs or {}
        try:
            if inspect.iscoroutinefunction(call.fn):
                return Returned(await call.fn(*call.args, **kwargs))
            loop = asyncio.get_running_loop()
            value = await loop.run_in_executor(
                self._host.threads, lambda: call.fn(*call.args, **kwargs)
            )
            if inspect.isawaitable(value):
                value = await value
        except Exception as error:
            return Raised(error)
        return Returned(value)


# --- stream responses -----------------------------------------------------------------------------

#: What every event stream has: proxies and caches must neither keep nor buffer it, and what
#: its events hold stays with the client.
_HEADERS = (
    ("content-type", CONTENT_TYPE),
    ("cache-control", "no-cache, no-store"),
    ("x-accel-buffering", "no"),
    ("referrer-policy", "no-referrer"),
)
#: A server that holds clients for less than this cannot hold a stream for longer either, ms.
_LONG_WAIT = 25_000


class StreamResponder:
    """See the module.

    Args:
        node: the worker that it is a part of.
        runs: runs the executions.
    """

    def __init__(self, node: WorkerParts, runs: RunManager) -> None:
        self._node = node
        self._runs = runs

    # -- the client whose request begins a run ----------------------------------------------

    def serve(self, endpoint: RegisteredEndpoint, ex: StoredExecution) -> Response:
        """Begin a run, and answer with its stream, which is iterated by threads."""
        signal = ThreadWaker()
        log = self._followed(ex, signal.wake)
        detach = self._start(endpoint, ex, log, self._node.loops.background_loop.loop, here=False)
        close = self._closing(log, signal.wake, detach)
        return _answer(SyncBody(self._node, self._attached(ex, log), signal, close))

    def serve_async(self, endpoint: RegisteredEndpoint, ex: StoredExecution) -> Response:
        """Begin a run, and answer with its stream, which is iterated on this loop."""
        loop = asyncio.get_running_loop()
        signal = TaskWaker(loop)
        log = self._followed(ex, signal.wake)
        detach = self._start(endpoint, ex, log, loop, here=True)
        close = self._closing(log, signal.wake, detach)
        return _answer(AsyncBody(self._node, self._attached(ex, log), signal, close))

    def _followed(self, ex: StoredExecution, wake: Callable[[], None]) -> RunLog:
        ex.followed = True
        emitter = self._node.streams.open(ex)
        assert emitter is not None  # it has not begun
        emitter.log.attach()
        emitter.log.follow(wake)
        return emitter.log

    def _attached(self, ex: StoredExecution, log: RunLog) -> Reader:
        attached = Attached(options=ex.options, request=ex.request)
        return Reader(ex.env, ex.run.id, log, attached=attached)

    def _closing(
        self, log: RunLog, wake: Callable[[], None], detach: Callable[[], None]
    ) -> Callable[[], None]:
        def close() -> None:
            self._node.streams.leave(log, wake)
            detach()

        return close

    def _start(
        self,
        endpoint: RegisteredEndpoint,
        ex: StoredExecution,
        log: RunLog,
        loop: asyncio.AbstractEventLoop,
        *,
        here: bool,
    ) -> Callable[[], None]:
        """Have the handler begin, on the loop or in a thread; return what a gone client means."""

        def reply(response: Response) -> None:
            log.set_final(final_of(response, failed=ex.run.phase is not Phase.COMPLETED))

        def ended() -> None:
            _end(ex, log)

        if endpoint.kind is HandlerKind.ASYNC_DEF:
            task_run = TaskRun(self._node, ex, endpoint.handler, reply, loop=loop)

            def begin() -> None:
                self._runs.run_in_task(task_run, self._node.flows.execute(ex), ended)

            if here:
                begin()
            elif not call_soon(loop, begin):
                ended()
            return lambda: _detach(task_run)
        run = ThreadRun(self._node, ex, endpoint.handler, reply, own_thread=True)
        done = self._node.servers.submit(
            copy_context().run, self._runs.run_in_thread, run, self._node.flows.execute(ex)
        )
        done.add_done_callback(lambda _: ended())
        return lambda: self._detach_in_thread(run)

    def _detach_in_thread(self, run: ThreadRun) -> None:
        """Detaching a thread commits, which must not hold up whoever closes the body."""
        if run.ex.attached and not run.ex.closed:
            try:
                self._node.threads.submit(run.detach, HandoffReason.DISCONNECT)
            except RuntimeError:
                pass  # stopped: what was in flight has been detached or given up

    # -- clients that wait ------------------------------------------------------------------

    def wait(self, wanted: WaitRequest, stream: StreamWanted) -> Response:
        """Answer at the wait URL with the stream of a run, which is iterated by threads."""
        signal = ThreadWaker()
        cursor = self._wanted_cursor(wanted, stream)
        if isinstance(cursor, Response):
            return cursor
        if self._result_of(wanted.run_id) is None:
            return gone()
        found = self._sign_up(wanted.run_id, stream, cursor, signal.wake)
        if found is None:
            return too_many_clients()
        reader, close = found
        deadline = None
        if wanted.max_wait_ms < _LONG_WAIT:
            deadline = time.monotonic() + wanted.max_wait_ms / 1000
        return _answer(SyncBody(self._node, reader, signal, close, deadline))

    async def wait_async(self, wanted: WaitRequest, stream: StreamWanted) -> Response:
        """Answer at the wait URL with the stream of a run, which is iterated on this loop."""
        signal = TaskWaker(asyncio.get_running_loop())
        cursor = self._wanted_cursor(wanted, stream)
        if isinstance(cursor, Response):
            return cursor
        if await self._node.reads.wait(self._result_of, wanted.run_id) is None:
            return gone()
        found = self._sign_up(wanted.run_id, stream, cursor, signal.wake)
        if found is None:
            return too_many_clients()
        reader, close = found
        return _answer(AsyncBody(self._node, reader, signal, close))

    def _wanted_cursor(self, wanted: WaitRequest, stream: StreamWanted) -> Response | Cursor | None:
        """Return where the client wants to go on; or why it may not."""
        expiry = expiry_of(self._node.env, wanted)
        return expiry if isinstance(expiry, Response) else wanted_cursor(wanted, stream)

    def _result_of(self, run_id: str) -> StoredResult | Phase | None:
        return self._node.store.result(self._node.env.app, run_id)

    def _sign_up(
        self, run_id: str, stream: StreamWanted, cursor: Cursor | None, wake: Callable[[], None]
    ) -> tuple[Reader, Callable[[], None]] | None:
        streams, waiters = self._node.streams, self._node.waiters

        def look() -> None:
            reader.check_store = True
            wake()

        def close() -> None:
            waiters.remove(run_id, look)
            streams.leave(log, wake, look)

        reader = Reader(
            self._node.env,
            run_id,
            RunLog(run_id),
            cursor=cursor,
            from_handoff=stream.from_handoff and cursor is None,
        )
        log = reader.log = streams.join(run_id, wake, look)
        if not waiters.add(run_id, look):
            streams.leave(log, wake, look)
            return None
        return reader, close


def _answer(body: SyncBody | AsyncBody) -> Response:
    return Response(headers=_HEADERS, body=body)


def _detach(run: TaskRun) -> None:
    if run.ex.attached and not run.ex.closed:
        run.detach(HandoffReason.DISCONNECT)


def _end(ex: StoredExecution, log: RunLog) -> None:
    """An execution is over: its client gets no more here, whether or not it has an answer."""
    if not ex.stored and not log.handed_off:
        detail = f"run {ex.run.id} ended without an answer"
        log.set_final(final_of(problem(500, "internal-error", detail=detail), failed=True))
    log.detach()
