"""Answering clients: a run is begun for each request, and what it answers goes to the client."""

from __future__ import annotations

import asyncio
from typing import Protocol

from durable_core.errors import StoreError
from durable_core.flow.current import Face
from durable_core.flow.env import Env
from durable_core.flow.execution import Execution
from durable_core.flow.handoff import fresh_token, referral
from durable_core.flow.serve import unavailable
from durable_core.machine.accept import accepts_stream
from durable_core.model.request import Request
from durable_core.model.response import Response
from durable_core.runtime.answering import Answering
from durable_core.runtime.host import Host
from durable_core.runtime.keeper import Keeper
from durable_core.runtime.logs import logger
from durable_core.runtime.marks import EventMark
from durable_core.runtime.pool import DaemonPool
from durable_core.runtime.running import Running
from durable_core.runtime.settings import Registered
from durable_core.runtime.streams.serving import StreamServing
from durable_core.wire.problem import problem

__all__ = ["Serving"]


class _Node(Host, Protocol):
    """What serving needs of its node."""

    env: Env
    event_mark: EventMark
    keeper: Keeper
    servers: DaemonPool


class Serving:
    """See the module.

    Args:
        node: the node.
        running: runs the executions.
        streaming: answers with event streams.
    """

    def __init__(self, node: _Node, running: Running, streaming: StreamServing) -> None:
        self._node = node
        self._streaming = streaming
        self._answering = Answering(node, running, _unanswered)

    def serve(self, endpoint: Registered, request: Request, route: str | None) -> Response:
        """Serve a client in this thread."""
        followed = accepts_stream(request.headers)
        if endpoint.face is Face.ASYNC and not followed:
            return self._node.loops.own.run(self.serve_async(endpoint, request, route))
        try:
            ex = self._execution_for(endpoint, request, route)
        except StoreError as error:
            return self._refuse(error)
        if followed:
            return self._streaming.serve(endpoint, ex)
        return self._answering.run(ex, endpoint)

    async def serve_async(
        self, endpoint: Registered, request: Request, route: str | None
    ) -> Response:
        """Serve a client of an asynchronous server."""
        loop = asyncio.get_running_loop()
        self._node.loops.adopt(loop)
        try:
            ex = self._execution_for(endpoint, request, route)
        except StoreError as error:
            return self._refuse(error)
        if accepts_stream(request.headers):
            return self._streaming.serve_async(endpoint, ex)
        return await self._answering.run_async(ex, endpoint)

    def _execution_for(
        self, endpoint: Registered, request: Request, route: str | None
    ) -> Execution:
        env, options = self._node.env, endpoint.options
        run = env.new_run(options, request, route, self._node.event_mark.recent())
        return Execution(env, options, run, request, owner=self._node.keeper.owner)

    def _refuse(self, error: StoreError) -> Response:
        logger.error("a request was refused, the store is unavailable: %s", error)
        return unavailable(error)


def _unanswered(ex: Execution) -> Response:
    """Return what a client gets if an execution was cut short before it could answer."""
    if ex.stored and ex.fault is None:
        token = fresh_token(ex.env, ex.run.id)
        return referral(ex.options, ex.request.method, ex.run.id, token)
    return problem(500, "internal-error", detail=f"run {ex.run.id} ended without an answer")
