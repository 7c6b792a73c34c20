"""What a flow that answers a request asks for, and how a thread and a task do it.

The flows of a run have runners, which know the run. A flow that answers a request knows only the
engine, so each effect here performs itself: ``perform`` in a thread, ``perform_async`` in a task.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Callable, Generator, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from durable_core.errors import HTTPError
from durable_core.flow.driver import drive_async, drive_sync
from durable_core.http.problem import problem_from_http_error, refuse_method
from durable_core.http.response import Response, open_body, open_body_async

if TYPE_CHECKING:
    from durable_core.api.engine import Engine
    from durable_core.flow.wait_url import WaitRequest
    from durable_core.http.request import Request
    from durable_core.model.event import Event
    from durable_core.ports import IdempotencyKey
    from durable_core.runners.settings import RegisteredEndpoint

__all__ = [
    "CallEngine",
    "CallFunction",
    "CallHook",
    "FlowHandler",
    "ReadToEnd",
    "RequestEffect",
    "RequestFlow",
    "Route",
    "SendEvents",
    "Serve",
    "ServeOnce",
    "Wait",
    "drive",
    "drive_in_task",
]

T = TypeVar("T")


class RequestEffect(ABC):
    """Something that a flow cannot do itself, because a thread and a task do it differently."""

    waits: ClassVar[bool] = True

    @abstractmethod
    def perform(self, engine: Engine) -> Any:
        """Return the answer, in this thread."""

    @abstractmethod
    async def perform_async(self, engine: Engine) -> Any:
        """Return the answer, in this task."""


#: A flow that answers a request, or does a part of that.
RequestFlow: TypeAlias = Generator[RequestEffect, Any, T]


def drive(flow: RequestFlow[T], engine: Engine) -> T:
    """Run a flow in this thread."""
    return drive_sync(flow, lambda effect: effect.perform(engine), nullcontext())


async def drive_in_task(flow: RequestFlow[T], engine: Engine) -> T:
    """Run a flow in this task."""
    return await drive_async(flow, lambda effect: effect.perform_async(engine))


class FlowHandler(ABC):
    """An ``HTTPHandler`` whose answer is a flow.

    Attributes:
        engine: runs it.
    """

    engine: Engine

    @abstractmethod
    def answer(self, request: Request, max_wait: float) -> RequestFlow[Response]:
        """Answer a request; see ``HTTPHandler.handle``."""

    def handle(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        """Answer in this thread; see ``HTTPHandler.handle``."""
        return drive(self.answer(request, max_wait), self.engine)

    async def handle_async(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        """Answer in this task; see ``HTTPHandler.handle_async``."""
        return await drive_in_task(self.answer(request, max_wait), self.engine)


class Route(FlowHandler):
    """An ``HTTPHandler`` that answers some methods, and refuses others."""

    methods: ClassVar[tuple[str, ...]]

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __repr__(self) -> str:
        """Show the application."""
        return f"<{type(self).__name__} of {self.engine.env.app}>"

    def answer(self, request: Request, max_wait: float) -> RequestFlow[Response]:
        """Answer a request of one of the methods; errors as problem documents."""
        if request.method not in self.methods:
            return refuse_method(request.method, ", ".join(sorted((*self.methods, "OPTIONS"))))
        try:
            return (yield from self.respond(request, max_wait))
        except HTTPError as error:
            return problem_from_http_error(error)

    @abstractmethod
    def respond(self, request: Request, max_wait: float) -> RequestFlow[Response]:
        """Return the response to a request of one of the methods.

        Raises:
            HTTPError: the request is refused.
        """


@dataclass(frozen=True)
class Serve(RequestEffect):
    """Run a handler; answered with the response to the client."""

    endpoint: RegisteredEndpoint
    request: Request
    route: str | None

    def perform(self, engine: Engine) -> Response:
        return engine.serve(self.endpoint, self.request, self.route)

    async def perform_async(self, engine: Engine) -> Response:
        return await engine.serve_async(self.endpoint, self.request, self.route)


@dataclass(frozen=True)
class ServeOnce(Serve):
    """As :class:`Serve`, if the store lets the run begin; else answered with a run to join."""

    key: IdempotencyKey | None

    def perform(self, engine: Engine) -> Any:
        return engine.serve_once(self.endpoint, self.request, self.route, self.key)

    async def perform_async(self, engine: Engine) -> Any:
        return await engine.serve_once_async(self.endpoint, self.request, self.route, self.key)


@dataclass(frozen=True)
class Wait(RequestEffect):
    """Wait for a run's result at its wait URL; answered with the response to the client."""

    wanted: WaitRequest

    def perform(self, engine: Engine) -> Response:
        return engine.wait(self.wanted)

    async def perform_async(self, engine: Engine) -> Response:
        return await engine.wait_async(self.wanted)


@dataclass(frozen=True)
class SendEvents(RequestEffect):
    """Send events for ``source``; answered with their ids."""

    events: Sequence[Event]
    source: str

    def perform(self, engine: Engine) -> Sequence[str]:
        return engine.send(self.events, self.source)

    async def perform_async(self, engine: Engine) -> Sequence[str]:
        return await engine.send_async(self.events, self.source)


@dataclass(frozen=True)
class CallEngine(RequestEffect):
    """Call the engine, where it may block; answered with what it returns."""

    call: Callable[[Engine], Any]

    def perform(self, engine: Engine) -> Any:
        return self.call(engine)

    async def perform_async(self, engine: Engine) -> Any:
        return await engine.call_in_thread(self.call, engine)


@dataclass(frozen=True)
class CallHook(RequestEffect):
    """Call a function of the application that does not block; answered with what it returns.

    It may be a coroutine function. In a task a plain one is called on the event loop.
    """

    function: Callable[[Request], Any]
    request: Request

    def perform(self, engine: Engine) -> Any:
        value = self.function(self.request)
        return engine.run_on_background_loop(value) if inspect.isawaitable(value) else value

    async def perform_async(self, engine: Engine) -> Any:
        value = self.function(self.request)
        return await value if inspect.isawaitable(value) else value


@dataclass(frozen=True)
class CallFunction(CallHook):
    """Call a function of the application that may block: in a task a plain one gets a thread."""

    async def perform_async(self, engine: Engine) -> Any:
        if inspect.iscoroutinefunction(self.function):
            return await self.function(self.request)
        value = await engine.call_in_thread(self.function, self.request)
        return await value if inspect.isawaitable(value) else value


@dataclass(frozen=True)
class ReadToEnd(RequestEffect):
    """Read a streamed body to its end, for nobody; the event loop is not blocked meanwhile."""

    body: Iterable[bytes] | AsyncIterable[bytes]

    def perform(self, engine: Engine) -> None:
        if isinstance(self.body, AsyncIterable):
            engine.run_on_background_loop(_exhaust_async(self.body))
        else:
            _exhaust(self.body)

    async def perform_async(self, engine: Engine) -> None:
        if isinstance(self.body, AsyncIterable):
            await _exhaust_async(self.body)
        else:
            await engine.call_in_thread(_exhaust, self.body)


def _exhaust(body: Iterable[bytes]) -> None:
    with open_body(body) as chunks:
        for _ in chunks:
            pass


async def _exhaust_async(body: AsyncIterable[bytes]) -> None:
    async with open_body_async(body) as chunks:
        async for _ in chunks:
            pass
