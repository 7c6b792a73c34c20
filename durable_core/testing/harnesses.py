"""The harnesses of tests: an application, its clock and its clients, all in the test's hands."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from datetime import timedelta
from typing import TypeVar

from durable_core.model.events import Event
from durable_core.model.response import Response
from durable_core.testing.base import BaseHarness
from durable_core.testing.bench import PATIENCE, Steering
from durable_core.testing.client import AsyncClient, Client, handler_of
from durable_core.testing.following import concluded
from durable_core.testing.reply import Reply
from durable_core.testing.steered import Exchange

__all__ = ["AsyncHarness", "Harness"]

T = TypeVar("T")


class Harness(BaseHarness):
    """An application in a test. Its calls return when nothing runs and nothing is due."""

    def client(self, app: object) -> Client:
        """Return a client of an endpoint, or of an application made by ``app(durable, routes)``.

        Raises:
            TypeError: it is neither.
        """
        return Client(handler_of(app), self._conclude)

    def advance(self, duration: str | float | timedelta) -> None:
        """Let time pass: sleeps end, failed steps are tried again, waits time out.

        Each at its own time, in order; ``"0s"`` lets happen what is due now.

        Args:
            duration: as in ``step.sleep``: ``"24h"``, seconds, or a ``timedelta``.

        Raises:
            ValueError: not a duration.
            NotDeterministicError, NotFinishedError: as ``Client.request``.
        """
        self._drive(self._bench.advance(duration))

    def send(
        self, name: str, data: Mapping[str, object] | None = None, *, id: str | None = None
    ) -> str:
        """Send an event from outside; return its id."""
        return self._drive(self._bench.send(Event(name, data or {}, id=id)))

    def _conclude(self, exchange: Exchange, response: Response) -> Reply:
        if isinstance(response.body, AsyncIterable):
            body = self._bench.engine.await_elsewhere(_joined(response.body))
        else:
            body = _whole(response)
        return self._drive(concluded(self._bench, exchange, response, body))

    def _drive(self, steering: Steering[T]) -> T:
        while True:
            try:
                next(steering)
            except StopIteration as stop:
                value: T = stop.value
                return value
            if not self._bench.node.live.wait_until_empty(PATIENCE):
                raise self._bench.still_running()


class AsyncHarness(BaseHarness):
    """An application in an asynchronous test; see :class:`Harness`."""

    def client(self, app: object) -> AsyncClient:
        """Return a client; see :meth:`Harness.client`."""
        return AsyncClient(handler_of(app), self._conclude)

    async def advance(self, duration: str | float | timedelta) -> None:
        """Let time pass; see :meth:`Harness.advance`."""
        await self._drive(self._bench.advance(duration))

    async def send(
        self, name: str, data: Mapping[str, object] | None = None, *, id: str | None = None
    ) -> str:
        """Send an event from outside; return its id."""
        return await self._drive(self._bench.send(Event(name, data or {}, id=id)))

    async def _conclude(self, exchange: Exchange, response: Response) -> Reply:
        if isinstance(response.body, AsyncIterable):
            body = await _joined(response.body)
        else:
            body = await self._bench.engine.call_in_thread(_whole, response)
        return await self._drive(concluded(self._bench, exchange, response, body))

    async def _drive(self, steering: Steering[T]) -> T:
        while True:
            try:
                next(steering)
            except StopIteration as stop:
                value: T = stop.value
                return value
            live = self._bench.node.live
            if len(live):
                wait = self._bench.engine.call_in_thread
                if not await wait(live.wait_until_empty, PATIENCE):
                    raise self._bench.still_running()


def _whole(response: Response) -> bytes:
    """Return the whole body of a response, but not of one with an asynchronous body."""
    body = response.body
    assert not isinstance(body, AsyncIterable)
    return body if isinstance(body, bytes) else b"".join(body)


async def _joined(body: AsyncIterable[bytes]) -> bytes:
    return b"".join([chunk async for chunk in body])
