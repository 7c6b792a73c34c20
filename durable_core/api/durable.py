"""``Durable``: one application's endpoints, engine and store."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar, Unpack, overload
from urllib.parse import urlsplit

from durable_core.api.adapter import EndpointAdapter
from durable_core.api.endpoint import Endpoint, Handler, Proxy
from durable_core.api.engine import Engine
from durable_core.api.events import EventsRoute, Runs, checked_events
from durable_core.api.options import EndpointOptions, EndpointOptionsDict
from durable_core.codec.json import Codec, JSONCodec
from durable_core.engine.embedded import EmbeddedEngine
from durable_core.errors import ConfigurationError, EndpointAdapterRequiredError
from durable_core.flow.env import AppConfig, Limits
from durable_core.machine.duration import parse_duration
from durable_core.machine.retry import RetryPolicy
from durable_core.model.event import Event
from durable_core.platform import SystemClock, SystemIds
from durable_core.ports import Clock, Ids, Store
from durable_core.runners.settings import Settings
from durable_core.stores.sqlite import SQLiteStore

__all__ = ["Durable"]

AppT = TypeVar("AppT")

_APP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Durable(Generic[AppT]):
    """Makes handlers durable, and runs them to their end.

    Nothing is opened or started at construction. :meth:`start`, a server of ours, an ASGI
    lifespan or else the first request does that, in the process it happens in.

    Args:
        id: the application's name in the store: letters, digits, ``.``, ``_``, ``-``; up to 64.
        engine: who runs the endpoints; default: this process, with a store. The arguments
            ``store``, ``secrets``, ``token_ttl`` and ``settings`` are for the default alone.
        endpoint_adapter: translates a server interface, such as ``durable_wsgi.endpoint_adapter``;
            ``durable_core.endpoint_adapter`` is for servers of one's own.
        store: path of a SQLite file, or a store. Default: ``./.durable/<id>.db``. The path is
            made absolute here.
        secrets: keys that sign the tokens of wait URLs, each 16 bytes or more; the first signs,
            all verify. Default: the environment variable ``DURABLE_SECRET``, else random bytes
            kept in the store.
        token_ttl: how long a token opens its run; a duration, default 7 days.
        retry: how long to wait before another attempt.
        limits: upper bounds of sizes and numbers.
        codec: how step results are stored. Default: strict JSON.
        settings: threads, tasks and times of the engine.
        public_url: scheme and authority under which clients reach the application, such as
            ``"https://api.example.com"``. The event streams of runs tell clients an absolute URL
            to go on at. Default: those of the request.
        debug: put stack traces into the problem documents of failed runs.
        clock, ids: time and randomness, for tests.

    Raises:
        ConfigurationError, ValueError: an argument of another form.
    """

    def __init__(
        self,
        *,
        id: str,
        endpoint_adapter: EndpointAdapter[AppT] | None = None,
        engine: Engine | None = None,
        store: str | os.PathLike[str] | Store | None = None,
        secrets: Sequence[bytes | str] | None = None,
        token_ttl: str | float | None = None,
        retry: RetryPolicy | None = None,
        limits: Limits | None = None,
        codec: Codec | None = None,
        settings: Settings | None = None,
        public_url: str | None = None,
        debug: bool = False,
        clock: Clock | None = None,
        ids: Ids | None = None,
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
        self.id = id
        self._adapter = endpoint_adapter
        self._used_ids: dict[str, Endpoint] = {}
        env = AppConfig(
            app=id,
            clock=clock or SystemClock(),
            ids=ids or SystemIds(),
            secrets=tuple,
            codec=codec or JSONCodec(),
            policy=retry or RetryPolicy(),
            limits=limits or Limits(),
            token_ttl=parse_duration(
                "7 days" if token_ttl is None else token_ttl, what="token_ttl"
            ),
            debug=debug,
            public_url=None if public_url is None else _origin(public_url),
        )
        if engine is None:
            engine = EmbeddedEngine(_secrets(secrets), _store(store, id), settings or Settings())
        else:
            _refuse_set(
                engine, store=store, secrets=secrets, token_ttl=token_ttl, settings=settings
            )
        engine.attach(env)
        #: Runs the endpoints.
        self.engine: Engine = engine
        #: Look at runs and cancel them.
        self.runs = Runs(self.engine)

    # -- endpoints --------------------------------------------------------------------------

    @overload
    def endpoint(self, handler: Handler, /) -> AppT: ...

    @overload
    def endpoint(self, /, **options: Unpack[EndpointOptionsDict]) -> Callable[[Handler], AppT]: ...

    def endpoint(
        self, handler: Handler | None = None, /, **options: Unpack[EndpointOptionsDict]
    ) -> AppT | Callable[[Handler], AppT]:
        """Make a handler durable: ``@durable.endpoint`` or ``@durable.endpoint(retries=5)``.

        Args:
            handler: ``def`` or ``async def``, from a ``Request`` to a ``Response``, dict, list,
                str, number, bool, None (all as JSON) or bytes.
            **options: see ``EndpointOptions``; they go before those of the adapter.

        Returns:
            What the adapter makes of it, such as a WSGI application. It has the endpoint as
            ``.endpoint``.

        Raises:
            EndpointAdapterRequiredError: ``Durable`` has no adapter.
            DuplicateEndpointError: another function has its key.
            ValueError, TypeError: an option out of range.
        """
        adapter = self._required_adapter("endpoint")
        if handler is not None:
            return self._wrap(adapter, handler, EndpointOptions(**options))
        own = EndpointOptions(**options)
        return lambda handler: self._wrap(adapter, handler, own)

    def _wrap(self, adapter: EndpointAdapter[AppT], handler: Handler, own: EndpointOptions) -> AppT:
        if not callable(handler):
            raise TypeError(f"an endpoint needs a function, not {type(handler).__name__}")
        options = adapter.options.merged(own)
        self._refuse_shared_id(handler, adapter.options, own)
        endpoint = Endpoint(self.engine, handler, options)
        self._used_ids[endpoint.key] = endpoint
        return adapter.wrap(endpoint)

    def _refuse_shared_id(
        self, handler: Handler, adapter: EndpointOptions, own: EndpointOptions
    ) -> None:
        """An adapter's function_id is for one endpoint."""
        shared = adapter.function_id
        if shared is None or own.function_id is not None or shared not in self._used_ids:
            return
        known = self.engine.endpoints[shared].handler
        if _name(known) != _name(handler):
            raise ConfigurationError(
                f"the adapter's function_id {shared!r} is already used by {_name(known)}; give "
                f"{_name(handler)} its own with endpoint(function_id=...)"
            )

    def endpoint_proxy(self) -> AppT:
        """Return the wait route, to be mounted where ``async_redirect_url`` points."""
        return self._required_adapter("endpoint_proxy").proxy(Proxy(self.engine))

    def events_endpoint(self, *, event_key: str | None = None, public: bool = False) -> AppT:
        """Return a route that takes events by POST: a JSON object, or an array of them.

        Args:
            event_key: clients must send it as ``Authorization: Bearer <key>``.
            public: take events from anybody instead.

        Raises:
            ConfigurationError: not exactly one of the two.
        """
        adapter = self._required_adapter("events_endpoint")
        return adapter.wrap(EventsRoute(self.engine, event_key, public))

    def _required_adapter(self, method: str) -> EndpointAdapter[AppT]:
        if self._adapter is None:
            raise EndpointAdapterRequiredError(
                f"Durable.{method} needs Durable(endpoint_adapter=...): use the endpoint_adapter "
                "of durable_wsgi (WSGI), durable_asgi (ASGI) or durable_asyncio (asyncio HTTP), "
                "or durable_core.endpoint_adapter in a server of your own"
            )
        return self._adapter

    # -- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the store and start working in this process. Does nothing if that is so.

        Called on an event loop's thread it makes that loop the one for ``async def`` handlers.

        Raises:
            StoreError: the store cannot be opened.
            ConfigurationError: threads do not work here (gevent, eventlet, uWSGI without them).
        """
        self.engine.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Hand clients off, wait for steps in flight, give runs back. Does nothing if stopped.

        Args:
            timeout: seconds to wait for steps; those still in flight will run again.

        Raises:
            RuntimeError: called on the event loop that its runs need; use :meth:`stop_async`.
        """
        self.engine.stop(timeout)

    async def stop_async(self, timeout: float = 10.0) -> None:
        """As :meth:`stop`, on an event loop."""
        await asyncio.to_thread(self.engine.stop, timeout)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Start and stop with an ASGI application: ``Starlette(lifespan=durable.lifespan)``."""
        self.start()
        try:
            yield
        finally:
            await self.stop_async()

    def health(self) -> dict[str, Any]:
        """Return what runs in this process, as a JSON-ready dict; starts nothing."""
        return self.engine.health()

    # -- events -----------------------------------------------------------------------------

    def send(self, events: Event | Sequence[Event]) -> list[str]:
        """Send events from anywhere; return their ids. They are durable when this returns.

        Raises:
            TypeError, ValueError: not events.
            LimitExceededError: one is too large.
            StoreError: nothing was sent.
        """
        return list(self.engine.send(self._checked(events)))

    async def send_async(self, events: Event | Sequence[Event]) -> list[str]:
        """As :meth:`send`, without blocking the event loop."""
        return list(await self.engine.send_async(self._checked(events)))

    def _checked(self, events: Event | Sequence[Event]) -> tuple[Event, ...]:
        return checked_events(events, self.engine.env.limits)


def _is_adapter(candidate: object) -> bool:
    return all(hasattr(candidate, name) for name in ("options", "wrap", "proxy"))


def _refuse_set(engine: Engine, **arguments: object) -> None:
    """Refuse what only the default engine takes."""
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        names = ", ".join(f"{name}=" for name in given)
        raise ConfigurationError(f"{names} cannot be given with engine=: {engine.name} has no use")


def _store(store: str | os.PathLike[str] | Store | None, app: str) -> Store:
    if store is None:
        return SQLiteStore(Path(".durable") / f"{app}.db")
    if isinstance(store, (str, os.PathLike)):
        return SQLiteStore(store)
    return store


def _origin(url: str) -> str:
    """Return scheme and authority of a public URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
        raise ConfigurationError(
            "Durable(public_url=) must be scheme and authority, such as 'https://example.com', "
            f"not {url!r}"
        )
    return f"{parts.scheme}://{parts.netloc}"


def _secrets(secrets: Sequence[bytes | str] | None) -> tuple[bytes, ...]:
    if secrets is None:
        given = os.environ.get("DURABLE_SECRET")
        secrets = (given,) if given else ()
    elif isinstance(secrets, (bytes, str)) or not secrets:
        raise ConfigurationError("secrets= must be a list of one or more keys")
    keys = tuple(key.encode() if isinstance(key, str) else key for key in secrets)
    if any(len(key) < 16 for key in keys):
        raise ConfigurationError("a secret must have 16 bytes or more")
    return keys


def _name(handler: object) -> str:
    module = getattr(handler, "__module__", type(handler).__module__)
    return f"{module}.{getattr(handler, '__qualname__', type(handler).__qualname__)}"
