"""What an adapter is: the thin translation between one server interface and the core."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, Unpack, runtime_checkable

from durable_core.flow.env import Limits
from durable_core.flow.options import EndpointOptions, merge_options
from durable_core.http.request import Request
from durable_core.http.response import Response

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from durable_core.engine.deferred import DeferredRun
    from durable_core.engine.deferred_thread import DeferredPoolRun, DeferredThreadRun
    from durable_core.flow.options import ResolvedOptions

__all__ = [
    "AppAdapter",
    "EndpointAdapter",
    "EngineLifecycle",
    "HTTPHandler",
    "NativeAdapter",
    "NativeApp",
    "NativeEndpoint",
    "NativeEngine",
    "endpoint_adapter",
]

T = TypeVar("T")
AppT = TypeVar("AppT")
AppT_co = TypeVar("AppT_co", covariant=True)


class EngineLifecycle(Protocol):
    """The engine of an application as a server sees it; all of it is ``api.engine.Engine``."""

    @property
    def limits(self) -> Limits:
        """The bounds that the server keeps to when it reads a request."""
        ...

    def start(self, *, server_threads: int | None = None) -> None:
        """Start working in this process; see ``Durable.start``."""
        ...

    def drain(self) -> None:
        """Hand every client on that waits here, and go on working; see ``Durable.drain``."""
        ...

    def stop(self, timeout: float) -> None:
        """Stop, and block for up to ``timeout`` seconds; see ``Durable.stop``."""
        ...

    def run_on_background_loop(self, awaitable: Awaitable[T]) -> T:
        """Await something on the engine's own event loop, and block until it is there."""
        ...


