"""Going on with runs that were claimed: their handlers are replayed in workers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from durable_core.errors import StoreError
from durable_core.flow.current import Face
from durable_core.flow.env import Env, Options
from durable_core.flow.execution import Execution
from durable_core.flow.serve import orphaned, resume
from durable_core.model.request import Request
from durable_core.model.run import Phase
from durable_core.ports import Claimed, RunWrite, StoredResult, Unreadable
from durable_core.runtime.host import Host
from durable_core.runtime.keeper import Keeper
from durable_core.runtime.logs import run_logger
from durable_core.runtime.loops import call_soon
from durable_core.runtime.pool import DaemonPool
from durable_core.runtime.running import StoredRunning
from durable_core.runtime.settings import Registered, Settings
from durable_core.runtime.tasks import TaskRun
from durable_core.runtime.threads import ThreadRun
from durable_core.wire.problem import problem
from durable_core.wire.requests import dump_head, load_request

__all__ = ["Resuming"]


class _Node(Host, Protocol):
    """What resuming needs of its node."""

    env: Env
    settings: Settings
    endpoints: dict[str, Registered]
    keeper: Keeper
    workers: DaemonPool


class Resuming:
    """See the module.

    Args:
        node: the node.
        running: runs the executions.

    Attributes:
        busy: how many runs of each kind of handler are replayed now.
    """

    def __init__(self, node: _Node, running: StoredRunning) -> None:
        self.busy = {Face.SYNC: 0, Face.ASYNC: 0}
        self._node = node
        self._running = running
        self._busy_lock = threading.Lock()

    def capacity(self, face: Face) -> int:
        """Return how many more runs with such handlers may be replayed now."""
        settings = self._node.settings
        most = settings.worker_threads if face is Face.SYNC else settings.worker_tasks
        return max(0, most - self.busy[face])

    def resume(self, claimed: Claimed) -> None:
        """Go on with a run that was claimed, in a worker."""
        endpoint = self._node.endpoints[claimed.run.endpoint_key]
        ex = self._execution_of(claimed, endpoint.options)
        if ex is None:
            return
        with self._busy_lock:
            self.busy[endpoint.face] += 1
        # It is live from now on, although its worker begins later: a stop must know of it.
        if endpoint.face is Face.SYNC:
            run = ThreadRun(self._node, ex, endpoint.handler)
            self._node.live.add(run)
            self._resume_in_thread(run)
        else:
            loop = self._node.loops.replaying
            task_run = TaskRun(self._node, ex, endpoint.handler, loop=loop)
            self._node.live.add(task_run)
            task_run.left = _once(lambda: self._free(Face.ASYNC))
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
            self._free(Face.SYNC)
        else:
            done.add_done_callback(lambda _: self._free(Face.SYNC))

    def fail_orphan(self, claimed: Claimed) -> None:
        """Fail a claimed run whose endpoint no code knows any more."""
        ex = self._execution_of(claimed, Options(key=claimed.run.endpoint_key))
        if ex is not None:
            self._running.in_thread(ThreadRun(self._node, ex, _no_handler), orphaned(ex))

    def fail_unreadable(self, claimed: Unreadable) -> None:
        """Fail a claimed run whose record cannot be read: another try would not help."""
        run_id, now = claimed.run_id, self._node.env.clock.now()
        log = run_logger(run_id, "")
        log.error("what is stored of the run cannot be read, it fails: %s", claimed.reason)
        detail = "what is stored of the run cannot be read"
        response = problem(500, "unreadable-record", detail=detail, run_id=run_id)
        assert isinstance(response.body, bytes)
        self._running.write_later(
            RunWrite(
                run_id=run_id,
                owner=self._node.keeper.owner,
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

    def _execution_of(self, claimed: Claimed, options: Options) -> Execution | None:
        """Return what is to be executed; None if it cannot be, and the run is failed."""
        try:
            request = load_request(claimed.request.head, claimed.request.body)
        except Exception as error:
            run, reason = claimed.run, f"{type(error).__name__}: {error}"
            self.fail_unreadable(Unreadable(run_id=run.id, epoch=run.epoch, reason=reason))
            return None
        return Execution(
            self._node.env,
            options,
            claimed.run,
            request,
            owner=self._node.keeper.owner,
            memos=claimed.memos,
            pending=claimed.pending,
            streamed=claimed.streamed,
            outside=claimed.outside,
        )

    def _resume_here(self, run: TaskRun) -> None:
        task = self._running.in_task(run, resume(run.ex), lambda: None)
        task.add_done_callback(lambda _: run.left())

    def _free(self, face: Face) -> None:
        with self._busy_lock:
            self.busy[face] -= 1
        self._node.keeper.wake()


def _once(call: Callable[[], None]) -> Callable[[], None]:
    """Return a function that passes its first call on."""
    calls = [call]

    def first() -> None:
        if calls:
            calls.pop()()

    return first


def _no_handler(request: Request) -> None:
    raise AssertionError("an orphaned run has no handler")
