"""Clients at the wait URL that want an event stream: what the run pushes here, and its end.

Chunks that are made in this process are passed on as they come, to clients whose token it knows;
chunks that are made elsewhere are at the server's own stream. The end comes from whichever knows
it first. The token is the server's: where it is not known here, the server is asked first.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator

from durable_core.errors import EngineUnavailableError
from durable_core.flow.wait import WaitRequest, too_many
from durable_core.model.response import Response
from durable_inngest._client import ServerClient
from durable_inngest._following import stream_response
from durable_inngest._results import Ended, Results
from durable_inngest._streams import Channel, Emitter
from durable_inngest._waiting import first_of, refused

__all__ = ["Watchers", "watch_output"]

#: Seconds that the server has to refuse a token, before the answer begins.
_GRACE = 0.5
#: Longer than the server holds who asks for an output, seconds.
_HOLD = 310.0
#: So many times in a row the server may be away, and so many seconds each time.
_MOST_FAILURES = 5
_PAUSE = 2.0


class Watchers:
    """The streams of clients that watch runs in this process. May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channels: dict[str, list[Channel]] = {}

    def add(self, run_id: str, channel: Channel) -> None:
        """Give a channel what the run pushes from now on."""
        with self._lock:
            self._channels.setdefault(run_id, []).append(channel)

    def remove(self, run_id: str, channel: Channel) -> None:
        """Give it no more; do nothing if it was not added."""
        with self._lock:
            left = [each for each in self._channels.pop(run_id, ()) if each is not channel]
            if left:
                self._channels[run_id] = left

    def tell(self, run_id: str, data: bytes) -> None:
        """Pass on an event of a run."""
        with self._lock:
            channels = tuple(self._channels.get(run_id, ()))
        for channel in channels:
            channel.put(data)


async def watch_output(
    client: ServerClient,
    results: Results,
    watchers: Watchers,
    wanted: WaitRequest,
    *,
    asynchronous: bool,
) -> Response:
    """Answer with the stream of a run, or with why there is none.

    ``asynchronous``: the body is for a task; else for a thread.
    """
    answer = refused(wanted)
    if answer is not None:
        return answer
    watch = _Watch(client, results, watchers, wanted)
    answer = await watch.begin()
    if answer is not None:
        return answer
    response = stream_response(watch.channel, asynchronous=asynchronous)
    body = watch.chunks() if asynchronous else watch.parts()
    return Response(headers=response.headers, body=body)


class _Watch:
    """One client, from its question to the end of its stream."""

    def __init__(
        self, client: ServerClient, results: Results, watchers: Watchers, wanted: WaitRequest
    ) -> None:
        self.channel = Channel()
        self._client = client
        self._results = results
        self._watchers = watchers
        self._wanted = wanted
        self._emitter = Emitter(wanted.run_id, self.channel)
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._asking: asyncio.Task[Response | None] | None = None

    async def begin(self) -> Response | None:
        """Begin to wait for the end; return why the client may not, if so."""
        wanted = self._wanted
        if not self._results.waiters.add(wanted.run_id, self._wake):
            return too_many()
        is_known = self._results.knows(wanted.run_id, wanted.token)
        if is_known:
            self._watchers.add(wanted.run_id, self.channel)
            if self._results.get(wanted.run_id, wanted.token) is not None:
                self._woken.set()
        self._asking = asking = self._loop.create_task(self._ask())
        asking.add_done_callback(self._over)
        if not is_known:
            await asyncio.wait((asking,), timeout=_GRACE)
        return asking.result() if asking.done() else None

    async def _ask(self) -> Response | None:
        """Stream how the run has ended; return why the client may not know, if so."""
        failures = 0
        while failures < _MOST_FAILURES:
            try:
                said = await first_of(self._client, self._results, self._wanted, self._woken, _HOLD)
            except EngineUnavailableError:
                failures += 1
                await asyncio.sleep(_PAUSE)
                continue
            failures = 0
            if isinstance(said, Ended):
                self._emitter.respond(said.response, failed=said.failed)
            if said is not None or self._woken.is_set():
                return said if isinstance(said, Response) else None
        return None

    def _wake(self) -> None:
        self._call(self._woken.set)

    def _call(self, function: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            pass  # the loop is closed, and the client with it

    def _over(self, asking: asyncio.Task[Response | None]) -> None:
        wanted = self._wanted
        self._results.waiters.remove(wanted.run_id, self._wake)
        self._watchers.remove(wanted.run_id, self.channel)
        self._emitter.end()

    def _leave(self) -> None:
        if self._asking is not None:
            self._call(self._asking.cancel)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the stream in a task; the client is let go at its end."""
        try:
            async for data in self.channel.chunks():
                yield data
        finally:
            self._leave()

    def parts(self) -> Iterator[bytes]:
        """As :meth:`chunks`, in a thread."""
        try:
            yield from self.channel
        finally:
            self._leave()
