"""One connection: its requests are read, answered and refused, one after another."""

from __future__ import annotations

import logging
from typing import Any

import h11

from durable_asyncio._exchange import AsyncioExchange
from durable_asyncio._incoming import Incoming
from durable_asyncio._outgoing import Outgoing
from durable_asyncio._request import parse_head
from durable_asyncio._timeouts import Timeouts
from durable_core import HTTPError
from durable_core.adapters import (
    App,
    ClientDisconnectedError,
    authority_of,
    converse_async,
    loggable_path,
    refuse_async,
)

__all__ = ["Connection", "refuse"]

_logger = logging.getLogger("durable.asyncio")


class Connection:
    """Serves a client until it goes away, or its last answer is sent.

    Args:
        app: what answers.
        incoming, out: the two ways of the connection.
        timeouts: of the client.
        scheme: ``http`` or ``https``.
        server: the server's own socket address.
    """

    def __init__(
        self,
        app: App,
        incoming: Incoming,
        out: Outgoing,
        *,
        timeouts: Timeouts,
        scheme: str,
        server: Any,
    ) -> None:
        self._app = app
        self._incoming = incoming
        self._out = out
        self._timeouts = timeouts
        self._scheme = scheme
        self._authority = authority_of(scheme, *server[:2])
        self._client = out.peer
        self._draining = self._refused = False
        self._exchange: AsyncioExchange | None = None

    def drain(self) -> None:
        """Let the answer that is being made be the last. A request that is not whole gets none."""
        self._draining = True
        self._incoming.expire_now()
        if self._exchange is not None:
            self._exchange.is_last = True

    def abort(self) -> None:
        """Reset the connection, whatever is going on."""
        self._out.abort()

    async def serve(self) -> None:
        """Serve the client, and close the connection."""
        unwanted = None
        try:
            if await self._wait_for_request(self._timeouts.head):
                while await self._serve_one():
                    if not await self._wait_for_request(self._timeouts.keep_alive):
                        break
                else:
                    unwanted = self._incoming if self._lingers else None
        except ClientDisconnectedError as error:
            _logger.debug("a client went away: %s", error)
            self._out.abort()
        except BaseException:
            self._out.abort()
            raise
        finally:
            await self._out.close(unwanted)

    @property
    def _lingers(self) -> bool:
        """TLS closes in stages itself; only what comes after a refusal would disturb it."""
        return self._refused or self._scheme == "http"

    async def _wait_for_request(self, seconds: float) -> bool:
        """Wait for a request; False if the client sends none, or not in time."""
        if self._incoming:
            return True
        try:
            async with self._incoming.within(seconds):
                return await self._incoming.wait_for_data()
        except TimeoutError:
            return False

    async def _serve_one(self) -> bool:
        """Serve a request; False if it is the connection's last."""
        parser = h11.Connection(h11.SERVER)
        exchange = AsyncioExchange(parser, self._incoming, self._out, self._timeouts.body)
        exchange.is_last = self._draining
        exchange.client = self._client
        self._exchange = exchange
        try:
            await self._read_head(parser, exchange)
        except HTTPError as error:
            self._refused = True
            await refuse_async(self._app, exchange, error)
            return False
        await converse_async(self._app, exchange)
        self._refused = exchange.refused
        _logger.info("%s %s %d", exchange.method, loggable_path(exchange.target), exchange.status)
        return parser.our_state is h11.DONE and not self._draining

    async def _read_head(self, parser: h11.Connection, exchange: AsyncioExchange) -> None:
        try:
            async with self._incoming.within(self._timeouts.head):
                data = await self._incoming.head(self._app.limits.head)
        except TimeoutError as error:
            if self._draining:
                detail = "the server is shutting down"
                raise HTTPError(503, detail, {"retry-after": "1"}) from error
            raise HTTPError(408, "the request did not come in time") from error
        if data.startswith(b"HEAD "):
            exchange.method = "HEAD"  # which a refusal must know
        exchange.take_head(parse_head(parser, data), self._scheme, self._authority)


async def refuse(app: App, incoming: Incoming, out: Outgoing) -> None:
    """Tell a client that there are too many, without having read what it wants."""
    exchange = AsyncioExchange(h11.Connection(h11.SERVER), incoming, out, 0.0)
    detail = "too many clients are connected"
    await refuse_async(app, exchange, HTTPError(503, detail, {"retry-after": "1"}))
    await out.close(incoming)
