"""One process's part in an application on a server: what is started and live in it."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from durable_core.engine.remote.execution import RemoteExecution
from durable_core.engine.remote.ops import OpQueue
from durable_core.engine.remote.streams import (
    StreamChannel,
    StreamEmitter,
    StreamForwarder,
    stream_response,
)
from durable_core.engine.remote.waiting import (
    Ended,
    Results,
    Subscribers,
    wait_for_output,
    watch_output,
)
from durable_core.engine.runs import RunExecutor
from durable_core.errors import EngineUnavailableError
from durable_core.flow.driver import await_values, drive_values
from durable_core.flow.env import AppConfig
from durable_core.flow.error_responses import store_unavailable_response
from durable_core.flow.execution import Execution
from durable_core.flow.flows import EngineFlows
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.scope import HandlerKind
from durable_core.flow.wait_url import WaitRequest
from durable_core.http.headers import accepts_event_stream
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.decision import HandoffReason
from durable_core.platform import logger, run_logger
from durable_core.runners.host import NoWatermark, RunHost
from durable_core.runners.observers import Observers
from durable_core.runners.settings import RegisteredEndpoint, Settings
from durable_core.runners.task import TaskRun
from durable_core.runners.thread import ThreadRun
from durable_core.runners.thread_pool import DaemonThreadPool

__all__ = ["RemoteHost", "ServerClient"]

T = TypeVar("T")

#: Runs whose end is waited for at a time, because a client follows their stream at the server; and
#: for how long, seconds and times: as long as the server keeps such a stream open.
_MOST_WATCHED = 32
_POLL = 310.0
_MOST_POLLS = 3
#: How long closing the connections of a loop may take, seconds.
_CLOSING = 2.0


class ServerClient(Protocol):
    """Calls the server from one event loop, on the loop's own thread only."""

    @property
    def is_reachable(self) -> bool:
        """Whether the server has answered lately: nobody needs to ask if it is there."""
        ...

    async def probe(self) -> None:
        """Make sure that the server answers.

        Raises:
            EngineUnavailableError: it does not.
        """
        ...

    async def close(self) -> None:
        """Close the kept connections; keep none from now on."""
        ...


C = TypeVar("C", bound=ServerClient)


class _How(NamedTuple):
    """How a request is served: in a thread, or in a task.

    Attributes:
        loop: where the server is called.
        wait: waits for what is done on that loop; in a task its driver does.
        start: runs an execution, and returns the answer or a coroutine of it.
        asynchronous: in a task.
    """

    loop: asyncio.AbstractEventLoop
    wait: Callable[[Coroutine[Any, Any, Any]], Any]
    start: Callable[[RemoteExecution], Any]
    asynchronous: bool


