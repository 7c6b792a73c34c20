"""The client for threads and the one for tasks, behind one face, so that a test asks both."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import Protocol, Self

from durable_core.http.headers import Headers
from durable_core.model.outgoing import OutgoingRequest
from durable_core.runtime.http.async_client import AsyncHTTPClient
from durable_core.runtime.http.client import HTTPClient
from durable_core.runtime.http.idle import PoolLimits

__all__ = ["CLIENTS", "AnyClient", "ThreadClient"]


class AnyClient(Protocol):
    """Sends requests, one after the other; a context."""

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, limits: PoolLimits | None = None
    ) -> None: ...

    def ask(self, request: OutgoingRequest, limit: int | None = None) -> tuple[int, Headers, bytes]:
        """Return status, headers and body."""
        ...

    def peek(self, request: OutgoingRequest, pieces: int) -> list[bytes]:
        """Read so many pieces of the body, and close the response."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


class ThreadClient:
    """The client for threads."""

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, limits: PoolLimits | None = None
    ) -> None:
        self.client = HTTPClient(tls=tls, limits=limits)

    def ask(self, request: OutgoingRequest, limit: int | None = None) -> tuple[int, Headers, bytes]:
        with self.client.send(request) as response:
            return response.status, response.headers, response.read(limit)

    def peek(self, request: OutgoingRequest, pieces: int) -> list[bytes]:
        with self.client.send(request) as response:
            body = iter(response)
            return [next(body) for _ in range(pieces)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.client.close()


class TaskClient:
    """The client for tasks, on a loop of its own."""

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, limits: PoolLimits | None = None
    ) -> None:
        self.client = AsyncHTTPClient(tls=tls, limits=limits)
        self._runner = asyncio.Runner()

    def ask(self, request: OutgoingRequest, limit: int | None = None) -> tuple[int, Headers, bytes]:
        async def asked() -> tuple[int, Headers, bytes]:
            async with await self.client.send(request) as response:
                return response.status, response.headers, await response.read(limit)

        return self._runner.run(asked())

    def peek(self, request: OutgoingRequest, pieces: int) -> list[bytes]:
        async def peeked() -> list[bytes]:
            async with await self.client.send(request) as response:
                body = aiter(response)
                return [await anext(body) for _ in range(pieces)]

        return self._runner.run(peeked())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self._runner.run(self.client.close())
        self._runner.close()


CLIENTS: tuple[type[AnyClient], ...] = (ThreadClient, TaskClient)
