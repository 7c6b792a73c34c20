"""Server-sent events as bytes: an encoder, and a decoder that takes bytes in parts of any size.

The grammar and the meaning of each line are those of the HTML standard (WHATWG), section 9.2,
"Server-sent events".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from durable_core.errors import ProtocolError
from durable_core.model._record import record

__all__ = [
    "CONTENT_TYPE",
    "KEEP_ALIVE",
    "MAX_EVENT_BYTES",
    "SSEDecoder",
    "ServerSentEvent",
    "encode_event",
    "may_begin",
]

#: The media type of a stream of events.
CONTENT_TYPE = "text/event-stream"
#: An empty comment, which keeps an idle connection open.
KEEP_ALIVE = b":\n\n"
#: The default limit for the bytes of one event before its blank line.
MAX_EVENT_BYTES = 16 * 1024 * 1024

_LINE_END_IN_TEXT = re.compile(r"\r\n?|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DIGITS = re.compile(r"[0-9]{1,15}")
#: Control characters that a text of lines does not have.
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@record(frozen=True, slots=True, kw_only=True)
class ServerSentEvent:
    """One event of a stream.

    Attributes:
        event: its type; ``"message"`` if the stream names none.
        data: its text; lines are joined with LF.
        id: the last event id of the stream as of this event. An event without an id of its own has
            the id of an earlier one; it is empty if there was none.
    """

    event: str = "message"
    data: str = ""
    id: str = ""


def encode_event(event: str, data: str, *, id: str | None = None) -> bytes:
    """Return an event in UTF-8, with LF after each line and a blank line at its end.

    Args:
        event: its type; not empty, one line.
        data: its text; each of its lines (they end with CR, LF or CRLF) becomes a line of data.
        id: the value of ``Last-Event-ID`` when a client reconnects; None for no id.

    Raises:
        ValueError: an event type that is empty or has a line end, an id with a line end or NUL,
            or text that UTF-8 cannot represent (a lone surrogate).
    """
    if not event or "\n" in event or "\r" in event:
        raise ValueError(f"the type of an event must be one line that is not empty, not {event!r}")
    head = f"event: {event}\n"
    if id is not None:
        if "\0" in id or "\n" in id or "\r" in id:
            raise ValueError(f"the id of an event must be one line without NUL, not {id!r}")
        head += f"id: {id}\n"
    if "\n" in data or "\r" in data:
        data = "\ndata: ".join(_LINE_END_IN_TEXT.split(data))
    return f"{head}data: {data}\n\n".encode()


def may_begin(data: bytes) -> bool:
    """Return whether a stream can begin with these bytes: they are text, and not compressed."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.end < len(data) or error.reason != "unexpected end of data":
            return False
    return _CONTROLS.search(data) is None


class SSEDecoder:
    """Converts the bytes of one stream to events. The bytes may be split anywhere.

    Bytes that are not UTF-8 become U+FFFD. A last event without a blank line is incomplete and is
    dropped.

    Args:
        last_event_id: the id that was sent as ``Last-Event-ID`` for this stream.
        limit: the maximum number of bytes of an event before its blank line; 1 or more.

    Attributes:
        last_event_id: the value of ``Last-Event-ID`` for a reconnect.
        retry_ms: the pause before a reconnect that the stream asks for; None if it asks for none.
    """

    __slots__ = (
        "_data",
        "_event",
        "_id",
        "_is_first_line",
        "_limit",
        "_line",
        "_size",
        "_skips_lf",
        "last_event_id",
        "retry_ms",
    )

    def __init__(self, *, last_event_id: str = "", limit: int = MAX_EVENT_BYTES) -> None:
        if limit < 1:
            raise ValueError(f"the limit of an event must be 1 byte or more, not {limit!r}")
        self.last_event_id = last_event_id
        self.retry_ms: int | None = None
        self._limit = limit
        self._line = bytearray()
        self._is_first_line = True
        self._skips_lf = False
        self._size = 0
        self._event = ""
        self._data: list[str] = []
        self._id = last_event_id

    def feed(self, data: bytes) -> Iterator[ServerSentEvent]:
        """Yield the events that these bytes complete. Take them all before the next call.

        Raises:
            ProtocolError: an event is over the limit. Nothing more can be read from the stream.
        """
        for line in self._lines(data):
            if line:
                self._take_line(line)
                continue
            event = self._end_event()
            if event is not None:
                yield event
        if self._size + len(self._line) > self._limit:
            raise self._too_long()

    @property
    def is_inside_event(self) -> bool:
        """Whether the stream was cut in the middle of an event."""
        return bool(self._data or self._event or self._line)

    def _lines(self, data: bytes) -> list[bytes]:
        """Return the lines that these bytes end, without their ends; keep what comes after."""
        if self._skips_lf and data:
            data = data.removeprefix(b"\n")
            self._skips_lf = False
        if not data:
            return []
        self._skips_lf = data.endswith(b"\r")
        lines = data.splitlines()  # those of bytes end with CR, LF or CRLF, and with nothing else
        rest = b"" if data.endswith((b"\n", b"\r")) else lines.pop()
        if lines:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
            if self._is_first_line:
                self._is_first_line = False
                lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
        self._line += rest
        return lines

    def _take_line(self, line: bytes) -> None:
        """Process one field. A comment has an empty name; unknown names are ignored."""
        self._size += len(line)
        if self._size > self._limit:
            raise self._too_long()
        field, _, octets = line.partition(b":")
        value = octets.removeprefix(b" ").decode("utf-8", "replace")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._event = value
        elif field == b"id":
            if "\0" not in value:
                self._id = value
        elif field == b"retry" and _DIGITS.fullmatch(value) is not None:
            self.retry_ms = int(value)

    def _end_event(self) -> ServerSentEvent | None:
        lines, name = self._data, self._event
        self._data, self._event, self._size = [], "", 0
        self.last_event_id = self._id
        if not lines:
            return None
        return ServerSentEvent(event=name or "message", data="\n".join(lines), id=self._id)

    def _too_long(self) -> ProtocolError:
        return ProtocolError(
            f"an event of the stream has over {self._limit} bytes, which is the most allowed"
        )
