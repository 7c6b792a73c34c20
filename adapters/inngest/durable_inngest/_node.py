"""One process's part in an application on the server: what is started and live in it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from durable_core.engine.runs import RunExecutor
from durable_core.errors import EngineUnavailableError
from durable_core.flow.env import AppConfig, ResolvedOptions
from durable_core.flow.execution import Execution, new_run
from durable_core.flow.handler import store_unavailable_response
from durable_core.flow.handoff import handoff_response
from durable_core.flow.scope import EngineFlows, HandlerKind, RunScope
from durable_core.http.headers import accepts_event_stream
from durable_core.http.problem import problem
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.decision import HandoffReason
from durable_core.platform import logger, run_logger
from durable_core.runners.event_loops import Loops
from durable_core.runners.host import RunHost
from durable_core.runners.live import ActiveRuns
from durable_core.runners.settings import RegisteredEndpoint, Settings
from durable_core.runners.thread_pool import DaemonThreadPool
from durable_inngest._api import Calls
from durable_inngest._client import ServerClient
from durable_inngest._config import Config
from durable_inngest._envelope import dump_request, function_of, refused, with_origin
from durable_inngest._execution import RemoteExecution, Results
from durable_inngest._followers import Tee, follow, stream_response
from durable_inngest._handler import detach, execute, suspend
from durable_inngest._link import Link, Reports
from durable_inngest._reentry import Door, internal_error, is_reentry, load_execution
from durable_inngest._steps import run_step, sending, sleep_until, wait_for_event
from durable_inngest._waiting import Watchers

__all__ = [
    "Node",
    "Serving",
]


# --- serving --------------------------------------------------------------------------------------
#
# Answering clients, and the server when it calls again.


class _Node(RunHost, Protocol):
    """What serving needs of its node."""

    env: AppConfig
    config: Config
    calls: Calls
    results: Results
    watchers: Watchers
    running: RunExecutor[RemoteExecution]
    servers: DaemonThreadPool

    def client_on(self, loop: asyncio.AbstractEventLoop) -> ServerClient:
        """Return the client for a loop."""
        ...


class Serving:
    """See the module.

    Args:
        node: hosts the runs.
        server_output_url: hand clients off to the server's own output URL.
    """

    def __init__(self, node: _Node, *, server_output_url: bool) -> None:
        self._node = node
        self._door = Door(node.config, node.env.clock.now)
        self._tees: dict[asyncio.AbstractEventLoop, Tee] = {}
        self._output_url = node.calls.output_url if server_output_url else None

    def serve(self, endpoint: RegisteredEndpoint, request: Request, route: str | None) -> Response:
        """Serve in this thread."""
        own = self._node.loops.background_loop
        follows = accepts_event_stream(request.headers) and not is_reentry(request)
        if not follows and endpoint.kind is HandlerKind.ASYNC_DEF:
            return own.run(self.serve_async(endpoint, request, route))
        if is_reentry(request):
            key = self._door.key_of(request)
            if key is None:
                return self._door.refusal()
            loaded = own.run(self._load(own.loop, endpoint.options, request))
            if isinstance(loaded, RemoteExecution):
                loaded = self._node.running.start_for_client(endpoint, loaded)
            return self._door.signed(loaded, key)
        client = self._node.client_on(own.loop)
        refusal = refused(request, self._node.config)
        if refusal is not None:
            return refusal
        try:
            if not client.is_sure:
                own.run(client.reach())
        except EngineUnavailableError as error:
            return _down(error)
        ex = self._attached(client, own.loop, endpoint.options, request, route)
        if follows:
            channel = follow(self._node, ex, endpoint, own.loop)
            return stream_response(channel, asynchronous=False)
        return self._node.running.start_for_client(endpoint, ex)

    async def serve_async(
        self, endpoint: RegisteredEndpoint, request: Request, route: str | None
    ) -> Response:
        """Serve on this event loop."""
        loop = asyncio.get_running_loop()
        if not self._node.loops.is_background_loop(loop):
            self._node.loops.adopt(loop)
        client = self._node.client_on(loop)
        if is_reentry(request):
            key = self._door.key_of(request)
            if key is None:
                return self._door.refusal()
            loaded = await self._load(loop, endpoint.options, request)
            if isinstance(loaded, RemoteExecution):
                loaded = await self._node.running.start_for_client_async(endpoint, loaded)
            return self._door.signed(loaded, key)
        refusal = refused(request, self._node.config)
        if refusal is not None:
            return refusal
        try:
            await client.reach()
        except EngineUnavailableError as error:
            return _down(error)
        ex = self._attached(client, loop, endpoint.options, request, route)
        if accepts_event_stream(request.headers):
            return stream_response(follow(self._node, ex, endpoint, loop), asynchronous=True)
        return await self._node.running.start_for_client_async(endpoint, ex)

    async def _load(
        self, loop: asyncio.AbstractEventLoop, options: ResolvedOptions, request: Request
    ) -> RemoteExecution | Response:
        client, node = self._node.client_on(loop), self._node
        loaded = await load_execution(
            client,
            node.env,
            options,
            request,
            node.results,
            any_path=bool(node.config.serve_path),
        )
        if isinstance(loaded, RemoteExecution):
            tee = self._tees.get(loop)
            if tee is None:
                kept = {each: tee for each, tee in self._tees.items() if not each.is_closed()}
                tee = Tee(client, loop, node.watchers.tell)
                self._tees = {**kept, loop: tee}
            loaded.stream_opener = tee.open
        return loaded

    def _attached(
        self,
        client: ServerClient,
        loop: asyncio.AbstractEventLoop,
        options: ResolvedOptions,
        request: Request,
        route: str | None,
    ) -> RemoteExecution:
        env = self._node.env
        run = new_run(env, options, request, route)
        # One name for all paths of a route: the server lists every path as a function otherwise.
        is_template = route is not None and "{" in route
        fn = options.function_id or (run.function_id if is_template else "")
        event = dump_request(request, self._node.config, fn)
        link = Link(
            client,
            loop,
            env.clock,
            run.id,
            function_of(event),
            json.dumps(event, ensure_ascii=False),
            run.retries,
        )
        return RemoteExecution(
            env,
            options,
            run,
            with_origin(request, self._node.config.serve_origin),
            link=link,
            results=self._node.results,
            output_url=self._output_url,
        )


def _down(error: EngineUnavailableError) -> Response:
    logger.error("a request was refused before its handler ran: %s", error)
    return store_unavailable_response(error)


def _unanswered(ex: RemoteExecution) -> Response:
    """Return what is answered where an execution was cut short before it could."""
    if ex.link is None:
        return internal_error(RuntimeError("the execution ended without an answer"))
    if ex.fault is None and ex.link.begun is not None and ex.link.begun.token:
        return handoff_response(ex.options, ex.request.method, ex.run.id, ex.link.begun.token)
    return problem(500, "internal-error", detail=f"run {ex.run.id} ended without an answer")


# --- node -----------------------------------------------------------------------------------------

T = TypeVar("T")

#: How long closing the connections of a loop may take, seconds.
_CLOSING = 2.0


class _NoMark:
    """Events are matched by the server, which counts them for itself."""

    def recent(self) -> int:
        """Return 0."""
        return 0

    def recent_async(self) -> int:
        """Return 0."""
        return 0


class Node:
    """Hosts the live runs of this process.

    Args:
        env: the application.
        config: the server.
        settings: threads and times.
        server_output_url: hand clients off to the server's own output URL.
    """

    def __init__(
        self, env: AppConfig, config: Config, settings: Settings, *, server_output_url: bool = False
    ) -> None:
        self.pid = os.getpid()
        self.env = env
        self.config = config
        self.max_own_wait = min(settings.max_own_wait, 1.0)  # the server waits for an answer
        self.unwind_time = settings.unwind_time
        self.stopping = False
        self.wrap_scope: Callable[[RunScope], RunScope] | None = None
        self.live = ActiveRuns()
        self.queue = Reports()
        self.event_watermark = _NoMark()
        self.threads = DaemonThreadPool(settings.serving_threads, "durable-step")
        self.servers = DaemonThreadPool(settings.serving_threads, "durable-serve")
        self.loops = Loops()
        self.running = RunExecutor(self, _unanswered)
        self.results = Results(env.limits.waiting_clients)
        self.watchers = Watchers()
        self.calls = Calls(config)
        self._clients: dict[asyncio.AbstractEventLoop, ServerClient] = {}
        self.flows = EngineFlows(
            run_step=run_step,
            sleep_until=sleep_until,
            wait_for_event=wait_for_event,
            send_events=sending(self._send),
            execute=execute,
            suspend=suspend,
            detach=detach,
        )
        self.serving = Serving(self, server_output_url=server_output_url)

    # -- what serving asks for --------------------------------------------------------------

    def client_on(self, loop: asyncio.AbstractEventLoop) -> ServerClient:
        """Return the client for a loop; it is used on the loop's own thread only."""
        client = self._clients.get(loop)
        if client is None:
            kept = {each: known for each, known in self._clients.items() if not each.is_closed()}
            client = ServerClient(self.calls, self.env.ids)
            self._clients = {**kept, loop: client}
        return client

    async def _send(self, events: Sequence[object], seed: str) -> list[str]:
        client = self.client_on(asyncio.get_running_loop())
        return await client.send(events, seed)

    # -- what runs ask for ------------------------------------------------------------------

    def release_later(self, ex: Execution) -> None:
        """Log that a handler does not end; the server has the run, or never had it."""
        run_logger(ex.run.id, ex.run.function_id).warning("the handler was left to itself")

    def run_on_background_loop(self, awaitable: Awaitable[T]) -> T:
        """Await something on the node's own event loop."""
        return self.loops.background_loop.run(awaitable)

    # -- life -------------------------------------------------------------------------------

    def has_tasks_on(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Tell whether runs are live on this loop."""
        return self.loops.server_loop is loop and self.running.has_tasks

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
            _close(client, loop)
        for pool in (self.threads, self.servers):
            pool.shutdown()
        self.loops.stop()


def _close(client: ServerClient, loop: asyncio.AbstractEventLoop) -> None:
    """Close a client's connections on its loop; one that is closed has closed them itself."""
    if loop.is_closed():
        return
    closing = client.close()
    if asyncio._get_running_loop() is loop:
        loop.create_task(closing)
        return
    try:
        asyncio.run_coroutine_threadsafe(closing, loop).result(_CLOSING)
    except (RuntimeError, TimeoutError):
        closing.close()
