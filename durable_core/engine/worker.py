"""One process's part in an application: what is opened, started and live in it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from durable_core.commit_queue import CommitFuture, CommitQueue
from durable_core.engine.long_poll import LongPoll
from durable_core.engine.running import StoredRunning
from durable_core.engine.runs import Resuming, Serving
from durable_core.engine.scheduler import Scheduler
from durable_core.engine.stream_responses import StreamResponder
from durable_core.errors import StoreError
from durable_core.flow.env import AppConfig
from durable_core.flow.execution import Execution
from durable_core.flow.scope import EMBEDDED_FLOWS, HandlerKind, RunScope
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.decision import HandoffReason
from durable_core.platform import logger
from durable_core.ports import (
    Cancel,
    Checkpoint,
    CheckpointResult,
    Claimed,
    CorruptRun,
    SendEvents,
    Store,
    Unregister,
    channel_of,
)
from durable_core.runners.event_loops import Loops
from durable_core.runners.host import EventWatermark
from durable_core.runners.live import ActiveRuns, Waiters
from durable_core.runners.settings import RegisteredEndpoint, Settings
from durable_core.runners.thread_pool import DaemonThreadPool
from durable_core.streams.hub import StreamHub
from durable_core.streams.relay import StreamRelay

__all__ = ["Worker"]

T = TypeVar("T")


class Worker:
    """Serves, resumes and keeps runs in this process.

    Args:
        env: the application.
        settings: how to work.
        store: the shared store.
        endpoints: the handlers by key; the engine adds to it while the node works.
    """

    def __init__(
        self,
        env: AppConfig,
        settings: Settings,
        store: Store,
        endpoints: dict[str, RegisteredEndpoint],
    ) -> None:
        self.pid = os.getpid()
        self.env = env
        self.settings = settings
        self.store = store
        self.endpoints = endpoints
        self.settle_time = settings.settle_time
        self.unwind_time = settings.unwind_time
        self.stopping = False
        self.flows = EMBEDDED_FLOWS
        self.live = ActiveRuns()
        self.scheduler = Scheduler(self)
        self.waiters = Waiters(env.limits.waiting_clients, self.scheduler.poll_faster)
        self.queue = CommitQueue(
            store, busy_timeout=settings.busy_timeout, on_commit=self._committed
        )
        channel = channel_of(store)
        sharing = None if channel is None else StreamRelay(channel, env.limits.stream_run)
        self.streams = StreamHub(self.live, sharing)
        self.event_watermark = EventWatermark(store, env.app)
        self.long_poll = LongPoll(env, store, self.waiters)
        self.threads = DaemonThreadPool(settings.serving_threads, "durable-step")
        self.servers = DaemonThreadPool(settings.serving_threads, "durable-serve")
        self.workers = DaemonThreadPool(settings.worker_threads, "durable-worker")
        self.abandoned: list[Checkpoint] = []
        self.loops = Loops()
        self._running = StoredRunning(self)
        self.streaming = StreamResponder(self, self._running)
        self._serving = Serving(self, self._running, self.streaming)
        self._resuming = Resuming(self, self._running)

    # -- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the store and begin to work."""
        self.store.open()
        self.queue.start()
        try:
            self.env.secrets()  # read now, so that no handoff can fail for want of them
            self.scheduler.start()
        except BaseException:
            self.queue.stop()
            self.store.close()
            raise
        logger.info("%s started in process %d with %r", self.env.app, self.pid, self.store)

    def stop(self, timeout: float) -> None:
        """Put everything away in good order, for up to ``timeout`` seconds; then let go."""
        self.stopping = True
        self.scheduler.drain()
        for live in self.live.all():
            live.detach(HandoffReason.DRAIN)
            live.stop()
        self.waiters.release_all()
        if not self.live.wait_until_empty(timeout):
            names = ", ".join(self.live.names())
            logger.warning("stopped while steps or responses were in flight: %s", names)
        self.scheduler.stop()
        self.streams.stop()
        try:
            self.queue.execute(Unregister(id=self.scheduler.owner, now=self.env.clock.now()))
        except StoreError as error:
            logger.warning("leases were not given back, they will expire: %s", error)
        self.queue.stop()
        for pool in (self.threads, self.servers, self.workers):
            pool.shutdown()
        self.loops.stop()
        self.store.close()

    def has_tasks_on(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Tell whether runs are live on this loop."""
        return self.loops.server_loop is loop and self._running.has_tasks

    @property
    def busy(self) -> Mapping[HandlerKind, int]:
        """How many runs of each kind of handler are replayed now."""
        return self._resuming.busy

    # -- what a server asks for -------------------------------------------------------------

    def serve(self, endpoint: RegisteredEndpoint, request: Request, route: str | None) -> Response:
        """Serve a client in this thread."""
        return self._serving.serve(endpoint, request, route)

    async def serve_async(
        self, endpoint: RegisteredEndpoint, request: Request, route: str | None
    ) -> Response:
        """Serve a client of an asynchronous server."""
        return await self._serving.serve_async(endpoint, request, route)

    # -- what the keeper asks for -----------------------------------------------------------

    def capacity(self, face: HandlerKind) -> int:
        """Return how many more runs with such handlers may be replayed now."""
        return self._resuming.capacity(face)

    def keys(self, face: HandlerKind) -> tuple[str, ...]:
        """Return the keys of the handlers of a kind."""
        return tuple(key for key, each in list(self.endpoints.items()) if each.kind is face)

    def resume(self, claimed: Claimed) -> None:
        """Go on with a run that was claimed, in a worker."""
        self._resuming.resume(claimed)

    def fail_orphan(self, claimed: Claimed) -> None:
        """Fail a claimed run whose endpoint no code knows any more."""
        self._resuming.fail_orphan(claimed)

    def fail_unreadable(self, claimed: CorruptRun) -> None:
        """Fail a claimed run whose record cannot be read."""
        self._resuming.fail_unreadable(claimed)

    # -- what runs ask for ------------------------------------------------------------------

    def release_later(self, ex: Execution) -> None:
        """See that a run which its execution could not put away is given up later."""
        self._running.release_later(ex)

    def scope(self, run: RunScope) -> RunScope:
        """Return what the code of a handler reaches as its run; a test may put itself between."""
        return run

    def run_on_background_loop(self, awaitable: Awaitable[T]) -> T:
        """Await something on the node's own event loop."""
        return self.loops.background_loop.run(awaitable)

    # -- what commits mean to others in this process ----------------------------------------

    def _committed(self, batch: Sequence[CommitFuture[Any]]) -> None:
        for ticket in batch:
            write, answer = ticket.write, ticket.answer
            if isinstance(write, Checkpoint):
                if len(self.streams) and answer is not None:
                    self.streams.committed(write)
                if write.result is not None and answer is not None:
                    self.waiters.ended((write.run_id,))
                if write.release is not None:
                    self.scheduler.wake_at(write.release.due_at)
                if write.events:
                    self.event_watermark.changed()
                if isinstance(answer, CheckpointResult) and answer.resumed_runs:
                    self.scheduler.wake()
            elif isinstance(write, SendEvents):
                self.event_watermark.changed()
                self.scheduler.wake()
            elif isinstance(write, Cancel) and answer is True:
                self.waiters.ended((write.run_id,))
                live = self.live.get(write.run_id)
                if live is not None:
                    live.lease_lost()
