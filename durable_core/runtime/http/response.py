"""A response whose body is still coming: what does not depend on how one waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from durable_core.errors import ConnectionLostError
from durable_core.http.headers import Headers
from durable_core.model.outgoing import ResponseHead
from durable_core.wire.http_response import ResponseParser

__all__ = ["IncomingResponse"]


ReceivedT = TypeVar("ReceivedT")


class IncomingResponse(Generic[ReceivedT]):
    """Knows how far the body has come, and lets its connection go once.

    Args:
        parser: has parsed the head.
        head: what it has found.
        receive: gives what comes next on the connection, or an awaitable of it.
        done: called when the response is closed, with whether the connection can be used again.

    Attributes:
        status: the status.
        headers: the header fields.
    """

    __slots__ = ("_done", "_parser", "_receive", "headers", "status")

    def __init__(
        self,
        parser: ResponseParser,
        head: ResponseHead,
        receive: Callable[[], ReceivedT],
        done: Callable[[bool], None],
    ) -> None:
        self.status = head.status
        self.headers: Headers = head.headers
        self._parser = parser
        self._receive = receive
        self._done: Callable[[bool], None] | None = done

    @property
    def is_delimited(self) -> bool:
        """Whether the body has an end of its own, other than that of the connection."""
        return self._parser.is_delimited

    def close(self) -> None:
        """Let the connection serve another request, if the body was read; close it otherwise."""
        done, self._done = self._done, None
        if done is not None:
            done(self._parser.is_reusable)

    def _take(self) -> bytes | None:
        """Return what has come of the body: nothing if more must be received, None at its end.

        Raises:
            ConnectionLostError: more must be received, and the response is closed.
            ProtocolError: what has come makes no sense.
        """
        data = self._parser.take()
        if data:
            return data
        if self._parser.is_complete:
            return None
        if self._done is None:
            raise ConnectionLostError("the response was closed before its body was read")
        return b""
