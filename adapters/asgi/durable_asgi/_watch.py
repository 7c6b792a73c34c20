"""Noticing that the client is gone while its answer is made or sent."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from durable_asgi._types import Receive

__all__ = ["ClientWatch"]

_logger = logging.getLogger("durable.asgi")
#: Nobody is listened to before so many seconds: most answers are sent by then, and servers keep
#: the news until somebody asks.
_GRACE = 0.02


class ClientWatch:
    """``async with`` it: the block is cancelled, and left quietly, when the client goes away.

    The task that enters it is the one that is cancelled. A cancellation from elsewhere passes.

    Args:
        receive: of the ASGI application, which has read the whole request from it.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
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
    ) -> bool:
        """End the watch, leaving nothing behind; True if the block was left for a gone client."""
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait((self._listener,))
        if not self._gone or self._task is None:
            return False
        return self._task.uncancel() == 0 and isinstance(error, asyncio.CancelledError)

    def listen(self) -> None:
        """Listen from now on, as a stream must: it could outrun the server in no time."""
        if self._listener is None:
            self._listener = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        try:
            message = await self._receive()
        except Exception:
            _logger.warning("it cannot be told whether the client is gone", exc_info=True)
            return
        if message["type"] == "http.disconnect" and self._task is not None:
            self._gone = True
            self._task.cancel()
