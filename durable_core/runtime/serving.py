"""Answering clients: a run is begun for each request, and what it answers goes to the client."""

from __future__ import annotations

import asyncio
from typing import Protocol

from durable_core.errors import StoreError
from durable_core.flow.current import Face
from durable_core.flow.env import Env
from durable_core.flow.execution import Execution
from durable_core.flow.handoff import referral
from durable_core.flow.serve import execute, unavailable
from durable_core.model.commands import HandoffReason
from durable_core.model.request import Request
from durable_core.model.response import Response
from durable_core.model.run import Phase, Run
from durable_core.runtime.host import Host
from durable_core.runtime.keeper import Keeper
from durable_core.runtime.logs import logger
from durable_core.runtime.loops import call_soon
from durable_core.runtime.pool import DaemonPool
from durable_core.runtime.running import Running
from durable_core.runtime.settings import Registered
from durable_core.runtime.streamed import discard
from durable_core.runtime.tasks import TaskRun
from durable_core.runtime.threads import ThreadRun
from durable_core.wire.problem import problem

__all__ = ["Serving"]


class _Node(Host, Protocol):
    """What serving needs of its node."""

    env: Env
    keeper: Keeper
    servers: DaemonPool


class Serving:
    """See the module.

    Args:
        node: the node.
        running: runs the executions.
    """

    def __init__(self, node: _Node, running: Running) -> None:
        self._node = node
        self._running = running

    def serve(self, endpoint: Registered, request: Request, route: str | None) -> Response:
        """Serve a client in this thread."""
        if endpoint.face is Face.ASYNC:
            return self._node.loops.own.run(self.serve_async(endpoint, request, route))
        try:
            ex = self._execution_for(endpoint, request, route)
        except StoreError as error:
            return self._refuse(error)
        answers: list[Response] = []
        run = ThreadRun(self._node, ex, endpoint.handler, answers.append)
        self._running.in_thread(run, execute(ex))
        return answers[0] if answers else self._unanswered(ex)

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
        answered: asyncio.Future[Response] = loop.create_future()

        def reply(response: Response) -> None:
            if answered.done():  # the client is gone
                self._discard(response)
            else:
                answered.set_result(response)

        def ended() -> None:
            if not answered.done():
                answered.set_result(self._unanswered(ex))

        if endpoint.face is Face.ASYNC:
            task_run = TaskRun(self._node, ex, endpoint.handler, reply)
            live: TaskRun | ThreadRun = task_run
            self._running.in_task(task_run, execute(ex), ended)
        else:
            live = ThreadRun(
                self._node,
                ex,
                endpoint.handler,
                lambda response: call_soon(loop, reply, response),
                own_thread=True,
            )
            done = self._node.servers.submit(self._running.in_thread, live, execute(ex))
            done.add_done_callback(lambda _: call_soon(loop, ended))
        try:
            return await answered
        except asyncio.CancelledError:
            if answered.done() and not answered.cancelled():
                self._discard(answered.result())
            else:
                answered.cancel()
                self._client_gone(live)
            raise

    def _client_gone(self, live: TaskRun | ThreadRun) -> None:
        if isinstance(live, TaskRun):
            live.detach(HandoffReason.DISCONNECT)
            return
        try:
            # Detaching a thread commits, which must not block the loop.
            self._node.threads.submit(live.detach, HandoffReason.DISCONNECT)
        except RuntimeError:
            pass  # stopped: what was in flight has been detached or given up

    def _discard(self, response: Response) -> None:
        """See that the end of a streamed body is recorded although nobody sends it."""
        if response.is_streaming:
            self._running.keep(discard(response, self._node.threads))

    def _execution_for(
        self, endpoint: Registered, request: Request, route: str | None
    ) -> Execution:
        env, options = self._node.env, endpoint.options
        now = env.clock.now()
        run = Run(
            id=env.ids.ulid(now),
            app=env.app,
            endpoint_key=options.key,
            function_id=env.function_id(options, request, route),
            phase=Phase.SYNC,
            retries=options.retries,
            created_at=now,
            mark=self._node.event_mark.exact(),
        )
        return Execution(env, options, run, request, owner=self._node.keeper.owner)

    def _refuse(self, error: StoreError) -> Response:
        logger.error("a request was refused, the store is unavailable: %s", error)
        return unavailable(error)

    def _unanswered(self, ex: Execution) -> Response:
        """Return what a client gets if an execution was cut short before it could answer."""
        if ex.stored and ex.fault is None:
            return referral(ex.env, ex.options, ex.request.method, ex.run.id)
        return problem(500, "internal-error", detail=f"run {ex.run.id} ended without an answer")
