"""``fetch_with_stream``: follows a run in the caller's thread.

Each connection has a thread of its own that opens and reads it, two at most. Their reports come to
the caller's thread, which runs the machine and the callbacks; so a time-out and an abort end the
wait at once, whatever the HTTP client does.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from durable_client._abort import Abort
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
    ConnectionUse,
    HTTPClient,
    HTTPResponse,
    RequestFactory,
    TransportClient,
    check_client,
    is_delimited,
    response_headers,
    translated,
)
from durable_core.clients import Chunk, Commit, Duration, HeaderFields, Metadata, Rollback
from durable_core.errors import RequestAbortedError, RequestTimeoutError

__all__ = ["ThreadDriver", "fetch_with_stream"]

#: How many bytes a connection may read ahead of the callbacks, beside its last piece.
_READ_AHEAD = 256 * 1024
#: Seconds to wait for the threads of closed connections, which end at once.
_JOIN_TIMEOUT = 5.0

#: Events of the ``trace`` extension: there is a new connection, or a request is about to be sent.
_CONNECTED = frozenset(
    {
        *("connection.connect_tcp.complete", "connection.connect_unix_socket.complete"),
        "connection.start_tls.complete",
    }
)
_SENDING = frozenset({"http11.send_request_headers.started", "http2.send_request_headers.started"})


def fetch_with_stream(
    url: str,
    *,
    client: HTTPClient | None = None,
    method: str = "GET",
    headers: HeaderFields = (),
    body: bytes | Iterable[bytes] | None = None,
    on_metadata: Callable[[Metadata], object] | None = None,
    on_data: Callable[[Chunk], object] | None = None,
    on_commit: Callable[[Commit], object] | None = None,
    on_rollback: Callable[[Rollback], object] | None = None,
    collect: Collector | None = None,
    timeout: Duration | None = None,
    idle_timeout: Duration | None = 60.0,
    max_reconnects: int = 10,
    abort: Abort | None = None,
) -> ClientResponse:
    """Call a durable endpoint, follow its stream, and return the run's response.

    The callbacks are called in the caller's thread, in the order of the stream, once for each
    event. Redirects are followed, but never from ``https`` to ``http``. A connection that breaks
    is made again, and the stream continues where it was, unless the server has not yet named a URL
    for that: a second request would begin a second run. Only where a connection of ``client`` that
    had served other requests breaks before an answer, a request with an idempotent method or an
    ``Idempotency-Key`` is sent once more. An answer that is no stream is returned as it is; a 202
    with ``Location`` and ``Retry-After`` is asked again until the run has ended. A run that failed
    has a response, too.

    Args:
        url: of the endpoint, or a wait URL; ``http`` or ``https``.
        client: a ``Client`` of ``httpx2`` or ``httpx``, with its authentication, proxies and
            transports; it stays open. By default a new client without any of these.
        method: the HTTP method.
        headers: sent to this URL's origin only. An ``Accept`` is extended, not replaced.
        body: bytes; or an iterable of bytes, which is sent in chunks.
        on_metadata: gets the id of the run, once.
        on_data: gets each chunk when it comes; ``chunk.step_id`` is None outside steps.
        on_commit: the chunks of a step stay.
        on_rollback: the chunks of a step since its last commit or rollback are void.
        collect: keeps the chunks that stay; it is updated before the callbacks are called.
        timeout: a duration for the whole call (seconds, ``"5m"``, a ``timedelta``); None for no
            limit.
        idle_timeout: a duration without a byte after which a connection counts as broken; servers
            of this library send one every 15 seconds. None for no limit.
        max_reconnects: how often in a row to reconnect without progress; 0 or more. The pauses
            double, from about 0.25 s to 30 s: ten take some 90 seconds.
        abort: set it from another thread to end the call.

    Raises:
        RequestTimeoutError: the time was up (a ``TimeoutError``).
        RequestAbortedError: ``abort`` was set.
        ConnectFailedError, ConnectionLostError: before the server had named a URL at which the
            stream continues.
        StreamEndedError: the stream ended without a response, and reconnecting did not help.
        ProtocolError, TooManyRedirectsError: the server sends what makes no sense, or names an
            ``http`` URL on an ``https`` connection.
        ValueError, TypeError: an argument is wrong.
        Exception: what a callback raises, and what else ``client`` raises at the first request.
    """
    whole = checked_body(body)
    if whole is not None and not isinstance(whole, Iterable):
        raise TypeError("the body is an async iterable; use fetch_with_stream_async")
    machine = stream_client(method, url, headers, whole, max_reconnects)
    listeners = Listeners(
        collect=collect,
        on_metadata=on_metadata,
        on_data=on_data,
        on_commit=on_commit,
        on_rollback=on_rollback,
    )
    listeners.check(is_async=False)
    if client is not None:
        check_client(client, is_async=False)
    requests = RequestFactory(
        body=whole,
        idle_timeout=seconds_of("idle_timeout", idle_timeout),
        keeps_connections=False,  # so that a connection may be shut down at any time
    )
    limit = seconds_of("timeout", timeout)
    opened: AbstractContextManager[HTTPClient] = (
        TransportClient() if client is None else nullcontext(client)
    )
    with opened as http:
        driver = ThreadDriver(
            machine,
            client=http,
            requests=requests,
            deliver=listeners.notify,
            timeout=limit,
            abort=abort or Abort(),
        )
        return response_of(driver.run())


class ThreadDriver:
    """Does what the machine of one call says.

    Args:
        machine: decides.
        client: sends the requests.
        requests: builds them.
        deliver: gets the events.
        timeout: seconds for the whole call; None for no limit.
        abort: ends the call.
    """

    def __init__(
        self,
        machine: StreamClient,
        *,
        client: HTTPClient,
        requests: RequestFactory,
        deliver: Callable[[DeliveredEvent], object],
        timeout: float | None,
        abort: Abort,
    ) -> None:
        self._machine = machine
        self._client = client
        self._requests = requests
        self._deliver = deliver
        self._timeout = timeout
        self._abort = abort
        self._mailbox: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._connections = OpenConnections(self._begin)

    def run(self) -> Finish:
        """Follow the stream to its end.

        Raises:
            RequestTimeoutError, RequestAbortedError: the call was ended.
            Exception: what the machine fails with, or a callback raises.
        """
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        try:
            with self._abort.calling(lambda: self._mailbox.put(None)):
                return self._follow(deadline)
        finally:
            for connection in self._connections.close_all():
                connection.join()

    def _begin(self, command: Open) -> _Connection:
        connection = _Connection(command, self._client, self._requests, self._mailbox.put)
        connection.start()
        return connection

    def _follow(self, deadline: float | None) -> Finish:
        flow = follow(self._machine, self._connections)
        report: Report | None = None
        while True:
            try:
                wanted = flow.send(report)
            except StopIteration as end:
                finish: Finish = end.value
                return finish
            report = None
            if wanted is None:
                report = self._next(deadline)
            self._check(deadline)  # many events may come at once, and their callbacks be slow
            if wanted is not None:
                self._deliver(wanted.event)

    def _check(self, deadline: float | None) -> None:
        """Raise if the call was aborted, or the time is up."""
        if self._abort.is_set():
            raise RequestAbortedError("following the run was aborted")
        if deadline is not None and time.monotonic() >= deadline:
            raise self._too_long()

    def _next(self, deadline: float | None) -> Report | None:
        """Wait for the next report; None wakes the call for an abort."""
        if deadline is None:
            return self._mailbox.get()
        left = deadline - time.monotonic()
        try:
            if left > 0:
                return self._mailbox.get(timeout=left)
        except queue.Empty:
            pass
        raise self._too_long()

    def _too_long(self) -> RequestTimeoutError:
        return RequestTimeoutError(f"the run has no response after {self._timeout:g} s (timeout=)")


class _Connection:
    """Opens one request in a thread, and reads its response when that is allowed."""

    def __init__(
        self,
        command: Open,
        client: HTTPClient,
        requests: RequestFactory,
        report: Callable[[Report], None],
    ) -> None:
        self._command = command
        self._client = client
        self._requests = requests
        self._report = report
        self._closed = threading.Event()
        self._unread = _Unread()
        self._socket = _Socket()
        self._thread = threading.Thread(target=self._run, name="durable-stream", daemon=True)

    def start(self) -> None:
        """Open the request after its delay."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether there is something to close."""
        return self._thread.is_alive()

    def read(self) -> None:
        """Allow the body to be read."""
        self._unread.start()

    def close(self) -> None:
        """Close the response, or stop opening it."""
        self._closed.set()
        self._unread.close()
        self._socket.shut_down()

    def join(self) -> None:
        """Wait for the thread of a closed connection, if it ends at once.

        A thread that is still connecting, or in a transport without sockets, cannot be
        interrupted. It ends later by itself, and sends nothing more.
        """
        if self._socket.can_shut_down:
            self._thread.join(_JOIN_TIMEOUT)

    def _run(self) -> None:
        command = self._command
        try:
            if not self._closed.wait(command.delay_ms / 1000):
                self._exchange(command)
        except Exception as error:
            failure = translated(error, self._requests.idle_timeout)
            self._report(partial(self._failed, failure))

    def _failed(self, error: Exception, machine: StreamClient) -> Commands:
        was_reused = self._socket.use.was_reused
        return machine.failed(self._command.number, error, _now(), was_reused=was_reused)

    def _exchange(self, command: Open) -> None:
        request = self._requests.build(
            self._client, command, extensions={"trace": self._socket.trace}
        )
        auth = {} if command.is_same_origin else {"auth": None}
        response = self._client.send(request, stream=True, follow_redirects=False, **auth)
        try:
            self._socket.use_that_of(response)
            self._read_all(command.number, response)
        finally:
            response.close()

    def _read_all(self, number: int, response: HTTPResponse) -> None:
        status, fields = response.status_code, response_headers(response)
        self._report(lambda machine: machine.opened(number, status, fields, _now()))
        pieces = response.iter_bytes()
        while self._unread.wait_for_room():
            data = next(pieces, None)
            if data is None:
                self._report(partial(self._ended, is_delimited(response)))
                return
            if self._unread.add(data):
                self._report(self._received)

    def _ended(self, delimited: bool, machine: StreamClient) -> Commands:
        return machine.ended(self._command.number, _now(), is_delimited=delimited)

    def _received(self, machine: StreamClient) -> Commands:
        return machine.received(self._command.number, self._unread.take())


