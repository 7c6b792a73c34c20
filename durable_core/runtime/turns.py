"""The order in which the steps of a replayed handler are answered."""

from __future__ import annotations

import asyncio
import itertools
from heapq import heappop, heappush

__all__ = ["Turns"]

#: Ticks of the loop from one turn to the next. Code that waits for the first of several steps
#: (``asyncio.wait`` with ``FIRST_COMPLETED``, a task or two in between) must see that one alone,
#: as it did when it really was the first, and have time to cancel the others.
_APART = 6


class Turns:
    """Lets those who ask at a time go on one by one, the lowest number first.

    Args:
        loop: where they ask.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap
        self._letting_go = False

    async def take(self, number: int) -> None:
        """Return in the next tick, or after those with a lower number who ask until then."""
        future: asyncio.Future[None] = self._loop.create_future()
        heappush(self._waiting, (number, next(self._asked), future))
        if not self._letting_go:
            self._letting_go = True
            self._loop.call_soon(self._let_go, 0)
        await future

    def _let_go(self, ticks: int) -> None:
        """Let one go on in so many ticks, and the next one later."""
        if ticks:
            self._loop.call_soon(self._let_go, ticks - 1)
            return
        while self._waiting:
            _, _, future = heappop(self._waiting)
            if not future.done():
                future.set_result(None)
                break
        self._letting_go = bool(self._waiting)
        if self._letting_go:
            self._loop.call_soon(self._let_go, _APART - 1)
