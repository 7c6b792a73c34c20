"""Answering clients: a run is begun for each request, and what it answers goes to the client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol

from durable_core.codec.records import dump_head, load_request
from durable_core.engine.running import Running, StoredRunning
from durable_core.engine.scheduler import Scheduler
from durable_core.engine.stream_responses import StreamResponder
from durable_core.errors import StoreError
from durable_core.flow.env import AppConfig, ResolvedOptions
from durable_core.flow.execution import Execution
from durable_core.flow.handler import orphaned, resume, store_unavailable_response
from durable_core.flow.handoff import handoff_response, new_token
from durable_core.flow.scope import HandlerKind
from durable_core.http.headers import accepts_event_stream
from durable_core.http.problem import problem
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.decision import HandoffReason
from durable_core.model.run import Phase
from durable_core.platform import logger, run_logger
from durable_core.ports import Checkpoint, Claimed, CorruptRun, StoredResult
from durable_core.runners.event_loops import call_soon
from durable_core.runners.host import EventWatermark, RunHost
from durable_core.runners.recorded_body import close_unsent
from durable_core.runners.settings import RegisteredEndpoint, Settings
from durable_core.runners.task import TaskRun
from durable_core.runners.thread import ThreadRun
from durable_core.runners.thread_pool import DaemonThreadPool

__all__ = [
    "Answering",
    "Resuming",
    "Serving",
]


# --- answering ------------------------------------------------------------------------------------
#
# Running an execution for a client that waits: what it answers goes to the client.


class _AnswerNode(RunHost, Protocol):
    """What answering needs of its node."""

    servers: DaemonThreadPool


class Answering:
    """See the module.

    Args:
        node: the node.
        running: runs the executions.
        unanswered: makes the answer of an execution that was cut short before it had one.
    """

    def __init__(
        self, node: _AnswerNode, running: Running, unanswered: Callable[[Execution], Response]
    ) -> None:
        self._node = node
        self._running = running
        self._unanswered = unanswered

    def run(self, ex: Execution, endpoint: RegisteredEndpoint) -> Response:
        """Run a ``def`` handler in this thread, and return what it answers."""
        answers: list[Response] = []
        run = ThreadRun(self._node, ex, endpoint.handler, answers.append)
        self._running.in_thread(run, self._node.flows.execute(ex))
        return answers[0] if answers else self._unanswered(ex)

    async def run_async(self, ex: Execution, endpoint: RegisteredEndpoint) -> Response:
        """Run a handler for a client of an asynchronous server, and return what it answers.

        Cancelling it means that the client is gone; the execution goes on.
        """
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Response] = loop.create_future()
        execute = self._node.flows.execute

        def reply(response: Response) -> None:
            if answered.done():  # the client is gone
                self._discard(response)
            else:
                answered.set_result(response)

        def ended() -> None:
            if not answered.done():
                answered.set_result(self._unanswered(ex))

        if endpoint.kind is HandlerKind.ASYNC_DEF:
            task_run = TaskRun(self._node, ex, endpoint.handler, reply)
            live: TaskRun | ThreadRun = task_run
            self._running.in_task(task_run, execute(ex), ended)
        else:
            live = ThreadRun(
                self._node,
                ex,
                endpoint.handler,
                lambda response: call_soon(loop, reply, response),
                own_thread=True,
            )
            done = self._node.servers.submit(self._running.in_thread, live, execute(ex))
            done.add_done_callback(lambda _: call_soon(loop, ended))
        try:
            return await answered
        except asyncio.CancelledError:
            if answered.done() and not answered.cancelled():
                self._discard(answered.result())
            else:
                answered.cancel()
                self._client_gone(live)
            raise

    def _client_gone(self, live: TaskRun | ThreadRun) -> None:
        if isinstance(live, TaskRun):
            live.detach(HandoffReason.DISCONNECT)
            return
        try:
            # Detaching a thread commits, which must not block the loop.
            self._node.threads.submit(live.detach, HandoffReason.DISCONNECT)
        except RuntimeError:
            pass  # stopped: what was in flight has been detached or given up

    def _discard(self, response: Response) -> None:
        """See that the end of a streamed body is recorded although nobody sends it."""
        if response.is_streaming:
            self._running.keep(close_unsent(response, self._node.threads))


# --- resuming -------------------------------------------------------------------------------------
#
# Going on with runs that were claimed: their handlers are replayed in workers.


class _ResumeNode(RunHost, Protocol):
    """What resuming needs of its node."""

    env: AppConfig
    settings: Settings
    endpoints: dict[str, RegisteredEndpoint]
    scheduler: Scheduler
    workers: DaemonThreadPool


class Resuming:
    """See the module.

    Args:
        node: the node.
        running: runs the executions.

    Attributes:
        busy: how many runs of each kind of handler are replayed now.
    """

    def __init__(self, node: _ResumeNode, running: StoredRunning) -> None:
        self.busy = {HandlerKind.DEF: 0, HandlerKind.ASYNC_DEF: 0}
        self._node = node
        self._running = running
        self._busy_lock = threading.Lock()

    def capacity(self, face: HandlerKind) -> int:
        """Return how many more runs with such handlers may be replayed now."""
        settings = self._node.settings
        most = settings.worker_threads if face is HandlerKind.DEF else settings.worker_tasks
        return max(0, most - self.busy[face])

    def resume(self, claimed: Claimed) -> None:
        """Go on with a run that was claimed, in a worker."""
        endpoint = self._node.endpoints[claimed.run.endpoint_key]
        ex = self._execution_of(claimed, endpoint.options)
        if ex is None:
            return
        with self._busy_lock:
            self.busy[endpoint.kind] += 1
        # It is live from now on, although its worker begins later: a stop must know of it.
        if endpoint.kind is HandlerKind.DEF:
            run = ThreadRun(self._node, ex, endpoint.handler)
            self._node.live.add(run)
            self._resume_in_thread(run)
        else:
            loop = self._node.loops.replay_loop
            task_run = TaskRun(self._node, ex, endpoint.handler, loop=loop)
            self._node.live.add(task_run)
            task_run.left = _once(lambda: self._free(HandlerKind.ASYNC_DEF))
            if not call_soon(loop, self._resume_here, task_run):
                ex.close(RuntimeError("the event loop was closed"))
                self._running.end(task_run)
                task_run.left()

    def _resume_in_thread(self, run: ThreadRun) -> None:
        try:
            done = self._node.workers.submit(self._running.in_thread, run, resume(run.ex))
        except RuntimeError as error:
            # The system has no thread left. As with the store, that passes.
            run.ex.close(StoreError(f"it has no thread to run in: {error}"))
            self._running.end(run)
            self._free(HandlerKind.DEF)
        else:
            done.add_done_callback(lambda _: self._free(HandlerKind.DEF))

    def fail_orphan(self, claimed: Claimed) -> None:
        """Fail a claimed run whose endpoint no code knows any more."""
        ex = self._execution_of(claimed, ResolvedOptions(key=claimed.run.endpoint_key))
        if ex is not None:
            self._running.in_thread(ThreadRun(self._node, ex, _no_handler), orphaned(ex))

    def fail_unreadable(self, claimed: CorruptRun) -> None:
        """Fail a claimed run whose record cannot be read: another try would not help."""
        run_id, now = claimed.run_id, self._node.env.clock.now()
        log = run_logger(run_id, "")
        log.error("what is stored of the run cannot be read, it fails: %s", claimed.reason)
        detail = "what is stored of the run cannot be read"
        response = problem(500, "unreadable-record", detail=detail, run_id=run_id)
        assert isinstance(response.body, bytes)
        self._running.write_later(
            Checkpoint(
                run_id=run_id,
                owner=self._node.scheduler.owner,
                epoch=claimed.epoch,
                now=now,
                result=StoredResult(
                    phase=Phase.FAILED,
                    head=dump_head(response),
                    body=response.body,
                    ended_at=now,
                ),
            )
        )

    def _execution_of(self, claimed: Claimed, options: ResolvedOptions) -> Execution | None:
        """Return what is to be executed; None if it cannot be, and the run is failed."""
        try:
            request = load_request(claimed.request.head, claimed.request.body)
        except Exception as error:
            run, reason = claimed.run, f"{type(error).__name__}: {error}"
            self.fail_unreadable(CorruptRun(run_id=run.id, epoch=run.epoch, reason=reason))
            return None
        return Execution(
            self._node.env,
            options,
            claimed.run,
            request,
            owner=self._node.scheduler.owner,
            memos=claimed.memos,
            pending=claimed.pending,
            streamed=claimed.streamed,
            handler_chunks=claimed.handler_chunks,
        )

    def _resume_here(self, run: TaskRun) -> None:
        task = self._running.in_task(run, resume(run.ex), lambda: None)
        task.add_done_callback(lambda _: run.left())

    def _free(self, face: HandlerKind) -> None:
        with self._busy_lock:
            self.busy[face] -= 1
        self._node.scheduler.wake()


def _once(call: Callable[[], None]) -> Callable[[], None]:
    """Return a function that passes its first call on."""
    calls = [call]

    def first() -> None:
        if calls:
            calls.pop()()

    return first


def _no_handler(request: Request) -> None:
    raise AssertionError("an orphaned run has no handler")


# --- runs -----------------------------------------------------------------------------------------


class _StartNode(RunHost, Protocol):
    """What serving needs of its node."""

    env: AppConfig
    event_watermark: EventWatermark
    scheduler: Scheduler
    servers: DaemonThreadPool


class Serving:
    """See the module.

    Args:
        node: the node.
        running: runs the executions.
        streaming: answers with event streams.
    """

    def __init__(self, node: _StartNode, running: Running, streaming: StreamResponder) -> None:
        self._node = node
        self._streaming = streaming
        self._answering = Answering(node, running, _unanswered)

    def serve(self, endpoint: RegisteredEndpoint, request: Request, route: str | None) -> Response:
        """Serve a client in this thread."""
        followed = accepts_event_stream(request.headers)
        if endpoint.kind is HandlerKind.ASYNC_DEF and not followed:
            return self._node.loops.background_loop.run(self.serve_async(endpoint, request, route))
        try:
            ex = self._execution_for(endpoint, request, route)
        except StoreError as error:
            return self._refuse(error)
        if followed:
            return self._streaming.serve(endpoint, ex)
        return self._answering.run(ex, endpoint)

    async def serve_async(
        self, endpoint: RegisteredEndpoint, request: Request, route: str | None
    ) -> Response:
        """Serve a client of an asynchronous server."""
        loop = asyncio.get_running_loop()
        self._node.loops.adopt(loop)
        try:
            ex = self._execution_for(endpoint, request, route)
        except StoreError as error:
            return self._refuse(error)
        if accepts_event_stream(request.headers):
            return self._streaming.serve_async(endpoint, ex)
        return await self._answering.run_async(ex, endpoint)

    def _execution_for(
        self, endpoint: RegisteredEndpoint, request: Request, route: str | None
    ) -> Execution:
        env, options = self._node.env, endpoint.options
        run = env.new_run(options, request, route, self._node.event_watermark.recent())
        return Execution(env, options, run, request, owner=self._node.scheduler.owner)

    def _refuse(self, error: StoreError) -> Response:
        logger.error("a request was refused, the store is unavailable: %s", error)
        return store_unavailable_response(error)


def _unanswered(ex: Execution) -> Response:
    """Return what a client gets if an execution was cut short before it could answer."""
    if ex.stored and ex.fault is None:
        token = new_token(ex.env, ex.run.id)
        return handoff_response(ex.options, ex.request.method, ex.run.id, token)
    return problem(500, "internal-error", detail=f"run {ex.run.id} ended without an answer")
