"""``Durable``: one application's endpoints, engine and store."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, overload
from urllib.parse import urlsplit

from durable_core.api.adapter import EndpointAdapter, HTTPHandler, NativeAdapter, NativeApp
from durable_core.api.endpoint import Around, Endpoint, Handler
from durable_core.api.engine import Engine
from durable_core.api.run import RunContext, current_run
from durable_core.api.waiting import Proxy
from durable_core.codec.json import Codec, JSONCodec
from durable_core.codec.records import check_events, check_signal
from durable_core.duration import Duration, is_int, parse_duration, time_or_none
from durable_core.engine.embedded import EmbeddedEngine
from durable_core.errors import ConfigurationError, EndpointAdapterRequiredError
from durable_core.flow.attempt import StepAttempt
from durable_core.flow.env import AppConfig, Limits
from durable_core.flow.options import Authorize, EndpointOptions, merge_options
from durable_core.flow.scope import CURRENT_RUN
from durable_core.machine.retry import RetryPolicy
from durable_core.model.event import Event, Signal, check_text
from durable_core.platform import SystemClock, SystemIds

__all__ = ["Durable"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultTypeVar

    from durable_core.api.inspection import EndpointInfo, EventInfo, ProcessInfo
    from durable_core.api.runs import Runs
    from durable_core.ports import Store
    from durable_core.ports.observer import Observer

    #: The kind of application that the adapter makes; without one none is made.
    AppT = DefaultTypeVar("AppT", default=HTTPHandler)
else:
    AppT = TypeVar("AppT")

F = TypeVar("F", bound=Callable[..., Any])
NativeAppT = TypeVar("NativeAppT", bound=NativeApp)

#: The methods of an observer.
_OBSERVES = ("notify", "execution", "attempt", "trace_context", "trace_headers")
_APP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Durable(Generic[AppT]):
    """Makes handlers durable, and runs them to their end.

    Nothing is opened or started at construction. :meth:`start`, a server of ours, an ASGI
    lifespan or else the first request does that, in the process it happens in.

    Args:
        id: the application's name in the store: letters, digits, ``.``, ``_``, ``-``; up to 64.
        endpoint_adapter: translates a server interface, such as ``durable_wsgi.endpoint_adapter``;
            ``durable_core.endpoint_adapter`` is for servers of one's own.
        store: the path of a SQLite file, or a store: short for
            ``engine=EmbeddedEngine(store)``, which takes further arguments.
        engine: who runs the endpoints. Default: ``EmbeddedEngine()``, this process with the
            SQLite file that the environment variable ``DURABLE_STORE`` names, else
            ``./.durable/<id>.db``.
        retry: how long to wait before another attempt.
        limits: upper bounds of sizes and numbers.
        codec: how step results are stored. Default: strict JSON.
        public_url: scheme and authority under which clients reach the application, such as
            ``"https://api.example.com"``. The event streams of runs tell clients an absolute URL
            to go on at. Default: those of the request.
        around: called with the request before each execution of a handler, the first one and
            each replay; the handler runs within the context manager that it returns. It gives a
            handler what a middleware would, such as the context of a web framework. ``def``
            handlers take a plain context manager, ``async def`` ones also an asynchronous one.
        version: the version of the code, such as a release or a commit, which each run keeps; 1 to
            255 characters.
        observers: who is notified of what happens to runs in this process, beside the log: objects
            that derive from ``durable_core.observers.Observer``.
        debug: put stack traces into the problem documents of failed runs.

    Raises:
        ConfigurationError: an argument of another form, or both ``store`` and ``engine``.
        TypeError, ValueError: ``version`` is no str, empty or too long.
    """

    def __init__(
        self,
        *,
        id: str,
        endpoint_adapter: EndpointAdapter[AppT] | None = None,
        store: str | os.PathLike[str] | Store | None = None,
        engine: Engine | None = None,
        retry: RetryPolicy | None = None,
        limits: Limits | None = None,
        codec: Codec | None = None,
        public_url: str | None = None,
        around: Around | None = None,
        version: str | None = None,
        observers: Sequence[Observer] = (),
        debug: bool = False,
    ) -> None:
        if not isinstance(id, str) or _APP_ID.fullmatch(id) is None:
            raise ConfigurationError(
                f"Durable(id=) must be 1 to 64 letters, digits, '.', '_' or '-', not {id!r}"
            )
        if endpoint_adapter is not None and not _is_adapter(endpoint_adapter):
            raise ConfigurationError(
                "Durable(endpoint_adapter=) must have options, wrap and proxy, as the "
                f"endpoint_adapter of an adapter package has; {endpoint_adapter!r} has not"
            )
        _check_arguments(retry=retry, limits=limits, codec=codec, around=around, debug=debug)
        if engine is not None and (isinstance(engine, type) or not hasattr(engine, "attach")):
            raise ConfigurationError(
                f"Durable(engine=) must be an engine, such as EmbeddedEngine(), not {engine!r}"
            )
        if engine is not None and store is not None:
            raise ConfigurationError(
                f"Durable takes either store= or engine=; {engine.name} was given its own store"
            )
        _check_observers(observers)
        self.id = id
        self._adapter = endpoint_adapter
        self._around = around
        #: What goes below the options of the adapter.
        self._options = merge_options({}, {"version": version})
        #: Runs the endpoints.
        self.engine: Engine = EmbeddedEngine(store) if engine is None else engine
        self.engine.attach(
            AppConfig(
                app=id,
                clock=SystemClock(),
                ids=SystemIds(),
                secrets=tuple,
                codec=codec or JSONCodec(),
                policy=retry or RetryPolicy(),
                limits=limits or Limits(),
                debug=debug,
                public_url=None if public_url is None else _origin(public_url),
                observers=tuple(observers),
            )
        )

    def __repr__(self) -> str:
        """Show the id and the engine."""
        return f"<Durable {self.id!r} on {self.engine!r}>"

    @functools.cached_property
    def runs(self) -> Runs:
        """Look at runs and cancel them."""
        from durable_core.api.runs import Runs

        return Runs(self.engine)

    @overload
    def endpoint(self, handler: Handler, /) -> AppT: ...

    @overload
    def endpoint(
        self: Durable[NativeAppT], /, **options: Unpack[EndpointOptions]
    ) -> Callable[[F], F]: ...

    @overload
    def endpoint(self, /, **options: Unpack[EndpointOptions]) -> Callable[[Handler], AppT]: ...

    @overload
    def endpoint(self: Durable[NativeAppT], handler: F, /) -> F: ...

    def endpoint(
        self, handler: Callable[..., Any] | None = None, /, **options: Unpack[EndpointOptions]
    ) -> Any:
        """Make a handler durable: ``@durable.endpoint`` or ``@durable.endpoint(retries=5)``.

        Args:
            handler: ``def`` or ``async def``, from a ``Request`` to a ``Response``, dict, list,
                str, number, bool, None (all as JSON) or bytes. For the adapter of a framework it is
                a handler of that framework.
            **options: see :class:`EndpointOptions`; they go before those of the adapter.

        Returns:
            What the adapter makes of it, such as a WSGI application. It has the endpoint as
            ``.endpoint``, and the handler's ``__name__``, ``__doc__`` and ``__module__``. The
            adapter of a framework returns a function like the handler.

        Raises:
            EndpointAdapterRequiredError: ``Durable`` has no adapter.
            DuplicateEndpointError: another function has its key.
            ValueError, TypeError: an option out of range, or no handler.
        """
        adapter = self._adapter_for("endpoint")
        merged = merge_options({**self._options, **adapter.options}, options)
        if handler is not None:
            return self._wrap(adapter, handler, merged)
        return lambda handler: self._wrap(adapter, handler, merged)

    def _wrap(
        self,
        adapter: EndpointAdapter[AppT],
        handler: Callable[..., Any],
        options: EndpointOptions,
    ) -> Any:
        if isinstance(getattr(handler, "endpoint", handler), Endpoint):
            raise TypeError(f"{handler!r} is a durable endpoint already; decorate a handler once")
        if not callable(handler) or isinstance(handler, type):
            what = "a class" if isinstance(handler, type) else type(handler).__name__
            raise TypeError(f"an endpoint needs a function, not {what}: {handler!r:.60}")
        if isinstance(adapter, NativeAdapter):
            if self.engine.store is None:
                raise ConfigurationError(
                    f"{self.engine.name} calls endpoints by itself, and the handlers "
                    "of a framework are called by that: use the embedded engine, or an adapter "
                    "whose handlers take a Request"
                )
            if options.get("omit_request_body"):
                raise ConfigurationError(
                    "omit_request_body=: a framework reads the request again in each replay, so "
                    "its whole request is stored"
                )
            adapted = adapter.adapt(self.engine, handler)
            endpoint = self._new_endpoint(adapted, options)
            return adapter.wrap_native(self.engine, endpoint, handler)
        app = adapter.wrap(self._new_endpoint(handler, options))
        with suppress(AttributeError, TypeError):  # of an application with slots
            functools.update_wrapper(app, handler, updated=())  # type: ignore[arg-type]
            del app.__wrapped__  # type: ignore[attr-defined]
        return app

    def _new_endpoint(self, handler: Callable[..., Any], options: EndpointOptions) -> Endpoint:
        endpoint = Endpoint(self.engine, handler, options, self._around)
        if endpoint.options.on_complete is not None:
            from durable_core.api.webhook import register  # few endpoints need it

            register(self.engine, endpoint.options)
        return endpoint

    def endpoint_proxy(self) -> AppT:
        """Return the wait route, to be mounted where ``async_redirect_url`` points."""
        return self._adapter_for("endpoint_proxy").proxy(Proxy(self.engine))

    def events_endpoint(self, *, event_key: str | None = None, public: bool = False) -> AppT:
        """Return a route that takes events by POST: a JSON object, or an array of them.

        Args:
            event_key: clients must send it as ``Authorization: Bearer <key>``.
            public: take events from anybody instead.

        Raises:
            ConfigurationError: not exactly one of the two.
        """
        from durable_core.api.routes import EventsRoute

        adapter = self._adapter_for("events_endpoint")
        return adapter.wrap(EventsRoute(self.engine, event_key, public))

    def health_endpoint(self) -> AppT:
        """Return a route that says whether the process is alive, for ``GET /health``.

        It answers 200 with what :meth:`health` returns, without the names of endpoints; 503 if only
        a new process can help. It starts nothing, and does not ask the store.
        """
        from durable_core.api.monitoring import HealthRoute

        return self._adapter_for("health_endpoint").wrap(HealthRoute(self.engine))

    def readiness_endpoint(self) -> AppT:
        """Return a route that says whether the process may get requests, for ``GET /ready``.

        It answers 200 if the store can be read, if the process has renewed its lease in it, and if
        it neither stops nor was drained; else 503 with the ``reason``. It starts the process, as
        any request does.
        """
        from durable_core.api.monitoring import ReadinessRoute

        return self._adapter_for("readiness_endpoint").wrap(ReadinessRoute(self.engine))

    def metrics(self) -> AppT:
        """Return a route that shows the metrics of the process, for ``GET /metrics``.

        They are those of the one observer that can be scraped, such as
        ``Durable(observers=[durable_prometheus.PrometheusObserver()])``, which reads the gauges of
        this application from now on.

        Raises:
            ConfigurationError: there is no such observer, or more than one.
        """
        from durable_core.api.monitoring import MetricsRoute, exposition_of

        adapter, observer = self._adapter_for("metrics"), exposition_of(self.engine)
        observer.watch(self)
        return adapter.wrap(MetricsRoute(self.engine, observer))

    def ui_messages_endpoint(
        self, *, authorize: Authorize | None = None, public: bool = False
    ) -> AppT:
        """Return the route by which chat pages come back: ``{api}/{chat id}/stream``.

        It serves the chats whose endpoints have ``ui_messages=``. ``GET`` answers with the stream
        of the answer in progress, from its beginning, and with 204 if there is none; with the query
        ``?ended`` also with the last answer if that is complete. ``DELETE`` stops the answer: its
        run is cancelled.

        Args:
            authorize: decides who may ask, as ``authorize=`` of an endpoint. A principal that it
                names finds only the runs that are theirs.
            public: let anybody ask instead who knows the id of the chat.

        Raises:
            ConfigurationError: not exactly one of the two, or another engine than the embedded one.
        """
        from durable_core.api.routes import UIMessagesRoute

        adapter = self._adapter_for("ui_messages_endpoint")
        return adapter.wrap(UIMessagesRoute(self.engine, authorize, public))

    def dashboard(self, *, authorize: Authorize | None = None, read_only: bool = False) -> AppT:
        """Return a page for looking at runs and acting on them, to be mounted in the application.

        It is mounted at a prefix with all that is below, for the methods GET, HEAD and POST. It
        needs the distribution ``durable-dashboard``.

        Args:
            authorize: called with each request, sync or async, as that of an endpoint: it refuses
                by returning False or raising ``HTTPError``. Without it the page is for the users of
                this machine: other addresses are refused, and so is what a proxy passes on.
            read_only: nothing can be changed through it.

        Raises:
            ConfigurationError: the distribution is not installed, ``Durable`` has no adapter, or
                the engine of the application is not the embedded one.
            TypeError: ``authorize`` is no function.
        """
        try:
            from durable_dashboard import Dashboard
        except ModuleNotFoundError as error:
            if error.name != "durable_dashboard":
                raise
            raise ConfigurationError(
                "Durable.dashboard needs the distribution durable-dashboard: install it with pip"
            ) from None
        adapter = self._adapter_for("dashboard")
        return adapter.wrap(Dashboard(self, authorize=authorize, read_only=read_only))

    def _adapter_for(self, method: str) -> EndpointAdapter[AppT]:
        if self._adapter is None:
            raise EndpointAdapterRequiredError(
                f"Durable.{method} needs Durable(endpoint_adapter=...): use the endpoint_adapter "
                "of durable_wsgi (WSGI), durable_asgi (ASGI) or durable_asyncio (asyncio HTTP), "
                "or durable_core.endpoint_adapter in a server of your own"
            )
        return self._adapter

    def _check_installed(self) -> None:
        if isinstance(self._adapter, NativeAdapter):
            self._adapter.check_installed(self.engine)

    def start(self, *, server_threads: int | None = None) -> None:
        """Open the store and start working in this process. Does nothing if that is so.

        Called on an event loop's thread it makes that loop the one for ``async def`` handlers.

        Args:
            server_threads: how many requests the server of this process answers at a time, each in
                a thread. Then clients that wait hold at most three in four of these threads, and
                those of one run half of that; a further client at a wait URL gets 503. Not needed
                on event loops, nor with the hooks and servers of ``durable_wsgi``.

        Raises:
            StoreError: the store cannot be opened.
            ConfigurationError: threads do not work here (gevent, eventlet, uWSGI without them), or
                the application that a framework's handlers are in is not known here.
            ValueError: ``server_threads`` is no int of 1 or more.
        """
        if server_threads is not None and (not is_int(server_threads) or server_threads < 1):
            raise ValueError(f"server_threads must be an int of 1 or more, not {server_threads!r}")
        self._check_installed()
        self.engine.start(server_threads=server_threads)

    def drain(self) -> None:
        """Hand every client on that waits in this process; its runs go on. Does not block long.

        For servers that wait for open requests before they stop. Clients at wait URLs are
        redirected there again, event streams end, and clients in the middle of a run are handed
        off. From now on clients at wait URLs are held for a moment only. A process that was drained
        should be stopped soon.

        May be called from any thread, but not from a signal handler: it takes locks.
        """
        self.engine.drain()

    def stop(self, timeout: Duration = 10.0) -> None:
        """Hand clients off, wait for steps in flight, give runs back. Does nothing if stopped.

        It closes the store if it was opened in this process, also where nothing was started, unless
        another application of the process works with the same object.

        Args:
            timeout: how long to wait for steps; those still in flight will run again.

        Raises:
            ValueError: ``timeout`` is no duration.
            RuntimeError: called on the event loop that its runs need; use :meth:`stop_async`.
        """
        self.engine.stop(_seconds(timeout))

    async def stop_async(self, timeout: Duration = 10.0) -> None:
        """As :meth:`stop`, on an event loop."""
        from asyncio import to_thread

        await to_thread(self.engine.stop, _seconds(timeout))

    def run_due(self, deadline: Duration) -> int:
        """Execute due runs in this process until none is due; return how many were begun.

        It is for hosts that keep no process between two requests: a timer calls it when
        :meth:`next_due` says. It returns when no run is being executed here and none is due, or at
        the deadline. Runs that are still being executed then go on, until :meth:`stop` gives them
        back. It starts what :meth:`start` starts.

        Args:
            deadline: for how long to begin runs and wait for them; a duration.

        Raises:
            StoreError: the store cannot be opened.
            ConfigurationError: the engine of the application is not the embedded one.
        """
        from durable_core.engine.embedded import embedded

        self._check_installed()
        return embedded(self.engine).run_due(_seconds(deadline, "deadline"))

    async def run_due_async(self, deadline: Duration) -> int:
        """As :meth:`run_due`, on an event loop, which runs ``async def`` handlers."""
        from asyncio import to_thread

        self.start()
        return await to_thread(self.run_due, deadline)

    def next_due(self) -> datetime | None:
        """Return when the next run is due, at once or later; None if no run waits for a time.

        A run that is being executed has no such time. If its process dies, it is due as soon as
        another one has noticed, in :meth:`run_due` or after :meth:`start`. An event that a run
        waits for makes it due at once.

        Raises:
            StoreError: the store cannot be read.
            ConfigurationError: the engine of the application is not the embedded one.
        """
        from durable_core.engine.embedded import embedded

        return time_or_none(embedded(self.engine).next_due())

    async def next_due_async(self) -> datetime | None:
        """As :meth:`next_due`, without blocking the event loop."""
        from asyncio import to_thread

        return await to_thread(self.next_due)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Start and stop with an ASGI application: ``Starlette(lifespan=durable.lifespan)``.

        Between the two, :meth:`drain` is called as soon as the server is asked to stop.

        Args:
            app: the application. An adapter for the handlers of its framework makes it run the
                durable endpoints in it.
        """
        from durable_core.stop_notice import StopNotice

        if app is not None and isinstance(self._adapter, NativeAdapter):
            self._adapter.install(app, self.engine)
        self.start()
        try:
            with StopNotice(self.drain):
                yield
        finally:
            await self.stop_async()

    def application_lifespan(
        self, namespaces: Iterable[Mapping[str, object]]
    ) -> AbstractAsyncContextManager[object] | None:
        """Return the lifespan of the framework's application that the endpoints are in.

        A framework that knows the modules of its endpoints, as Django does, imports them first.
        For a process that works without a server, such as ``durable worker``.

        Args:
            namespaces: where the application is looked for: the contents of modules.

        Returns:
            None if there is no such application, or its framework has no lifespan.
        """
        if isinstance(self._adapter, NativeAdapter):
            return self._adapter.application_lifespan(self.engine, namespaces)
        return None

    @staticmethod
    def current_run() -> RunContext | None:
        """Return the run whose handler, or step, calls this; None outside runs."""
        return current_run()

    @staticmethod
    def is_replaying() -> bool:
        """Tell whether the current code works for a run whose handler was called before.

        True in a replayed handler, and in the middleware and dependencies of a framework that a
        stored request passes again; False in steps, which are never replayed, and elsewhere.
        """
        scope = CURRENT_RUN.get()
        return scope is not None and not isinstance(scope, StepAttempt) and scope.ex.run.epoch > 1

    def health(self) -> dict[str, Any]:
        """Return what runs in this process, as a JSON-ready dict; starts nothing."""
        return self.engine.health()

    def processes(self) -> list[ProcessInfo]:
        """Return the processes that work on the store, the first one that was started first.

        Raises:
            StoreError: the store cannot be read.
            ConfigurationError: the engine of the application is not the embedded one.
        """
        from durable_core.api.inspection import processes

        return processes(self.engine)

    def recent_events(self, limit: int = 50) -> list[EventInfo]:
        """Return the events that were sent last, the newest first, and which runs they woke.

        Args:
            limit: the most to return, 1 to 1,000.

        Raises:
            ValueError: a limit out of range.
            StoreError, ConfigurationError: as of :meth:`processes`.
        """
        from durable_core.api.inspection import recent_events

        return recent_events(self.engine, limit)

    def endpoints(self) -> list[EndpointInfo]:
        """Return the endpoints that this process knows, and their limits, by their identities."""
        from durable_core.api.inspection import endpoints

        return endpoints(self.engine)

    def oldest_due(self) -> datetime | None:
        """Return since when the run that has been due for longest waits; None if none is due.

        Runs of all endpoints count, also of those that no process knows. A run that waits for a
        slot of its endpoint (``concurrency=``) does not.

        Raises:
            StoreError, ConfigurationError: as of :meth:`processes`.
        """
        from durable_core.api.inspection import oldest_due

        return oldest_due(self.engine)

    def send(self, events: Event | Sequence[Event]) -> list[str]:
        """Send events from anywhere; return their ids. They are durable when this returns.

        Raises:
            TypeError, ValueError: not events.
            LimitExceededError: one is too large.
            StoreError: nothing was sent.
        """
        return list(self.engine.send(self._check_events(events)))

    async def send_async(self, events: Event | Sequence[Event]) -> list[str]:
        """As :meth:`send`, without blocking the event loop."""
        return list(await self.engine.send_async(self._check_events(events)))

    def signal(self, name: str, data: object = None, *, id: str | None = None) -> str | None:
        """Send a signal from anywhere to the step that waits for it now.

        Args:
            name: of the signal; 1 to 255 characters.
            data: JSON values.
            id: identifies the signal, 1 to 255 characters: a second one of the same name and id is
                not delivered again, for as long as the run that got the first is kept. None makes
                every signal a new one. The Inngest engine takes none.

        Returns:
            The id of the run that it went to; None if no step waits for it. Then it is lost. It is
            durable when this returns.

        Raises:
            TypeError, ValueError: no such name, or the data is not JSON.
            LimitExceededError: the data is too large.
            StoreError: it is not known to be sent; send it again with the same ``id``.
        """
        return self.engine.signal(self._check_signal(name, data, id), id)

    async def signal_async(
        self, name: str, data: object = None, *, id: str | None = None
    ) -> str | None:
        """As :meth:`signal`, without blocking the event loop."""
        return await self.engine.signal_async(self._check_signal(name, data, id), id)

    def _check_signal(self, name: str, data: object, id: str | None) -> Signal[object]:
        if id is not None:
            check_text("signal id", id)
        return check_signal(Signal(name, data), self.engine.env.limits.event)

    def _check_events(self, events: Event | Sequence[Event]) -> tuple[Event, ...]:
        limits = self.engine.env.limits
        return check_events(events, most=limits.events, largest=limits.event)