class HTTPHandler(Protocol):
    """Anything of the core that answers requests: an endpoint, the proxy, the events route, an app.

    A sync server calls :meth:`handle`, an asynchronous one :meth:`handle_async`; both work for
    any handler.
    """

    @property
    def engine(self) -> EngineLifecycle:
        """What runs it. A server starts it before the first request and stops it after the last."""
        ...

    def handle(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        """Answer in this thread.

        Args:
            request: the whole request, body read.
            max_wait: seconds for which the server lets a client wait; 2 where one waiting client
                keeps others from being served.
            route: the template that the path was found by, where a router knows it.
        """
        ...

    async def handle_async(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        """Answer in this task. Cancelling it means that the client is gone; the run goes on."""
        ...


class EndpointAdapter(Protocol[AppT_co]):
    """What ``Durable(endpoint_adapter=)`` takes; ``AppT_co`` is the server's kind of app."""

    @property
    def options(self) -> EndpointOptions:
        """The options of all endpoints that this adapter wraps."""
        ...

    def with_options(self, **options: Unpack[EndpointOptions]) -> Self:
        """Return a new adapter with these options in place of its own."""
        ...

    def wrap(self, endpoint: HTTPHandler) -> AppT_co:
        """Return the server's application for a handler. It has the handler as ``.endpoint``."""
        ...

    def proxy(self, proxy: HTTPHandler) -> AppT_co:
        """Return the server's application for the wait route."""
        ...


class NativeEngine(EngineLifecycle, Protocol):
    """An engine, as adapters see it that run the handlers of a framework."""

    @property
    def native_hosts(self) -> dict[Any, Any]:
        """What adapters know of the applications that its endpoints are in."""
        ...

    def replay_loop(self) -> AbstractEventLoop:
        """Return the event loop that handlers are replayed on; called while the engine works."""
        ...


class NativeEndpoint(HTTPHandler, Protocol):
    """An endpoint, as adapters see it that run the handlers of a framework."""

    @property
    def options(self) -> ResolvedOptions:
        """How it behaves."""
        ...

    def defer(
        self, request: Callable[[], tuple[Request, str | None]]
    ) -> DeferredRun | Coroutine[Any, Any, DeferredRun | None] | None:
        """Return a run that begins only if its handler needs it, or what it is awaited from.

        None if it must begin at once.

        Only for an ``async def`` handler, on its event loop, and for a request that has been read
        to its end and is for a new run: it does not ask for the wait URL, nor by HEAD, and has
        none of ``Idempotency-Key``, ``Last-Event-ID`` and ``Prefer``, nor accepts an event stream.

        Args:
            request: makes the request of the run, and the template that its path was found by; it
                may raise HTTPError.
        """
        ...

    def defer_in_thread(
        self, request: Callable[[], tuple[Request, str | None]]
    ) -> DeferredThreadRun | None:
        """As :meth:`defer`, for a ``def`` handler that is called in this thread."""
        ...

    def defer_in_pool(
        self, request: Callable[[], tuple[Request, str | None]], begun: Callable[[], object]
    ) -> DeferredPoolRun | Coroutine[Any, Any, DeferredPoolRun | None] | None:
        """As :meth:`defer`, for a ``def`` handler that a thread of the framework calls.

        Args:
            request: called in any thread; see :meth:`defer`.
            begun: called on this event loop when the run has begun.
        """
        ...


class NativeApp:
    """Base of the applications of a :class:`NativeAdapter`; type checkers tell it by that."""


@runtime_checkable
class NativeAdapter(Protocol):
    """An :class:`EndpointAdapter` for the handlers of one framework, with their own parameters.

    The framework calls the handler, in the first execution and in each replay. ``wrap`` and
    ``proxy`` return a :class:`NativeApp`, for handlers of the core.
    """

    def adapt(self, engine: NativeEngine, handler: Callable[..., Any]) -> Callable[[Request], Any]:
        """Return the handler of the core that has the framework call that of the user.

        Raises:
            TypeError: no handler that can be run again.
        """
        ...

    def wrap_native(
        self, engine: NativeEngine, endpoint: NativeEndpoint, handler: Callable[..., Any]
    ) -> Any:
        """Return what the framework is given in place of the handler."""
        ...

    def check_installed(self, engine: NativeEngine) -> None:
        """See that runs can be replayed in this process; called before it works.

        Raises:
            ConfigurationError: there are endpoints, and their application is not known.
        """
        ...

    def install(self, app: object, engine: NativeEngine) -> None:
        """Make an application of the framework run the durable endpoints in it.

        Raises:
            ConfigurationError: it is no such application.
        """
        ...

    def application_lifespan(
        self, engine: NativeEngine, namespaces: Iterable[Mapping[str, object]]
    ) -> AbstractAsyncContextManager[object] | None:
        """Return what must be entered to work without a server; None if there is nothing.

        Args:
            engine: whose endpoints they are.
            namespaces: where the application of the endpoints is looked for.
        """
        ...


@dataclass(frozen=True, slots=True)
class AppAdapter(Generic[AppT]):
    """An :class:`EndpointAdapter` by a function that makes applications.

    Args:
        make: makes the server's application for a handler, which has it as ``.endpoint``.
        options: of all endpoints that it wraps; those given to ``Durable.endpoint`` go before.
    """

    make: Callable[[HTTPHandler], AppT]
    options: EndpointOptions = field(default_factory=EndpointOptions)

    def with_options(self, **options: Unpack[EndpointOptions]) -> Self:
        """Return a new adapter with these options in place of its own.

        Raises:
            ValueError, TypeError: an option out of range; see ``EndpointOptions``.
        """
        return replace(self, options=merge_options(self.options, options))

    def wrap(self, endpoint: HTTPHandler) -> AppT:
        """Return an application that answers by the endpoint."""
        return self.make(endpoint)

    def proxy(self, proxy: HTTPHandler) -> AppT:
        """Return an application that is the wait route."""
        return self.make(proxy)


def _itself(handler: HTTPHandler) -> HTTPHandler:
    return handler


#: The adapter for embedding the core in a server of one's own: an endpoint is wrapped in nothing.
endpoint_adapter = AppAdapter(_itself)
