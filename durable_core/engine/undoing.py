"""The undoing of a claimed run in one process: two executions under one claim.

In the first one the handler is replayed, which begins no step, to find what undoes its steps. The
second one has a handler of ours, which undoes them. The run is live all the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from durable_core.errors import StoreError
from durable_core.flow.effects import Flow, Raised, log_warning
from durable_core.flow.execution import Execution, StoredExecution
from durable_core.flow.flows import EMBEDDED_FLOWS
from durable_core.flow.handler import execute_undo, replay_to_undo
from durable_core.flow.scope import HandlerKind
from durable_core.flow.undo import (
    execution_to_undo,
    undo_all,
    undo_all_async,
    unknown_steps,
)
from durable_core.platform import call_soon
from durable_core.runners.host import RunHost
from durable_core.runners.settings import RegisteredEndpoint
from durable_core.runners.task import TaskRun
from durable_core.runners.thread import ThreadRun
from durable_core.runners.thread_pool import DaemonThreadPool

__all__ = ["Undoing"]


class _Executor(Protocol):
    """What runs executions in threads and tasks.

    Attributes:
        thread_run, task_run: the classes of executions; observers see more of some.
    """

    thread_run: type[ThreadRun]
    task_run: type[TaskRun]

    def run_in_thread(self, run: ThreadRun, flow: Flow[None]) -> None: ...

    def run_in_task(
        self, run: TaskRun, flow: Flow[None], ended: Callable[[], None]
    ) -> asyncio.Task[None]: ...

    def release_later(self, ex: Execution) -> None: ...


def _nothing(ex: StoredExecution) -> Flow[None]:
    """Store nothing of a replay whose handler does not end."""
    return
    yield


#: Of the replay: it decides nothing.
_REPLAY_FLOWS = replace(EMBEDDED_FLOWS, suspend=_nothing)


class Undoing:
    """Replays the handler of a claimed run, then undoes the steps that this has met.

    Args:
        host: the worker.
        threads: where ``def`` handlers are replayed.
        executor: runs both executions.
        endpoint: the handler.
        ex: of the replay.
        on_end: called once, when no thread or task for replays is taken any more.
    """

    def __init__(
        self,
        host: RunHost,
        threads: DaemonThreadPool,
        executor: _Executor,
        endpoint: RegisteredEndpoint,
        ex: StoredExecution,
        on_end: Callable[[], None],
    ) -> None:
        self._host = host
        self._threads = threads
        self._executor = executor
        self._endpoint = endpoint
        self._ex = ex
        self._on_end = on_end
        self._is_known = False  # what is to be undone
        self._raised: Raised | None = None  # by the handler, in its replay
        self._second: ThreadRun | TaskRun | None = None

    def start(self) -> None:
        """Begin in a thread, or on the loop, of the worker."""
        ex, endpoint, live = self._ex, self._endpoint, self._host.live
        if endpoint.kind is HandlerKind.DEF:
            run = self._executor.thread_run(self._host, ex, endpoint.handler)
            run.left = self._leave_thread
            live[ex.run.id] = run
            if not self._submit(self._replay_in_thread, run):
                ex.close(StoreError("there is no thread to undo it in"))
                self._give_up(run)
        else:
            loop = self._host.loops.replay_loop
            task_run = self._executor.task_run(self._host, ex, endpoint.handler, loop=loop)
            task_run.flows = _REPLAY_FLOWS
            task_run.left = self._leave_task
            live[ex.run.id] = task_run
            if not call_soon(loop, self._replay_in_task, task_run):
                ex.close(StoreError("the event loop was closed"))
                self._give_up(task_run)

    def _give_up(self, run: ThreadRun | TaskRun) -> None:
        self._executor.release_later(run.ex)
        self._host.live.remove(run)
        self._end()

    def _submit(self, call: Callable[..., None], *args: object) -> bool:
        try:
            self._threads.submit(call, *args)
        except RuntimeError:  # the pool was stopped, or the system has no thread left
            return False
        return True

    def _end(self) -> None:
        on_end, self._on_end = self._on_end, _do_nothing
        on_end()

    # -- from the first execution to the second ---------------------------------------------

    def _replay(self) -> Flow[None]:
        self._raised = yield from replay_to_undo(self._ex)
        unknown = unknown_steps(self._ex)
        if unknown:
            names = ", ".join(map(repr, unknown))
            yield from log_warning(
                f"the code does not ask for what the run has done any more: {names}; if it could "
                "be undone, it is not"
            )
        self._prepare()

    def _prepare(self) -> None:
        """Make the second execution live in place of the first one, once, if it is to be."""
        if self._is_known or self._ex.fault is not None or self._ex.run.phase.ended:
            return
        self._is_known = True
        ex = execution_to_undo(self._ex)
        if self._endpoint.kind is HandlerKind.DEF:
            self._second = self._executor.thread_run(self._host, ex, undo_all)
        else:
            self._second = task_run = self._executor.task_run(
                self._host, ex, undo_all_async, loop=self._host.loops.replay_loop
            )
            task_run.left = self._end
        self._host.live[ex.run.id] = self._second

    def _take_second(self) -> ThreadRun | TaskRun | None:
        second, self._second = self._second, None
        return second

    # -- threads ----------------------------------------------------------------------------

    def _replay_in_thread(self, run: ThreadRun) -> None:
        try:
            self._executor.run_in_thread(run, self._replay())
        finally:
            self._undo_in_thread()

    def _undo_in_thread(self) -> None:
        second = self._take_second()
        try:
            if isinstance(second, ThreadRun):
                self._executor.run_in_thread(second, execute_undo(_stored(second), self._raised))
        finally:
            self._end()

    def _leave_thread(self) -> None:
        """Go on in another thread: the handler keeps this one."""
        if self._second is not None and not self._submit(self._undo_in_thread):
            self._second.ex.close(StoreError("there is no thread to undo it in"))
            self._give_up(self._second)

    # -- tasks ------------------------------------------------------------------------------

    def _replay_in_task(self, run: TaskRun) -> None:
        self._executor.run_in_task(run, self._replay(), self._undo_in_task)

    def _leave_task(self) -> None:
        """Go on in another task: the handler does not end."""
        self._prepare()
        self._undo_in_task()

    def _undo_in_task(self) -> None:
        second = self._take_second()
        if isinstance(second, TaskRun):
            flow = execute_undo(_stored(second), self._raised)
            task = self._executor.run_in_task(second, flow, _do_nothing)
            task.add_done_callback(lambda _: self._end())
        elif not self._is_known:
            self._end()


def _stored(run: ThreadRun | TaskRun) -> StoredExecution:
    assert isinstance(run.ex, StoredExecution)
    return run.ex


def _do_nothing() -> None:
    """Do nothing: it was done."""
