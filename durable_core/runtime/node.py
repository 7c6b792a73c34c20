"""One process's part in an application: what is opened, started and live in it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from durable_core.errors import LeaseLost, StoreError
from durable_core.flow.asks import Flow
from durable_core.flow.current import Face, Scope
from durable_core.flow.env import Env, Options
from durable_core.flow.execution import Execution
from durable_core.flow.handoff import referral
from durable_core.flow.serve import execute, orphaned, resume, unavailable
from durable_core.model.commands import HandoffReason
from durable_core.model.request import Request
from durable_core.model.response import Response
from durable_core.model.run import Phase, Run
from durable_core.ports import (
    Cancel,
    Claimed,
    Release,
    RunWrite,
    SendEvents,
    Store,
    Unregister,
    Written,
)
from durable_core.runtime.commits import CommitQueue
from durable_core.runtime.holding import Holding
from durable_core.runtime.keeper import Keeper
from durable_core.runtime.live import LiveRuns, Waiters
from durable_core.runtime.logs import logger, run_logger
from durable_core.runtime.loops import Loops
from durable_core.runtime.marks import EventMark
from durable_core.runtime.pool import DaemonPool
from durable_core.runtime.settings import Registered, Settings
from durable_core.runtime.streamed import discard
from durable_core.runtime.tasks import TaskRun
from durable_core.runtime.threads import ThreadRun
from durable_core.runtime.tickets import Ticket
from durable_core.wire.problem import problem
from durable_core.wire.requests import load_request

__all__ = ["Node"]

T = TypeVar("T")


class Node:
    """Serves, resumes and keeps runs in this process.

    Args:
        env: the application.
        settings: how to work.
        store: the shared store.
        endpoints: the handlers by key; the engine adds to it while the node works.
    """

    def __init__(
        self, env: Env, settings: Settings, store: Store, endpoints: dict[str, Registered]
    ) -> None:
        self.pid = os.getpid()
        self.env = env
        self.settings = settings
        self.store = store
        self.endpoints = endpoints
        self.settle_time = settings.settle_time
        self.unwind_time = settings.unwind_time
        self.stopping = False
        self.live = LiveRuns()
        self.keeper = Keeper(self)
        self.waiters = Waiters(env.limits.waiting_clients, self.keeper.attend)
        self.queue = CommitQueue(
            store, busy_timeout=settings.busy_timeout, on_commit=self._committed
        )
        self.event_mark = EventMark(store, env.app)
        self.holding = Holding(env, store, self.waiters)
        self.threads = DaemonPool(settings.serving_threads, "durable-step")
        self.serving = DaemonPool(settings.serving_threads, "durable-serve")
        self.workers = DaemonPool(settings.worker_threads, "durable-worker")
        self.busy = {Face.SYNC: 0, Face.ASYNC: 0}
        self.abandoned: list[RunWrite] = []
        self._busy_lock = threading.Lock()
        self.loops = Loops()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the store and begin to work."""
        self.store.open()
        self.queue.start()
        try:
            self.env.secrets()  # read now, so that no handoff can fail for want of them
            self.keeper.start()
        except BaseException:
            self.queue.stop()
            self.store.close()
            raise
        logger.info("%s started in process %d with %r", self.env.app, self.pid, self.store)

    def stop(self, timeout: float) -> None:
        """Put everything away in good order, for up to ``timeout`` seconds; then let go."""
        self.stopping = True
        self.keeper.drain()
        for live in self.live.all():
            live.detach(HandoffReason.DRAIN)
            live.stop()
        self.waiters.wake_all()
        if not self.live.wait_until_empty(timeout):
            names = ", ".join(sorted(live.ex.run.id for live in self.live.all()))
            logger.warning("stopped while steps were in flight; they run again: %s", names)
        self.keeper.stop()
        try:
            self.queue.execute(Unregister(id=self.keeper.owner, now=self.env.clock.now()))
        except StoreError as error:
            logger.warning("leases were not given back, they will expire: %s", error)
        self.queue.stop()
        for pool in (self.threads, self.serving, self.workers):
            pool.shutdown()
        self.loops.stop()
        self.store.close()

    def has_tasks_on(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Tell whether runs are live on this loop."""
        return self.loops.adopted is loop and bool(self._tasks)

    def await_elsewhere(self, awaitable: Awaitable[T]) -> T:
        """Await something on the node's own event loop."""
        return self.loops.own.run(awaitable)

    # -- serving ----------------------------------------------------------------------------

    def serve(self, endpoint: Registered, request: Request, route: str | None) -> Response:
        """Serve a client in this thread."""
        if endpoint.face is Face.ASYNC:
            return self.loops.own.run(self.serve_async(endpoint, request, route))
        try:
            ex = self._new(endpoint, request, route)
        except StoreError as error:
            return self._refuse(error)
        answers: list[Response] = []
        run = ThreadRun(self, ex, endpoint.handler, answers.append)
        self._in_thread(run, execute(ex))
        return answers[0] if answers else self._unanswered(ex)

    async def serve_async(
        self, endpoint: Registered, request: Request, route: str | None
    ) -> Response:
        """Serve a client of an asynchronous server."""
        loop = asyncio.get_running_loop()
        self.loops.adopt(loop)
        try:
            ex = self._new(endpoint, request, route)
        except StoreError as error:
            return self._refuse(error)
        answered: asyncio.Future[Response] = loop.create_future()

        def reply(response: Response) -> None:
            if answered.done():  # the client is gone
                self._discard(response)
            else:
                answered.set_result(response)

        def ended() -> None:
            if not answered.done():
                answered.set_result(self._unanswered(ex))

        if endpoint.face is Face.ASYNC:
            task_run = TaskRun(self, ex, endpoint.handler, reply)
            live: TaskRun | ThreadRun = task_run
            self._in_task(task_run, execute(ex), ended)
        else:
            live = ThreadRun(
                self,
                ex,
                endpoint.handler,
                lambda response: _call_soon(loop, reply, response),
                own_thread=True,
            )
            done = self.serving.submit(self._in_thread, live, execute(ex))
            done.add_done_callback(lambda _: _call_soon(loop, ended))
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
            self.threads.submit(live.detach, HandoffReason.DISCONNECT)
        except RuntimeError:
            pass  # stopped: what was in flight has been detached or given up

    def _discard(self, response: Response) -> None:
        """See that the end of a streamed body is recorded although nobody sends it."""
        if response.is_streaming:
            task = asyncio.get_running_loop().create_task(discard(response, self.threads))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _new(self, endpoint: Registered, request: Request, route: str | None) -> Execution:
        env, options = self.env, endpoint.options
        now = env.clock.now()
        run = Run(
            id=env.ids.ulid(now),
            app=env.app,
            endpoint_key=options.key,
            function_id=env.function_id(options, request, route),
            phase=Phase.SYNC,
            retries=options.retries,
            created_at=now,
            mark=self.event_mark.exact(),
        )
        return Execution(env, options, run, request, owner=self.keeper.owner)

    def _refuse(self, error: StoreError) -> Response:
        logger.error("a request was refused, the store is unavailable: %s", error)
        return unavailable(error)

    def _unanswered(self, ex: Execution) -> Response:
        """Return what a client gets if an execution was cut short before it could answer."""
        if ex.stored and ex.fault is None:
            return referral(ex.env, ex.options, ex.request.method, ex.run.id)
        return problem(500, "internal-error", detail=f"run {ex.run.id} ended without an answer")

    # -- resuming ---------------------------------------------------------------------------

    def capacity(self, face: Face) -> int:
        """Return how many more runs with such handlers may be replayed now."""
        settings = self.settings
        most = settings.worker_threads if face is Face.SYNC else settings.worker_tasks
        return max(0, most - self.busy[face])

    def keys(self, face: Face) -> tuple[str, ...]:
        """Return the keys of the handlers of a kind."""
        return tuple(key for key, each in list(self.endpoints.items()) if each.face is face)

    def resume(self, claimed: Claimed) -> None:
        """Go on with a run that was claimed, in a worker."""
        endpoint = self.endpoints[claimed.run.endpoint_key]
        ex = self._execution_of(claimed, endpoint.options)
        with self._busy_lock:
            self.busy[endpoint.face] += 1
        # It is live from now on, although its worker begins later: a stop must know of it.
        if endpoint.face is Face.SYNC:
            run = ThreadRun(self, ex, endpoint.handler)
            self.live.add(run)
            done = self.workers.submit(self._in_thread, run, resume(ex))
            done.add_done_callback(lambda _: self._free(Face.SYNC))
        else:
            loop = self.loops.replaying
            task_run = TaskRun(self, ex, endpoint.handler, loop=loop)
            self.live.add(task_run)
            if not _call_soon(loop, self._resume_here, task_run):
                ex.close(RuntimeError("the event loop was closed"))
                self._ended(ex)
                self.live.remove(task_run)
                self._free(Face.ASYNC)

    def fail_orphan(self, claimed: Claimed) -> None:
        """Fail a claimed run whose endpoint no code knows any more."""
        ex = self._execution_of(claimed, Options(key=claimed.run.endpoint_key))
        self._in_thread(ThreadRun(self, ex, _no_handler), orphaned(ex))

    def _execution_of(self, claimed: Claimed, options: Options) -> Execution:
        return Execution(
            self.env,
            options,
            claimed.run,
            load_request(claimed.request.head, claimed.request.body),
            owner=self.keeper.owner,
            memos=claimed.memos,
            pending=claimed.pending,
        )

    def _resume_here(self, run: TaskRun) -> None:
        task = self._in_task(run, resume(run.ex), lambda: None)
        task.add_done_callback(lambda _: self._free(Face.ASYNC))

    def _free(self, face: Face) -> None:
        with self._busy_lock:
            self.busy[face] -= 1
        self.keeper.wake()

    # -- running ----------------------------------------------------------------------------

    def scope(self, run: Scope) -> Scope:
        """Return what the code of a handler reaches as its run; a test may put itself between."""
        return run

    def _in_thread(self, run: ThreadRun, flow: Flow[None]) -> None:
        self._begin(run)
        try:
            run.drive(flow)
        except BaseException as error:
            run.ex.close(error)
            raise
        finally:
            self._ended(run.ex)
            self.live.remove(run)

    def _in_task(
        self, run: TaskRun, flow: Flow[None], unanswered: Callable[[], None]
    ) -> asyncio.Task[None]:
        self._begin(run)
        task = run.start(flow)
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and task.exception() is not None:
                run.ex.close(task.exception())
                log = run_logger(run.ex.run.id, run.ex.run.function_id)
                log.error("the execution broke", exc_info=task.exception())
            unanswered()
            self._ended(run.ex)
            self.live.remove(run)

        task.add_done_callback(ended)
        return task

    def _begin(self, run: ThreadRun | TaskRun) -> None:
        self.live.add(run)
        if self.stopping:  # after this one was let in, before it was live
            run.ex.stop()

    def _ended(self, ex: Execution) -> None:
        """An execution is over: see that a run it could not put away is given up later."""
        if ex.fault is None or isinstance(ex.fault, LeaseLost) or not ex.stored:
            return
        run = ex.run
        if not isinstance(ex.fault, StoreError):
            run = replace(run, takeovers=run.takeovers + 1)  # a crash
        log = run_logger(run.id, run.function_id)
        log.error("cut short, it continues from its last checkpoint: %s", ex.fault)
        release = Release(due_at=self.env.clock.now())
        self.abandoned.append(
            RunWrite(
                run_id=run.id,
                owner=ex.owner,
                epoch=run.epoch,
                now=release.due_at,
                state=replace(run, phase=Phase.SUSPENDED),
                release=release,
            )
        )
        self.keeper.wake()

    # -- what commits mean to others in this process ----------------------------------------

    def _committed(self, batch: Sequence[Ticket[Any]]) -> None:
        for ticket in batch:
            write, answer = ticket.write, ticket.answer
            if isinstance(write, RunWrite):
                if write.result is not None and answer is not None:
                    self.waiters.ended((write.run_id,))
                if write.release is not None:
                    self.keeper.due(write.release.due_at)
                if write.sends:
                    self.event_mark.changed()
                if isinstance(answer, Written) and answer.woken:
                    self.keeper.wake()
            elif isinstance(write, SendEvents):
                self.event_mark.changed()
                self.keeper.wake()
            elif isinstance(write, Cancel) and answer is True:
                self.waiters.ended((write.run_id,))
                live = self.live.get(write.run_id)
                if live is not None:
                    live.lose()


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: object) -> bool:
    """Call on the loop's thread; False, and nothing is done, if the loop is closed."""
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        logger.warning("an event loop was closed while runs were live on it")
        return False
    return True


def _no_handler(request: Request) -> None:
    raise AssertionError("an orphaned run has no handler")
