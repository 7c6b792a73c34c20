"""Clients at the wait URL: what comes first, the answer of the server or the end of the run here.

Chunks that are made in this process are passed on as they come, to clients whose token it knows;
chunks that are made elsewhere are at the server. The token is the server's: where it is not known
here, the server is asked first.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import TypeAlias

from durable_core.engine.remote.results import Ended, Results
from durable_core.engine.remote.streams import StreamChannel, StreamEmitter, stream_response
from durable_core.errors import EngineUnavailableError
from durable_core.flow.error_responses import store_unavailable_response
from durable_core.flow.wait import too_many_clients_response, wait_again_response
from durable_core.flow.wait_url import WaitRequest
from durable_core.http.response import Response
from durable_core.platform import call_soon, run_logger

__all__ = [
    "AskServer",
    "Subscribers",
    "wait_for_output",
    "watch_output",
]

#: Asks the server how a run has ended, with its id and its token, for so many seconds at most. A
#: response alone is for a client that may not know; None: the run goes on. Raises
#: EngineUnavailableError.
AskServer: TypeAlias = "Callable[[str, str, float], Awaitable[Ended | Response | None]]"


#: Seconds that the server has to refuse a token, before the answer begins.
_GRACE = 0.5
#: Longer than the server holds who asks for an output, seconds.
_HOLD = 310.0
#: So many times in a row the server may be away, and so many seconds each time.
_MOST_FAILURES = 5
_PAUSE = 2.0
#: Seconds in which a server answers whether a run has ended.
_LEAST = 1.0


async def wait_for_output(
    ask: AskServer, results: Results, wanted: WaitRequest, *, asynchronous: bool
) -> Response:
    """Answer with the run's own response, or with where to ask again.

    The token is the server's, and it alone decides whether it opens the run. ``asynchronous``: a
    task waits for the answer; else a thread.
    """
    local = results.get(wanted.run_id, wanted.token)
    if local is not None:
        return local.response
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def wake() -> None:
        call_soon(loop, ended.set)

    if not results.waiters.add(wanted.run_id, wake, in_thread=not asynchronous):
        return too_many_clients_response()
    try:
        # A client that does not wait gives the server the time to answer.
        least = _LEAST if wanted.applied else 0.01
        seconds = max(results.waiters.hold_time(wanted.max_wait_ms / 1000), least)
        said = await _first_of(ask, results, wanted, ended, seconds)
    except EngineUnavailableError as error:
        run_logger(wanted.run_id, "").error("a client that waits got no answer: %s", error)
        return store_unavailable_response(error)
    finally:
        results.waiters.remove(wanted.run_id, wake, in_thread=not asynchronous)
    if said is None:
        return wait_again_response(wanted, wanted.token)
    return said.response if isinstance(said, Ended) else said


async def _first_of(
    ask: AskServer,
    results: Results,
    wanted: WaitRequest,
    ended: asyncio.Event,
    seconds: float,
) -> Ended | Response | None:
    """Wait for what comes first: the server's output, the end of the run here, or the time.

    Returns:
        How the run has ended; an answer to a client that may not know; None if it goes on.

    Raises:
        EngineUnavailableError: the server does not answer.
    """
    asking = asyncio.ensure_future(ask(wanted.run_id, wanted.token, seconds))
    ending = asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait((asking, ending), return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            return results.get(wanted.run_id, wanted.token)
        return asking.result()
    finally:
        for task in (asking, ending):
            task.cancel()
        await asyncio.wait((asking, ending))


class Subscribers:
    """The streams of clients that watch runs in this process. May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channels: dict[str, list[StreamChannel]] = {}

    def add(self, run_id: str, channel: StreamChannel) -> None:
        """Give a channel what the run pushes from now on."""
        with self._lock:
            self._channels.setdefault(run_id, []).append(channel)

    def remove(self, run_id: str, channel: StreamChannel) -> None:
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
    ask: AskServer,
    results: Results,
    subscribers: Subscribers,
    wanted: WaitRequest,
    *,
    asynchronous: bool,
) -> Response:
    """Answer with the stream of a run, or with why there is none.

    ``asynchronous``: the body is for a task; else for a thread.
    """
    watch = _Watch(ask, results, subscribers, wanted, in_thread=not asynchronous)
    answer = await watch.begin()
    if answer is not None:
        return answer
    response = stream_response(watch.channel, asynchronous=asynchronous)
    body = watch.chunks() if asynchronous else watch.parts()
    return Response(headers=response.headers, body=body)


class _Watch:
    """One client, from its question to the end of its stream."""

    def __init__(
        self,
        ask: AskServer,
        results: Results,
        subscribers: Subscribers,
        wanted: WaitRequest,
        *,
        in_thread: bool,
    ) -> None:
        self.channel = StreamChannel()
        self._ask_server = ask
        self._results = results
        self._subscribers = subscribers
        self._wanted = wanted
        self._in_thread = in_thread
        self._emitter = StreamEmitter(wanted.run_id, self.channel)
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._asking: asyncio.Task[Response | None] | None = None

    async def begin(self) -> Response | None:
        """Begin to wait for the end; return why the client may not, if so."""
        wanted = self._wanted
        waiters = self._results.waiters
        if not waiters.add(wanted.run_id, self._wake, in_thread=self._in_thread):
            return too_many_clients_response()
        is_known = self._results.knows(wanted.run_id, wanted.token)
        if is_known:
            self._subscribers.add(wanted.run_id, self.channel)
            if self._results.get(wanted.run_id, wanted.token) is not None:
                self._woken.set()
        self._asking = asking = self._loop.create_task(self._ask())
        asking.add_done_callback(self._over)
        if not is_known:
            await asyncio.wait((asking,), timeout=_GRACE)
        return asking.result() if asking.done() else None

    async def _ask(self) -> Response | None:
        """Stream how the run has ended; return why the client may not know, if so."""
        waiters, failures = self._results.waiters, 0
        while failures < _MOST_FAILURES:
            try:
                hold = waiters.hold_time(_HOLD)
                said = await _first_of(
                    self._ask_server, self._results, self._wanted, self._woken, hold
                )
            except EngineUnavailableError:
                failures += 1
                await asyncio.sleep(_PAUSE)
                continue
            failures = 0
            if isinstance(said, Ended):
                self._emitter.respond(said.response, failed=said.failed)
            if said is not None or self._woken.is_set() or waiters.released:
                return said if isinstance(said, Response) else None
        return None

    def _wake(self) -> None:
        call_soon(self._loop, self._woken.set)

    def _over(self, asking: asyncio.Task[Response | None]) -> None:
        wanted = self._wanted
        self._results.waiters.remove(wanted.run_id, self._wake, in_thread=self._in_thread)
        self._subscribers.remove(wanted.run_id, self.channel)
        self._emitter.end()

    def _leave(self) -> None:
        if self._asking is not None:
            call_soon(self._loop, self._asking.cancel)

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
