"""The engine, and how it is set up: ``Durable(id=..., engine=InngestEngine())``."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

from durable_core.errors import ConfigurationError, EngineError
from durable_core.flow.env import AppConfig, Limits
from durable_core.flow.handoff import with_headers
from durable_core.flow.wait import WaitRequest
from durable_core.http.problem import problem
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.event import Event
from durable_core.platform import check_threading, logger
from durable_core.ports import RunFilter, RunRecord, Store
from durable_core.runners.settings import RegisteredEndpoint, Settings, add_endpoint
from durable_inngest._config import Config, resolve_config
from durable_inngest._node import Node
from durable_inngest._reentry import is_reentry
from durable_inngest._steps import dump_events, seed_of
from durable_inngest._waiting import wait_for_output, watch_output

__all__ = [
    "BaseEngine",
    "InngestEngine",
    "Life",
    "running_loop",
]


# --- life -----------------------------------------------------------------------------------------
#
# The node of the process that asks: started once, left alone after a fork, stopped at exit.


class Life:
    """See the module.

    Args:
        make: makes the node.
    """

    def __init__(self, make: Callable[[], Node]) -> None:
        self._make = make
        self._node: Node | None = None
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._at_exit = False
        #: A stop is under way.
        self.stopping = False

    @property
    def node(self) -> Node | None:
        """The node of this process, if it was started."""
        node = self._node
        return node if node is not None and node.pid == os.getpid() else None

    def started(self) -> Node:
        """Return the node of this process, started now if it was not.

        Raises:
            ConfigurationError: the engine is set up wrongly, or threads do not work here.
        """
        node = self.node
        if node is not None:
            return node
        if self._pid != os.getpid():
            # A fork may have happened while a thread of the parent held the lock.
            self._lock, self._pid, self.stopping = threading.RLock(), os.getpid(), False
        with self._lock:
            node = self.node
            if node is None:
                check_threading()
                node = self._node = self._make()
                how = ", for development: its calls are not verified" if node.config.is_dev else ""
                logger.info("%s started, with %s%s", node.env.app, node.config.api_url, how)
                if not self._at_exit:
                    self._at_exit = True
                    atexit.register(self._stop_at_exit)
            return node

    def stop(self, timeout: float) -> None:
        """Stop the node of this process, if there is one.

        Raises:
            RuntimeError: called on the event loop that its runs need.
        """
        node = self.node
        if node is None:
            return
        if running_loop() is not None and node.has_tasks_on(running_loop()):
            raise RuntimeError(
                "stop() would block the event loop that its runs need; use 'await stop_async()'"
            )
        with self._lock:
            if self._node is not node:
                return
            self.stopping = True
            try:
                node.stop(timeout)
            finally:
                self._node = None
                self.stopping = False

    def _stop_at_exit(self) -> None:
        try:
            self.stop(10.0)
        except Exception:
            logger.exception("could not stop in good order")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop of this thread, if one runs."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


# --- base -----------------------------------------------------------------------------------------
#
# What the engine does for servers and applications; how it is set up is ``_engine``.

T = TypeVar("T")


class BaseEngine:
    """See ``durable_core.api.engine.Engine`` for what each method promises.

    Args:
        make: makes the node of a process.
    """

    name = "the Inngest engine"
    store: Store | None = None

    #: What all runs of the application share; set by :meth:`attach`.
    env: AppConfig

    def __init__(self, make: Callable[[], Node]) -> None:
        self._life = Life(make)
        self.endpoints: dict[str, RegisteredEndpoint] = {}

    @property
    def limits(self) -> Limits:
        """The upper bounds of the application."""
        return self.env.limits

    def attach(self, env: AppConfig) -> None:
        """Work for this application."""
        if hasattr(self, "env"):
            raise ConfigurationError(f"the engine works for {self.env.app!r} already")
        self.env = env

    def register(self, endpoint: RegisteredEndpoint) -> None:
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

    def serve(self, endpoint: RegisteredEndpoint, request: Request, route: str | None) -> Response:
        """Answer a client, or the server, in this thread."""
        if self._life.stopping:
            return _shutting_down()
        return self._life.started().serving.serve(endpoint, request, route)

    async def serve_async(
        self, endpoint: RegisteredEndpoint, request: Request, route: str | None
    ) -> Response:
        """Answer a client, or the server, on an event loop."""
        if self._life.stopping:
            return _shutting_down()
        return await self._life.started().serving.serve_async(endpoint, request, route)

    def wait(self, wanted: WaitRequest) -> Response:
        """Answer a client at the wait URL, in this thread."""
        return self.run_on_background_loop(self._wait(wanted, asynchronous=False))

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

    def run_on_background_loop(self, awaitable: Awaitable[T]) -> T:
        """Await something on the node's own event loop."""
        return self._life.started().run_on_background_loop(awaitable)

    async def call_in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Call a plain function without blocking the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._life.started().servers, function, *args)

    # -- events and runs --------------------------------------------------------------------

    def send(self, events: Sequence[Event], source: str = "") -> Sequence[str]:
        """Send events; return the ids that the server gives them."""
        return self.run_on_background_loop(self.send_async(events, source))

    async def send_async(self, events: Sequence[Event], source: str = "") -> Sequence[str]:
        """As :meth:`send`. The server tells no sources apart: it has one set of event ids."""
        now = self.env.clock.now()
        client = self._life.started().client_on(asyncio.get_running_loop())
        return await client.send(dump_events(events, now), seed_of(now, os.urandom(10)))

    def get(self, run_id: str) -> RunRecord | None:
        """Refuse: the server shows its runs."""
        self._refuse("show runs")

    def list(self, where: RunFilter, limit: int) -> Sequence[RunRecord]:
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


