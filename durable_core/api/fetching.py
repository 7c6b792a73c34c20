"""``fetch_with_stream`` and its twin for tasks."""

from __future__ import annotations

import inspect
import json
import math
import random
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from durable_core.codec.stream_events import Chunk, Commit, Metadata, Rollback
from durable_core.http.headers import HeaderFields, Headers
from durable_core.model.outgoing import OutgoingBody, OutgoingRequest
from durable_core.ports.http import AsyncFetch, Fetch, Fetched
from durable_core.runtime.http.abort import Abort
from durable_core.runtime.http.async_client import AsyncHTTPClient
from durable_core.runtime.http.client import HTTPClient
from durable_core.runtime.http.outgoing import Requests
from durable_core.runtime.http.task_follower import TaskFollower
from durable_core.runtime.http.thread_follower import ThreadFollower
from durable_core.wire.collector import Collector
from durable_core.wire.following import Following
from durable_core.wire.following_commands import DeliveredEvent, Finish

__all__ = ["ClientResponse", "afetch_with_stream", "fetch_with_stream"]

_CHARSET = re.compile(r""";\s*charset\s*=\s*"?([^\s;"]+)""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ClientResponse:
    """The response of a run, or what the server answered instead.

    Attributes:
        status: the HTTP status; a run that failed has 500.
        headers: the header fields.
        body: the whole body.
    """

    status: int
    headers: Headers
    body: bytes

    def text(self) -> str:
        """Return the body as text, by the charset that it names, or UTF-8.

        Raises:
            LookupError, UnicodeDecodeError: the charset is not known, or the body is not of it.
        """
        found = _CHARSET.search(self.headers.get("content-type") or "")
        return self.body.decode(found[1] if found else "utf-8")

    def json(self) -> object:
        """Return the value that the body is the JSON of; ``ValueError`` if it is none."""
        value: object = json.loads(self.body)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listeners:
    """Who is told of the events."""

    collect: Collector | None
    on_metadata: Callable[[Metadata], object] | None
    on_data: Callable[[Chunk], object] | None
    on_commit: Callable[[Commit], object] | None
    on_rollback: Callable[[Rollback], object] | None

    def tell(self, event: DeliveredEvent) -> object:
        """Tell the collector, and then the callback for events of this kind."""
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


def fetch_with_stream(
    url: str,
    *,
    method: str = "GET",
    headers: HeaderFields = (),
    body: OutgoingBody = None,
    on_metadata: Callable[[Metadata], object] | None = None,
    on_data: Callable[[Chunk], object] | None = None,
    on_commit: Callable[[Commit], object] | None = None,
    on_rollback: Callable[[Rollback], object] | None = None,
    collect: Collector | None = None,
    timeout: float | None = None,
    idle_timeout: float | None = 60.0,
    max_reconnects: int = 10,
    abort: Abort | None = None,
    fetch: Fetch | None = None,
) -> ClientResponse:
    """Call a durable endpoint, follow its stream, and return the run's response.

    The callbacks are called in the caller's thread, in the order of the stream, each event once.
    Redirects are followed; a connection that breaks is made again, and the stream goes on where
    it was, unless the server has not yet named a URL for that: the first request is never sent
    twice. An answer that is no stream is the response as it is; a 202 with ``Location`` and
    ``Retry-After`` is followed up until there is one. A run that failed has a response, too.

    Args:
        url: of the endpoint, or a wait URL; ``http`` or ``https``.
        method: the HTTP method.
        headers: go to this URL's origin only. An ``Accept`` is added to, not replaced.
        body: bytes; or an iterable of bytes, which is sent in chunks.
        on_metadata: is told the id of the run, once.
        on_data: is told each chunk, when it is pushed; ``chunk.step_id`` is None outside steps.
        on_commit: is told that a step's chunks stay.
        on_rollback: is told that a step's chunks since its last event are void.
        collect: keeps the chunks that stay, before the callbacks are called.
        timeout: seconds for all of it; None for as long as it takes.
        idle_timeout: seconds without a byte after which a connection counts as broken; servers of
            this library send one every 15 seconds.
        max_reconnects: how often in a row to come back to the stream without getting on; 0 or
            more. The pauses double, from about 0.25 s to 30 s: ten take some 90 seconds.
        abort: set it from another thread to end the call.
        fetch: another transport than the one of this library.

    Raises:
        RequestTimeoutError: the time was up (a ``TimeoutError``).
        RequestAbortedError: ``abort`` was set.
        ConnectFailedError, ConnectionLostError: as long as the server had not named a URL at
            which the stream goes on.
        StreamEndedError: the stream ended without a response, and coming back did not help.
        ProtocolError, TooManyRedirectsError: what the server sends makes no sense.
        ValueError, TypeError: an argument is wrong.
        Exception: what a callback raises, and ``fetch`` at its first request.
    """
    listeners: _Listeners = _Listeners(
        collect=collect,
        on_metadata=on_metadata,
        on_data=on_data,
        on_commit=on_commit,
        on_rollback=on_rollback,
    )
    machine = _machine(method, url, headers, body, max_reconnects)
    with HTTPClient() as client:
        follower = ThreadFollower(
            machine,
            fetch=client.fetch if fetch is None else _without_abort(fetch),
            waits=fetch is None,
            requests=Requests(body=body, idle_timeout=_seconds("idle_timeout", idle_timeout)),
            deliver=listeners.tell,
            timeout=_seconds("timeout", timeout),
            abort=abort or Abort(),
        )
        return _response(follower.run())


async def afetch_with_stream(
    url: str,
    *,
    method: str = "GET",
    headers: HeaderFields = (),
    body: OutgoingBody = None,
    on_metadata: Callable[[Metadata], object] | None = None,
    on_data: Callable[[Chunk], object] | None = None,
    on_commit: Callable[[Commit], object] | None = None,
    on_rollback: Callable[[Rollback], object] | None = None,
    collect: Collector | None = None,
    timeout: float | None = None,
    idle_timeout: float | None = 60.0,
    max_reconnects: int = 10,
    fetch: AsyncFetch | None = None,
) -> ClientResponse:
    """Do in a task what ``fetch_with_stream`` does, without a thread.

    A callback may return an awaitable, which is awaited before the next event. The body may be an
    async iterable. Cancelling the task closes all connections.

    Args, Raises: as ``fetch_with_stream``.
    """
    listeners: _Listeners = _Listeners(
        collect=collect,
        on_metadata=on_metadata,
        on_data=on_data,
        on_commit=on_commit,
        on_rollback=on_rollback,
    )

    async def deliver(event: DeliveredEvent) -> None:
        told = listeners.tell(event)
        if inspect.isawaitable(told):
            await told

    machine = _machine(method, url, headers, body, max_reconnects)
    async with AsyncHTTPClient() as client:
        follower = TaskFollower(
            machine,
            fetch=client.fetch if fetch is None else fetch,
            requests=Requests(body=body, idle_timeout=_seconds("idle_timeout", idle_timeout)),
            deliver=deliver,
            timeout=_seconds("timeout", timeout),
        )
        return _response(await follower.run())


def _machine(
    method: str, url: str, headers: HeaderFields, body: OutgoingBody, max_reconnects: int
) -> Following:
    # What cannot be sent is an error of the caller's, told before anything is done.
    request = OutgoingRequest(method=method, url=url, headers=headers, body=body)
    return Following(
        method=method,
        url=url,
        headers=request.headers,
        repeatable=request.body is None or isinstance(request.body, bytes),
        uniform=random.random,
        max_reconnects=max_reconnects,
    )


def _seconds(name: str, value: float | None) -> float | None:
    if value is not None and not (0 < value and math.isfinite(value)):
        raise ValueError(f"{name} must be seconds above 0, or None, not {value!r}")
    return value


def _without_abort(
    fetch: Fetch,
) -> Callable[[OutgoingRequest, Abort], AbstractContextManager[Fetched]]:
    return lambda request, abort: fetch(request)


def _response(finish: Finish) -> ClientResponse:
    return ClientResponse(finish.status, finish.headers, finish.body)
