"""What an engine is: who runs the endpoints of an application to their end."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from durable_core.api.adapter import NativeEngine

if TYPE_CHECKING:
    from durable_core.engine.deferred import DeferredRun
    from durable_core.engine.deferred_thread import DeferredPoolRun, DeferredThreadRun
    from durable_core.flow.env import AppConfig
    from durable_core.flow.wait_url import WaitRequest
    from durable_core.http.request import Request
    from durable_core.http.response import Response
    from durable_core.model.event import Event, Signal
    from durable_core.ports import (
        EarlierRun,
        IdempotencyKey,
        RunFilter,
        RunProgress,
        RunRecord,
        Store,
    )
    from durable_core.runners.settings import RegisteredEndpoint

__all__ = ["Engine"]

T = TypeVar("T")


class Engine(NativeEngine, Protocol):
    """What ``Durable(engine=)`` takes. It owns retries, timers, waits and re-entry.

    Nothing is opened or started before :meth:`start` or the first request. All methods may be
    called from any thread.
    """

    @property
    def name(self) -> str:
        """How errors call it, such as ``"embedded"``."""
        ...

    @property
    def env(self) -> AppConfig:
        """What all runs of the application share."""
        ...

    @property
    def endpoints(self) -> Mapping[str, RegisteredEndpoint]:
        """The endpoints by key."""
        ...

    @property
    def store(self) -> Store | None:
        """Where its state is kept, for the command line to look at; None if that is elsewhere."""
        ...

    def attach(self, env: AppConfig) -> None:
        """Work for this application. Called once, by ``Durable``.

        Raises:
            ConfigurationError: it works for an application already.
        """
        ...

    def register(self, endpoint: RegisteredEndpoint) -> None:
        """Add an endpoint, or replace it by a newer version of the same function.

        Raises:
            DuplicateEndpointError: another function has its key.
        """
        ...

    def health(self) -> dict[str, Any]:
        """Return what runs in this process, as a JSON-ready dict; starts nothing."""
        ...

    def why_not_ready(self) -> str | None:
        """Return why this process should get no requests now; None if it may get some.

        It starts what a request would start, reads the store, and may block. The reasons are those
        of the route of ``Durable.readiness_endpoint``.
        """
        ...

    async def why_not_ready_async(self) -> str | None:
        """As :meth:`why_not_ready`, without blocking the event loop."""
        ...

    def is_reentry(self, request: Request) -> bool:
        """Tell whether a request for an endpoint comes from the engine's own server.

        Such a request is :meth:`serve`\\ d as it is: it is no client's, so no method is refused
        and nothing is authorized but by the engine.
        """
        ...

    def serve(self, endpoint: RegisteredEndpoint, request: Request, route: str | None) -> Response:
        """Run a handler for a client, in this thread."""
        ...

    async def serve_async(
        self, endpoint: RegisteredEndpoint, request: Request, route: str | None
    ) -> Response:
        """Run a handler for a client of an asynchronous server."""
        ...

    def defer(
        self,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
    ) -> DeferredRun | Coroutine[Any, Any, DeferredRun | None] | None:
        """Return a run that begins only if its handler, which is called at once, needs it.

        Args:
            endpoint: that of an ``async def`` handler.
            request: makes the request of the run, and the template that its path was found by; it
                may raise HTTPError.

        Returns:
            The run, or what it is awaited from. None if the run must begin before its handler:
            then :meth:`serve_async` is called.
        """
        ...

    def defer_in_thread(
        self,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
    ) -> DeferredThreadRun | None:
        """As :meth:`defer`, for a ``def`` handler that is called in this thread."""
        ...

    def defer_in_pool(
        self,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
        begun: Callable[[], object],
    ) -> DeferredPoolRun | Coroutine[Any, Any, DeferredPoolRun | None] | None:
        """As :meth:`defer`, for a ``def`` handler that a thread of a framework calls.

        Args:
            endpoint: that of the handler.
            request: called in any thread; see :meth:`defer`.
            begun: called on this event loop when the run has begun.
        """
        ...

    def serve_once(
        self,
        endpoint: RegisteredEndpoint,
        request: Request,
        route: str | None,
        key: IdempotencyKey | None,
    ) -> Response | EarlierRun:
        """Run a handler for a client, in this thread, if the store lets its run begin.

        Args:
            endpoint: the handler, whose limits may refuse the run, or queue it.
            request, route: as for :meth:`serve`.
            key: of the request; None without one.

        Returns:
            The response, or a run that the client joins, such as the one that has the key already.

        The fingerprint of the key is a plain hash; it is stored keyed with a secret.

        Raises:
            EngineError: the engine knows neither keys nor limits.
            TypeError, ValueError: the function of a limit returned no key; or what it raised.
        """
        ...

    async def serve_once_async(
        self,
        endpoint: RegisteredEndpoint,
        request: Request,
        route: str | None,
        key: IdempotencyKey | None,
    ) -> Response | EarlierRun:
        """As :meth:`serve_once`, for a client of an asynchronous server."""
        ...

    def wait(self, wanted: WaitRequest) -> Response:
        """Answer a client at the wait URL, in this thread."""
        ...

    async def wait_async(self, wanted: WaitRequest) -> Response:
        """Answer a client at the wait URL."""
        ...

    def look_up(self, wanted: WaitRequest) -> tuple[RunProgress, int | None] | Response:
        """Return how far the run of a client at the wait URL is, or why the client is refused.

        The second value is until when the run is kept, if it has ended (epoch milliseconds).
        """
        ...

    async def call_in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Call a plain function without blocking the event loop."""
        ...

    def send(self, events: Sequence[Event], source: str = "") -> Sequence[str]:
        """Send events; return their ids.

        Args:
            events: at least one.
            source: who sends them, where that is not the application itself: no sender can take the
                event ids of another, if the engine can tell them apart.
        """
        ...

    async def send_async(self, events: Sequence[Event], source: str = "") -> Sequence[str]:
        """As :meth:`send`, in a task."""
        ...

    def signal(self, signal: Signal[object], id: str | None) -> str | None:
        """Send a signal to the step that waits for it; return its run, None if none waits.

        Args:
            signal: its data is JSON.
            id: with a name and an id, no signal is delivered twice; None for a new one.

        Raises:
            EngineError: the engine takes no ids.
        """
        ...

    async def signal_async(self, signal: Signal[object], id: str | None) -> str | None:
        """As :meth:`signal`, in a task."""
        ...

    def get(self, run_id: str) -> RunRecord | None:
        """Return all that is known about a run.

        Raises:
            EngineError: the engine cannot tell, as with those that follow.
        """
        ...

    def list(self, where: RunFilter, limit: int) -> Sequence[RunRecord]:
        """Return up to ``limit`` runs, newest first, without what they did."""
        ...

    def cancel(self, run_id: str, reason: str | None = None) -> bool:
        """Cancel a run, for a reason that its clients are told; False if that changes nothing."""
        ...

    def retry(self, run_id: str) -> bool:
        """Let a failed run go on from where it failed; False if it has not failed.

        Raises:
            RunNotFoundError: there is no such run.
            RunUndoneError: its steps were undone.
        """
        ...

    def fork(self, run_id: str, step: str, request: Request | None) -> str | None:
        """Begin a run that has the results of another one before a step; return its id.

        Returns None if the other run has no such step.

        Raises:
            RunNotFoundError: there is no such run.
            RunUndoneError: an earlier step was undone.
        """
        ...

    def delete(self, run_id: str) -> bool:
        """Delete a run that has ended; False, and nothing is done, if it has not.

        Raises:
            RunNotFoundError: there is no such run.
        """
        ...

    def await_end(self, run_id: str, timeout: float | None) -> bool:
        """Block until a run has ended, or ``timeout`` seconds are over; return whether it has.

        Raises:
            RunNotFoundError: there is no such run.
        """
        ...
