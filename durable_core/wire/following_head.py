"""What the head of a response means to the client of a run's stream."""

from __future__ import annotations

import re
from dataclasses import dataclass

from durable_core.codec.sse import CONTENT_TYPE, may_begin
from durable_core.errors import ProtocolError
from durable_core.http.headers import Headers
from durable_core.wire.redirects import REDIRECTS

__all__ = ["Head"]

_SECONDS = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Status and header fields, and what they ask for."""

    status: int
    headers: Headers

    @property
    def is_redirect(self) -> bool:
        """Whether it names another URL to ask instead."""
        return self.status in REDIRECTS and "location" in self.headers

    @property
    def is_stream(self) -> bool:
        """Whether a stream of events follows."""
        media_type = (self.headers.get("content-type") or "").partition(";")[0]
        return self.status == 200 and media_type.strip().lower() == CONTENT_TYPE

    @property
    def asks_to_wait(self) -> bool:
        """Whether the run still goes on, and when to ask where."""
        return self.status == 202 and {"location", "retry-after"} <= set(self.headers)

    @property
    def retry_after_ms(self) -> int | None:
        """The seconds of Retry-After in ms; a date is not understood."""
        value = self.headers.get("retry-after") or ""
        return int(value) * 1000 if _SECONDS.fullmatch(value) else None

    def check_beginning(self, data: bytes) -> None:
        """Check that a stream that was said to be compressed is so no more.

        Transports that decode it leave the field that says so.

        Args:
            data: the first bytes of the stream.

        Raises:
            ProtocolError: it still is.
        """
        coding = (self.headers.get("content-encoding") or "identity").strip().lower()
        if coding != "identity" and not may_begin(data):
            raise ProtocolError(
                f"the stream is compressed (Content-Encoding: {coding}), and the transport does "
                "not decode it; have it ask for 'identity', or decode what comes"
            )
