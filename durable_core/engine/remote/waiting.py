"""Clients at the wait URL: results of this process, the answer of the server, streams of runs.

The answer is what comes first: that of the server, or the end of the run here. Where the client
that waits was handed off here, and the run comes to its end here, it need not wait for the server.

Chunks that are made in this process are passed on as they come, to clients whose token it knows;
chunks that are made elsewhere are at the server. The token is that of the server: where it is not
known here, the server is asked first.
"""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from durable_core.engine.remote.streams import StreamChannel, StreamEmitter, stream_response
from durable_core.errors import EngineUnavailableError
from durable_core.flow.error_responses import store_unavailable_response
from durable_core.flow.wait import too_many_clients_response, wait_again_response
from durable_core.flow.wait_url import WaitRequest
from durable_core.http.response import Response
from durable_core.platform import call_soon, run_logger
from durable_core.runners.live import Waiters

__all__ = [
    "AskServer",
    "Ended",
    "Results",
    "Subscribers",
    "wait_for_output",
    "watch_output",
]


# --- results --------------------------------------------------------------------------------------

_MOST_TOKENS = 10_000
#: Bytes of all responses together.
_MOST_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run has ended.

    Attributes:
        response: its response; if it has failed, its problem document.
        failed: it has failed, or was cancelled.
    """

    response: Response
    failed: bool = False


class Results:
    """Remembers whom this process has handed off, and how runs have ended in it, lately.

    May be used by several threads.

    Args:
        most_waiting: how many clients may be held at a time.
    """

    def __init__(self, most_waiting: int) -> None:
        #: The clients that are held.
        self.waiters = Waiters(most_waiting, _do_nothing)
        self._lock = threading.Lock()
        self._tokens: OrderedDict[str, str] = OrderedDict()
        self._followed: set[str] = set()
        self._responses: OrderedDict[str, Ended] = OrderedDict()
        self._size = 0

    def handed_off(self, run_id: str, token: str, *, followed: bool = False) -> None:
        """Note that a client was given this token, or follows the run's stream to the server."""
        with self._lock:
            self._tokens[run_id] = token
            self._tokens.move_to_end(run_id)
            if followed:
                self._followed.add(run_id)
            while len(self._tokens) > _MOST_TOKENS:
                self._followed.discard(self._tokens.popitem(last=False)[0])

    def is_followed(self, run_id: str) -> bool:
        """Tell whether a client was sent from here to the stream of a run at the server."""
        with self._lock:
            return run_id in self._followed

    def ended(self, run_id: str, response: Response, *, failed: bool = False) -> None:
        """Note how a run has ended, and wake who waits for it."""
        with self._lock:
            if run_id not in self._tokens:
                return
            self._keep(run_id, Ended(response, failed))
        self.waiters.wake((run_id,))

    def _keep(self, run_id: str, ended: Ended) -> None:
        before = self._responses.pop(run_id, None)
        self._responses[run_id] = ended
        self._size += _size(ended) - (_size(before) if before is not None else 0)
        while self._size > _MOST_BYTES:
            self._size -= _size(self._responses.popitem(last=False)[1])

    def knows(self, run_id: str, token: str) -> bool:
        """Tell whether this process has given out the token, for that run."""
        with self._lock:
            known = self._tokens.get(run_id, "")
        texts = (each.encode("utf-8", "replace") for each in (known, token))
        return bool(known) and hmac.compare_digest(*texts)

    def get(self, run_id: str, token: str) -> Ended | None:
        """Return the end of a run, if this process has it and has given out the token."""
        with self._lock:
            ended = self._responses.get(run_id)
        return ended if ended is not None and self.knows(run_id, token) else None


def _size(ended: Ended) -> int:
    response = ended.response
    assert isinstance(response.body, bytes)
    fields = sum(len(name) + len(value) for name, value in response.headers.items())
    return 1024 + fields + len(response.body)


def _do_nothing() -> None:
    """Nobody has to look for results while clients wait: they come by themselves."""


# --- waiting --------------------------------------------------------------------------------------

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
