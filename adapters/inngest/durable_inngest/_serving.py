"""Answering clients, and the server when it calls again."""

from __future__ import annotations

import asyncio
import json
from typing import Protocol

from durable_core.errors import EngineUnavailableError
from durable_core.flow.current import Face
from durable_core.flow.env import Env, Options
from durable_core.flow.execution import Execution
from durable_core.flow.handoff import referral
from durable_core.flow.serve import unavailable
from durable_core.machine.accept import accepts_stream
from durable_core.model.request import Request
from durable_core.model.response import Response
from durable_core.runtime.answering import Answering
from durable_core.runtime.host import Host
from durable_core.runtime.logs import logger
from durable_core.runtime.pool import DaemonPool
from durable_core.runtime.running import Running
from durable_core.runtime.settings import Registered
from durable_core.wire.problem import problem
from durable_inngest._answers import internal_error
from durable_inngest._calls import Calls
from durable_inngest._client import ServerClient
from durable_inngest._config import Config
from durable_inngest._execution import RemoteExecution, remote
from durable_inngest._following import follow, stream_response
from durable_inngest._link import Link
from durable_inngest._reentry import Door, is_reentry, load_execution
from durable_inngest._requests import dump_request, function_of, refused, with_origin
from durable_inngest._results import Results
from durable_inngest._tee import Tee
from durable_inngest._watching import Watchers

__all__ = ["Serving"]


class _Node(Host, Protocol):
    """What serving needs of its node."""

    env: Env
    config: Config
    calls: Calls
    results: Results
    watchers: Watchers
    running: Running
    servers: DaemonPool

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
        self._answering = Answering(node, node.running, _unanswered)
        self._tees: dict[asyncio.AbstractEventLoop, Tee] = {}
        self._output_url = node.calls.output_url if server_output_url else None

    def serve(self, endpoint: Registered, request: Request, route: str | None) -> Response:
        """Serve in this thread."""
        own = self._node.loops.own
        follows = accepts_stream(request.headers) and not is_reentry(request)
        if not follows and endpoint.face is Face.ASYNC:
            return own.run(self.serve_async(endpoint, request, route))
        if is_reentry(request):
            key = self._door.key_of(request)
            if key is None:
                return self._door.refusal()
            loaded = own.run(self._load(own.loop, endpoint.options, request))
            if isinstance(loaded, RemoteExecution):
                loaded = self._answering.run(loaded, endpoint)
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
        return self._answering.run(ex, endpoint)

    async def serve_async(
        self, endpoint: Registered, request: Request, route: str | None
    ) -> Response:
        """Serve on this event loop."""
        loop = asyncio.get_running_loop()
        if not self._node.loops.is_own(loop):
            self._node.loops.adopt(loop)
        client = self._node.client_on(loop)
        if is_reentry(request):
            key = self._door.key_of(request)
            if key is None:
                return self._door.refusal()
            loaded = await self._load(loop, endpoint.options, request)
            if isinstance(loaded, RemoteExecution):
                loaded = await self._answering.run_async(loaded, endpoint)
            return self._door.signed(loaded, key)
        refusal = refused(request, self._node.config)
        if refusal is not None:
            return refusal
        try:
            await client.reach()
        except EngineUnavailableError as error:
            return _down(error)
        ex = self._attached(client, loop, endpoint.options, request, route)
        if accepts_stream(request.headers):
            return stream_response(follow(self._node, ex, endpoint, loop), asynchronous=True)
        return await self._answering.run_async(ex, endpoint)

    async def _load(
        self, loop: asyncio.AbstractEventLoop, options: Options, request: Request
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
        options: Options,
        request: Request,
        route: str | None,
    ) -> RemoteExecution:
        env = self._node.env
        run = env.new_run(options, request, route)
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
    return unavailable(error)


def _unanswered(execution: Execution) -> Response:
    """Return what is answered where an execution was cut short before it could."""
    ex = remote(execution)
    if ex.link is None:
        return internal_error(RuntimeError("the execution ended without an answer"))
    if ex.fault is None and ex.link.begun is not None and ex.link.begun.token:
        return referral(ex.options, ex.request.method, ex.run.id, ex.link.begun.token)
    return problem(500, "internal-error", detail=f"run {ex.run.id} ended without an answer")
