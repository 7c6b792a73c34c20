"""Noticing that the client is gone while its answer is made or sent."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from durable_asyncio._incoming import ClientGoneError, Incoming

__all__ = ["ClientWatch"]

#: Nobody is listened to before so many seconds: most answers are sent by then.
_GRACE = 0.02
#: A client that closes its side may still want its answer, if it comes within so many seconds.
_MERCY = 0.25


class ClientWatch:
    """``async with`` it: when the client goes away, the block is cancelled.

    The task that enters it is the one that is cancelled, and leaves it with ClientGoneError. A
    cancellation from elsewhere passes.

    Args:
        incoming: the client's side of the connection.
    """

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._listener: asyncio.Task[None] | None = None
        self._gone = False

    async def __aenter__(self) -> Self:
        """Begin to watch."""
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(_GRACE, self._start)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the watch, leaving nothing behind."""
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait((self._listener,))
        if self._gone and self._task is not None:
            others = self._task.uncancel()
            if isinstance(error, asyncio.CancelledError) and not others:
                raise ClientGoneError("the client has closed the connection") from None

    def _start(self) -> None:
        self._listener = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        try:
            await self._incoming.until_closed()
            await asyncio.sleep(_MERCY)
        except ClientGoneError:
            pass
        if self._task is not None:
            self._gone = True
            self._task.cancel()
