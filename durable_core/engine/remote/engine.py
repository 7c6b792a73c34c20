"""The engine as servers and applications see it, whose runs are kept by a server elsewhere."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from durable_core.engine.lifecycle import ProcessEngine, running_loop, shutting_down_response
from durable_core.engine.remote.host import RemoteHost
from durable_core.errors import ConfigurationError, EngineError
from durable_core.flow.env import AppConfig, Limits
from durable_core.flow.wait_url import WaitRequest
from durable_core.http.problem import problem
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.event import Event, Signal
from durable_core.platform import logger
from durable_core.ports import EarlierRun, IdempotencyKey, RunFilter, RunProgress, RunRecord, Store
from durable_core.runners.settings import RegisteredEndpoint, Settings

__all__ = ["RemoteEngine"]

#: What is said of the store, or of workers, which this engine has not.
_UNUSED_LIMITS = (
    *("child_runs", "run_clients", "thread_streams", "crashes", "live_runs", "stored_bytes"),
    *("principal_live_runs", "principal_bytes", "stream_chunk", "stream_step", "stream_run"),
)
_UNUSED_SETTINGS = (
    *("worker_threads", "worker_tasks", "invoke_wait", "busy_timeout", "start_timeout"),
    *("heartbeat", "lease", "keep_runs", "keep_events", "orphan_after", "on_demand"),
)

T = TypeVar("T")
H = TypeVar("H", bound=RemoteHost[Any])


class RemoteEngine(ProcessEngine[H]):
    """See ``durable_core.engines.Engine`` for what each method promises.

    Args:
        settings: threads and times of the process.

    Raises:
        ConfigurationError: a setting that such an engine has no use for.
    """

    store: Store | None = None

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        _check_unused(self.name, "Settings", self.settings, Settings(), _UNUSED_SETTINGS)

    # -- what differs from one server to another ---------------------------------------------

    @abstractmethod
    def make_host(self) -> H:
        """Return the host of a process.

        Raises:
            ConfigurationError: the engine is set up wrongly.
        """

    @abstractmethod
    def is_reentry(self, request: Request) -> bool:
        """Tell whether a request has the headers of one from the server."""

    @abstractmethod
    async def send_async(self, events: Sequence[Event], source: str = "") -> Sequence[str]:
        """Send events; return the ids that the server gives them. See ``Engine.send``."""

    # -- life -------------------------------------------------------------------------------

    def attach(self, env: AppConfig) -> None:
        """Work for this application."""
        self._refuse_second_application()
        if env.observers:
            raise ConfigurationError(
                f"Durable(observers=) needs the embedded engine; {self.name} notifies none, "
                "because most of what happens to a run happens at its server"
            )
        _check_unused(self.name, "Limits", env.limits, Limits(), _UNUSED_LIMITS)
        self.env = env

    def start(self, *, server_threads: int | None = None) -> None:
        """Check the configuration, and be ready in this process; the server is not called."""
        host = self.started()
        if server_threads is not None:
            host.results.waiters.limit_threads(server_threads)
        loop = running_loop()
        if loop is not None:
            host.loops.adopt(loop)

    def _start_host(self) -> H:
        """Return the host of a process; see :meth:`make_host`."""
        host = self.make_host()
        logger.info("%s started, with %s", self.env.app, host.server_name)
        return host

    def health(self) -> dict[str, Any]:
        """Return what runs in this process, as a JSON-ready dict; starts nothing."""
        host = self.host
        if host is None:
            return {"app": self.env.app, "started": False}
        endpoints = sorted(self.endpoints)
        return {"app": self.env.app, "started": True, **host.health(), "endpoints": endpoints}

    def why_not_ready(self) -> str | None:
        """Return why this process should get no requests now; the server is not asked."""
        if self._is_stopping:
            return "stopping"
        return "draining" if self.started().results.waiters.released else None

    async def why_not_ready_async(self) -> str | None:
        """As :meth:`why_not_ready`, which asks nobody."""
        if not self._is_stopping:
            self.started().loops.adopt_running()
        return self.why_not_ready()

    # -- requests ---------------------------------------------------------------------------

    def serve(self, endpoint: RegisteredEndpoint, request: Request, route: str | None) -> Response:
        """Answer a client, or the server, in this thread."""
        if self._is_stopping:
            return shutting_down_response()
        return self.started().serve(endpoint, request, route)

    async def serve_async(
        self, endpoint: RegisteredEndpoint, request: Request, route: str | None
    ) -> Response:
        """Answer a client, or the server, on an event loop."""
        if self._is_stopping:
            return shutting_down_response()
        return await self.started().serve_async(endpoint, request, route)

    def defer(
        self,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
    ) -> None:
        """Return None: a run begins on the server before its handler."""

    def defer_in_thread(
        self,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
    ) -> None:
        """Return None; see :meth:`defer`."""
        return

    def defer_in_pool(
        self,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
        begun: Callable[[], object],
    ) -> None:
        """Return None; see :meth:`defer`."""

    def serve_once(
        self,
        endpoint: RegisteredEndpoint,
        request: Request,
        route: str | None,
        key: IdempotencyKey | None,
    ) -> Response | EarlierRun:
        """Raise an EngineError: runs are on a server, which knows no keys of ours."""
        raise EngineError(f"{self.name} knows no Idempotency-Key")

    async def serve_once_async(
        self,
        endpoint: RegisteredEndpoint,
        request: Request,
        route: str | None,
        key: IdempotencyKey | None,
    ) -> Response | EarlierRun:
        """As :meth:`serve_once`."""
        return self.serve_once(endpoint, request, route, key)

    def wait(self, wanted: WaitRequest) -> Response:
        """Answer a client at the wait URL, in this thread."""
        host = self.started()
        return host.run_on_background_loop(host.wait(wanted, asynchronous=False))

    async def wait_async(self, wanted: WaitRequest) -> Response:
        """Answer a client at the wait URL."""
        return await self.started().wait(wanted, asynchronous=True)

    def look_up(self, wanted: WaitRequest) -> tuple[RunProgress, int | None] | Response:
        """Refuse: the server shows its runs, and cancels them."""
        detail = f"{self.name} keeps its runs on a server, which shows and cancels them"
        return problem(501, "not-supported", detail=detail)

    # -- events and runs --------------------------------------------------------------------

    def send(self, events: Sequence[Event], source: str = "") -> Sequence[str]:
        """Send events; return the ids that the server gives them."""
        return self.run_on_background_loop(self.send_async(events, source))

    def signal(self, signal: Signal[object], id: str | None) -> str | None:
        """Send a signal; return the id of the run that waited for it, or None."""
        return self.run_on_background_loop(self.signal_async(signal, id))

    async def signal_async(self, signal: Signal[object], id: str | None) -> str | None:
        """As :meth:`signal`, in a task.

        Raises:
            EngineError: the server takes no ids of signals, or no signals at all.
        """
        self._refuse("send signals")

    def get(self, run_id: str) -> RunRecord | None:
        """Refuse: the server shows its runs."""
        self._refuse("show runs")

    def list(self, where: RunFilter, limit: int) -> Sequence[RunRecord]:
        """Refuse: the server lists its runs."""
        self._refuse("list runs")

    def cancel(self, run_id: str, reason: str | None = None) -> bool:
        """Refuse: the server cancels its runs."""
        self._refuse("cancel runs")

    def retry(self, run_id: str) -> bool:
        """Refuse: the server runs its runs again."""
        self._refuse("retry runs")

    def fork(self, run_id: str, step: str, request: Request | None) -> str | None:
        """Refuse: the server has the results of steps."""
        self._refuse("resume runs from a step")

    def delete(self, run_id: str) -> bool:
        """Refuse: the server keeps its runs."""
        self._refuse("delete runs")

    def await_end(self, run_id: str, timeout: float | None) -> bool:
        """Refuse: the server knows when its runs end."""
        self._refuse("wait for runs")

    def _refuse(self, what: str) -> NoReturn:
        raise EngineError(
            f"{self.name} cannot {what}: they are kept on the server, whose pages and API do that"
        )


def _check_unused(
    engine: str, kind: str, given: object, default: object, unused: Sequence[str]
) -> None:
    """Refuse what was set and would have no effect.

    Raises:
        ConfigurationError: such a field is not as by default; the message names it.
    """
    changed = [name for name in unused if getattr(given, name) != getattr(default, name)]
    if changed:
        shown = ", ".join(f"{kind}({name}=)" for name in changed)
        raise ConfigurationError(
            f"{shown} needs the embedded engine; {engine} leaves that to its server"
        )
