"""What the engine does for servers and applications; how it is set up is ``_engine``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn, TypeVar

from durable_core.errors import ConfigurationError, EngineError
from durable_core.flow.env import Env, Limits
from durable_core.flow.handoff import with_headers
from durable_core.flow.wait import WaitRequest
from durable_core.model.events import Event
from durable_core.model.request import Request
from durable_core.model.response import Response
from durable_core.model.run import Phase
from durable_core.ports import RunRecord, Store
from durable_core.runtime.settings import Registered, add_endpoint
from durable_core.wire.problem import problem
from durable_inngest._events import dump_events, seed_of
from durable_inngest._life import Life, running_loop
from durable_inngest._node import Node
from durable_inngest._reentry import is_reentry
from durable_inngest._waiting import wait_for_output
from durable_inngest._watching import watch_output

__all__ = ["BaseEngine"]

T = TypeVar("T")


class BaseEngine:
    """See ``durable_core.api.engine.Engine`` for what each method promises.

    Args:
        make: makes the node of a process.
    """

    name = "the Inngest engine"
    store: Store | None = None

    #: What all runs of the application share; set by :meth:`attach`.
    env: Env

    def __init__(self, make: Callable[[], Node]) -> None:
        self._life = Life(make)
        self.endpoints: dict[str, Registered] = {}

    @property
    def limits(self) -> Limits:
        """The upper bounds of the application."""
        return self.env.limits

    def attach(self, env: Env) -> None:
        """Work for this application."""
        if hasattr(self, "env"):
            raise ConfigurationError(f"the engine works for {self.env.app!r} already")
        self.env = env

    def register(self, endpoint: Registered) -> None:
        """Add an endpoint."""
        add_endpoint(self.endpoints, endpoint)

    # -- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Check the configuration, and be ready in this process; the server is not called."""
        node = self._life.started()
        loop = running_loop()
        if loop is not None:
            node.loops.adopt(loop)

    def stop(self, timeout: float) -> None:
        """Hand runs in flight over to the server, after the step they are in."""
        self._life.stop(timeout)

    def health(self) -> dict[str, Any]:
        """Return what runs in this process, as a JSON-ready dict; starts nothing."""
        node = self._life.node
        if node is None:
            return {"app": self.env.app, "started": False}
        return {
            "app": self.env.app,
            "started": True,
            "pid": node.pid,
            "server": node.config.api_url,
            "live_runs": len(node.live),
            "waiting_clients": len(node.results.waiters),
            "endpoints": sorted(self.endpoints),
        }

    # -- requests ---------------------------------------------------------------------------

    def is_reentry(self, request: Request) -> bool:
        """Tell whether a request has the headers of one from the server."""
        return is_reentry(request)

    def serve(self, endpoint: Registered, request: Request, route: str | None) -> Response:
        """Answer a client, or the server, in this thread."""
        if self._life.stopping:
            return _shutting_down()
        return self._life.started().serving.serve(endpoint, request, route)

    async def serve_async(
        self, endpoint: Registered, request: Request, route: str | None
    ) -> Response:
        """Answer a client, or the server, on an event loop."""
        if self._life.stopping:
            return _shutting_down()
        return await self._life.started().serving.serve_async(endpoint, request, route)

    def wait(self, wanted: WaitRequest) -> Response:
        """Answer a client at the wait URL, in this thread."""
        return self.await_elsewhere(self._wait(wanted, asynchronous=False))

    async def wait_async(self, wanted: WaitRequest) -> Response:
        """Answer a client at the wait URL."""
        return await self._wait(wanted, asynchronous=True)

    async def _wait(self, wanted: WaitRequest, *, asynchronous: bool) -> Response:
        node = self._life.started()
        client = node.client_on(asyncio.get_running_loop())
        if wanted.stream is not None:
            return await watch_output(
                client, node.results, node.watchers, wanted, asynchronous=asynchronous
            )
        return await wait_for_output(client, node.results, wanted)

    def await_elsewhere(self, awaitable: Awaitable[T]) -> T:
        """Await something on the node's own event loop."""
        return self._life.started().await_elsewhere(awaitable)

    async def call_in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Call a plain function without blocking the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._life.started().servers, function, *args)

    # -- events and runs --------------------------------------------------------------------

    def send(self, events: Sequence[Event]) -> Sequence[str]:
        """Send events; return the ids that the server gives them."""
        return self.await_elsewhere(self.send_async(events))

    async def send_async(self, events: Sequence[Event]) -> Sequence[str]:
        """Send events; return the ids that the server gives them."""
        now = self.env.clock.now()
        client = self._life.started().client_on(asyncio.get_running_loop())
        return await client.send(dump_events(events, now), seed_of(now, os.urandom(10)))

    def get(self, run_id: str) -> RunRecord | None:
        """Refuse: the server shows its runs."""
        self._refuse("show runs")

    def list(self, phase: Phase | None, before: str | None, limit: int) -> Sequence[RunRecord]:
        """Refuse: the server lists its runs."""
        self._refuse("list runs")

    def cancel(self, run_id: str) -> bool:
        """Refuse: the server cancels its runs."""
        self._refuse("cancel runs")

    def _refuse(self, what: str) -> NoReturn:
        raise EngineError(
            f"{self.name} cannot {what}: they are kept on the server, whose pages and API do that"
        )


def _shutting_down() -> Response:
    response = problem(503, "shutting-down", detail="the server is shutting down")
    return with_headers(response, (("retry-after", "1"),))
