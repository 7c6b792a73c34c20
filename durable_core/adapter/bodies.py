"""The chunks of a streamed response body, whichever way it and its server are written.

A body is iterated once, and closed in the end, by one thread or one task, in one context: what it
has entered it can leave.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from durable_core.runners.thread_pool import DaemonThreadPool

__all__ = [
    "END",
    "AsyncChunks",
    "Chunks",
    "Runner",
    "ThreadIterator",
    "aiter_body",
    "iter_body",
]

_logger = logging.getLogger("durable.adapter")

T = TypeVar("T")
#: What follows the last chunk.
END: Final = object()


class Runner(Protocol):
    """Runs a coroutine on an event loop, and blocks until it is done."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> T:
        """Return what the coroutine returns."""
        ...


class Chunks(Protocol):
    """A body on a server with threads."""

    def next(self) -> Any:
        """Return the next chunk; ``END`` after the last."""
        ...

    def close(self) -> None:
        """Close the body, if it can be closed. Nothing comes after that."""
        ...


class AsyncChunks(Protocol):
    """A body on an event loop."""

    async def next(self) -> Any:
        """Return the next chunk; ``END`` after the last."""
        ...

    async def close(self) -> None:
        """Close the body, if it can be closed. Nothing comes after that."""
        ...


def iter_body(body: Iterable[bytes] | AsyncIterable[bytes], run: Runner) -> Chunks:
    """Return the chunks of a body for a thread.

    Args:
        body: of either kind.
        run: where an async iterable is iterated.
    """
    return _LoopChunks(body, run) if isinstance(body, AsyncIterable) else _PlainChunks(body)


def aiter_body(body: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncChunks:
    """Return the chunks of a body for a task.

    A plain iterable may block: it is iterated, and closed, in a thread of its own. In a pool,
    bodies that wait for something would keep others from being sent.
    """
    return _TaskChunks(body) if isinstance(body, AsyncIterable) else _ThreadChunks(body)


class _PlainChunks:
    """A plain iterable, in the thread that asks."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body
        self._chunks: Iterator[bytes] | None = None

    def next(self) -> Any:
        if self._chunks is None:
            self._chunks = iter(self._body)
        return next(self._chunks, END)

    def close(self) -> None:
        close = getattr(self._chunks, "close", None) or getattr(self._body, "close", None)
        if close is not None:
            close()


class _TaskChunks:
    """An async iterable, in the task that asks."""

    def __init__(self, body: AsyncIterable[bytes]) -> None:
        self._body = body
        self._chunks: AsyncIterator[bytes] | None = None

    async def next(self) -> Any:
        if self._chunks is None:
            self._chunks = aiter(self._body)
        return await anext(self._chunks, END)

    async def close(self) -> None:
        close = getattr(self._chunks, "aclose", None) or getattr(self._body, "aclose", None)
        if close is not None:
            await close()


class _ThreadChunks:
    """A plain iterable, for a task: in a thread of its own, and a copy of the task's context."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._plain = _PlainChunks(body)
        self._context = copy_context()
        self._thread = DaemonThreadPool(1, "durable-stream")

    async def next(self) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._context.run, self._plain.next)

    async def close(self) -> None:
        """Close it after the chunk that is being made, even if this task is cancelled again."""
        await asyncio.shield(asyncio.wrap_future(self.close_soon()))

    def close_soon(self) -> Future[None]:
        """Have it closed, without waiting for that; from any thread."""
        closed = self._thread.submit(self._context.run, self._plain.close)
        self._thread.shutdown()
        return closed


class ThreadIterator(AsyncIterator[bytes]):
    """The chunks of a plain iterable, which may block, from a thread of its own.

    It is closed there, once, if it can be closed: at its end, or when it is not read any more. It
    is no generator: to close one that has not begun would close nothing.

    Args:
        body: the iterable.
    """

    def __init__(self, body: Iterable[bytes]) -> None:
        self._chunks = _ThreadChunks(body)
        self._lock = threading.Lock()
        self._closed: Future[None] | None = None

    async def __anext__(self) -> bytes:
        chunk: Any = END
        try:
            if self._closed is None:
                chunk = await self._chunks.next()
        finally:
            if chunk is END:
                await self.aclose()
        if chunk is END:
            raise StopAsyncIteration
        made: bytes = chunk
        return made

    async def aclose(self) -> None:
        """Close it, and wait for that."""
        await asyncio.shield(asyncio.wrap_future(self._close()))

    def close(self) -> None:
        """Have it closed without waiting for that, from any thread."""
        self._close().add_done_callback(_log_failure)

    def _close(self) -> Future[None]:
        with self._lock:
            if self._closed is None:
                self._closed = self._chunks.close_soon()
            return self._closed


def _log_failure(closed: Future[None]) -> None:
    if (error := closed.exception()) is not None:
        _logger.error("the body of a response could not be closed", exc_info=error)


#: What the task of a body is asked for: a call, and where its outcome goes.
_Asked: TypeAlias = "tuple[Callable[[], Coroutine[Any, Any, Any]], asyncio.Future[Any]]"


class _LoopChunks:
    """An async iterable, for a thread: in one task on an event loop, which is asked for each chunk.

    Cancel scopes and context variables of the body would break if each chunk had its own task.
    """

    def __init__(self, body: AsyncIterable[bytes], run: Runner) -> None:
        self._chunks = _TaskChunks(body)
        self._run = run
        self._task: asyncio.Task[None] | None = None

    def next(self) -> Any:
        return self._run(self._ask(self._chunks.next))

    def close(self) -> None:
        self._run(self._ask(self._chunks.close))

    async def _ask(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Have the body's task make a call, and return its outcome."""
        if self._task is None:
            self._asked: asyncio.Queue[_Asked] = asyncio.Queue()
            self._task = asyncio.create_task(self._serve(), name="durable-body")
        elif self._task.done():  # cancelled with all others of the loop
            return await call()
        outcome = asyncio.get_running_loop().create_future()
        self._asked.put_nowait((call, outcome))
        return await outcome

    async def _serve(self) -> None:
        call: Callable[[], Coroutine[Any, Any, Any]] | None = None
        while call != self._chunks.close:
            call, outcome = await self._asked.get()
            try:
                outcome.set_result(await call())
            except BaseException as error:
                outcome.set_exception(error)
                if not isinstance(error, Exception):
                    raise
