"""Running an execution for a client that waits: what it answers goes to the client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from durable_core.flow.current import Face
from durable_core.flow.execution import Execution
from durable_core.model.commands import HandoffReason
from durable_core.model.response import Response
from durable_core.runtime.host import Host
from durable_core.runtime.loops import call_soon
from durable_core.runtime.pool import DaemonPool
from durable_core.runtime.running import Running
from durable_core.runtime.settings import Registered
from durable_core.runtime.streamed import discard
from durable_core.runtime.tasks import TaskRun
from durable_core.runtime.threads import ThreadRun

__all__ = ["Answering"]


class _Node(Host, Protocol):
    """What answering needs of its node."""

    servers: DaemonPool


class Answering:
    """See the module.

    Args:
        node: the node.
        running: runs the executions.
        unanswered: makes the answer of an execution that was cut short before it had one.
    """

    def __init__(
        self, node: _Node, running: Running, unanswered: Callable[[Execution], Response]
    ) -> None:
        self._node = node
        self._running = running
        self._unanswered = unanswered

    def run(self, ex: Execution, endpoint: Registered) -> Response:
        """Run a ``def`` handler in this thread, and return what it answers."""
        answers: list[Response] = []
        run = ThreadRun(self._node, ex, endpoint.handler, answers.append)
        self._running.in_thread(run, self._node.flows.execute(ex))
        return answers[0] if answers else self._unanswered(ex)

    async def run_async(self, ex: Execution, endpoint: Registered) -> Response:
        """Run a handler for a client of an asynchronous server, and return what it answers.

        Cancelling it means that the client is gone; the execution goes on.
        """
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Response] = loop.create_future()
        execute = self._node.flows.execute

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
