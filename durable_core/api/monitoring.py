"""Routes for those who watch a process: is it alive, may it get requests, and its metrics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from durable_core.api.effects import CallHook, RequestEffect, RequestFlow, Route
from durable_core.errors import ConfigurationError
from durable_core.http.problem import problem
from durable_core.http.request import Request
from durable_core.http.response import Response, with_headers

if TYPE_CHECKING:
    from durable_core.api.engine import Engine

__all__ = ["Exposition", "HealthRoute", "MetricsRoute", "ReadinessRoute", "exposition_of"]

_NO_STORE = (("cache-control", "no-store"),)
#: What a process that may get no requests says, by the reason.
_DETAILS = {
    "stopping": "the process stops",
    "draining": "the process hands its clients on, and will stop",
    "store-unavailable": "the store cannot be opened or read",
    "lease-expired": "the process could not renew its lease in the store",
    "scheduler-ended": "the scheduler of the process has ended",
}


@runtime_checkable
class Exposition(Protocol):
    """An observer that has metrics to be scraped, such as ``durable_prometheus``'s."""

    def watch(self, durable: Any) -> None:
        """Read the gauges of an application, a ``Durable``, too."""
        ...

    def exposition(self, accept: str) -> tuple[str, bytes]:
        """Return the media type and the text of all metrics; it may block.

        Args:
            accept: the header ``Accept`` of the request; "" without one.
        """
        ...


@dataclass(frozen=True)
class _CallBlocking(RequestEffect):
    """Call a function that may block; in a task it gets a thread."""

    function: Callable[..., Any]
    args: tuple[object, ...] = ()

    def perform(self, engine: Engine) -> Any:
        return self.function(*self.args)

    async def perform_async(self, engine: Engine) -> Any:
        from asyncio import to_thread  # takes a while to load

        return await to_thread(self.function, *self.args)


@dataclass(frozen=True)
class _AskWhyNotReady(RequestEffect):
    """Ask the engine whether the process may get requests."""

    def perform(self, engine: Engine) -> str | None:
        return engine.why_not_ready()

    async def perform_async(self, engine: Engine) -> str | None:
        return await engine.why_not_ready_async()


class _WatchRoute(Route):
    """Answers GET and HEAD, and lets no cache keep what is said: it is asked how things are now."""

    methods = ("GET", "HEAD")

    def respond(self, request: Request, max_wait: float) -> RequestFlow[Response]:
        """Answer with what is seen now."""
        return with_headers((yield from self.look(request)), _NO_STORE)

    @abstractmethod
    def look(self, request: Request) -> RequestFlow[Response]:
        """Return the answer to a GET."""


class HealthRoute(_WatchRoute):
    """Says whether the process is alive: 503 if only a new process can help."""

    def look(self, request: Request) -> RequestFlow[Response]:
        """Answer without starting anything, and without asking the store."""
        health: Mapping[str, Any] = yield CallHook(lambda _: self.engine.health(), request)
        is_alive = bool(health.get("scheduler", True))
        shown = {name: value for name, value in health.items() if name != "endpoints"}
        return Response.json({"alive": is_alive, **shown}, status=200 if is_alive else 503)


class ReadinessRoute(_WatchRoute):
    """Says whether the process may get requests: 503 with the reason if not."""

    def look(self, request: Request) -> RequestFlow[Response]:
        """Start what a request would start, and read the store."""
        reason: str | None = yield _AskWhyNotReady()
        if reason is None:
            return Response.json({"ready": True, "app": self.engine.env.app})
        return problem(503, "not-ready", detail=_DETAILS[reason], reason=reason)


class MetricsRoute(_WatchRoute):
    """Shows the metrics of an observer."""

    def __init__(self, engine: Engine, observer: Exposition) -> None:
        super().__init__(engine)
        self._observer = observer

    def look(self, request: Request) -> RequestFlow[Response]:
        """Answer with all metrics, as text."""
        accept = ", ".join(request.headers.get_all("accept"))
        kind, text = yield _CallBlocking(self._observer.exposition, (accept,))
        return Response(headers=(("content-type", kind),), body=text)


def exposition_of(engine: Engine) -> Exposition:
    """Return the observer of an application whose metrics can be scraped.

    Raises:
        ConfigurationError: there is none, or more than one.
    """
    found = [each for each in engine.env.observers if isinstance(each, Exposition)]
    if len(found) == 1:
        return found[0]
    text = "several of them" if found else "none"
    raise ConfigurationError(
        "Durable.metrics() needs one observer whose metrics can be scraped, such as "
        "Durable(observers=[PrometheusObserver()]) of the package 'durable-prometheus'; "
        f"{engine.env.app!r} has {text}"
    )