# --- engine ---------------------------------------------------------------------------------------


class InngestEngine(BaseEngine):
    """Runs endpoints on an Inngest server: ``Durable(id=..., engine=InngestEngine())``.

    What is not given is taken from the environment, when the engine starts.

    Args:
        is_dev: the server is a development server, which signs nothing (``INNGEST_DEV``: ``1``,
            ``0``, or its URL). Default: no.
        base_url: of the server (``INNGEST_API_BASE_URL``, ``INNGEST_BASE_URL``).
        event_base_url: where events are sent, if elsewhere (``INNGEST_EVENT_API_BASE_URL``).
        event_key: what they are sent with; needed for that unless ``is_dev``
            (``INNGEST_EVENT_KEY``).
        signing_key: proves both sides to each other; needed unless ``is_dev``
            (``INNGEST_SIGNING_KEY``).
        signing_key_fallback: for the time of a change of keys (``INNGEST_SIGNING_KEY_FALLBACK``).
        environment: the server's environment (``INNGEST_ENV``).
        serve_origin, serve_path: our URL as the server must call it, where a proxy changes it
            (``INNGEST_SERVE_ORIGIN``, ``INNGEST_SERVE_PATH``).
        allowed_hosts: hosts for which the server may be sent to the URL that a client has used,
            such as ``["shop.example", "*.shop.example:8443"]``; ``["*"]`` for any, where
            something before the application checks that. A request for another one gets 421.
            Default: any where ``serve_origin`` or a development server makes it harmless, this
            machine if the server is there, too; else one of both must be given.
        server_output_url: hand clients off to the server's own output URL, which loses what is
            not text, repeated headers and the status of failed runs.
        settings: threads and times of the process.
    """

    def __init__(
        self,
        *,
        is_dev: bool | None = None,
        base_url: str | None = None,
        event_base_url: str | None = None,
        event_key: str | None = None,
        signing_key: str | None = None,
        signing_key_fallback: str | None = None,
        environment: str | None = None,
        serve_origin: str | None = None,
        serve_path: str | None = None,
        allowed_hosts: Sequence[str] | None = None,
        server_output_url: bool = False,
        settings: Settings | None = None,
    ) -> None:
        self._resolve = partial(
            resolve_config,
            is_dev=is_dev,
            base_url=base_url,
            event_base_url=event_base_url,
            event_key=event_key,
            signing_key=signing_key,
            signing_key_fallback=signing_key_fallback,
            environment=environment,
            serve_origin=serve_origin,
            serve_path=serve_path,
            allowed_hosts=allowed_hosts,
        )
        self._server_output_url = server_output_url
        self._settings = settings or Settings()
        self._config: Config | None = None
        super().__init__(self._make_node)

    @property
    def config(self) -> Config:
        """Where the server is, and the keys.

        Raises:
            ConfigurationError: something is missing or of another form; the message says what.
        """
        if self._config is None:
            self._config = self._resolve(os.environ)
        return self._config

    def _make_node(self) -> Node:
        return Node(
            self.env, self.config, self._settings, server_output_url=self._server_output_url
        )
