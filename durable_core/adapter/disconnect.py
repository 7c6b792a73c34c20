"""Clients that go away, and noticing that on an event loop while an answer is made or sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from durable_core.adapter.exchange import ClientDisconnectedError

__all__ = ["DisconnectWatcher"]

#: Nobody is listened to before so many seconds: most answers are sent by then, and servers keep
#: the news until somebody asks.
_GRACE = 0.02


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
        self._timer: asyncio.TimerHandle | None = None
        self._listener: asyncio.Task[None] | None = None
        self._gone = False

    async def __aenter__(self) -> Self:
        """Take this task for the one to cancel. Nobody is watched before :meth:`start`."""
        self._task = asyncio.current_task()
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
        timer, listener, task = self._timer, self._listener, self._task
        # The error of a cancelled task refers to its frame: a cycle would keep the memory.
        self._timer = self._listener = self._task = None
        if timer is not None:
            timer.cancel()
        if listener is not None:
            listener.cancel()
            await asyncio.wait((listener,))
        if self._gone and task is not None:
            others = task.uncancel()
            if isinstance(error, asyncio.CancelledError) and not others:
                raise ClientDisconnectedError("the client has closed the connection") from None

    def start(self) -> None:
        """Begin to watch, after a moment that most answers do not take."""
        self._timer = asyncio.get_running_loop().call_later(_GRACE, self.listen)

    def listen(self) -> None:
        """Listen from now on, as a stream must: it could outrun the server in no time."""
        if self._listener is None:
            self._listener = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        if await self._is_gone() and self._task is not None:
            self._gone = True
            self._task.cancel()
