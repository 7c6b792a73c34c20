"""One request and its response, as ``h11`` reads and writes them, as an ``AsyncExchange``."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

import h11

from durable_asyncio._incoming import Incoming
from durable_asyncio._outgoing import Outgoing
from durable_core import BadRequest, HTTPError
from durable_core.adapters import AsyncExchange, Fields

__all__ = ["AsyncioExchange"]

_CONTINUE = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
_PHRASES = {int(status): status.phrase.encode("ascii") for status in HTTPStatus}
#: Each so many bytes of a body give the client a second more.
_BYTES_PER_SECOND = 1000
#: So many bytes may come for each byte of a chunked body, besides a first allowance.
_OVERHEAD, _ALLOWANCE = 16, 65536


class AsyncioExchange(AsyncExchange):
    """One request on a connection, and the way to answer it.

    Args:
        parser: of this request; it has parsed the head, or refused it.
        incoming, out: the two ways of the connection.
        body_timeout: seconds that the body may take; see ``Timeouts.body``.

    Attributes:
        is_last: whether the connection ends with the response. Set before that begins, it says so
            to the client; a request that has not been read to its end sets it.
        status: of the response, once it has begun.
    """

    status = 0

    def __init__(
        self, parser: h11.Connection, incoming: Incoming, out: Outgoing, body_timeout: float
    ) -> None:
        self.is_last = False
        self._parser = parser
        self._incoming = incoming
        self._out = out
        self._timeout = body_timeout
        self._until = 0.0
        self._came = self._given = 0
        self._pieces = self._tail = b""
        self._whole = False
        self._held = b""

    def take_head(self, head: h11.Request, scheme: str, authority: str) -> None:
        """Set what the head says."""
        self.method = head.method.decode("ascii")
        self.target = head.target.decode("ascii")
        self.fields = [
            (name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers
        ]
        self.scheme, self.authority = scheme, authority
        self._is_chunked = any(name == "transfer-encoding" for name, _ in self.fields)

    async def send_continue(self) -> None:
        """Ask for the body, unless it comes already."""
        if self._parser.they_are_waiting_for_100_continue and not self._incoming:
            await self._out.write(self._parser.send(_CONTINUE))

    async def read(self, size: int) -> bytes:
        """Return what has come of the body, with transfer coding undone."""
        try:
            while not self._pieces and not self._whole:
                await self._read_event()
        except h11.RemoteProtocolError as error:
            raise BadRequest("the body is malformed") from error
        except TimeoutError as error:
            if self._incoming.expired:
                detail = "the server is shutting down"
                raise HTTPError(503, detail, {"retry-after": "1"}) from error
            raise
        data, self._pieces = self._pieces[:size], self._pieces[size:]
        self._given += len(data)
        return data

    async def _read_event(self) -> None:
        event = self._parser.next_event()
        if isinstance(event, h11.Data):
            self._pieces += event.data
        elif isinstance(event, h11.EndOfMessage):
            self._end_of_request()
        else:
            await self._read_more()

    async def _read_more(self) -> None:
        if self._came > _OVERHEAD * self._given + _ALLOWANCE:
            raise BadRequest("the chunks of the body are mostly overhead")
        now = asyncio.get_running_loop().time()
        self._until = self._until or now + self._timeout
        async with self._incoming.within(self._until + self._given / _BYTES_PER_SECOND - now):
            data = await self._incoming.read_some()
        self._came, self._tail = self._came + len(data), self._tail[-4:] + data
        self._parser.receive_data(data)

    def _end_of_request(self) -> None:
        """Give back what belongs to the next request."""
        self._whole = True
        rest, _ = self._parser.trailing_data
        self._incoming.pushback(rest)
        tail = self._tail[: len(self._tail) - len(rest)]
        if self._is_chunked and not tail.endswith(b"\r\n\r\n"):  # h11 would take bare line feeds
            raise BadRequest("the body must end with an empty line")

    async def is_gone(self) -> bool:
        """Wait until the client goes away."""
        return await self._incoming.is_gone()

    async def begin(self, status: int, fields: Fields) -> None:
        """Send the head; one with a length waits for the body, or its first part."""
        if self.refused or not self._is_read():
            self.is_last = True
        headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in fields]
        names = {name.lower() for name, _ in headers}
        if b"date" not in names:
            headers.append((b"Date", _date(int(time.time()))))
        if self.is_last:
            headers.append((b"Connection", b"close"))
        reason = _PHRASES.get(status, b"")
        head = h11.Response(status_code=status, headers=headers, reason=reason)
        self._held = self._parser.send(head)
        self.status = status
        if b"content-length" not in names:
            await self._flush()

    def _is_read(self) -> bool:
        """Tell whether the request has been read to its end, which needs no more of it."""
        try:
            if not self._whole and isinstance(self._parser.next_event(), h11.EndOfMessage):
                self._end_of_request()
        except (h11.RemoteProtocolError, BadRequest):
            return False
        return self._whole

    async def write(self, data: bytes) -> None:
        """Send a part of the body."""
        await self._flush(self._parser.send(h11.Data(data=data)))

    def is_ready(self) -> bool:
        """Tell whether nothing waits to be sent."""
        return self._out.is_ready()

    def write_now(self, data: bytes) -> None:
        """Send a part of the body."""
        self._out.write_now(self._parser.send(h11.Data(data=data)) or b"")

    async def end(self) -> None:
        """Send the end of the body."""
        await self._flush(self._parser.send(h11.EndOfMessage()))

    async def abort(self, error: BaseException) -> None:
        """Reset the connection."""
        self._out.abort()

    async def _flush(self, data: bytes | None = b"") -> None:
        data, self._held = self._held + (data or b""), b""
        if data:
            await self._out.write(data)


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")
