"""Noticing that a client is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import pytest

from durable_asgi._types import Receive
from durable_asgi._watch import ClientWatch
from support.asgi_exchange import Exchange


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it; nothing may be left on the loop afterwards."""

    async def checked() -> None:
        await main
        assert {asyncio.current_task()} == asyncio.all_tasks()

    asyncio.run(checked())


async def forever(receive: Receive) -> None:
    async with ClientWatch(receive):
        await asyncio.Event().wait()


def test_gone_client_cancels_the_block() -> None:
    """The block is cancelled and left quietly; the task goes on as if nothing had been."""

    async def main() -> None:
        exchange = Exchange(body=())
        exchange.leave()
        await forever(exchange.receive)
        task = asyncio.current_task()
        assert task is not None
        assert 0 == task.cancelling()
        await asyncio.sleep(0)

    run(main())


def test_quick_block_is_not_watched() -> None:
    """Who is done at once asks nobody."""

    async def main() -> None:
        exchange = Exchange(body=())
        exchange.leave()
        async with ClientWatch(exchange.receive):
            await asyncio.sleep(0)
        assert 0 == exchange.received

    run(main())


def test_listening_at_once() -> None:
    """Who has to know at once is told at once, by one listener."""

    async def main() -> None:
        exchange = Exchange(body=())
        exchange.leave()
        async with ClientWatch(exchange.receive) as watch:
            watch.listen()
            watch.listen()
            for _ in range(5):
                await asyncio.sleep(0)
            raise AssertionError("it is not cancelled")
        assert 1 == exchange.received

    run(main())


def test_client_that_stays() -> None:
    """The listener ends with the block."""

    async def main() -> None:
        listening = asyncio.Event()

        async def receive() -> dict[str, Any]:
            listening.set()
            await asyncio.Event().wait()
            raise AssertionError

        async with ClientWatch(receive):
            await listening.wait()

    run(main())


def test_cancellation_from_elsewhere_passes() -> None:
    """A server or framework that cancels the task gets its CancelledError."""

    async def main() -> None:
        task = asyncio.create_task(forever(Exchange(body=()).receive))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_both_at_once() -> None:
    """Cancelled by the server because the client is gone: the server's counts."""

    async def main() -> None:
        exchange = Exchange(body=())

        async def receive() -> Any:
            message = await exchange.receive()
            task.cancel()
            return message

        task = asyncio.create_task(forever(receive))
        exchange.leave()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_error_of_the_block_passes() -> None:
    """Also one that comes of the cancellation."""

    async def main() -> None:
        exchange = Exchange(body=())
        exchange.leave()
        with pytest.raises(ZeroDivisionError):
            await failing(exchange.receive)

    async def failing(receive: Receive) -> None:
        async with ClientWatch(receive):
            try:
                await asyncio.Event().wait()
            finally:
                raise ZeroDivisionError

    run(main())


def test_block_that_swallows_its_cancellation() -> None:
    """It is not cancelled again later."""

    async def main() -> None:
        exchange = Exchange(body=())
        exchange.leave()
        async with ClientWatch(exchange.receive):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
        task = asyncio.current_task()
        assert task is not None
        assert 0 == task.cancelling()

    run(main())


def test_other_message_ends_the_watch() -> None:
    """A server that has something else to say is not asked again and again."""

    async def main() -> None:
        exchange = Exchange(body=(b"", b"", b""))
        async with ClientWatch(exchange.receive):
            while not exchange.received:
                await asyncio.sleep(0.001)
            for _ in range(5):
                await asyncio.sleep(0)
        assert 1 == exchange.received

    run(main())


def test_broken_receive(caplog: pytest.LogCaptureFixture) -> None:
    """An error of the server's is logged, and the block goes on."""

    async def receive() -> Any:
        raise ZeroDivisionError

    async def main() -> None:
        async with ClientWatch(receive):
            while not caplog.records:
                await asyncio.sleep(0.001)

    with caplog.at_level(logging.WARNING, "durable.asgi"):
        run(main())
    assert ["it cannot be told whether the client is gone"] == caplog.messages
