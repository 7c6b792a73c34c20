"""Where executions run, in threads and tasks: they are live from their beginning to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol
from weakref import WeakSet

from durable_core.engine.scheduler import Scheduler
from durable_core.errors import LeaseLost, StoreBrokenError, StoreError
from durable_core.flow.effects import Flow
from durable_core.flow.env import AppConfig
from durable_core.flow.execution import Execution
from durable_core.model.run import Phase
from durable_core.platform import run_logger
from durable_core.ports import Checkpoint, Release
from durable_core.runners.live import ActiveRuns
from durable_core.runners.task import TaskRun
from durable_core.runners.thread import ThreadRun
from durable_core.streams.hub import StreamHub

__all__ = ["Running", "StoredRunning"]


#: A run that the store has cut short goes on after so long, milliseconds: it may be so again.
_PAUSE = 1_000


class _Node(Protocol):
    """What running needs of its node."""

    live: ActiveRuns
    stopping: bool


class _StoredNode(_Node, Protocol):
    """What it needs besides where runs are kept in a store."""

    env: AppConfig
    scheduler: Scheduler
    abandoned: list[Checkpoint]
    streams: StreamHub


class Running:
    """See the module.

    Args:
        node: the node.
    """

    def __init__(self, node: _Node) -> None:
        self._node = node
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def has_tasks(self) -> bool:
        """True while something runs in a task."""
        return bool(self._tasks)

    def in_thread(self, run: ThreadRun, flow: Flow[None]) -> None:
        """Run a flow of that run in this thread."""
        self._begin(run)
        try:
            run.drive(flow)
        except BaseException as error:
            run.ex.close(error)
            _log_broken(run.ex, error)
            raise
        finally:
            self.end(run)

    def in_task(
        self, run: TaskRun, flow: Flow[None], unanswered: Callable[[], None]
    ) -> asyncio.Task[None]:
        """Run a flow of that run in a task of its loop, which this is called on.

        ``unanswered`` is called at the end, whether or not there was an answer.
        """
        self._begin(run)
        task = run.start(flow)
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and task.exception() is not None:
                run.ex.close(task.exception())
                _log_broken(run.ex, task.exception())
            unanswered()
            self.end(run)

        task.add_done_callback(ended)
        return task

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in a task of this loop that is no run's."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def end(self, run: ThreadRun | TaskRun) -> None:
        """Note that a run is not live any more."""
        self.release_later(run.ex)
        self._node.live.remove(run)

    def release_later(self, ex: Execution) -> None:
        """See that a run which its execution could not put away is given up later, if it must."""

    def _begin(self, run: ThreadRun | TaskRun) -> None:
        self._node.live.add(run)
        if self._node.stopping:  # after this one was let in, before it was live
            run.ex.stop()


class StoredRunning(Running):
    """Runs executions whose runs are kept in a store, where other processes may go on with them.

    Args:
        node: the node.
    """

    def __init__(self, node: _StoredNode) -> None:
        super().__init__(node)
        self._stored_node = node
        self._released: WeakSet[Execution] = WeakSet()

    def end(self, run: ThreadRun | TaskRun) -> None:
        """Note that a run, and what it streams, is not live any more."""
        super().end(run)
        self._stored_node.streams.end(run.ex)

    def _begin(self, run: ThreadRun | TaskRun) -> None:
        super()._begin(run)
        self._stored_node.streams.begin(run.ex)

    def write_later(self, write: Checkpoint) -> None:
        """Have the keeper write this of a run that is not live, as soon as the store takes it."""
        self._stored_node.abandoned.append(write)
        self._stored_node.scheduler.wake()

    def release_later(self, ex: Execution) -> None:
        """See that a run which its execution could not put away is given up later, once."""
        if ex.fault is None or isinstance(ex.fault, LeaseLost) or not ex.stored:
            return
        if ex in self._released:
            return
        self._released.add(ex)
        # A fault of the store passes; whatever else it was may come again with every attempt.
        passes = isinstance(ex.fault, StoreError) and not isinstance(ex.fault, StoreBrokenError)
        crashes = 0 if passes else 1
        run = replace(ex.run, crash_count=ex.crash_count + crashes)
        log = run_logger(run.id, run.function_id)
        text = "cut short, it continues from its last checkpoint: %s"
        log.error(text, ex.fault, exc_info=ex.fault if crashes else None)
        now = self._stored_node.env.clock.now()
        release = Release(due_at=now if crashes else now + _PAUSE)
        self.write_later(
            Checkpoint(
                run_id=run.id,
                owner=ex.owner,
                epoch=run.epoch,
                now=now,
                state=replace(run, phase=Phase.SUSPENDED),
                release=release,
            )
        )


def _log_broken(ex: Execution, error: BaseException | None) -> None:
    run_logger(ex.run.id, ex.run.function_id).error("the execution broke", exc_info=error)
