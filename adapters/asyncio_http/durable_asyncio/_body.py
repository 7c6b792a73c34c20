"""The body of a request: read to its end, or up to a limit."""

from __future__ import annotations

import h11

from durable_asyncio._incoming import Incoming
from durable_core import BadRequest, HTTPError

__all__ = ["read_body", "too_large"]

#: Each so many bytes of a body give the client a second more.
_BYTES_PER_SECOND = 1000
#: So many bytes may come for each byte of a chunked body, besides a first allowance.
_OVERHEAD, _ALLOWANCE = 16, 65536


async def read_body(
    parser: h11.Connection, incoming: Incoming, *, chunked: bool, limit: int, seconds: float
) -> bytes:
    """Return the body, with transfer coding undone; what is over the limit is not read to its end.

    Args:
        parser: has parsed the head.
        incoming: where the body comes from; the requests after it stay there.
        chunked: whether it comes in chunks.
        limit: the most bytes that it may have.
        seconds: the most that it may take; see ``Timeouts.body``.

    Raises:
        BadRequest: malformed chunks.
        HTTPError: 413, over the limit.
        TimeoutError: it did not come in time.
        ClientDisconnectedError: the connection ended before the body.
    """
    try:
        if isinstance(parser.next_event(), h11.EndOfMessage):
            return b""
        async with incoming.within(seconds) as deadline:
            body, tail = await _read(parser, incoming, limit, deadline.when() or 0.0)
    except h11.RemoteProtocolError as error:
        raise BadRequest("the body is malformed") from error
    if chunked and not tail.endswith(b"\r\n\r\n"):  # h11 would take bare line feeds
        raise BadRequest("the body must end with an empty line")
    return body


async def _read(
    parser: h11.Connection, incoming: Incoming, limit: int, until: float
) -> tuple[bytes, bytes]:
    """Return the body, and the last of the bytes that it was read from."""
    body, came, last = bytearray(), 0, b""
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Data):
            body += event.data
            if len(body) > limit:
                raise too_large(limit)
        elif isinstance(event, h11.EndOfMessage):
            rest, _ = parser.trailing_data
            incoming.unread(rest)
            return bytes(body), last[: len(last) - len(rest)]
        else:
            if came > _OVERHEAD * len(body) + _ALLOWANCE:
                raise BadRequest("the chunks of the body are mostly overhead")
            incoming.extend(until + len(body) / _BYTES_PER_SECOND)
            data = await incoming.some()
            came, last = came + len(data), last[-4:] + data
            parser.receive_data(data)


def too_large(limit: int) -> HTTPError:
    """Return the refusal of a body over the limit."""
    return HTTPError(413, f"at most {limit} bytes are accepted")
