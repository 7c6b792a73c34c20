"""Noticing that a client is gone."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest

from durable_core.adapter.exchange import DisconnectWatcher
from durable_core.adapters import ClientDisconnectedError


class Client:
    """Goes when it is told to, unless nothing can be told of it.

    Args:
        can_be_told: whether.
        gone: whether it is gone before anybody asks.
    """

    def __init__(self, *, can_be_told: bool = True, gone: bool = False) -> None:
        self.asked = 0
        self.listened_to = asyncio.Event()
        self._can_be_told = can_be_told
        self._left = asyncio.Event()
        if gone:
            self._left.set()

    def leave(self) -> None:
        self._left.set()

    async def is_gone(self) -> bool:
        self.asked += 1
        self.listened_to.set()
        if self._can_be_told:
            await self._left.wait()
        return self._can_be_told


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it; nothing may be left on the loop afterwards, and no cancellation either."""

    async def checked() -> None:
        task = asyncio.current_task()
        assert task is not None
        await main
        assert ({task}, 0) == (asyncio.all_tasks(), task.cancelling())

    asyncio.run(checked())


async def forever(client: Client) -> None:
    async with DisconnectWatcher(client.is_gone) as watch:
        watch.start()
        await asyncio.Event().wait()


def test_gone_client_cancels_the_block() -> None:
    """The block is cancelled, and says why; the task goes on as if nothing had been."""

    async def main() -> None:
        with pytest.raises(ClientDisconnectedError):
            await forever(Client(gone=True))
        await asyncio.sleep(0)

    run(main())


def test_client_that_goes_later() -> None:
    """It is noticed as long as the block lasts."""

    async def main() -> None:
        client = Client()
        task = asyncio.create_task(forever(client))
        await client.listened_to.wait()
        client.leave()
        with pytest.raises(ClientDisconnectedError):
            await task

    run(main())


def test_quick_block_is_not_watched() -> None:
    """Who is done at once asks nobody."""

    async def main() -> None:
        client = Client(gone=True)
        async with DisconnectWatcher(client.is_gone) as watch:
            watch.start()
            await asyncio.sleep(0)
        assert 0 == client.asked

    run(main())


def test_listening_at_once() -> None:
    """Who has to know at once is told at once, by one listener."""

    async def main() -> None:
        client = Client(gone=True)
        with pytest.raises(ClientDisconnectedError):
            await impatient(client)
        assert 1 == client.asked

    async def impatient(client: Client) -> None:
        async with DisconnectWatcher(client.is_gone) as watch:
            watch.start()
            watch.listen()
            watch.listen()
            for _ in range(5):
                await asyncio.sleep(0)
            raise AssertionError("it is not cancelled")

    run(main())


def test_client_that_stays() -> None:
    """The listener ends with the block."""

    async def main() -> None:
        client = Client()
        async with DisconnectWatcher(client.is_gone) as watch:
            watch.start()
            await client.listened_to.wait()

    run(main())


def test_what_cannot_be_told() -> None:
    """The block goes on, and nobody is asked again."""

    async def main() -> None:
        client = Client(can_be_told=False)
        async with DisconnectWatcher(client.is_gone) as watch:
            watch.start()
            await client.listened_to.wait()
            watch.listen()
            for _ in range(5):
                await asyncio.sleep(0)
        assert 1 == client.asked

    run(main())


def test_cancellation_from_elsewhere_passes() -> None:
    """A server or framework that cancels the task gets its CancelledError."""

    async def main() -> None:
        task = asyncio.create_task(forever(Client()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_both_at_once() -> None:
    """Cancelled by the server because the client is gone: the server's counts."""

    async def main() -> None:
        client = Client()

        async def is_gone() -> bool:
            gone = await client.is_gone()
            task.cancel()
            return gone

        async def block() -> None:
            async with DisconnectWatcher(is_gone) as watch:
                watch.start()
                await asyncio.Event().wait()

        task = asyncio.create_task(block())
        client.leave()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_error_of_the_block_passes() -> None:
    """Also one that comes of the cancellation."""

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await failing()

    async def failing() -> None:
        async with DisconnectWatcher(Client(gone=True).is_gone) as watch:
            watch.start()
            try:
                await asyncio.Event().wait()
            finally:
                raise ZeroDivisionError

    run(main())


def test_block_that_swallows_its_cancellation() -> None:
    """It is not cancelled again later."""

    async def main() -> None:
        async with DisconnectWatcher(Client(gone=True).is_gone) as watch:
            watch.start()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

    run(main())


def test_nothing_is_left() -> None:
    """A watch that was ended while it listened leaves no cycle of references."""

    async def forever() -> bool:
        return bool(await asyncio.get_running_loop().create_future())

    async def main() -> list[weakref.ref[DisconnectWatcher]]:
        async with DisconnectWatcher(forever) as watch:
            watch.listen()
            await asyncio.sleep(0)
            return [weakref.ref(watch)]

    gc.disable()
    try:
        [watch] = asyncio.run(main())
        assert watch() is None
    finally:
        gc.enable()
