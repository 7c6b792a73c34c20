"""Response bodies that are the stream of a run: one flow, iterated by threads or on a loop."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import nullcontext
from typing import Any, Protocol, TypeVar

from durable_core.errors import StoreError
from durable_core.flow.asks import (
    Ask,
    AwaitMore,
    Call,
    Invoke,
    Outcome,
    Raised,
    ReadResult,
    ReadStream,
    Report,
    Returned,
    Woken,
)
from durable_core.flow.drive import drive_async, drive_sync
from durable_core.flow.reading import Reader, next_part
from durable_core.ports import Store
from durable_core.runtime.logs import logger
from durable_core.runtime.pool import DaemonPool
from durable_core.runtime.streams.signals import TaskSignal, ThreadSignal

__all__ = ["AsyncBody", "Host", "SyncBody"]

T = TypeVar("T")

#: After a part of so many bytes others on the loop have their turn.
_LARGE = 32 * 1024


class Host(Protocol):
    """What bodies need of the node."""

    stopping: bool

    @property
    def store(self) -> Store:
        """Where stored chunks are read."""
        ...

    @property
    def threads(self) -> DaemonPool:
        """Where plain functions are called for tasks."""
        ...

    def await_elsewhere(self, awaitable: Awaitable[T]) -> T:
        """Await something on the node's own event loop, blocking this thread."""
        ...


class _Body:
    """What the two have in common.

    Args:
        host: the node.
        reader: what is iterated.
        close: called once, when there is nothing more to send or the server closes the body.
    """

    def __init__(self, host: Host, reader: Reader, close: Callable[[], None]) -> None:
        self._host = host
        self._reader = reader
        self._close: Callable[[], None] | None = close

    def _end(self) -> None:
        self._reader.over = True
        close, self._close = self._close, None
        if close is not None:
            close()

    def _perform_at_once(self, ask: Ask) -> Any:
        app, store = self._reader.env.app, self._host.store
        if isinstance(ask, ReadStream):
            cursor = ask.cursor
            return store.stream(
                app, ask.run_id, done=cursor.done, outside=cursor.outside, most=ask.most
            )
        if isinstance(ask, ReadResult):
            return store.result(app, ask.run_id)
        assert isinstance(ask, Report)  # a reader asks for nothing else
        logger.warning("run %s: %s", self._reader.run_id, ask.text, exc_info=ask.error)
        return None

    def _woken(self, woken: bool) -> Woken:
        if self._host.stopping:
            return Woken.STOPPING
        return Woken.MORE if woken else Woken.TIME_OUT

    def _lost(self, error: StoreError) -> None:
        """The store cannot be read: the client has to come again."""
        if not self._host.stopping:
            logger.error("the stream of run %s was cut short: %s", self._reader.run_id, error)


class SyncBody(_Body, Iterator[bytes]):
    """A stream that is iterated in threads, one at a time. It blocks while there is nothing.

    ``deadline`` (``time.monotonic``) is when a client that waits has to come again.
    """

    def __init__(
        self,
        host: Host,
        reader: Reader,
        signal: ThreadSignal,
        close: Callable[[], None],
        deadline: float | None = None,
    ) -> None:
        super().__init__(host, reader, close)
        self._signal = signal
        self._deadline = deadline

    def __next__(self) -> bytes:
        part: bytes | None = None
        try:
            part = drive_sync(next_part(self._reader), self._perform, nullcontext())
        except StoreError as error:
            self._lost(error)
        finally:
            if part is None:
                self._end()
        if part is None:
            raise StopIteration
        return part

    def close(self) -> None:
        """The server sends no more of it."""
        self._end()

    def _perform(self, ask: Ask) -> Any:
        if isinstance(ask, AwaitMore):
            return self._await_more(ask.for_ms / 1000)
        if isinstance(ask, Invoke):
            return self._invoke(ask.call)
        return self._perform_at_once(ask)

    def _await_more(self, seconds: float) -> Woken:
        if self._deadline is None:
            return self._woken(self._signal.wait(seconds))
        left = self._deadline - time.monotonic()
        if left <= 0:
            return Woken.STOPPING
        woken = self._woken(self._signal.wait(min(seconds, left)))
        return Woken.MORE if woken is Woken.TIME_OUT and left < seconds else woken

    def _invoke(self, call: Call) -> Outcome:
        try:
            value = call.fn(*call.args, **(call.kwargs or {}))
            if inspect.isawaitable(value):
                value = self._host.await_elsewhere(value)
        except Exception as error:
            return Raised(error)
        return Returned(value)


class AsyncBody(_Body, AsyncIterator[bytes]):
    """A stream that is iterated on an event loop."""

    def __init__(
        self, host: Host, reader: Reader, signal: TaskSignal, close: Callable[[], None]
    ) -> None:
        super().__init__(host, reader, close)
        self._signal = signal

    async def __anext__(self) -> bytes:
        part: bytes | None = None
        try:
            part = await drive_async(next_part(self._reader), self._perform)
        except StoreError as error:
            self._lost(error)
        finally:
            if part is None:
                self._end()
        if part is None:
            raise StopAsyncIteration
        if len(part) >= _LARGE:
            await asyncio.sleep(0)  # there may be a lot more, and no server need wait in between
        return part

    async def aclose(self) -> None:
        """The server sends no more of it."""
        self._end()

    def _perform(self, ask: Ask) -> Any:
        if isinstance(ask, AwaitMore):
            return self._await_more(ask.for_ms / 1000)
        if isinstance(ask, Invoke):
            return self._invoke(ask.call)
        return self._perform_at_once(ask)

    async def _await_more(self, seconds: float) -> Woken:
        return self._woken(await self._signal.wait(seconds))

    async def _invoke(self, call: Call) -> Outcome:
        kwargs = call.kwargs or {}
        try:
            if inspect.iscoroutinefunction(call.fn):
                return Returned(await call.fn(*call.args, **kwargs))
            loop = asyncio.get_running_loop()
            value = await loop.run_in_executor(
                self._host.threads, lambda: call.fn(*call.args, **kwargs)
            )
            if inspect.isawaitable(value):
                value = await value
        except Exception as error:
            return Raised(error)
        return Returned(value)
