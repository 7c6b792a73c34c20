"""Answering with a stream: to the client whose request begins a run, and to those who wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from durable_core.flow.current import Face
from durable_core.flow.env import Env
from durable_core.flow.execution import Execution
from durable_core.flow.reading import Attached, Reader
from durable_core.flow.wait import (
    StreamWanted,
    WaitRequest,
    gone,
    refusal,
    too_many,
    wanted_cursor,
)
from durable_core.machine.cursor import Cursor
from durable_core.model.commands import HandoffReason
from durable_core.model.response import Response
from durable_core.model.run import Phase
from durable_core.runtime.host import Host
from durable_core.runtime.live import Waiters
from durable_core.runtime.loops import call_soon
from durable_core.runtime.pool import DaemonPool
from durable_core.runtime.running import Running
from durable_core.runtime.settings import Registered
from durable_core.runtime.streams.bodies import AsyncBody, SyncBody
from durable_core.runtime.streams.bodies import Host as BodyHost
from durable_core.runtime.streams.log import RunLog
from durable_core.runtime.streams.registry import Streams
from durable_core.runtime.streams.signals import TaskSignal, ThreadSignal
from durable_core.runtime.tasks import TaskRun
from durable_core.runtime.threads import ThreadRun
from durable_core.wire.finals import final_of
from durable_core.wire.problem import problem
from durable_core.wire.sse import CONTENT_TYPE

__all__ = ["StreamServing"]

#: What every event stream has: proxies and caches must neither keep nor buffer it, and what
#: its events hold stays with the client.
_HEADERS = (
    ("content-type", CONTENT_TYPE),
    ("cache-control", "no-cache, no-store"),
    ("x-accel-buffering", "no"),
    ("referrer-policy", "no-referrer"),
)
#: A server that holds clients for less than this cannot hold a stream for longer either, ms.
_HOLDS_LONG = 25_000


class _Node(Host, BodyHost, Protocol):
    """What this needs of its node."""

    env: Env
    servers: DaemonPool
    streams: Streams
    waiters: Waiters


class StreamServing:
    """See the module.

    Args:
        node: the node.
        running: runs the executions.
    """

    def __init__(self, node: _Node, running: Running) -> None:
        self._node = node
        self._running = running

    # -- the client whose request begins a run ----------------------------------------------

    def serve(self, endpoint: Registered, ex: Execution) -> Response:
        """Begin a run, and answer with its stream, which is iterated by threads."""
        signal = ThreadSignal()
        log = self._followed(ex, signal.wake)
        detach = self._start(endpoint, ex, log, self._node.loops.own.loop, here=False)
        close = self._closing(log, signal.wake, detach)
        return _answer(SyncBody(self._node, self._attached(ex, log), signal, close))

    def serve_async(self, endpoint: Registered, ex: Execution) -> Response:
        """Begin a run, and answer with its stream, which is iterated on this loop."""
        loop = asyncio.get_running_loop()
        signal = TaskSignal(loop)
        log = self._followed(ex, signal.wake)
        detach = self._start(endpoint, ex, log, loop, here=True)
        close = self._closing(log, signal.wake, detach)
        return _answer(AsyncBody(self._node, self._attached(ex, log), signal, close))

    def _followed(self, ex: Execution, wake: Callable[[], None]) -> RunLog:
        ex.followed = True
        emitter = self._node.streams.open(ex)
        assert emitter is not None  # it has not begun
        emitter.log.attach()
        emitter.log.follow(wake)
        return emitter.log

    def _attached(self, ex: Execution, log: RunLog) -> Reader:
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
        endpoint: Registered,
        ex: Execution,
        log: RunLog,
        loop: asyncio.AbstractEventLoop,
        *,
        here: bool,
    ) -> Callable[[], None]:
        """Have the handler begin, on the loop or in a thread; return what a gone client means."""

        def reply(response: Response) -> None:
            log.conclude(final_of(response, failed=ex.run.phase is not Phase.COMPLETED))

        def ended() -> None:
            _end(ex, log)

        if endpoint.face is Face.ASYNC:
            task_run = TaskRun(self._node, ex, endpoint.handler, reply, loop=loop)

            def begin() -> None:
                self._running.in_task(task_run, self._node.flows.execute(ex), ended)

            if here:
                begin()
            elif not call_soon(loop, begin):
                ended()
            return lambda: _detach(task_run)
        run = ThreadRun(self._node, ex, endpoint.handler, reply, own_thread=True)
        done = self._node.servers.submit(self._running.in_thread, run, self._node.flows.execute(ex))
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
        signal = ThreadSignal()
        found = self._joined(wanted, stream, signal.wake)
        if isinstance(found, Response):
            return found
        reader, close = found
        deadline = None
        if wanted.hold_ms < _HOLDS_LONG:
            deadline = time.monotonic() + wanted.hold_ms / 1000
        return _answer(SyncBody(self._node, reader, signal, close, deadline))

    def wait_async(self, wanted: WaitRequest, stream: StreamWanted) -> Response:
        """Answer at the wait URL with the stream of a run, which is iterated on this loop."""
        signal = TaskSignal(asyncio.get_running_loop())
        found = self._joined(wanted, stream, signal.wake)
        if isinstance(found, Response):
            return found
        reader, close = found
        return _answer(AsyncBody(self._node, reader, signal, close))

    def _joined(
        self, wanted: WaitRequest, stream: StreamWanted, wake: Callable[[], None]
    ) -> Response | tuple[Reader, Callable[[], None]]:
        """Return a reader that has signed up, and how it signs off; or why there is none."""
        env, run_id = self._node.env, wanted.run_id
        refused = refusal(env, wanted)
        if refused is not None:
            return refused
        cursor = wanted_cursor(stream)
        if isinstance(cursor, Response):
            return cursor
        if self._node.store.result(env.app, run_id) is None:
            return gone()
        return self._sign_up(run_id, stream, cursor, wake) or too_many()

    def _sign_up(
        self, run_id: str, stream: StreamWanted, cursor: Cursor | None, wake: Callable[[], None]
    ) -> tuple[Reader, Callable[[], None]] | None:
        streams, waiters = self._node.streams, self._node.waiters

        def look() -> None:
            reader.look = True
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


def _end(ex: Execution, log: RunLog) -> None:
    """An execution is over: its client gets no more here, whether or not it has an answer."""
    if not ex.stored and not log.handed_off:
        detail = f"run {ex.run.id} ended without an answer"
        log.conclude(final_of(problem(500, "internal-error", detail=detail), failed=True))
    log.detach()
