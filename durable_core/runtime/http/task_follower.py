"""Follows a run's stream in a task: does what the machine says, and tells it what came.

Each connection has a task of its own that opens and reads it, at most two at a time. All they
have to tell comes to the caller's task, which runs the machine and the callbacks.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from durable_core.errors import RequestTimeoutError
from durable_core.http.headers import Headers
from durable_core.model.outgoing import OutgoingRequest
from durable_core.ports.http import AsyncFetch, AsyncFetched
from durable_core.runtime.http.outgoing import Requests
from durable_core.wire.following import Following
from durable_core.wire.following_commands import (
    Close,
    Command,
    Commands,
    Deliver,
    DeliveredEvent,
    Fail,
    Finish,
    Open,
    Read,
)

__all__ = ["TaskFollower"]

#: How many pieces the connections may read ahead of the callbacks.
_AHEAD = 8

#: What a connection has to tell the machine.
_Message: TypeAlias = Callable[[Following], Commands]


class TaskFollower:
    """Follows one stream.

    Args:
        machine: what decides.
        fetch: sends requests.
        requests: what the requests have in common.
        deliver: takes the events.
        timeout: seconds for it all, None for as long as it takes.
    """

    def __init__(
        self,
        machine: Following,
        *,
        fetch: AsyncFetch,
        requests: Requests,
        deliver: Callable[[DeliveredEvent], Awaitable[object]],
        timeout: float | None,
    ) -> None:
        self._machine = machine
        self._fetch = fetch
        self._requests = requests
        self._deliver = deliver
        self._timeout = timeout
        self._mailbox: asyncio.Queue[_Message] = asyncio.Queue(_AHEAD)
        self._open: dict[int, _Connection] = {}
        self._closed: list[asyncio.Task[None]] = []

    async def run(self) -> Finish:
        """Follow the stream to its end; cancelling it closes all connections.

        Raises:
            RequestTimeoutError: all connections are closed.
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
            for number in list(self._open):
                self._close(number)
            await asyncio.gather(*self._closed, return_exceptions=True)

    async def _follow(self) -> Finish:
        todo: deque[Command] = deque(self._machine.start())
        while True:
            while todo:
                command = todo.popleft()
                if isinstance(command, Finish):
                    return command
                await self._do(command)
            message = await self._mailbox.get()
            await asyncio.sleep(0)  # or a fast stream would keep the loop, and hold up the time-out
            todo += message(self._machine)

    async def _do(self, command: Command) -> None:
        match command:
            case Open(number=number, delay_ms=delay_ms):
                request = self._requests.of(command)
                self._forget_ended()
                connection = _Connection(number, self._mailbox.put, self._fetch)
                self._open[number] = connection
                connection.start(request, delay_ms / 1000)
            case Read(number=number):
                self._open[number].may_read.set()
            case Close(number=number):
                self._close(number)
            case Deliver(event=event):
                await self._deliver(event)
            case Fail(error=error):
                raise error

    def _close(self, number: int) -> None:
        self._closed.append(self._open.pop(number).close())

    def _forget_ended(self) -> None:
        """Keep no trace of the connections that ended, as a stream may have any number."""
        self._open = {n: each for n, each in self._open.items() if each.is_alive}
        self._closed = [task for task in self._closed if not task.done()]


class _Connection:
    """Opens one request in a task, and reads its response when it may."""

    __slots__ = ("_fetch", "_number", "_task", "_tell", "may_read")

    def __init__(
        self, number: int, tell: Callable[[_Message], Awaitable[None]], fetch: AsyncFetch
    ) -> None:
        self._number = number
        self._tell = tell
        self._fetch = fetch
        self._task: asyncio.Task[None] | None = None
        self.may_read = asyncio.Event()

    def start(self, request: OutgoingRequest, delay: float) -> None:
        """Open the request after some seconds."""
        self._task = asyncio.create_task(self._run(request, delay), name="durable-stream")

    @property
    def is_alive(self) -> bool:
        """Whether there is something to close."""
        return self._task is not None and not self._task.done()

    def close(self) -> asyncio.Task[None]:
        """Close the response, or give up opening it; return the task that does."""
        assert self._task is not None
        self._task.cancel()
        return self._task

    async def _run(self, request: OutgoingRequest, delay: float) -> None:
        try:
            await asyncio.sleep(delay)
            async with self._fetch(request) as fetched:
                await self._read_all(fetched)
        except Exception as error:
            failure = error
            await self._tell(lambda machine: machine.failed(self._number, failure, _now()))

    async def _read_all(self, fetched: AsyncFetched) -> None:
        status, headers = fetched.status, Headers(fetched.headers)
        await self._tell(lambda machine: machine.opened(self._number, status, headers, _now()))
        await self.may_read.wait()
        async for data in fetched.body:
            await self._tell(partial(self._received, data))
        is_sure = fetched.is_delimited
        await self._tell(lambda machine: machine.ended(self._number, _now(), is_sure=is_sure))

    def _received(self, data: bytes, machine: Following) -> Commands:
        return machine.received(self._number, data)


def _now() -> int:
    return time.monotonic_ns() // 1_000_000
