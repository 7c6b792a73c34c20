"""What a subject is: the thing that the suite judges, as its author presents it.

A subject needs no import of this package: the Protocols are structural, and capabilities are plain
strings (each member of :class:`Capability` equals its value).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from enum import Enum, StrEnum
from typing import Any, Protocol

from durable_core import Durable
from durable_core.api.adapter import EndpointAdapter
from durable_core.codec.stream_events import Chunk, Commit, Rollback
from durable_core.http.headers import HeaderFields
from durable_core.ports import Store
from durable_core.routing import Routes

__all__ = [
    "AnyResponse",
    "Capability",
    "Client",
    "EngineSubject",
    "Kind",
    "ServerSubject",
    "StoreSubject",
    "Subject",
    "capabilities_of",
    "kind_of",
]


class Capability(StrEnum):
    """What a subject can do beyond what is required of all.

    What is not declared is reported as a gap. What is declared is tested.
    """

    #: Server, engine: endpoints may be ``def`` handlers. One of the two kinds is required.
    SYNC_HANDLERS = "sync-handlers"
    #: Server, engine: endpoints may be ``async def`` handlers.
    ASYNC_HANDLERS = "async-handlers"
    #: Server: a chunk of a streamed response body leaves before the next one is made.
    STREAMING = "streaming"
    #: Server: a client that goes away while a step runs is noticed, and its run handed off.
    CLIENT_DISCONNECT = "client-disconnect"
    #: Server: when it stops, a client is handed off in the middle of a step, not after it.
    DETACH_IN_STEP = "detach-in-step"
    #: Server: a connection takes one request after the other.
    KEEP_ALIVE = "keep-alive"
    #: Server: request bodies may come in chunks, without an announced length.
    CHUNKED_REQUESTS = "chunked-requests"
    #: Server: ``Expect: 100-continue`` is answered when the body is wanted.
    EXPECT_CONTINUE = "expect-continue"
    #: Server: ``request.url`` has the path percent-encoded as the client sent it.
    RAW_PATH = "raw-path"
    #: Server: repeated request header fields arrive one by one, not joined.
    SEPARATE_FIELDS = "separate-fields"
    #: Server: repeated response header fields leave one by one; some platforms have one value each.
    REPEATED_FIELDS = "repeated-fields"
    #: Server: response header fields leave in Latin-1; some platforms send ASCII or UTF-8 only.
    LATIN_1_FIELDS = "latin-1-fields"
    #: Server: a request head over ``Limits.head`` is answered with 431.
    HEAD_LIMIT = "head-limit"
    #: Server: endpoints can be mounted under a prefix of the path, by the server's own means.
    MOUNTING = "mounting"
    #: Server: endpoints can be routes of a router of the server's own, which hands on the
    #: parameters that it has found in the path, and the template.
    NATIVE_ROUTES = "native-routes"
    #: Engine: ``durable.runs`` shows each run, its phase and its steps.
    RUNS = "runs"
    #: Engine: a wait has an event that was sent after the step before it, but before the wait.
    EARLY_EVENTS = "early-events"
    #: Engine: an event that is sent twice with one id is taken once.
    EVENT_IDS = "event-ids"
    #: Engine: a step that fails for good does not cost the client its connection.
    ATTACHED_FAILURES = "attached-failures"
    #: Engine: a replay has the header fields of the run's request, as the first time.
    REQUEST_FIELDS = "request-fields"
    #: Store: what was committed is there for another handle on the same data.
    SHARED = "shared"
    #: Store: what is left of a commit when the process dies in it can be looked at.
    CRASH_POINTS = "crash-points"
    #: Store: somebody else can lock it, so that no commit is taken.
    LOCKS = "locks"
    #: Store: its data is there for other processes on this host, also for forked ones.
    PROCESSES = "processes"


class Kind(Enum):
    """Which suite judges a subject; the value is the method it is known by."""

    ENGINE = "application"
    SERVER = "serve"
    STORE = "open"


_HANDLERS = (Capability.SYNC_HANDLERS, Capability.ASYNC_HANDLERS)
_OF_ENGINES = (
    *_HANDLERS,
    Capability.RUNS,
    Capability.EARLY_EVENTS,
    Capability.EVENT_IDS,
    Capability.ATTACHED_FAILURES,
    Capability.REQUEST_FIELDS,
)
_OF_STORES = (
    Capability.SHARED,
    Capability.CRASH_POINTS,
    Capability.LOCKS,
    Capability.PROCESSES,
)
_OF_SERVERS = tuple(each for each in Capability if each not in _OF_ENGINES[2:] + _OF_STORES)


def capabilities_of(kind: Kind) -> tuple[Capability, ...]:
    """Return what a subject of a kind may declare. What others may declare is taken for granted."""
    known = {Kind.ENGINE: _OF_ENGINES, Kind.SERVER: _OF_SERVERS, Kind.STORE: _OF_STORES}
    return known[kind]


class Subject(Protocol):
    """What all subjects have."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """The values of the :class:`Capability` members that it declares."""
        ...


class ServerSubject(Subject, Protocol):
    """A server interface with its adapter."""

    @property
    def endpoint_adapter(self) -> EndpointAdapter[Any]:
        """What ``Durable(endpoint_adapter=)`` is given; options go through ``with_options``."""
        ...

    def serve(self, routes: Routes, *, durable: Durable[Any]) -> AbstractContextManager[str]:
        """Serve over HTTP/1.1, in this process, on a free port of this machine.

        Entering starts ``durable`` and yields the URL of the server's root, such as
        ``"http://127.0.0.1:8123"``, where connections are accepted by now. Leaving accepts no more,
        stops ``durable``, and lets answers in flight out.

        Args:
            routes: what to serve; targets are endpoints that the adapter wrapped, or plain
                functions. ``durable_core.routing.Application`` answers by them.
            durable: whose endpoints they lead to.
        """
        ...

    def mount(
        self, endpoint: Any, prefix: str, template: str, *, durable: Durable[Any]
    ) -> AbstractContextManager[str]:
        """Serve one endpoint by the server's own means, as :meth:`serve`; for all methods.

        Called only for subjects that declare ``"mounting"`` or ``"native-routes"``; the method may
        be missing in others.

        Args:
            endpoint: what the adapter has made of a handler.
            prefix: the decoded path of the mounted application, such as ``"/the shop"``. It is ""
                unless ``"mounting"`` is declared.
            template: the path of the route below that, such as ``"/orders/{order}"``. It has
                parameters only if ``"native-routes"`` is declared.
            durable: whose endpoint it is.
        """
        ...


class AnyResponse(Protocol):
    """What a client returns."""

    @property
    def status(self) -> int:
        """The status of the run's response."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields of the run's response."""
        ...

    def json(self) -> Any:
        """Return the value of the JSON body."""
        ...


class Client(Protocol):
    """Calls an endpoint as ``fetch_with_stream`` of durable-client does.

    ``--client MODULE:NAME`` names a mapping of such functions by the names that reports show.
    """

    def __call__(
        self,
        url: str,
        *,
        headers: HeaderFields = ...,
        on_data: Callable[[Chunk], object] | None = ...,
        on_commit: Callable[[Commit], object] | None = ...,
        on_rollback: Callable[[Rollback], object] | None = ...,
        timeout: float | None = ...,
        max_reconnects: int = ...,
    ) -> AnyResponse:
        """Follow the run, and return its response.

        Raises:
            ConnectionLostError, StreamEndedError: of ``durable_core.errors``.
        """
        ...


class StoreSubject(Subject, Protocol):
    """A store, and back doors that look past its own reads."""

    def open(self) -> AbstractContextManager[Store]:
        """Yield a store that is empty and open; afterwards close and delete it."""
        ...

    def open_again(self, store: Store) -> AbstractContextManager[Store]:
        """Yield another handle on the data of an open store, as another process would have it.

        Called only for subjects that declare ``"shared"``; in a process that was made by
        ``os.fork`` only for those that declare ``"processes"``.
        """
        ...

    def lock(self, store: Store) -> AbstractContextManager[None]:
        """Lock the store, as another program would, as long as the context lasts.

        Called only for subjects that declare ``"locks"``.
        """
        ...

    def crash_points(
        self, store: Store, act: Callable[[], object]
    ) -> Iterator[AbstractContextManager[Store]]:
        """Call ``act``, which commits once; yield what crashes would have left, in their order.

        There is one for each statement that was executed: a store on what was there when the
        statement began, as if the process had died then. One more follows for what is there after
        ``act``. The data of ``store`` stays as it is. Called only for subjects that declare
        ``"crash-points"``.
        """
        ...

    def peek(self, store: Store) -> Mapping[str, int]:
        """Count what is stored, without the store's own methods.

        Returns:
            How many ``"runs"``, ``"steps"`` (finished ops), ``"pending"`` (unfinished ops) and
            ``"events"`` there are.
        """
        ...


class EngineSubject(Subject, Protocol):
    """An engine, behind a server that is known to conform."""

    def application(self, id: str) -> Durable[Any]:
        """Return an application, not started, whose runs are in the hands of the engine.

        Applications of one id share their runs, as the processes of one program do that are
        started one after the other. The suite takes a new id for each case.
        """
        ...

    def serve(self, routes: Routes, *, durable: Durable[Any]) -> AbstractContextManager[str]:
        """Serve, and have the engine find it; as :meth:`ServerSubject.serve`."""
        ...

    def settle(self, durable: Durable[Any]) -> None:
        """Block until no run of an application is about to go on.

        Each has ended, sleeps, is registered to wait for an event, or waits for another attempt.
        """
        ...


def kind_of(subject: object) -> Kind | None:
    """Return what a subject is, by the methods that tell; None if it is nothing of this."""
    return next((kind for kind in Kind if callable(getattr(subject, kind.value, None))), None)