class _Unread:
    """What a connection has read and the machine has not taken yet.

    HTTP clients yield each chunk of the transfer coding by itself. Chunks that come faster than
    they are taken are one report.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._data = bytearray()
        self._may_read = False
        self._is_closed = False

    def start(self) -> None:
        """Let the connection read."""
        with self._changed:
            self._may_read = True
            self._changed.notify()

    def close(self) -> None:
        """Let the connection read no more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def wait_for_room(self) -> bool:
        """Wait until the connection may read; return False if it must close."""
        with self._changed:
            self._changed.wait_for(self._is_decided)
            return not self._is_closed

    def _is_decided(self) -> bool:
        return self._is_closed or (self._may_read and len(self._data) < _READ_AHEAD)

    def add(self, data: bytes) -> bool:
        """Add what was read; return whether that must be reported."""
        with self._changed:
            was_empty = not self._data
            self._data += data
            return was_empty and bool(data)

    def take(self) -> bytes:
        """Return what was added since the last time."""
        with self._changed:
            data = bytes(self._data)
            self._data.clear()
            self._changed.notify()
            return data


class _Socket:
    """The socket of one exchange, which another thread may shut down.

    Closing it would not wake a thread that reads from it.

    Attributes:
        use: whether it is a new connection.
    """

    def __init__(self) -> None:
        self.use = ConnectionUse()
        self._stream: Any = None
        self._is_shut_down = False

    @property
    def can_shut_down(self) -> bool:
        """Whether the socket is known, and belongs to this exchange alone."""
        return self._stream is not None

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Take note of what the HTTP client does: its ``trace`` extension."""
        self.use.note(event)
        if event in _CONNECTED:
            self._use(info["return_value"])
        elif event in _SENDING and self._is_shut_down:
            raise RequestAbortedError("the call has ended before this request was sent")
        if event.startswith("http2."):
            self._stream = None  # other requests share the connection

    def use_that_of(self, response: HTTPResponse) -> None:
        """Use the socket that a response comes from."""
        if response.http_version.startswith("HTTP/1"):
            self._use(response.extensions.get("network_stream"))

    def shut_down(self) -> None:
        """End what the other thread waits for on the socket, now and later."""
        self._is_shut_down = True
        found = None if self._stream is None else self._stream.get_extra_info("socket")
        if isinstance(found, socket.socket):
            try:
                socket.socket.shutdown(found, socket.SHUT_RDWR)  # below TLS
            except OSError:
                pass  # it is closed already

    def _use(self, stream: Any) -> None:
        self._stream = stream
        if self._is_shut_down:
            self.shut_down()


def _now() -> int:
    return time.monotonic_ns() // 1_000_000
