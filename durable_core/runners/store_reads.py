"""Reads of a store from an event loop, which they must not block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar

from durable_core.ports import Store
from durable_core.runners.thread_pool import DaemonThreadPool

__all__ = ["StoreReads"]

P = ParamSpec("P")
T = TypeVar("T")

#: How many reads of one process are made at the same time.
_THREADS = 8


class StoreReads:
    """Calls what reads a store in place, if its reads are fast, and else in a thread.

    The threads are its own: those for user code may all be busy with slow steps.
    """

    def __init__(self, store: Store) -> None:
        fast = store.reads_are_fast
        self._pool = None if fast else DaemonThreadPool(_THREADS, "durable-read")

    def call(
        self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T | Coroutine[Any, Any, T]:
        """Return what the function returns, or a coroutine that does. On an event loop."""
        if self._pool is None:
            return read(*args, **kwargs)
        return self._in_thread(self._pool, partial(read, *args, **kwargs))

    async def wait(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns, however it is called."""
        value: Any = self.call(read, *args, **kwargs)
        if type(value) is CoroutineType:
            value = await value
        result: T = value
        return result

    async def _in_thread(self, pool: DaemonThreadPool, read: Callable[[], T]) -> T:
        try:
            reading = asyncio.get_running_loop().run_in_executor(pool, read)
        except RuntimeError:
            return read()  # stopped: the store is closed, and says so at once
        return await reading

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
