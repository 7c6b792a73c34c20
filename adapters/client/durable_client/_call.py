"""What one call is made of, in a thread or in a task: arguments, callbacks and the response."""

from __future__ import annotations

import inspect
import json
import random
import re
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from durable_client._collector import Collector
from durable_client._follow import DeliveredEvent, Finish, StreamClient
from durable_client._transport import Body, checked_headers
from durable_core.clients import (
    Chunk,
    Commit,
    Duration,
    HeaderFields,
    Headers,
    Metadata,
    Rollback,
    parse_duration,
)

__all__ = [
    "ClientResponse",
    "Listeners",
    "checked_body",
    "response_of",
    "seconds_of",
    "stream_client",
]

_CHARSET = re.compile(r""";\s*charset\s*=\s*"?([^\s;"]+)""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ClientResponse:
    """The response of a run, or what the server answered instead.

    Attributes:
        status: the HTTP status; 500 for a run that failed.
        headers: the header fields.
        body: the whole body.
    """

    status: int
    headers: Headers
    body: bytes

    def text(self) -> str:
        """Return the body as text, in the charset that it names, or UTF-8.

        Raises:
            LookupError, UnicodeDecodeError: the charset is unknown, or the body is not in it.
        """
        found = _CHARSET.search(self.headers.get("content-type") or "")
        return self.body.decode(found[1] if found else "utf-8")

    def json(self) -> Any:
        """Return the value of a JSON body.

        Raises:
            ValueError: the body is not JSON.
        """
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """The collector and the callbacks of a call."""

    collect: Collector | None
    on_metadata: Callable[[Metadata], object] | None
    on_data: Callable[[Chunk], object] | None
    on_commit: Callable[[Commit], object] | None
    on_rollback: Callable[[Rollback], object] | None

    def check(self, *, is_async: bool) -> None:
        """See that they are what a call can use, before anything is sent.

        Args:
            is_async: callbacks may be ``async def``.

        Raises:
            TypeError: a callback is no function, or one that nobody would await; a collector is
                none.
        """
        if self.collect is not None and not isinstance(self.collect, Collector):
            raise TypeError(f"collect must be a Collector, not {type(self.collect).__name__}")
        for name in ("on_metadata", "on_data", "on_commit", "on_rollback"):
            callback = getattr(self, name)
            if callback is not None and not callable(callback):
                raise TypeError(f"{name} must be a function, not {type(callback).__name__}")
            if not is_async and inspect.iscoroutinefunction(callback):
                raise TypeError(f"{name} must not be 'async def'; use fetch_with_stream_async")

    def notify(self, event: DeliveredEvent) -> object:
        """Give an event to the collector, then to the callback for its type; return its result."""
        if self.collect is not None:
            self.collect.take(event)
        match event:
            case Metadata():
                return self.on_metadata(event) if self.on_metadata else None
            case Chunk():
                return self.on_data(event) if self.on_data else None
            case Commit():
                return self.on_commit(event) if self.on_commit else None
            case Rollback():
                return self.on_rollback(event) if self.on_rollback else None


def stream_client(
    method: str, url: str, headers: HeaderFields, body: Body, max_reconnects: int
) -> StreamClient:
    """Return the machine that decides in this call; ``ValueError`` for what cannot be sent."""
    return StreamClient(
        method=method,
        url=url,
        headers=checked_headers(headers),
        repeatable=body is None or isinstance(body, bytes),
        uniform=random.random,
        max_reconnects=max_reconnects,
    )


def checked_body(body: object) -> Body:
    """Return the body of a request.

    Raises:
        TypeError: it is neither bytes, nor an iterable, nor None.
    """
    if body is None or isinstance(body, bytes):
        return body
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body)
    if isinstance(body, (Iterable, AsyncIterable)) and not isinstance(body, (str, Mapping)):
        return body
    raise TypeError(
        "the body of a request must be bytes, an iterable of bytes or None, "
        f"not {type(body).__name__}"
    )


def seconds_of(name: str, value: Duration | None) -> float | None:
    """Return a time-out in seconds; None for no limit.

    Args:
        name: of the argument, for the error.
        value: a duration.

    Raises:
        ValueError: it is no duration, or 0.
    """
    if value is None:
        return None
    seconds = parse_duration(value, what=name) / 1000
    if not seconds:
        raise ValueError(f"{name} must be longer than 0, or None for no limit")
    return seconds


def response_of(finish: Finish) -> ClientResponse:
    """Return the response that the machine has come to."""
    return ClientResponse(finish.status, finish.headers, finish.body)
