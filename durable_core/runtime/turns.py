"""The order in which the steps of a replayed handler are answered."""

from __future__ import annotations

import asyncio

__all__ = ["Turns"]


class Turns:
    """Lets those who ask in one tick of the loop go on by their numbers, the lowest first.

    Args:
        loop: where they ask.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    async def take(self, number: int) -> None:
        """Return in the next tick, after all with a lower number that ask in this one."""
        future: asyncio.Future[None] = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._let_go)
        self._waiting.append((number, future))
        await future

    def _let_go(self) -> None:
        waiting, self._waiting = self._waiting, []
        for _, future in sorted(waiting, key=lambda turn: turn[0]):
            if not future.done():
                future.set_result(None)
