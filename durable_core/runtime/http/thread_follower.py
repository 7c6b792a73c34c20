"""Follows a run's stream in a thread: does what the machine says, and tells it what came.

Each connection has a thread of its own that opens and reads it, at most two at a time. All they
have to tell comes to the caller's thread, which runs the machine and the callbacks; so a time-out
and an abort end the wait at once, whatever transport is used.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeAlias

from durable_core.errors import RequestAbortedError, RequestTimeoutError
from durable_core.http.headers import Headers
from durable_core.model.outgoing import OutgoingRequest
from durable_core.ports.http import Fetched
from durable_core.runtime.http.abort import Abort
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

__all__ = ["OpenFetch", "ThreadFollower"]

#: How many pieces a connection may read ahead of the callbacks.
_AHEAD = 8
#: How long to wait for the threads of closed connections, which end at once.
_LEAVING = 5.0

#: Opens a request; the abort closes the response, where the transport can do that.
OpenFetch: TypeAlias = Callable[[OutgoingRequest, Abort], AbstractContextManager[Fetched]]
#: What a connection has to tell the machine.
_Message: TypeAlias = Callable[[Following], Commands]


class ThreadFollower:
    """Follows one stream.

    Args:
        machine: what decides.
        fetch: sends requests.
        waits: whether an abort ends the transport at once, so that its threads are waited for.
        requests: what the requests have in common.
        deliver: takes the events.
        timeout: seconds for it all, None for as long as it takes.
        abort: what ends it.
    """

    def __init__(
        self,
        machine: Following,
        *,
        fetch: OpenFetch,
        waits: bool,
        requests: Requests,
        deliver: Callable[[DeliveredEvent], object],
        timeout: float | None,
        abort: Abort,
    ) -> None:
        self._machine = machine
        self._fetch = fetch
        self._waits = waits
        self._requests = requests
        self._deliver = deliver
        self._timeout = timeout
        self._abort = abort
        self._mailbox: queue.SimpleQueue[_Message | None] = queue.SimpleQueue()
        self._open: dict[int, _Connection] = {}
        self._closed: list[_Connection] = []

    def run(self) -> Finish:
        """Follow the stream to its end.

        Raises:
            RequestTimeoutError, RequestAbortedError: all connections are closed.
            Exception: what the machine fails with, or a callback raises.
        """
        ends = None if self._timeout is None else time.monotonic() + self._timeout
        try:
            with self._abort.calling(lambda: self._mailbox.put(None)):
                return self._follow(ends)
        finally:
            for number in list(self._open):
                self._close(number)
            if self._waits:
                for connection in self._closed:
                    connection.join()

    def _follow(self, ends: float | None) -> Finish:
        todo: deque[Command] = deque(self._machine.start())
        while True:
            while todo:
                command = todo.popleft()
                if isinstance(command, Finish):
                    return command
                if isinstance(command, Deliver):
                    self._check(ends)  # many may come at a time, and their callbacks be slow
                self._do(command)
            message = self._next(ends)
            self._check(ends)
            if message is not None:
                todo += message(self._machine)

    def _check(self, ends: float | None) -> None:
        """Raise if this was aborted, or the time is up."""
        if self._abort.is_set():
            raise RequestAbortedError("following the run was aborted")
        if ends is not None and time.monotonic() >= ends:
            raise self._too_long()

    def _next(self, ends: float | None) -> _Message | None:
        try:
            if ends is None:
                return self._mailbox.get()
            left = ends - time.monotonic()
            if left > 0:
                return self._mailbox.get(timeout=left)
        except queue.Empty:
            pass
        raise self._too_long()

    def _too_long(self) -> RequestTimeoutError:
        return RequestTimeoutError(f"the run has no response after {self._timeout:g} s (timeout=)")

    def _do(self, command: Command) -> None:
        match command:
            case Open(number=number, delay_ms=delay_ms):
                request = self._requests.of(command)
                self._forget_ended()
                connection = _Connection(number, self._mailbox.put, self._fetch)
                self._open[number] = connection
                connection.start(request, delay_ms / 1000)
            case Read(number=number):
                self._open[number].read()
            case Close(number=number):
                self._close(number)
            case Deliver(event=event):
                self._deliver(event)
            case Fail(error=error):
                raise error

    def _close(self, number: int) -> None:
        connection = self._open.pop(number)
        connection.close()
        self._closed.append(connection)

    def _forget_ended(self) -> None:
        """Keep no trace of the connections that ended, as a stream may have any number."""
        self._open = {n: each for n, each in self._open.items() if each.is_alive}
        self._closed = [each for each in self._closed if each.is_alive]


class _Connection:
    """Opens one request in a thread, and reads its response when it may."""

    __slots__ = ("_abort", "_closed", "_credits", "_fetch", "_number", "_tell", "_thread")

    def __init__(self, number: int, tell: Callable[[_Message], None], fetch: OpenFetch) -> None:
        self._number = number
        self._tell = tell
        self._fetch = fetch
        self._abort = Abort()
        self._closed = threading.Event()
        self._credits = threading.Semaphore(0)
        self._thread: threading.Thread | None = None

    def start(self, request: OutgoingRequest, delay: float) -> None:
        """Open the request after some seconds."""
        self._thread = threading.Thread(
            target=self._run, args=(request, delay), name="durable-stream", daemon=True
        )
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether there is something to close."""
        return self._thread is not None and self._thread.is_alive()

    def read(self) -> None:
        """Let the body be read, so many pieces ahead."""
        self._credits.release(_AHEAD)

    def close(self) -> None:
        """Close the response, or give up opening it."""
        self._closed.set()
        self._credits.release()
        self._abort.set()

    def join(self) -> None:
        """Wait for the thread of a closed connection."""
        if self._thread is not None:
            self._thread.join(_LEAVING)

    def _run(self, request: OutgoingRequest, delay: float) -> None:
        try:
            if not self._closed.wait(delay):
                with self._fetch(request, self._abort) as fetched:
                    self._read_all(fetched)
        except Exception as error:
            failure = error
            self._tell(lambda machine: machine.failed(self._number, failure, _now()))

    def _read_all(self, fetched: Fetched) -> None:
        status, headers = fetched.status, Headers(fetched.headers)
        self._tell(lambda machine: machine.opened(self._number, status, headers, _now()))
        pieces = iter(fetched.body)
        while True:
            self._credits.acquire()
            if self._closed.is_set():
                return
            data = next(pieces, None)
            if data is None:
                break
            self._tell(partial(self._received, data))
        is_sure = fetched.is_delimited
        self._tell(lambda machine: machine.ended(self._number, _now(), is_sure=is_sure))

    def _received(self, data: bytes, machine: Following) -> Commands:
        self._credits.release()
        return machine.received(self._number, data)


def _now() -> int:
    return time.monotonic_ns() // 1_000_000
