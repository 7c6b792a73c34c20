"""One process's part in an application on the server: what is started and live in it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from durable_core.flow.current import Scope
from durable_core.flow.env import Env
from durable_core.flow.execution import Execution
from durable_core.flow.flows import Flows
from durable_core.model.commands import HandoffReason
from durable_core.runtime.live import LiveRuns
from durable_core.runtime.logs import logger, run_logger
from durable_core.runtime.loops import Loops
from durable_core.runtime.pool import DaemonPool
from durable_core.runtime.running import Running
from durable_core.runtime.settings import Settings
from durable_inngest._calls import Calls
from durable_inngest._client import ServerClient
from durable_inngest._config import Config
from durable_inngest._events import sending
from durable_inngest._reports import Reports
from durable_inngest._results import Results
from durable_inngest._serve import detach, execute, put_away
from durable_inngest._serving import Serving
from durable_inngest._steps import run_step, sleep_until, wait_for_event
from durable_inngest._watching import Watchers

__all__ = ["Node"]

T = TypeVar("T")

#: How long closing the connections of a loop may take, seconds.
_CLOSING = 2.0


class _NoMark:
    """Events are matched by the server, which counts them for itself."""

    def recent(self) -> int:
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
        self, env: Env, config: Config, settings: Settings, *, server_output_url: bool = False
    ) -> None:
        self.pid = os.getpid()
        self.env = env
        self.config = config
        self.settle_time = min(settings.settle_time, 0.005)
        self.unwind_time = settings.unwind_time
        self.stopping = False
        self.live = LiveRuns()
        self.queue = Reports()
        self.event_mark = _NoMark()
        self.threads = DaemonPool(settings.serving_threads, "durable-step")
        self.servers = DaemonPool(settings.serving_threads, "durable-serve")
        self.loops = Loops()
        self.running = Running(self)
        self.results = Results(env.limits.waiting_clients)
        self.watchers = Watchers()
        self.calls = Calls(config)
        self._clients: dict[asyncio.AbstractEventLoop, ServerClient] = {}
        self.flows = Flows(
            run_step=run_step,
            sleep_until=sleep_until,
            wait_for_event=wait_for_event,
            send_events=sending(self._send),
            execute=execute,
            put_away=put_away,
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

    def give_up(self, ex: Execution) -> None:
        """Log that a handler does not end; the server has the run, or never had it."""
        run_logger(ex.run.id, ex.run.function_id).warning("the handler was left to itself")

    def scope(self, run: Scope) -> Scope:
        """Return what the code of a handler reaches as its run."""
        return run

    def await_elsewhere(self, awaitable: Awaitable[T]) -> T:
        """Await something on the node's own event loop."""
        return self.loops.own.run(awaitable)

    # -- life -------------------------------------------------------------------------------

    def has_tasks_on(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Tell whether runs are live on this loop."""
        return self.loops.adopted is loop and self.running.has_tasks

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
