"""``fetch_with_stream_async``: follows a run in a task.

Each connection has a task of its own that opens and reads it, two at most. Their reports come to
the caller's task, which runs the machine and the callbacks.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any

from durable_client._call import (
    ClientResponse,
    Listeners,
    checked_body,
    response_of,
    seconds_of,
    stream_client,
)
from durable_client._collector import Collector
from durable_client._driver import OpenConnections, Report, follow
from durable_client._follow import (
    Commands,
    DeliveredEvent,
    Finish,
    Open,
    StreamClient,
)
from durable_client._transport import (
    AsyncHTTPClient,
    AsyncHTTPResponse,
    AsyncTransportClient,
    Body,
    ConnectionUse,
    RequestFactory,
    check_client,
    is_delimited,
    response_headers,
    translated,
)
from durable_core.clients import Chunk, Commit, Duration, HeaderFields, Metadata, Rollback
from durable_core.errors import RequestTimeoutError

__all__ = ["TaskDriver", "fetch_with_stream_async"]

#: How many bytes a connection may read ahead of the callbacks, beside its last piece.
_READ_AHEAD = 256 * 1024


async def fetch_with_stream_async(
    url: str,
    *,
    client: AsyncHTTPClient | None = None,
    method: str = "GET",
    headers: HeaderFields = (),
    body: bytes | Iterable[bytes] | AsyncIterable[bytes] | None = None,
    on_metadata: Callable[[Metadata], object] | None = None,
    on_data: Callable[[Chunk], object] | None = None,
    on_commit: Callable[[Commit], object] | None = None,
    on_rollback: Callable[[Rollback], object] | None = None,
    collect: Collector | None = None,
    timeout: Duration | None = None,
    idle_timeout: Duration | None = 60.0,
    max_reconnects: int = 10,
) -> ClientResponse:
    """Do in a task what ``fetch_with_stream`` does, without a thread.

    A callback may return an awaitable, which is awaited before the next event. The body may be an
    async iterable. Cancelling the task closes all connections.

    Args:
        client: an ``AsyncClient`` of ``httpx2`` or ``httpx``; it stays open. By default a new one
            without authentication, proxies and cookies.

    The other arguments, and what is raised: as for ``fetch_with_stream``.
    """
    whole = checked_body(body)
    machine = stream_client(method, url, headers, whole, max_reconnects)
    listeners = Listeners(
        collect=collect,
        on_metadata=on_metadata,
        on_data=on_data,
        on_commit=on_commit,
        on_rollback=on_rollback,
    )

    async def deliver(event: DeliveredEvent) -> None:
        result = listeners.notify(event)
        if inspect.isawaitable(result):
            await result

    listeners.check(is_async=True)
    if client is not None:
        check_client(client, is_async=True)
    requests = RequestFactory(
        body=_async_body(whole), idle_timeout=seconds_of("idle_timeout", idle_timeout)
    )
    limit = seconds_of("timeout", timeout)
    opened: AbstractAsyncContextManager[AsyncHTTPClient] = (
        AsyncTransportClient() if client is None else nullcontext(client)
    )
    async with opened as http:
        driver = TaskDriver(machine, client=http, requests=requests, deliver=deliver, timeout=limit)
        return response_of(await driver.run())


def _async_body(body: Body) -> Body:
    """Return the body as an async HTTP client takes it."""
    if body is None or isinstance(body, bytes | AsyncIterable):
        return body
    return _as_async(body)


async def _as_async(body: Iterable[bytes]) -> AsyncIterator[bytes]:
    for data in body:
        yield data


class TaskDriver:
    """Does what the machine of one call says.

    Args:
        machine: decides.
        client: sends the requests.
        requests: builds them.
        deliver: gets the events.
        timeout: seconds for the whole call; None for no limit.
    """

    def __init__(
        self,
        machine: StreamClient,
        *,
        client: AsyncHTTPClient,
        requests: RequestFactory,
        deliver: Callable[[DeliveredEvent], Awaitable[object]],
        timeout: float | None,
    ) -> None:
        self._machine = machine
        self._client = client
        self._requests = requests
        self._deliver = deliver
        self._timeout = timeout
        self._mailbox: asyncio.Queue[Report] = asyncio.Queue()
        self._connections = OpenConnections(self._begin)

    async def run(self) -> Finish:
        """Follow the stream to its end; cancelling it closes all connections.

        Raises:
            RequestTimeoutError: the time was up.
            Exception: what the machine fails with, or a callback raises.
        """
        try:
            async with asyncio.timeout(self._timeout) as limit:
                return await self._follow()
        except TimeoutError as error:
            if not limit.expired():
                raise  # a callback's own
            raise RequestTimeoutError(
                f"the run has no response after {self._timeout:g} s (timeout=)"
            ) from error
        finally:
            closed = self._connections.close_all()
            await asyncio.gather(*(each.task for each in closed), return_exceptions=True)

    def _begin(self, command: Open) -> _Connection:
        return _Connection(command, self._client, self._requests, self._mailbox.put_nowait)

    async def _follow(self) -> Finish:
        flow = follow(self._machine, self._connections)
        report: Report | None = None
        while True:
            try:
                wanted = flow.send(report)
            except StopIteration as end:
                finish: Finish = end.value
                return finish
            report = None
            if wanted is not None:
                await self._deliver(wanted.event)
                continue
            report = await self._mailbox.get()
            await asyncio.sleep(0)  # or a fast stream would keep the loop, and delay the time-out


class _Connection:
    """Opens one request in a task, and reads its response when that is allowed.

    Attributes:
        task: closes the response when it ends.
    """

    def __init__(
        self,
        command: Open,
        client: AsyncHTTPClient,
        requests: RequestFactory,
        report: Callable[[Report], None],
    ) -> None:
        self._command = command
        self._client = client
        self._requests = requests
        self._report = report
        self._unread = bytearray()
        self._has_room = asyncio.Event()
        self._may_read = asyncio.Event()
        self._use = ConnectionUse()
        self.task = asyncio.create_task(self._run(), name="durable-stream")

    @property
    def is_alive(self) -> bool:
        """Whether its task has not ended."""
        return not self.task.done()

    def read(self) -> None:
        """Allow that the body is read."""
        self._may_read.set()

    def close(self) -> None:
        """Close the response, or stop opening it, without waiting for that."""
        self.task.cancel()

    async def _run(self) -> None:
        command = self._command
        try:
            await asyncio.sleep(command.delay_ms / 1000)
            await self._exchange(command)
        except Exception as error:
            failure = translated(error, self._requests.idle_timeout)
            self._report(partial(self._failed, failure))

    def _failed(self, error: Exception, machine: StreamClient) -> Commands:
        return machine.failed(self._command.number, error, _now(), was_reused=self._use.was_reused)

    async def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Take note of what the HTTP client does: its ``trace`` extension."""
        self._use.note(event)

    async def _exchange(self, command: Open) -> None:
        request = self._requests.build(self._client, command, extensions={"trace": self._trace})
        auth = {} if command.is_same_origin else {"auth": None}
        response = await self._client.send(request, stream=True, follow_redirects=False, **auth)
        try:
            await self._read_all(command.number, response)
        finally:
            await response.aclose()

    async def _read_all(self, number: int, response: AsyncHTTPResponse) -> None:
        status, fields = response.status_code, response_headers(response)
        self._report(lambda machine: machine.opened(number, status, fields, _now()))
        await self._may_read.wait()
        pieces = response.aiter_bytes()
        try:
            async for data in pieces:
                await self._add(data)
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()
        delimited = is_delimited(response)
        self._report(lambda machine: machine.ended(number, _now(), is_delimited=delimited))

    async def _add(self, data: bytes) -> None:
        """Add to what the machine has not taken yet, and wait until there is room for more.

        HTTP clients yield each chunk of the transfer coding by itself. Chunks that come faster
        than they are taken are one report.
        """
        if data and not self._unread:
            self._report(self._received)
        self._unread += data
        if len(self._unread) >= _READ_AHEAD:
            self._has_room.clear()
            await self._has_room.wait()

    def _received(self, machine: StreamClient) -> Commands:
        data = bytes(self._unread)
        self._unread.clear()
        self._has_room.set()
        return machine.received(self._command.number, data)


def _now() -> int:
    return time.monotonic_ns() // 1_000_000
