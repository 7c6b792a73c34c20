"""Applications made for one case, and who serves them."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias, cast
from uuid import uuid4

from durable_conformance.contract import EngineSubject, Kind, ServerSubject, kind_of
from durable_conformance.programs import Gate, Program, handler_of, until
from durable_conformance.wire import Client, Reply
from durable_core import Durable, Limits, RetryPolicy
from durable_core.engine.embedded import EmbeddedEngine
from durable_core.ports import Store
from durable_core.routing import Routes, Target
from durable_core.stores.memory import MemoryStore

__all__ = [
    "ALL_METHODS",
    "Deployment",
    "EngineDeployment",
    "ExtraRoutes",
    "LiveServer",
    "ObservedEngine",
    "ServerDeployment",
    "deployment_for",
    "wait_until_idle",
]

#: More routes of an application.
ExtraRoutes: TypeAlias = Callable[[Durable[Any]], Mapping[str, Target]]

ALL_METHODS = "GET,HEAD,POST,PUT,PATCH,DELETE,QUERY"


class LiveServer(Client):
    """An application that is served.

    Args:
        base_url: where.
        durable: the application.
        settle: blocks until no run of it is about to go on.
    """

    def __init__(
        self, base_url: str, durable: Durable[Any], settle: Callable[[Durable[Any]], None]
    ) -> None:
        super().__init__(base_url)
        self.durable = durable
        self._settle = settle

    def finish(self, method: str, target: str, **sent: Any) -> Reply:
        """Ask, follow redirects, and return the final answer."""
        return self.follow(target, self.ask(method, target, **sent))

    def phases(self) -> list[str]:
        """Return the status of each run, the newest first."""
        return [run.status for run in self.durable.runs.list(limit=1000)]

    def settle(self) -> None:
        """Wait until each run has ended, sleeps, or waits: for an event, or to be tried again."""
        self._settle(self.durable)


class Deployment(ABC):
    """Serves programs on a subject.

    Args:
        handler_kind: the kind of handlers, ``"sync"`` or ``"async"``.
    """

    def __init__(self, handler_kind: str) -> None:
        self.handler_kind = handler_kind
        self._gates: list[Gate] = []

    def gate(self, *, closed: bool = False) -> Gate:
        """Return a gate.

        Args:
            closed: it stays so when the server stops; otherwise that opens it.
        """
        gate = Gate()
        if not closed:
            self._gates.append(gate)
        return gate

    @contextmanager
    def serving(
        self,
        program: Program | None = None,
        *,
        methods: str = ALL_METHODS,
        more: ExtraRoutes | None = None,
        store: Store | None = None,
        limits: Limits | None = None,
        own: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Iterator[LiveServer]:
        """Serve a program at ``/it``.

        What is served later on the same deployment goes on with the runs of what was before.

        Args:
            program: the handler.
            methods: of its route.
            more: other routes.
            store: None for the deployment's own. Not for engines, as ``limits``.
            limits: of the application.
            own: options given to ``Durable.endpoint``.
            **options: options given to the adapter, where the subject is a server.
        """
        durable, inherited = self._application(options, store, limits)
        routes: dict[str, Target] = dict(more(durable)) if more is not None else {}
        if program is not None:
            chosen = {"function_id": "it", **inherited, **(own or {})}
            routes[f"{methods} /it"] = self.endpoint(durable, program, **chosen)
        with self._serve(routes, durable) as url:
            try:
                yield LiveServer(url, durable, self._settle)
            finally:
                for gate in self._gates:
                    gate.open()

    @contextmanager
    def mounting(self, program: Program, prefix: str, template: str) -> Iterator[LiveServer]:
        """Mount a program by the server's own means; see ``ServerSubject.mount``."""
        durable, options = self._application({}, None, None)
        endpoint = self.endpoint(durable, program, **options)
        with self._mount(endpoint, prefix, template, durable) as url:
            yield LiveServer(url, durable, self._settle)

    def outside_step(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a blocking function in a handler, outside its steps.

        A program writes ``value = yield deployment.outside_step(f)``.
        """
        return (
            function(*args) if self.handler_kind == "sync" else asyncio.to_thread(function, *args)
        )

    def endpoint(self, durable: Durable[Any], program: Program, **options: Any) -> Any:
        """Make an endpoint of a program."""
        wrap: Any = durable.endpoint(**options)
        return wrap(handler_of(program, self.handler_kind))

    @abstractmethod
    def _application(
        self, options: dict[str, Any], store: Store | None, limits: Limits | None
    ) -> tuple[Durable[Any], dict[str, Any]]:
        """Return an application, and which of the options its endpoints are to be given."""

    @abstractmethod
    def _serve(self, routes: Routes, durable: Durable[Any]) -> AbstractContextManager[str]:
        """Serve an application."""

    @abstractmethod
    def _mount(
        self, endpoint: Any, prefix: str, template: str, durable: Durable[Any]
    ) -> AbstractContextManager[str]:
        """Serve an endpoint by the server's own means."""

    @abstractmethod
    def _settle(self, durable: Durable[Any]) -> None:
        """Wait until no run is about to go on."""


class ObservedEngine(EmbeddedEngine):
    """The embedded engine, which lets on that it is being stopped."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.stopping = threading.Event()

    def stop(self, timeout: float) -> None:
        """Stop."""
        self.stopping.set()
        super().stop(timeout)


class ServerDeployment(Deployment):
    """A server that is judged, with the embedded engine behind it."""

    def __init__(self, subject: ServerSubject, handler_kind: str) -> None:
        super().__init__(handler_kind)
        self._subject = subject
        self._store = MemoryStore()

    def _application(
        self, options: dict[str, Any], store: Store | None, limits: Limits | None
    ) -> tuple[Durable[Any], dict[str, Any]]:
        durable: Durable[Any] = Durable(
            id="suite",
            endpoint_adapter=self._subject.endpoint_adapter.with_options(**options),
            engine=ObservedEngine(store or self._store),
            limits=limits,
            retry=RetryPolicy(base="1ms", max="1ms"),
        )
        return durable, {}

    def _serve(self, routes: Routes, durable: Durable[Any]) -> AbstractContextManager[str]:
        return self._subject.serve(routes, durable=durable)

    def _mount(
        self, endpoint: Any, prefix: str, template: str, durable: Durable[Any]
    ) -> AbstractContextManager[str]:
        return self._subject.mount(endpoint, prefix, template, durable=durable)

    def _settle(self, durable: Durable[Any]) -> None:
        wait_until_idle(durable)


class EngineDeployment(Deployment):
    """An engine that is judged, behind a server that is known to conform."""

    def __init__(self, subject: EngineSubject, handler_kind: str) -> None:
        super().__init__(handler_kind)
        self._subject = subject
        self._id = f"suite-{uuid4().hex}"

    def _application(
        self, options: dict[str, Any], store: Store | None, limits: Limits | None
    ) -> tuple[Durable[Any], dict[str, Any]]:
        assert store is None, "engines keep runs where they will"
        assert limits is None, "engines have limits of their own"
        return self._subject.application(self._id), options

    def _serve(self, routes: Routes, durable: Durable[Any]) -> AbstractContextManager[str]:
        return self._subject.serve(routes, durable=durable)

    def _mount(
        self, endpoint: Any, prefix: str, template: str, durable: Durable[Any]
    ) -> AbstractContextManager[str]:
        raise NotImplementedError("engines are judged behind a server that is known to conform")

    def _settle(self, durable: Durable[Any]) -> None:
        self._subject.settle(durable)


def wait_until_idle(durable: Durable[Any]) -> None:
    """Wait until ``durable.runs`` shows no run that is about to go on."""
    listed = durable.runs.list
    until(
        lambda: "running" not in {run.status for run in listed(limit=1000)},
        "no run was about to go on",
    )


def deployment_for(subject: ServerSubject | EngineSubject, handler_kind: str) -> Deployment:
    """Return the deployment for a subject of either kind."""
    if kind_of(subject) is Kind.ENGINE:
        return EngineDeployment(cast(EngineSubject, subject), handler_kind)
    return ServerDeployment(cast(ServerSubject, subject), handler_kind)