def _seconds(timeout: Duration, what: str = "timeout") -> float:
    return parse_duration(timeout, what=what) / 1000


def _is_adapter(candidate: object) -> bool:
    return all(hasattr(candidate, name) for name in ("options", "wrap", "proxy"))


def _check_arguments(
    *, retry: object, limits: object, codec: object, around: object, debug: object
) -> None:
    """See that arguments of ``Durable`` are what they should be; None leaves one out.

    Raises:
        ConfigurationError: one is not.
    """
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise ConfigurationError(
            f"Durable(retry=) must be a RetryPolicy, the pauses between attempts, not {retry!r}; "
            "how many attempts there are is an option of endpoints and steps, retries="
        )
    if limits is not None and not isinstance(limits, Limits):
        raise ConfigurationError(f"Durable(limits=) must be a Limits object, not {limits!r}")
    if codec is not None and not (hasattr(codec, "encode") and hasattr(codec, "decode")):
        raise ConfigurationError(f"Durable(codec=) must have encode and decode; {codec!r} has not")
    if around is not None and not callable(around):
        raise ConfigurationError(
            "Durable(around=) must be a function of the request that returns a context manager, "
            f"not {around!r}"
        )
    if not isinstance(debug, bool):
        raise ConfigurationError(f"Durable(debug=) must be True or False, not {debug!r}")


def _check_observers(observers: object) -> None:
    """See that observers are a list of objects with the methods of an ``Observer``.

    Raises:
        ConfigurationError: they are not.
    """
    if _is_observer(observers):
        raise ConfigurationError(f"Durable(observers=) takes a list: observers=[{observers!r}]")
    for each in observers if isinstance(observers, Sequence) else (observers,):
        if not _is_observer(each):
            raise ConfigurationError(
                "Durable(observers=) takes a list of objects that derive from "
                f"durable_core.observers.Observer, not {each!r}"
            )


def _is_observer(candidate: object) -> bool:
    return not isinstance(candidate, type) and all(hasattr(candidate, name) for name in _OBSERVES)


def _origin(url: object) -> str:
    """Return scheme and authority of a public URL."""
    parts = urlsplit(url if isinstance(url, str) else "")
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
        raise ConfigurationError(
            "Durable(public_url=) must be scheme and authority, such as 'https://example.com', "
            f"not {url!r}"
        )
    return f"{parts.scheme}://{parts.netloc}"
