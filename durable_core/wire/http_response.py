"""A parser of HTTP/1.1 responses (RFC 9112) that does no I/O.

It takes the bytes of one response in any pieces, and tells when it is whole and whether the
connection may serve another request.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

from durable_core.errors import ConnectionLostError, ProtocolError
from durable_core.http.headers import Headers
from durable_core.model.outgoing import ResponseHead
from durable_core.wire.http_framing import Framing, framing_of

__all__ = ["MAX_HEAD_BYTES", "ResponseParser", "check_body_size"]

#: How many bytes the head of a response, interim responses before it, and trailers may have.
MAX_HEAD_BYTES = 64 * 1024

_MAX_CHUNK_LINE = 4096
_HEAD_END = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(r"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;.*)?")


class ResponseParser:
    """Parses one response.

    Feed it what the connection gives, and an empty ``bytes`` at the connection's end.

    Args:
        method: of the request, for the response to ``HEAD`` has no body.
        max_head: how many bytes the head may have.

    Attributes:
        head: status and headers, None until they are there.
        is_complete: whether all of the response was seen.
        has_seen_bytes: whether anything at all was seen.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_head_bytes",
        "_keeps_alive",
        "_left",
        "_max_head",
        "_method",
        "_parse",
        "_until_close",
        "has_seen_bytes",
        "head",
        "is_complete",
    )

    def __init__(self, method: str, *, max_head: int = MAX_HEAD_BYTES) -> None:
        self.head: ResponseHead | None = None
        self.is_complete = False
        self.has_seen_bytes = False
        self._method = method
        self._max_head = max_head
        self._head_bytes = 0
        self._buffer = bytearray()
        self._body: list[bytes] = []
        self._left = 0
        self._until_close = False
        self._keeps_alive = False
        self._parse: Callable[[], bool] = self._parse_head

    @property
    def is_delimited(self) -> bool:
        """Whether the body has an end of its own, so that a broken connection is known as one."""
        return not self._until_close

    @property
    def is_reusable(self) -> bool:
        """Whether the connection may serve another request: nothing came after the response."""
        return self.is_complete and self._keeps_alive and not self._buffer

    def take(self) -> bytes:
        """Return the bytes of the body that came since the last time; empty for none."""
        body = b"".join(self._body)
        self._body.clear()
        return body

    def feed(self, data: bytes) -> None:
        """Take what the connection gave; empty when the server has closed it.

        Raises:
            ProtocolError: this is not a response of HTTP/1.1, or its head is too large.
            ConnectionLostError: the connection was closed before the response was whole.
        """
        if not data:
            self._end()
            return
        self.has_seen_bytes = True
        self._buffer += data
        while not self.is_complete and self._parse():
            pass

    def _end(self) -> None:
        if self._until_close:
            self.is_complete = True
        elif not self.has_seen_bytes:
            raise ConnectionLostError("the server closed the connection without an answer")
        elif not self.is_complete:
            part = "head" if self.head is None else "body"
            raise ConnectionLostError(
                f"the server closed the connection in the middle of the {part} of its response"
            )

    def _parse_head(self) -> bool:
        line_end = self._find_head_end()
        if line_end is None:
            return False
        lines = bytes(self._buffer[:line_end]).decode("latin-1").split("\n")
        del self._buffer[:line_end]
        self._head_bytes += line_end
        minor, head = _parse_lines([line.removesuffix("\r") for line in lines])
        if 100 <= head.status < 200:
            if head.status == 101:
                _refuse("the server switches protocols without being asked to")
            return True
        self.head = head
        self._begin_body(framing_of(self._method, minor, head))
        return True

    def _find_head_end(self) -> int | None:
        """Return where the head ends, None when that has not come yet."""
        match = _HEAD_END.search(self._buffer)
        end = len(self._buffer) if match is None else match.end()
        if not b"HTTP/1.".startswith(self._buffer[:7]):
            _refuse("it does not begin with HTTP/1.")
        if self._head_bytes + end > self._max_head:
            _refuse(f"the head has over {self._max_head} bytes, which is the most allowed")
        return None if match is None else end

    def _begin_body(self, framing: Framing) -> None:
        self._keeps_alive = framing.keeps_alive
        self._until_close = framing.until_close
        self._left = framing.length
        if framing.chunked:
            self._parse = self._parse_chunk_size
        elif framing.until_close:
            self._parse = self._parse_rest
        else:
            self._parse = self._parse_length
            self.is_complete = framing.length == 0

    def _take_left(self) -> bool:
        """Move what is there of the current length from the buffer to the body."""
        data = bytes(self._buffer[: self._left])
        if not data:
            return False
        del self._buffer[: len(data)]
        self._left -= len(data)
        self._body.append(data)
        return True

    def _parse_rest(self) -> bool:
        self._left = len(self._buffer)
        return self._take_left()

    def _parse_length(self) -> bool:
        progress = self._take_left()
        self.is_complete = self._left == 0
        return progress

    def _parse_chunk_size(self) -> bool:
        line = self._take_line(_MAX_CHUNK_LINE)
        if line is None:
            return False
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            _refuse("the size of a chunk is malformed")
        self._left = int(match[1], 16)
        self._parse = self._parse_chunk if self._left else self._parse_trailer
        return True

    def _parse_chunk(self) -> bool:
        progress = self._take_left()
        if self._left == 0:
            self._parse = self._parse_chunk_end
        return progress

    def _parse_chunk_end(self) -> bool:
        line = self._take_line(2)
        if line is None:
            return False
        if line:
            _refuse("a chunk is longer than its size")
        self._parse = self._parse_chunk_size
        return True

    def _parse_trailer(self) -> bool:
        """Pass over the fields after the last chunk."""
        line = self._take_line(self._max_head - self._head_bytes)
        if line is None:
            return False
        self._head_bytes += len(line) + 2
        self.is_complete = not line
        return True

    def _take_line(self, limit: int) -> bytes | None:
        """Take a line out of the buffer, None when its end has not come yet."""
        end = self._buffer.find(b"\n", 0, limit + 1)
        if end == -1:
            if len(self._buffer) > limit:
                _refuse("a line of its chunked body is too long, or a chunk longer than its size")
            return None
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line


def check_body_size(size: int, limit: int | None) -> None:
    """Raise ``ProtocolError`` when a body has more bytes than are allowed; None allows all."""
    if limit is not None and size > limit:
        raise ProtocolError(
            f"the body of the response has over {limit} bytes, which is the most allowed"
        )


def _parse_lines(lines: list[str]) -> tuple[int, ResponseHead]:
    """Return the minor version and the head; the last two lines are empty."""
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        _refuse("the status line is malformed")
    fields: list[tuple[str, str]] = []
    for line in lines[1:-2]:
        if line[:1] in (" ", "\t") and fields:  # a folded line: RFC 9112, section 5.2
            name, value = fields.pop()
            fields.append((name, f"{value} {line.strip()}"))
            continue
        name, colon, value = line.partition(":")
        if not colon:
            _refuse("a header field has no colon")
        fields.append((name, value))
    try:
        headers = Headers(fields)
    except ValueError as error:
        _refuse(str(error))
    return int(match[1]), ResponseHead(status=int(match[2]), reason=match[3] or "", headers=headers)


def _refuse(reason: str) -> NoReturn:
    raise ProtocolError(f"the response is not one of HTTP/1.1: {reason}")
