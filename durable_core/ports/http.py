"""What a client of this library needs from a transport of HTTP, its own or somebody's."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from durable_core.http.headers import HeaderFields
from durable_core.model.outgoing import OutgoingRequest

__all__ = ["AsyncFetch", "AsyncFetched", "Fetch", "Fetched"]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A response whose body is read as it comes.

    Attributes:
        status: the status, 200 to 599.
        headers: the header fields, whatever ``Headers`` takes.
        body: its content, with transfer and content codings undone, in any pieces. It ends with
            the response; a response that breaks off raises.
        is_delimited: False where the body ends with its connection, which may as well have broken:
            the client then asks for what it may have missed.
    """

    status: int
    headers: HeaderFields
    body: Iterable[bytes]
    is_delimited: bool = True


@dataclass(frozen=True, slots=True)
class AsyncFetched:
    """A response whose body is read as it comes, in a task; see ``Fetched``."""

    status: int
    headers: HeaderFields
    body: AsyncIterable[bytes]
    is_delimited: bool = True


class Fetch(Protocol):
    """Sends a request, and does not follow redirects.

    The context begins when the head of the response is there, and closes the response when it
    ends. It is entered, iterated and left in one thread, and other requests are sent meanwhile
    from other threads. Each ``Exception`` counts as a connection that failed.
    """

    def __call__(self, request: OutgoingRequest, /) -> AbstractContextManager[Fetched]:
        """Return the response in a context."""
        ...


class AsyncFetch(Protocol):
    """Sends a request in a task, which may be cancelled; otherwise as ``Fetch``."""

    def __call__(self, request: OutgoingRequest, /) -> AbstractAsyncContextManager[AsyncFetched]:
        """Return the response in a context."""
        ...
