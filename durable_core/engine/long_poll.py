"""Clients at the wait URL: they are held until their run ends, in a thread or a task."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from contextlib import nullcontext
from typing import Any, Protocol

from durable_core.engine.hooks import call_hook, call_hook_async
from durable_core.errors import StoreError
from durable_core.flow.driver import drive_async, drive_sync
from durable_core.flow.effects import AwaitEnd, CallUser, Effect, Flow, Log, ReadResult
from durable_core.flow.env import AppConfig
from durable_core.flow.wait import wait_for_result
from durable_core.flow.wait_url import WaitRequest
from durable_core.http.response import Response
from durable_core.model.run import Phase
from durable_core.platform import call_soon, logger
from durable_core.ports import Store, StoredResult
from durable_core.runners.live import Waiters
from durable_core.runners.store_reads import StoreReads
from durable_core.runners.thread_pool import DaemonThreadPool

__all__ = ["HookHost", "LongPoll"]


class HookHost(Protocol):
    """What calls functions of the application."""

    #: Where plain functions run that serve clients of an event loop.
    routes: DaemonThreadPool

    def run_on_background_loop(self, awaitable: Awaitable[Any]) -> Any:
        """Await something on an event loop of the worker's, blocking this thread."""
        ...


class LongPoll:
    """Answers requests to the wait URL.

    Args:
        env: the application.
        store: the store with the results.
        waiters: the waiting clients.
        reads: how an event loop reads the store.
        hooks: calls functions of the application.
        keep: for how long runs are kept that have ended, milliseconds.
    """

    def __init__(
        self,
        env: AppConfig,
        store: Store,
        waiters: Waiters,
        reads: StoreReads,
        hooks: HookHost,
        keep: int,
    ) -> None:
        self._hooks = hooks
        self._keep = keep
        self._reads = reads
        self._env = env
        self._store = store
        self._waiters = waiters

    def wait(self, wanted: WaitRequest) -> Response:
        """Answer in this thread, which blocks meanwhile."""
        return drive_sync(self._flow(wanted), self._perform, nullcontext())

    async def wait_async(self, wanted: WaitRequest) -> Response:
        """Answer in this task, which waits meanwhile."""
        return await drive_async(self._flow(wanted), self._perform_async)

    def _flow(self, wanted: WaitRequest) -> Flow[Response]:
        return wait_for_result(self._env, wanted, self._keep)

    def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, AwaitEnd):
            return self._await_end(effect)
        if isinstance(effect, CallUser):
            return call_hook(effect.call, self._hooks.run_on_background_loop)
        return self._log(effect) if isinstance(effect, Log) else self._read(effect)

    def _perform_async(self, effect: Effect) -> Any:
        if isinstance(effect, AwaitEnd):
            return self._await_end_async(effect)
        if isinstance(effect, CallUser):
            return call_hook_async(effect.call, self._hooks.routes)
        if isinstance(effect, Log):
            return self._log(effect)
        return self._reads.call(self._read, effect)

    def _log(self, effect: Log) -> None:
        logger.log(effect.level, "%s", effect.text, exc_info=effect.error)

    def _read(self, effect: Effect) -> StoredResult | Phase | None:
        assert isinstance(effect, ReadResult)
        return self._result(effect.run_id)

    def _result(self, run_id: str) -> StoredResult | Phase | None:
        """Read the run's result, or its phase.

        During shutdown the store may be closed already; released clients are then redirected.
        """
        try:
            return self._store.result(self._env.app, run_id)
        except StoreError:
            if not self._waiters.released:
                raise
            return Phase.ASYNC

    def _running(self, run_id: str) -> bool:
        """Read the phase again after registering, so that an end in between is not missed."""
        return isinstance(self._result(run_id), Phase)

    def _await_end(self, effect: AwaitEnd) -> bool:
        ended = threading.Event()
        if not self._waiters.add(effect.run_id, ended.set, in_thread=True):
            return False
        try:
            if self._running(effect.run_id):
                ended.wait(self._waiters.hold_time(effect.for_ms / 1000))
        finally:
            self._waiters.remove(effect.run_id, ended.set, in_thread=True)
        return True

    async def _await_end_async(self, effect: AwaitEnd) -> bool:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            if not ended.done():
                ended.set_result(None)

        def wake() -> None:
            call_soon(loop, finish)

        if not self._waiters.add(effect.run_id, wake):
            return False
        try:
            if await self._reads.wait(self._running, effect.run_id):
                seconds = self._waiters.hold_time(effect.for_ms / 1000)
                await asyncio.wait((ended,), timeout=seconds)
        finally:
            self._waiters.remove(effect.run_id, wake)
        return True
