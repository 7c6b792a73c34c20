"""Waking a reader, be it a thread or a task."""

from __future__ import annotations

import asyncio
import threading

__all__ = ["TaskSignal", "ThreadSignal"]


class ThreadSignal:
    """Wakes one thread; what comes while it does not wait is not lost."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wake(self) -> None:
        """Wake it, from any thread."""
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Wait until woken; False after so many seconds without that."""
        woken = self._event.wait(seconds)
        self._event.clear()
        return woken


class TaskSignal:
    """Wakes one task; what comes while it does not wait is not lost.

    Args:
        loop: where the task runs.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_set = False
        self._waiting: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Wake it, from any thread. A loop that is closed has no reader any more."""
        if self._is_set:
            return
        self._is_set = True
        if self._waiting is None:
            return  # it looks at the flag after it has said that it waits
        if asyncio._get_running_loop() is self._loop:
            self._finish()
            return
        try:
            self._loop.call_soon_threadsafe(self._finish)
        except RuntimeError:
            pass

    async def wait(self, seconds: float) -> bool:
        """Wait until woken; False after so many seconds without that."""
        if not self._is_set:
            self._waiting = self._loop.create_future()
            timer = self._loop.call_later(seconds, self._finish)
            try:
                if not self._is_set:
                    await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        woken, self._is_set = self._is_set, False
        return woken

    def _finish(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
