"""What a server says of a client whose request has been read."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from durable_asgi._exchange import ASGIExchange
from durable_asgi._types import Receive
from support.asgi_exchange import Exchange, http_scope


async def is_gone(receive: Receive) -> bool:
    return await ASGIExchange(http_scope(), receive, Exchange().send).is_gone()


def test_a_client_that_goes() -> None:
    """The server says so, once it is the case."""

    async def main() -> None:
        exchange = Exchange(body=())
        asked = asyncio.create_task(is_gone(exchange.receive))
        await asyncio.sleep(0)
        assert not asked.done()
        exchange.leave()
        assert await asked

    asyncio.run(main())


def test_another_message() -> None:
    """A server that has something else to say is not asked again and again."""

    async def main() -> None:
        exchange = Exchange(body=(b"", b"", b""))
        assert not await is_gone(exchange.receive)
        assert 1 == exchange.received

    asyncio.run(main())


def test_broken_receive(caplog: pytest.LogCaptureFixture) -> None:
    """An error of the server's is logged, and says nothing of the client."""

    async def receive() -> Any:
        raise ZeroDivisionError

    with caplog.at_level(logging.WARNING, "durable.asgi"):
        assert not asyncio.run(is_gone(receive))

    assert ["it cannot be told whether the client is gone"] == caplog.messages
