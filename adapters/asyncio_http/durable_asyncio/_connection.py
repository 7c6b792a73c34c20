"""One connection: its requests are read, answered and refused, one after another."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import h11

from durable_asyncio._body import read_body, too_large
from durable_asyncio._incoming import Incoming
from durable_asyncio._outgoing import Outgoing
from durable_asyncio._request import body_length, parse_head, to_head
from durable_asyncio._response import send_response
from durable_asyncio._timeouts import Timeouts
from durable_core import HTTPError, Limits, Request, Response
from durable_core.adapter.asynchronous import ClientDisconnectedError, DisconnectWatcher
from durable_core.http.problem import problem, problem_from_http_error

__all__ = ["Application", "Connection", "refuse"]

_logger = logging.getLogger("durable.asyncio")
_CONTINUE = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")

#: What answers requests.
Application: TypeAlias = Callable[[Request], Awaitable[Response]]


class Connection:
    """Serves a client until it goes away, or its last answer is sent.

    Args:
        application: what answers.
        incoming, out: the two ways of the connection.
        limits: of a request's head and body.
        timeouts: of the client.
        scheme: ``http`` or ``https``.
        server: the server's own socket address.
    """

    def __init__(
        self,
        application: Application,
        incoming: Incoming,
        out: Outgoing,
        *,
        limits: Limits,
        timeouts: Timeouts,
        scheme: str,
        server: object,
    ) -> None:
        self._application = application
        self._incoming = incoming
        self._out = out
        self._limits = limits
        self._timeouts = timeouts
        self._scheme = scheme
        self._server = server
        self._draining = self._refused = self._is_head = False

    def drain(self) -> None:
        """Let the answer that is being made be the last. A request that is not whole gets none."""
        self._draining = True
        self._incoming.hurry()

    def cut(self) -> None:
        """Reset the connection, whatever is going on."""
        self._out.cut()

    async def serve(self) -> None:
        """Serve the client, and close the connection."""
        unwanted = None
        try:
            if await self._begins(self._timeouts.head):
                while await self._serve_one():
                    if not await self._begins(self._timeouts.keep_alive):
                        break
                else:
                    unwanted = self._incoming if self._lingers else None
        except ClientDisconnectedError as error:
            _logger.debug("a client went away: %s", error)
            self._out.cut()
        except BaseException:
            self._out.cut()
            raise
        finally:
            await self._out.close(unwanted)

    @property
    def _lingers(self) -> bool:
        """TLS closes in stages itself; only what comes after a refusal would disturb it."""
        return self._refused or self._scheme == "http"

    async def _begins(self, seconds: float) -> bool:
        """Wait for a request; False if the client sends none, or not in time."""
        if self._incoming:
            return True
        try:
            async with self._incoming.within(seconds):
                return await self._incoming.begins()
        except TimeoutError:
            return False

    async def _serve_one(self) -> bool:
        """Serve a request; False if it is the connection's last."""
        parser = h11.Connection(h11.SERVER)
        self._is_head = False
        try:
            request = await self._read(parser)
        except HTTPError as error:
            self._refused = True
            _logger.info("a request was refused: %s", error)
            await self._send(problem_from_http_error(error), parser, close=True)
            return False
        async with DisconnectWatcher(self._incoming.is_gone):
            response = await self._application(request)
            await self._answer(response, parser, request)
        return parser.our_state is h11.DONE and not self._draining

    async def _read(self, parser: h11.Connection) -> Request:
        try:
            async with self._incoming.within(self._timeouts.head):
                data = await self._incoming.head(self._limits.head)
            parsed = parse_head(parser, data)
            self._is_head = parsed.method == b"HEAD"
            length = body_length(parsed, data)
            head = to_head(parsed, self._scheme, self._server)
            return head.with_body(await self._read_body(parser, length))
        except TimeoutError as error:
            if self._draining:
                detail = "the server is shutting down"
                raise HTTPError(503, detail, {"retry-after": "1"}) from error
            raise HTTPError(408, "the request did not come in time") from error

    async def _read_body(self, parser: h11.Connection, length: int | None) -> bytes:
        limit = self._limits.body
        if length is not None and length > limit:
            raise too_large(limit)
        if parser.they_are_waiting_for_100_continue and length != 0 and not self._incoming:
            await self._out.write(parser.send(_CONTINUE))
        return await read_body(
            parser,
            self._incoming,
            chunked=length is None,
            limit=limit,
            seconds=self._timeouts.body,
        )

    async def _answer(self, response: Response, parser: h11.Connection, request: Request) -> None:
        asked = request.url.partition("?")[0]  # the query may hold a token
        try:
            await self._send(response, parser, close=self._draining)
            _logger.info("%s %s %d", request.method, asked, response.status)
        except ClientDisconnectedError:
            raise
        except Exception:
            _logger.exception("the response to %s %s broke", request.method, asked)
            if parser.our_state is h11.SEND_RESPONSE:
                await self._send(problem(500, "internal-error"), parser, close=True)
            elif parser.our_state not in (h11.DONE, h11.MUST_CLOSE):
                self._out.cut()  # the client must not take it for whole

    async def _send(self, response: Response, parser: h11.Connection, *, close: bool) -> None:
        await send_response(response, parser, self._out, head=self._is_head, close=close)


async def refuse(incoming: Incoming, out: Outgoing) -> None:
    """Tell a client that there are too many, without having read what it wants."""
    parser = h11.Connection(h11.SERVER)
    detail = "too many clients are connected"
    busy = problem_from_http_error(HTTPError(503, detail, {"retry-after": "1"}))
    try:
        await send_response(busy, parser, out, head=False, close=True)
        await out.close(incoming)
    except ClientDisconnectedError:
        out.cut()
