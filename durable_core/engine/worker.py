"""One process's part in an application: what is opened, started and live in it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from durable_core.commit_queue import CommitQueue
from durable_core.duration import time_of
from durable_core.engine.admission import Admission
from durable_core.engine.deferred import DeferredRun
from durable_core.engine.deferred_thread import DeferredPoolRun, DeferredThreadRun
from durable_core.engine.long_poll import LongPoll
from durable_core.engine.quota import Quota
from durable_core.engine.runs import EventWatermark, RunManager, WorkerParts
from durable_core.engine.scheduler import Scheduler
from durable_core.engine.stream_responses import StreamResponder
from durable_core.engine.sync_limit import SyncLimit
from durable_core.engine.unstored import with_memos
from durable_core.errors import StoreError
from durable_core.flow.env import AppConfig
from durable_core.flow.execution import Execution, StoredExecution
from durable_core.flow.flows import EMBEDDED_FLOWS
from durable_core.flow.scope import HandlerKind
from durable_core.http.request import Request
from durable_core.model.decision import HandoffReason
from durable_core.model.fact import StoreCommitted
from durable_core.platform import logger, process_id
from durable_core.ports import Checkpoint, RunRecord, Store, Unregister, channel_of
from durable_core.runners.live import Waiters
from durable_core.runners.observers import Observers
from durable_core.runners.settings import RegisteredEndpoint, Settings
from durable_core.runners.store_reads import StoreReads
from durable_core.runners.thread_pool import DaemonThreadPool
from durable_core.stores.users import StoreUse
from durable_core.streams.hub import StreamHub
from durable_core.streams.relay import StreamRelay

__all__ = ["Worker"]

T = TypeVar("T")

#: Threads that hand off clients whose time is over. Each takes as long as a commit.
_HANDOFF_THREADS = 4


class Worker(WorkerParts):
    """Opens the store, and has what works in this process: it starts and stops all of it.

    Args:
        env: the application.
        settings: how to work.
        store: the shared store.
        endpoints: the handlers by key; the engine adds to it while the worker works.

    Attributes:
        owner: the name of this process in its leases; the scheduler gives it.
        runs: starts and resumes runs.
        admission: begins runs that the store may refuse.
        streaming: answers with event streams.
        sync_limit: starts runs whose clients wait for a limited time.
        long_poll: answers clients that wait.
        scheduler: does everything that has a time of its own.
        abandoned: writes of runs that are not live any more, which the store has not taken yet.
    """

    def __init__(
        self,
        env: AppConfig,
        settings: Settings,
        store: Store,
        endpoints: dict[str, RegisteredEndpoint],
    ) -> None:
        super().__init__(
            EMBEDDED_FLOWS,
            Observers(env.observers),
            serving_threads=settings.serving_threads,
            max_own_wait=settings.max_own_wait,
            unwind_time=settings.unwind_time,
        )
        self.pid = os.getpid()
        self.env = env
        self.settings = settings
        self.store = store
        self._store_use = StoreUse(store)
        self.endpoints = endpoints
        self.owner = ""
        #: Seconds; 0 where nothing executes a child while its parent waits.
        self.invoke_wait = 0.0 if settings.on_demand else settings.invoke_wait
        self.drains = 0
        self.waiters = Waiters(
            env.limits.waiting_clients, self._poll_faster, most_of_run=env.limits.run_clients
        )
        channel = channel_of(store)
        relay = None if channel is None else StreamRelay(channel, env.limits.stream_run)
        self.streams = StreamHub(self.live, relay)
        self.reads = StoreReads(store)
        self.event_watermark = EventWatermark(store, env.app, self.reads)
        # Plain functions do not wait for threads that handlers hold, which may take long.
        self.routes = DaemonThreadPool(settings.serving_threads, "durable-route")
        self.workers = DaemonThreadPool(settings.worker_threads, "durable-worker")
        self.handoffs = DaemonThreadPool(_HANDOFF_THREADS, "durable-handoff")
        self.abandoned: list[Checkpoint] = []
        self.runs = self.make_run_manager()
        self.queue = CommitQueue(
            store,
            busy_timeout=settings.busy_timeout,
            on_commit=self.runs.on_commit,
            on_timed=self._report_commit if self.observers.watched else None,
        )
        self.quota = Quota(env, store)
        self.scheduler = self.make_scheduler()
        self.long_poll = LongPoll(env, store, self.waiters, self.reads, self, settings.keep_runs_ms)
        self.sync_limit = SyncLimit(self, self.runs)
        self.streaming = StreamResponder(self, self.runs, self.sync_limit)
        self.admission = Admission(self, self.runs, self.streaming, self.sync_limit)

    def make_run_manager(self) -> RunManager:
        """Return the manager of this worker's runs; a test may have its own."""
        return RunManager(self)

    def make_scheduler(self) -> Scheduler:
        """Return the scheduler of this worker; a test may have its own."""
        return Scheduler(self, self.runs)

    def start(self) -> None:
        """Open the store and begin to work."""
        self._store_use.open()
        self.queue.start()
        try:
            self.env.secrets()  # read now, so that no handoff can fail for want of them
            self.scheduler.start()
        except BaseException:
            self.queue.stop()
            self._store_use.close()
            raise
        logger.info("%s started in process %d with %r", self.env.app, self.pid, self.store)

    def drain(self) -> None:
        """Hand every client on; the runs go on."""
        self.drains += 1
        for live in self.live.all():
            live.detach(HandoffReason.DRAIN)
        self.sync_limit.drain()
        self.waiters.release_all()

    def stop(self, timeout: float) -> None:
        """Suspend all runs in good order, for up to ``timeout`` seconds; then release them."""
        self.stopping = True
        self.scheduler.drain()
        self.runs.release_waiting(0.0)
        for live in self.live.all():
            live.detach(HandoffReason.DRAIN)
            live.stop()
        self.sync_limit.drain()
        self.waiters.release_all()
        if not self.live.wait_until_empty(timeout):
            names = ", ".join(self.live.names())
            logger.warning("stopped while steps or responses were in flight: %s", names)
        self.scheduler.stop()
        self.streams.stop()
        try:
            self.queue.execute(Unregister(id=self.owner, now=self.env.clock.now()))
        except StoreError as error:
            logger.warning("leases were not given back, they will expire: %s", error)
        self.queue.stop()
        self.streaming.stop()
        for pool in (self.threads, self.servers, self.routes, self.workers, self.handoffs):
            pool.shutdown()
        self.reads.close()
        self.loops.stop()
        self._store_use.close()

    def why_not_ready(self) -> str | None:
        """Return why no requests should come here; None if there is no reason.

        A lease that is renewed proves that the scheduler works, and that the store takes writes.

        Raises:
            StoreError: it cannot be read.
        """
        if self.stopping or self.waiters.released:
            return "draining"
        if not self.scheduler.alive:
            return "scheduler-ended"
        now = self.env.clock.now()
        has_lease = any(
            each.id == self.owner and each.expires_at > now for each in self.store.workers()
        )
        return None if has_lease else "lease-expired"

    def has_tasks_on(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Return whether runs are live on this loop."""
        return self.loops.server_loop is loop and self.runs.has_tasks

    def with_running_steps(self, run_id: str, record: RunRecord | None) -> RunRecord | None:
        """Return the record of a run, with what this process has not stored of it yet.

        That is the steps that it is executing, and ends of sleeps and waits. A run that has stored
        nothing yet has no record but this one.
        """
        live = self.live.get(run_id)
        if live is None or (record is not None and record.run.phase.ended):
            return record
        if record is None:
            record = RunRecord(run=live.ex.run, owner=self.owner, due_at=None, ended_at=None)
        if isinstance(live.ex, StoredExecution) and live.ex.unsaved:
            record = with_memos(record, live.ex.unsaved)
        return replace(record, running=live.ex.running_steps)

    def _may_defer(self) -> bool:
        """Tell whether a handler may be called before its run is made.

        Not if the run may be refused, if it is observed, or if a test puts itself between a run and
        its handler; and not in a process that was forked from the worker's.
        """
        return not (
            self.stopping
            or self.quota.is_full
            or self.observers.watched
            or self.wrap_scope is not None
            or self.pid != process_id()
        )

    def defer(
        self,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
    ) -> DeferredRun | Coroutine[Any, Any, DeferredRun | None] | None:
        """Return the run of a handler that is called before it; see :class:`DeferredRun`.

        If the store must be read for it, it is awaited; then it is None if that cannot be done.
        It is also None if the run must begin at once.
        """
        if not self._may_defer():
            return None
        loop = self.loops.adopt_running()
        event_seq = self.event_watermark.recent_async()
        if isinstance(event_seq, int):
            return DeferredRun(self, self.runs, endpoint, request, loop, event_seq)
        make = partial(DeferredRun, self, self.runs, endpoint, request, loop)
        return _make_later(make, event_seq)

    def defer_in_thread(
        self,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
    ) -> DeferredThreadRun | None:
        """As :meth:`defer`, for a ``def`` handler in this thread.

        Raises:
            StoreError: it cannot be read.
        """
        if not self._may_defer():
            return None
        return DeferredThreadRun(self, self.runs, endpoint, request, self.event_watermark.recent())

    def defer_in_pool(
        self,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
        begun: Callable[[], object],
    ) -> DeferredPoolRun | Coroutine[Any, Any, DeferredPoolRun | None] | None:
        """As :meth:`defer`, for a ``def`` handler that a thread of a framework calls."""
        if not self._may_defer():
            return None
        loop = self.loops.adopt_running()
        make = partial(DeferredPoolRun, self, self.runs, endpoint, request, loop, begun)
        event_seq = self.event_watermark.recent_async()
        return make(event_seq) if isinstance(event_seq, int) else _make_later(make, event_seq)

    def _report_commit(self, writes: int, seconds: float) -> None:
        at = time_of(self.env.clock.now())
        fact = StoreCommitted(app=self.env.app, at=at, writes=writes, seconds=seconds)
        self.observers.notify(fact)

    # -- what runs and other parts ask for --------------------------------------------------

    def wake_scheduler(self) -> None:
        """Have the scheduler look at everything now."""
        self.scheduler.wake()

    def cancel_abandoned_soon(self, parent: str) -> None:
        """Have the scheduler cancel the children of a run that has ended, or was cancelled."""
        self.scheduler.cancel_abandoned_soon(parent)

    def wake_scheduler_at(self, due_at: int) -> None:
        """Have the scheduler look at a run that is due then, epoch milliseconds."""
        self.scheduler.wake_at(due_at)

    def claim_soon(self, kind: HandlerKind) -> None:
        """Have the scheduler claim due runs, as there is more room for such handlers."""
        self.scheduler.claim_soon(kind)

    def _poll_faster(self) -> None:
        self.scheduler.poll_faster()

    def release_later(self, ex: Execution) -> None:
        """Have a run released later that its execution could not release."""
        self.runs.release_later(ex)


async def _make_later(make: Callable[[int], T], event_seq: Coroutine[Any, Any, int]) -> T | None:
    try:
        return make(await event_seq)
    except StoreError:
        return None  # the run that must begin at once says so