class RemoteHost(RunHost, Generic[C]):
    """Hosts the live runs of this process, and answers clients and the server.

    Args:
        env: the application.
        settings: threads and times.
        flows: what is done for a run.
        server_name: how the log calls the server.
    """

    def __init__(
        self, env: AppConfig, settings: Settings, flows: EngineFlows[Any], server_name: str
    ) -> None:
        super().__init__(
            flows,
            Observers(()),
            serving_threads=settings.serving_threads,
            max_own_wait=min(settings.max_own_wait, 1.0),  # the server waits for an answer
            unwind_time=settings.unwind_time,
        )
        self.pid = os.getpid()
        self.env = env
        self.server_name = server_name
        self.queue = OpQueue()
        self.event_watermark = NoWatermark()  # the server matches events
        # Plain functions do not wait for threads that handlers hold, which may take long.
        self.routes = DaemonThreadPool(settings.serving_threads, "durable-route")
        self.results = Results(env.limits.waiting_clients)
        self.subscribers = Subscribers()
        self._runs: RunExecutor[RemoteExecution] = RunExecutor(self, self.unanswered)
        self._clients: dict[asyncio.AbstractEventLoop, C] = {}
        self._forwarders: dict[asyncio.AbstractEventLoop, StreamForwarder] = {}
        self._watching: dict[asyncio.Task[None], asyncio.AbstractEventLoop] = {}

    # -- what differs from one server to another ---------------------------------------------

    @abstractmethod
    def make_client(self) -> C:
        """Return a client for one event loop."""

    @abstractmethod
    def make_forwarder(self, client: C, loop: asyncio.AbstractEventLoop) -> StreamForwarder:
        """Return what makes streams on a loop that the server passes on."""

    @abstractmethod
    def is_reentry(self, request: Request) -> bool:
        """Tell whether a request has the form of one from the server."""

    @abstractmethod
    def key_of(self, request: Request) -> str | None:
        """Return the key that has signed a request, "" where none is needed, None for nobody."""

    @abstractmethod
    def reject_caller(self) -> Response:
        """Return the answer to somebody who is not the server."""

    @abstractmethod
    def sign(self, response: Response, key: str) -> Response:
        """Return an answer to the server with a signature, if it needs one."""

    @abstractmethod
    async def load(
        self, client: C, options: ResolvedOptions, request: Request
    ) -> RemoteExecution | Response:
        """Return the execution that the server asks for, or the answer where there is none."""

    @abstractmethod
    def refuse(self, request: Request) -> Response | None:
        """Return the answer to a client's request that the server cannot keep; else None."""

    @abstractmethod
    def begin(
        self,
        client: C,
        loop: asyncio.AbstractEventLoop,
        options: ResolvedOptions,
        request: Request,
        route: str | None,
    ) -> RemoteExecution:
        """Return the execution of a new run for a client."""

    @abstractmethod
    async def ask(
        self, client: C, run_id: str, token: str, seconds: float
    ) -> Ended | Response | None:
        """Ask the server how a run has ended; see ``AskServer``."""

    @abstractmethod
    def unanswered(self, ex: RemoteExecution) -> Response:
        """Return the answer where an execution was cut short before it had one."""

    @abstractmethod
    def refuse_wait(self, wanted: WaitRequest) -> Response | None:
        """Return the answer to who waits for what cannot be a run; else None."""

    # -- requests ---------------------------------------------------------------------------

    def serve(self, endpoint: RegisteredEndpoint, request: Request, route: str | None) -> Response:
        """Answer a client, or the server, in this thread."""
        own, runs = self.loops.background_loop, self._runs
        follows = accepts_event_stream(request.headers) and not self.is_reentry(request)
        if not follows and endpoint.kind is HandlerKind.ASYNC_DEF:
            return own.run(self.serve_async(endpoint, request, route))
        how = _How(own.loop, own.run, partial(runs.start_for_client, endpoint), False)
        return drive_values(self._serve(how, endpoint, request, route))

    async def serve_async(
        self, endpoint: RegisteredEndpoint, request: Request, route: str | None
    ) -> Response:
        """Answer a client, or the server, on this event loop."""
        loop = asyncio.get_running_loop()
        if not self.loops.is_background_loop(loop):
            self.loops.adopt(loop)
        start = partial(self._runs.start_for_client_async, endpoint)
        how = _How(loop, lambda awaitable: awaitable, start, True)
        return await await_values(self._serve(how, endpoint, request, route))

    def _serve(
        self, how: _How, endpoint: RegisteredEndpoint, request: Request, route: str | None
    ) -> Generator[Any, Any, Response]:
        if self.is_reentry(request):
            key = self.key_of(request)
            if key is None:
                return self.reject_caller()
            loaded = yield how.wait(self._load(how.loop, endpoint.options, request))
            if isinstance(loaded, RemoteExecution):
                loaded = yield how.start(loaded)
            return self.sign(loaded, key)
        refusal = self.refuse(request)
        if refusal is not None:
            return refusal
        client = self.client_on(how.loop)
        try:
            if not client.is_reachable:
                yield how.wait(client.probe())
        except EngineUnavailableError as error:
            return _down(error)
        ex = self.begin(client, how.loop, endpoint.options, request, route)
        if accepts_event_stream(request.headers):
            channel = self._follow(ex, endpoint, how.loop)
            return stream_response(channel, asynchronous=how.asynchronous)
        response: Response = yield how.start(ex)
        return response

    async def wait(self, wanted: WaitRequest, *, asynchronous: bool) -> Response:
        """Answer a client at the wait URL, on this event loop.

        ``asynchronous``: a streamed body is for a task; else for a thread.
        """
        refusal = self.refuse_wait(wanted)
        if refusal is not None:
            return refusal
        ask = partial(self.ask, self.client_on(asyncio.get_running_loop()))
        if wanted.stream is None:
            return await wait_for_output(ask, self.results, wanted, asynchronous=asynchronous)
        return await watch_output(
            ask, self.results, self.subscribers, wanted, asynchronous=asynchronous
        )

    async def _load(
        self, loop: asyncio.AbstractEventLoop, options: ResolvedOptions, request: Request
    ) -> RemoteExecution | Response:
        client = self.client_on(loop)
        loaded = await self.load(client, options, request)
        if isinstance(loaded, RemoteExecution):
            loaded.stream_opener = self.forwarder_on(loop).open
        return loaded

    def _follow(
        self, ex: RemoteExecution, endpoint: RegisteredEndpoint, loop: asyncio.AbstractEventLoop
    ) -> StreamChannel:
        """Run an execution for a client that gets its stream; return that."""
        channel = StreamChannel()
        emitter = StreamEmitter(ex.run.id, channel)
        ex.followed, ex.stream = True, emitter
        if ex.reporter is not None:
            ex.reporter.stream = emitter
        execute = self.flows.execute(ex)
        if endpoint.kind is HandlerKind.ASYNC_DEF:
            run = TaskRun(self, ex, endpoint.handler, loop=loop)
            loop.call_soon_threadsafe(self._runs.run_in_task, run, execute, emitter.end)
        else:
            thread = ThreadRun(self, ex, endpoint.handler, own_thread=True)
            run_in_thread = self._runs.run_in_thread
            done = self.servers.submit(copy_context().run, run_in_thread, thread, execute)
            done.add_done_callback(lambda _: emitter.end())
        return channel

    def client_on(self, loop: asyncio.AbstractEventLoop) -> C:
        """Return the client for a loop; it is used on the loop's own thread only."""
        client = self._clients.get(loop)
        if client is None:
            kept = {each: known for each, known in self._clients.items() if not each.is_closed()}
            client = self.make_client()
            self._clients = {**kept, loop: client}
        return client

    def forwarder_on(self, loop: asyncio.AbstractEventLoop) -> StreamForwarder:
        """Return what makes streams on a loop that the server passes on."""
        forwarder = self._forwarders.get(loop)
        if forwarder is None:
            kept = {each: known for each, known in self._forwarders.items() if not each.is_closed()}
            forwarder = self.make_forwarder(self.client_on(loop), loop)
            self._forwarders = {**kept, loop: forwarder}
        return forwarder

    # -- streams that a client follows to the server -----------------------------------------

    def end_stream(self, run_id: str, token: str, loop: asyncio.AbstractEventLoop) -> None:
        """See that the server's stream of a run ends when the run does, from any thread.

        Where the run ends in a call of the server, it ends its stream itself. The server does not
        when it ends a run, such as one that is cancelled there.
        """
        loop.call_soon_threadsafe(self._watch_end, run_id, token, loop)

    def _watch_end(self, run_id: str, token: str, loop: asyncio.AbstractEventLoop) -> None:
        if len(self._watching) < _MOST_WATCHED and not self.stopping:
            task = loop.create_task(self._respond_at_end(run_id, token, loop))
            self._watching[task] = loop
            task.add_done_callback(self._watching.pop)

    async def _respond_at_end(
        self, run_id: str, token: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        try:
            for _ in range(_MOST_POLLS):
                said = await self.ask(self.client_on(loop), run_id, token, _POLL)
                if isinstance(said, Ended) and self.results.get(run_id, token) is None:
                    self.forwarder_on(loop).respond(run_id, said.response, said.failed)
                if said is not None:
                    return
        except EngineUnavailableError as error:
            run_logger(run_id, "").warning("the end of its stream is not told: %s", error)

    # -- what runs ask for ------------------------------------------------------------------

    def release_later(self, ex: Execution) -> None:
        """Log that a handler does not end; the server has the run, or never had it."""
        run_logger(ex.run.id, ex.run.function_id).warning("the handler was left to itself")

    # -- life -------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Return what runs in this process, as a JSON-ready dict."""
        return {
            "pid": self.pid,
            "server": self.server_name,
            "live_runs": len(self.live),
            "waiting_clients": len(self.results.waiters),
        }

    def has_tasks_on(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Tell whether runs are live on this loop."""
        return self.loops.server_loop is loop and self._runs.has_tasks

    def drain(self) -> None:
        """Hand every client on; the runs go on."""
        for live in self.live.all():
            live.detach(HandoffReason.DRAIN)
        self.results.waiters.release_all()

    def stop(self, timeout: float) -> None:
        """Hand every run over to the server after the step it is in; then let go."""
        self.stopping = True
        for live in self.live.all():
            live.detach(HandoffReason.DRAIN)
            live.stop()
        self.results.waiters.release_all()
        if not self.live.wait_until_empty(timeout):
            names = ", ".join(self.live.names())
            logger.warning("stopped while steps or responses were in flight: %s", names)
        for loop, client in self._clients.items():
            watching = [task for task, where in list(self._watching.items()) if where is loop]
            _finish(_close(client, watching), loop)
        for pool in (self.threads, self.servers, self.routes):
            pool.shutdown()
        self.loops.stop()


def _down(error: EngineUnavailableError) -> Response:
    logger.error("a request was refused before its handler ran: %s", error)
    return store_unavailable_response(error)


async def _close(client: ServerClient, watching: Sequence[asyncio.Task[None]]) -> None:
    """End what still asks the server, then close a client's connections."""
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    await client.close()


def _finish(closing: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> None:
    """Close something on its loop; one that is closed has closed all itself."""
    if loop.is_closed():
        closing.close()
        return
    if asyncio._get_running_loop() is loop:
        loop.create_task(closing)
        return
    try:
        asyncio.run_coroutine_threadsafe(closing, loop).result(_CLOSING)
    except (RuntimeError, TimeoutError):
        closing.close()
