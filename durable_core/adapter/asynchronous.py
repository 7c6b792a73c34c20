"""The chunks of a streamed response body, and its end, on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextvars import copy_context
from types import TracebackType
from typing import Any, Protocol, Self, cast

from durable_core.runners.thread_pool import DaemonThreadPool

__all__ = [
    "Chunks",
    "ClientDisconnectedError",
    "DisconnectWatcher",
    "aiter_body",
]


# --- watch ----------------------------------------------------------------------------------------
#
# Clients that go away, and noticing that on an event loop while an answer is made or sent.

#: Nobody is listened to before so many seconds: most answers are sent by then, and servers keep
#: the news until somebody asks.
_GRACE = 0.02


class ClientDisconnectedError(ConnectionError):
    """The client has closed the connection, or does not take what is sent."""


class DisconnectWatcher:
    """``async with`` it: when the client goes away, the block is cancelled.

    The task that enters it is the one that is cancelled, and leaves it with
    ClientDisconnectedError. A cancellation from elsewhere passes.

    Args:
        is_gone: waits until the client is gone, and returns True; False where that cannot be told.
            It must not raise.
    """

    def __init__(self, is_gone: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        self._is_gone = is_gone
        self._listener: asyncio.Task[None] | None = None
        self._gone = False

    async def __aenter__(self) -> Self:
        """Begin to watch."""
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(_GRACE, self.listen)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the watch, leaving nothing behind.

        Raises:
            ClientDisconnectedError: the block was cancelled because the client is gone.
        """
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait((self._listener,))
        if self._gone and self._task is not None:
            others = self._task.uncancel()
            if isinstance(error, asyncio.CancelledError) and not others:
                raise ClientDisconnectedError("the client has closed the connection") from None

    def listen(self) -> None:
        """Listen from now on, as a stream must: it could outrun the server in no time."""
        if self._listener is None:
            self._listener = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        if await self._is_gone() and self._task is not None:
            self._gone = True
            self._task.cancel()


# --- asynchronous ---------------------------------------------------------------------------------

_END = object()


class Chunks(Protocol):
    """A body that is iterated once, and closed in the end, by one task."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Begin."""
        ...

    async def aclose(self) -> None:
        """Close the body, if it can be closed. Nothing comes after that."""
        ...


def aiter_body(body: Iterable[bytes] | AsyncIterable[bytes]) -> Chunks:
    """Return the chunks of a body, whichever kind of iterable it is.

    A plain iterable may block: it is iterated, and closed, in a thread, one call at a time, all in
    a copy of the context in which this is called.
    """
    return _AsyncChunks(body) if isinstance(body, AsyncIterable) else _ThreadChunks(body)


class _AsyncChunks:
    """The chunks of an async iterable."""

    def __init__(self, body: AsyncIterable[bytes]) -> None:
        self._body = body
        self._chunks: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = aiter(self._body)
        return self._chunks

    async def aclose(self) -> None:
        """Close it, if it can be closed."""
        close = getattr(self._chunks, "aclose", None) or getattr(self._body, "aclose", None)
        if close is not None:
            await close()


class _ThreadChunks:
    """The chunks of a plain iterable, which has a thread of its own.

    In a pool, bodies that wait for something would keep others from being sent.
    """

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body
        self._chunks: Iterator[bytes] | None = None
        self._context = copy_context()
        self._thread = DaemonThreadPool(1, "durable-stream")

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        loop = asyncio.get_running_loop()
        chunk = await loop.run_in_executor(self._thread, self._context.run, self._next)
        if chunk is _END:
            raise StopAsyncIteration
        return cast(bytes, chunk)

    async def aclose(self) -> None:
        """Close it after the chunk that is being made, even if this task is cancelled again."""
        closed = self._thread.submit(self._context.run, self._close)
        self._thread.shutdown()
        await asyncio.shield(asyncio.wrap_future(closed))

    def _next(self) -> Any:
        if self._chunks is None:
            self._chunks = iter(self._body)
        return next(self._chunks, _END)

    def _close(self) -> None:
        close = getattr(self._chunks, "close", None) or getattr(self._body, "close", None)
        if close is not None:
            close()
