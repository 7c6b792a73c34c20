"""Clients at the wait URL: the server is asked for the output of their run."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator

from durable_core.codec.tokens import is_ulid
from durable_core.errors import EngineUnavailableError
from durable_core.flow.handler import failure_response, store_unavailable_response
from durable_core.flow.handoff import PRIVATE_HEADERS, with_headers
from durable_core.flow.wait import (
    WaitRequest,
    not_ended_yet,
    refuse_incomplete,
    refuse_token,
    too_many_clients,
)
from durable_core.http.problem import problem
from durable_core.http.response import Response
from durable_core.model.decision import Fail
from durable_core.platform import run_logger
from durable_inngest._client import ServerClient
from durable_inngest._envelope import FAILED, MARK, load_response
from durable_inngest._execution import Ended, Results
from durable_inngest._followers import stream_response
from durable_inngest._http import Answered
from durable_inngest._streams import Channel, Emitter

__all__ = [
    "Watchers",
    "answer_of",
    "first_of",
    "refused",
    "wait_for_output",
    "watch_output",
]


# --- waiting --------------------------------------------------------------------------------------

_NOT_OPENED = "the token does not open this run, or has expired"


async def wait_for_output(client: ServerClient, results: Results, wanted: WaitRequest) -> Response:
    """Answer with the run's own response, or with where to ask again.

    The token is the server's, and it alone decides whether it opens the run.
    """
    answer = refused(wanted)
    if answer is not None:
        return answer
    local = results.get(wanted.run_id, wanted.token)
    if local is not None:
        return local.response
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(ended.set)
        except RuntimeError:
            pass  # the loop is closed, and the client with it

    if not results.waiters.add(wanted.run_id, wake):
        return too_many_clients()
    try:
        seconds = max(wanted.max_wait_ms / 1000, 0.01)
        said = await first_of(client, results, wanted, ended, seconds)
    except EngineUnavailableError as error:
        run_logger(wanted.run_id, "").error("a client that waits got no answer: %s", error)
        return store_unavailable_response(error)
    finally:
        results.waiters.remove(wanted.run_id, wake)
    if said is None:
        return not_ended_yet(wanted, wanted.token)
    return said.response if isinstance(said, Ended) else said


def refused(wanted: WaitRequest) -> Response | None:
    """Return the answer to who asks for what cannot be a run; the server is not asked."""
    missing = refuse_incomplete(wanted)
    if missing is not None or is_ulid(wanted.run_id):
        return missing
    return refuse_token(_NOT_OPENED)


async def first_of(
    client: ServerClient,
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
    asking = asyncio.ensure_future(client.output(wanted.run_id, wanted.token, seconds))
    ending = asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait((asking, ending), return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            return results.get(wanted.run_id, wanted.token)
        answered = asking.result()
    finally:
        for task in (asking, ending):
            task.cancel()
        await asyncio.wait((asking, ending))
    return None if answered is None else answer_of(answered, wanted.run_id)


def answer_of(answered: Answered, run_id: str) -> Ended | Response | None:
    """Return what an answer of the server says of a run; None if it goes on.

    A response alone is for a client that may not know.

    Args:
        answered: the server's answer.
        run_id: the run.

    Raises:
        EngineUnavailableError: it does not say.
    """
    if answered.status == 401 and MARK not in answered.headers:
        return refuse_token(_NOT_OPENED)
    try:
        response = load_response(answered.status, answered.headers, answered.body)
    except ValueError as error:
        return _failed(run_id, "Error", str(error))
    if response is not None:
        return Ended(response, failed=answered.headers.get(MARK) == FAILED)
    if answered.status != 200:
        raise EngineUnavailableError(f"the Inngest server answers {answered.status}")
    return _told(answered.body, run_id)


def _told(body: bytes, run_id: str) -> Ended | None:
    """Read what the server itself says of a run."""
    if not body:
        gone = problem(410, "run-cancelled", detail="the run was cancelled", run_id=run_id)
        return Ended(with_headers(gone, PRIVATE_HEADERS), failed=True)
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if isinstance(said, dict):
        if said.get("status") in ("running", "unknown") and "message" in said:
            return None
        kept = _kept(said.get("data"))
        if kept is not None:
            return Ended(kept, failed=True)
        name, message = said.get("name"), said.get("message")
        if isinstance(name, str) and isinstance(message, str):
            return _failed(run_id, name, message)
    # A result that no handler of ours has given, such as that of a run completed while attached.
    return Ended(Response(headers=(("content-type", "application/json"),), body=body))


def _kept(data: object) -> Response | None:
    """Return the response of a failed run, where the server hands its error out as it is."""
    if not isinstance(data, dict):
        return None
    status, headers, body = data.get("status"), data.get("headers"), data.get("body")
    if type(status) is not int or not isinstance(headers, dict) or not isinstance(body, str):
        return None
    try:
        fields = {str(name).lower(): str(value) for name, value in headers.items()}
        return load_response(status, fields, body.encode("utf-8"))
    except ValueError:
        return None


def _failed(run_id: str, name: str, message: str) -> Ended:
    """Return what clients get of a failure that the server alone knows; its text is not theirs."""
    fail = Fail("run-failed", name, message)
    return Ended(failure_response(fail, debug=False, run_id=run_id), failed=True)


# --- watching -------------------------------------------------------------------------------------
#
# Clients at the wait URL that want an event stream: what the run pushes here, and its end.
#
# Chunks that are made in this process are passed on as they come, to clients whose token it knows;
# chunks that are made elsewhere are at the server's own stream. The end comes from whichever knows
# it first. The token is the server's: where it is not known here, the server is asked first.

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
            return too_many_clients()
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
