"""Responses that are the event stream of a run, for its own client and for those that wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass
from typing import TypeAlias

from durable_core.codec.sse import CONTENT_TYPE
from durable_core.codec.stream_events import final_of
from durable_core.codec.ui_messages import HEADER
from durable_core.codec.ui_stream import UIMessageStream, UIMode
from durable_core.engine.runs import RunManager, WorkerParts
from durable_core.engine.stream_bodies import (
    AsyncBody,
    SharedChunks,
    StoreReaders,
    SyncBody,
    TaskWaker,
    ThreadWaker,
)
from durable_core.engine.sync_limit import SyncLimit
from durable_core.errors import LeaseLost
from durable_core.flow.execution import StoredExecution
from durable_core.flow.scope import HandlerKind
from durable_core.flow.stream_reader import Attached, Reader
from durable_core.flow.wait import expiry_of, gone_response, start_cursor, too_many_clients_response
from durable_core.flow.wait_url import StreamWanted, WaitRequest
from durable_core.http.headers import accepts_event_stream
from durable_core.http.problem import problem
from durable_core.http.response import Response
from durable_core.machine.stream_cursor import Cursor
from durable_core.model.decision import HandoffReason
from durable_core.model.run import Phase
from durable_core.platform import call_soon
from durable_core.runners.settings import RegisteredEndpoint
from durable_core.runners.task import TaskRun
from durable_core.runners.thread import ThreadRun
from durable_core.streams.log import RunLog

__all__ = ["StreamResponder"]


#: Counts a client; see ``StreamResponder``.
_Count: TypeAlias = Callable[[int], bool]
#: The headers of every event stream: proxies and caches must neither store nor buffer it, and the
#: token in its events must not get into a Referer.
_HEADERS = (
    ("content-type", CONTENT_TYPE),
    ("cache-control", "no-cache, no-store"),
    ("x-accel-buffering", "no"),
    ("incremental", "?1"),  # the same for any proxy (RFC 10036)
    ("referrer-policy", "no-referrer"),
)
#: Threads that read stored streams for bodies on event loops.
_READING_THREADS = 2
#: How many in four of the clients at wait URLs may read streams.
_STREAMS_OF_FOUR = 3


class StreamResponder:
    """Answers with event streams.

    Args:
        worker: the worker that it is a part of.
        runs: runs the executions.
        sync_limit: hands clients off whose time is over.
    """

    def __init__(self, worker: WorkerParts, runs: RunManager, sync_limit: SyncLimit) -> None:
        self._worker = worker
        self._runs = runs
        self._sync_limit = sync_limit
        self._readers = StoreReaders(_READING_THREADS)
        self._chunks = SharedChunks()
        self._lock = threading.Lock()
        self._waiting = self._in_threads = 0

    def stop(self) -> None:
        """Read the store no more."""
        self._readers.shutdown()

    def serve(self, endpoint: RegisteredEndpoint, ex: StoredExecution) -> Response:
        """Begin a run, and answer with its stream, which is iterated by threads."""
        if endpoint.options.max_sync_runtime == 0:
            return self._sync_limit.start(endpoint, ex)
        waker = ThreadWaker()
        client = _AttachedClient(self._worker, ex, waker.wake)
        loop = self._worker.loops.background_loop.loop
        client.detach = self._start(endpoint, ex, client, loop, here=False)
        return _answer(SyncBody(self._worker, client.reader, self._chunks, waker, client.close))

    async def serve_async(self, endpoint: RegisteredEndpoint, ex: StoredExecution) -> Response:
        """Begin a run, and answer with its stream, which is iterated on this loop."""
        if endpoint.options.max_sync_runtime == 0:
            return await self._sync_limit.start_async(endpoint, ex)
        loop = asyncio.get_running_loop()
        waker = TaskWaker(loop)
        client = _AttachedClient(self._worker, ex, waker.wake, self._count)
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
        is_limited = endpoint.options.max_sync_runtime is not None
        timers: list[asyncio.TimerHandle] = []

        def watch(run: TaskRun | ThreadRun, done: Future[None] | None) -> None:
            timers.append(self._sync_limit.watch(run, done, client.ended))

        def ended() -> None:
            client.ended()
            for timer in timers:
                call_soon(loop, timer.cancel)

        if endpoint.kind is HandlerKind.ASYNC_DEF:
            task_run = self._runs.task_run(
                self._worker, ex, endpoint.handler, client.reply, loop=loop
            )

            def begin() -> None:
                self._runs.run_in_task(task_run, self._worker.flows.execute(ex), ended)
                if is_limited:
                    watch(task_run, None)

            if here:
                begin()
            elif not call_soon(loop, begin):
                client.ended()
            return lambda: _detach(task_run)
        run = self._runs.thread_run(
            self._worker, ex, endpoint.handler, client.reply, own_thread=True
        )
        done = self._worker.servers.submit(
            copy_context().run, self._runs.run_in_thread, run, self._worker.flows.execute(ex)
        )
        done.add_done_callback(lambda done: None if done.cancelled() else ended())
        if is_limited:
            call_soon(loop, watch, run, done)
        return lambda: self._detach_in_thread(run)

    def _detach_in_thread(self, run: ThreadRun) -> None:
        """Detaching a thread commits, which must not hold up whoever closes the body."""
        if run.ex.attached and not run.ex.closed:
            try:
                self._worker.threads.submit(run.detach, HandoffReason.DISCONNECT)
            except RuntimeError:
                pass  # stopped: what was in flight has been detached or given up

    def wait(self, wanted: WaitRequest, stream: StreamWanted) -> Response:
        """Answer at the wait URL with the stream of a run, which is iterated by threads.

        It ends after the time that this server holds clients, and they come again. If such streams
        have many threads already, it ends once the client has what there is.
        """
        admitted = self._admit(wanted, stream)
        if isinstance(admitted, Response):
            return admitted
        if not self._exists(wanted.run_id):
            return gone_response()
        waker = ThreadWaker()
        is_crowded = (
            self._in_threads >= self._worker.env.limits.thread_streams
            or not self._worker.waiters.has_thread_for(wanted.run_id)
        )
        joined = self._join(
            wanted.run_id, admitted, waker.wake, in_thread=True, holds_thread=not is_crowded
        )
        if joined is None:
            return too_many_clients_response()
        reader, close = joined
        deadline = time.monotonic() + (0 if is_crowded else wanted.max_wait_ms / 1000)
        deadline = min(deadline, admitted.deadline)
        body = SyncBody(self._worker, reader, self._chunks, waker, close, deadline)
        return _answer(body, wanted)

    async def wait_async(self, wanted: WaitRequest, stream: StreamWanted) -> Response:
        """Answer at the wait URL with the stream of a run, which is iterated on this loop."""
        admitted = self._admit(wanted, stream)
        if isinstance(admitted, Response):
            return admitted
        if not await self._worker.reads.wait(self._exists, wanted.run_id):
            return gone_response()
        waker = TaskWaker(asyncio.get_running_loop())
        joined = self._join(wanted.run_id, admitted, waker.wake)
        if joined is None:
            return too_many_clients_response()
        reader, close = joined
        deadline = admitted.deadline
        if wanted.applied:  # it prefers not to read for longer
            deadline = min(deadline, time.monotonic() + wanted.max_wait_ms / 1000)
        body = AsyncBody(self._worker, reader, self._chunks, waker, close, self._readers, deadline)
        return _answer(body, wanted)

    def _admit(self, wanted: WaitRequest, stream: StreamWanted) -> _Admitted | Response:
        env = self._worker.env
        expiry = expiry_of(env, wanted)
        if isinstance(expiry, Response):
            return expiry
        cursor = start_cursor(wanted, stream)
        if isinstance(cursor, Response):
            return cursor
        deadline = time.monotonic() + (expiry - env.clock.now()) / 1000
        from_handoff = stream.from_handoff and cursor is None
        return _Admitted(cursor, from_handoff, deadline, wanted.is_at_endpoint, stream.ui_messages)

    def _exists(self, run_id: str) -> bool:
        """Tell whether there is a run: in the store, or here without a record yet."""
        if run_id in self._worker.live:
            return True
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
        mode = admitted.ui_messages
        reader = Reader(
            env,
            run_id,
            RunLog(run_id),
            cursor=admitted.cursor,
            from_handoff=admitted.from_handoff,
            names_run=admitted.names_run,
            messages=None if mode is None else UIMessageStream(mode, run_id),
        )
        log = reader.log = streams.join(run_id, wake, look)
        if not waiters.add(run_id, look, in_thread=holds_thread):
            streams.leave(log, wake, look)
            self._count(-1, in_thread=in_thread)
            return None
        return reader, close

    def _count(self, change: int, *, in_thread: bool = False) -> bool:
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
    """Where a client that waits begins, and until when (``time.monotonic``) its token is good.

    ``names_run``: the ids of its events name the run. ``ui_messages``: it gets such a stream.
    """

    cursor: Cursor | None
    from_handoff: bool
    deadline: float
    names_run: bool
    ui_messages: UIMode | None


class _AttachedClient:
    """The client whose request begins a run, and that reads its stream on the same connection.

    Args:
        worker: where the run is executed.
        ex: the execution, which has not begun.
        wake: wakes the reader.
        count: counts a client that waits, with a change of 1 or -1; False if it is one too many.
            None where clients may not wait on the connection of their request, which holds a
            thread: a UI message stream then ends at the handoff.

    Attributes:
        reader: of the stream.
        detach: what a client that is gone means to the run.
    """

    def __init__(
        self,
        worker: WorkerParts,
        ex: StoredExecution,
        wake: Callable[[], None],
        count: _Count | None = None,
    ) -> None:
        self._streams, self._ex, self._wake = worker.streams, ex, wake
        self._waiters, self._count = worker.waiters, count
        self._waits = False
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
        messages = _messages_for(ex)
        attached = Attached(
            options=ex.options, request=ex.request, stay=None if messages is None else self._stay
        )
        self.reader = Reader(ex.env, ex.run.id, self._log, attached=attached, messages=messages)

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

    def _stay(self) -> bool:
        """Let the client wait on this connection for what comes after the handoff."""
        if self._count is None or not self._count(1):
            return False
        with self._lock:
            self._waits = not self._is_gone and self._waiters.add(
                self._ex.run.id, self._check_store
            )
            if self._waits:
                self._look = self._check_store
                self._streams.watch(self._log, self._look)
            else:
                self._count(-1)
        return self._waits

    def close(self) -> None:
        """The client is gone, or has all."""
        with self._lock:
            self._is_gone = True
        if self._waits and self._count is not None:
            self._waiters.remove(self._ex.run.id, self._check_store)
            self._count(-1)
        self._streams.leave(self._log, self._wake, self._look)
        self.detach()

    def _check_store(self) -> None:
        self.reader.check_store = True
        self._wake()


def _messages_for(ex: StoredExecution) -> UIMessageStream | None:
    """Return what makes a UI message stream; None if the client asks for the events themselves."""
    mode = ex.options.ui_messages
    if mode is None or accepts_event_stream(ex.request.headers):
        return None
    return UIMessageStream(mode, ex.run.id)


def _answer(body: SyncBody | AsyncBody, wanted: WaitRequest | None = None) -> Response:
    applied = () if wanted is None else wanted.applied
    kind = () if body.messages is None else (HEADER,)
    return Response(headers=(*_HEADERS, *kind, *applied), body=body)


def _detach(run: TaskRun) -> None:
    if run.ex.attached and not run.ex.closed:
        run.detach(HandoffReason.DISCONNECT)
