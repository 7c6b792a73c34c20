"""Runs whose clients wait for a limited time, or not at all (``max_sync_runtime``).

The client is handed off when its time is over; the step in progress goes on, under the lease of the
process. So a ``def`` handler does not run in the thread that serves its client.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING

from durable_core.flow.execution import StoredExecution
from durable_core.flow.handler import accept
from durable_core.http.response import Response
from durable_core.model.decision import HandoffReason
from durable_core.runners.settings import RegisteredEndpoint
from durable_core.runners.task import TaskRun
from durable_core.runners.thread import ThreadRun

if TYPE_CHECKING:
    from durable_core.engine.runs import RunManager, WorkerParts

__all__ = ["SyncLimit"]


class SyncLimit:
    """Starts runs of endpoints that have a ``max_sync_runtime``.

    Args:
        worker: the worker that it is a part of.
        runs: runs the executions.
    """

    def __init__(self, worker: WorkerParts, runs: RunManager) -> None:
        self._worker = worker
        self._runs = runs
        #: Runs of threads: where each runs, and what to call if it never begins there.
        self._in_threads: dict[ThreadRun, tuple[Future[None], Callable[[], object]]] = {}

    def drain(self) -> None:
        """Hand off each client whose handler waits for a thread; it begins elsewhere."""
        for run, (done, ended) in list(self._in_threads.items()):
            if _may_begin_elsewhere(run) and done.cancel():
                assert isinstance(run.ex, StoredExecution)
                try:
                    self._runs.run_in_thread(run, accept(run.ex, HandoffReason.DRAIN))
                finally:
                    ended()

    def _note(self, run: ThreadRun, done: Future[None], ended: Callable[[], object]) -> None:
        self._in_threads[run] = done, ended
        done.add_done_callback(lambda _: self._in_threads.pop(run, None))

    # -- clients that wait for a response ---------------------------------------------------

    def start(self, endpoint: RegisteredEndpoint, ex: StoredExecution) -> Response:
        """Run a ``def`` handler, and return what it answers in time, or the handoff."""
        limit = endpoint.options.max_sync_runtime
        assert limit is not None
        answers: list[Response] = []
        answered = threading.Event()

        def reply(response: Response) -> None:
            answers.append(response)
            answered.set()

        def ended(done: Future[None]) -> None:
            if not done.cancelled():  # else it is handed off, which answers
                answered.set()

        run = self._runs.thread_run(self._worker, ex, endpoint.handler, reply, own_thread=True)
        if limit == 0:
            self._runs.run_in_thread(run, accept(ex, HandoffReason.PREFERENCE))
            return self._runs.answer_of(ex, answers)
        done = self._submit(run)
        done.add_done_callback(ended)
        self._note(run, done, answered.set)
        if not answered.wait(limit / 1000):
            if _may_begin_elsewhere(run) and done.cancel():
                self._runs.run_in_thread(run, accept(ex, HandoffReason.TIME_LIMIT))
            else:
                run.detach(HandoffReason.TIME_LIMIT)
                answered.wait()  # the handler has ended just now, or the client is handed off
        return self._runs.answer_of(ex, answers)

    async def start_async(self, endpoint: RegisteredEndpoint, ex: StoredExecution) -> Response:
        """As :meth:`start`, for a handler of either kind, on an event loop."""
        if endpoint.options.max_sync_runtime == 0:
            return await self._accept_async(endpoint, ex)
        return await self._runs.start_for_client_async(endpoint, ex, self.watch)

    async def _accept_async(self, endpoint: RegisteredEndpoint, ex: StoredExecution) -> Response:
        answers: list[Response] = []
        run = self._runs.task_run(self._worker, ex, endpoint.handler, answers.append)
        flow = accept(ex, HandoffReason.PREFERENCE)
        # What is stored is not lost if the client goes away meanwhile.
        await asyncio.shield(self._runs.run_in_task(run, flow, lambda: None))
        return self._runs.answer_of(ex, answers)

    def _submit(self, run: ThreadRun) -> Future[None]:
        execute = self._worker.flows.execute(run.ex)
        return self._worker.servers.submit(
            copy_context().run, self._runs.run_in_thread, run, execute
        )

    # -- the end of the time ----------------------------------------------------------------

    def watch(
        self, run: TaskRun | ThreadRun, done: Future[None] | None, ended: Callable[[], object]
    ) -> asyncio.TimerHandle:
        """Hand the client off when its time is over; return the timer, of the current loop.

        Args:
            run: which was started just now.
            done: where it runs; None if that is a task.
            ended: called in another thread if the handler never begins here.
        """
        limit = run.ex.options.max_sync_runtime
        assert limit is not None
        if done is not None and isinstance(run, ThreadRun):
            self._note(run, done, ended)
        loop = asyncio.get_running_loop()
        return loop.call_later(limit / 1000, self._hand_off, run, done, ended)

    def _hand_off(
        self, run: TaskRun | ThreadRun, done: Future[None] | None, ended: Callable[[], object]
    ) -> None:
        if isinstance(run, TaskRun):
            run.detach(HandoffReason.TIME_LIMIT)
            return
        # A thread commits, which must not hold up the loop.
        with suppress(RuntimeError):  # stopped: every client was handed off
            if done is not None and _may_begin_elsewhere(run) and done.cancel():
                assert isinstance(run.ex, StoredExecution)
                flow = accept(run.ex, HandoffReason.TIME_LIMIT)
                accepted = self._worker.handoffs.submit(self._runs.run_in_thread, run, flow)
                accepted.add_done_callback(lambda _: ended())
            else:
                self._worker.handoffs.submit(run.detach, HandoffReason.TIME_LIMIT)


def _may_begin_elsewhere(run: ThreadRun) -> bool:
    """Tell whether a handler that has not begun may do so in a replay, with what is stored."""
    return not run.ex.options.omit_request_body
