"""The durable layer of an application: between its middleware and its routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from durable_asgi import (
    ASGIApp,
    ASGIApplication,
    ASGIExchange,
    Receive,
    Scope,
    Send,
)
from durable_core.adapters import EngineLifecycle, converse_async
from durable_core.errors import ConfigurationError
from durable_starlette._passage import REPLAY, AttachedPassage, Passage
from durable_starlette._request import names_run

__all__ = ["DurableLayer", "install_layer"]


class DurableLayer:
    """An ASGI application around the router of another one.

    It answers clients that wait for runs, and lets a request become a run when it reaches a durable
    endpoint.

    Args:
        application: what it is around.
        engine: runs the endpoints.
        waiting: answers clients that wait for a run; None while the application has no endpoint.
    """

    def __init__(
        self,
        application: ASGIApplication,
        engine: EngineLifecycle,
        waiting: Callable[[], ASGIApp | None],
    ) -> None:
        self._application = application
        self.engine = engine
        self._limits = engine.limits
        self._waiting = waiting

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one scope."""
        if scope["type"] != "http":
            return self._application(scope, receive, send)
        # Not by the context: a server may begin a request in the context of the one before.
        passage: Passage | None = scope.get(REPLAY)
        if passage is None:
            is_wait = scope["query_string"] and names_run(scope)
            if is_wait and (waiting := self._waiting()) is not None:
                return converse_async(waiting, ASGIExchange(scope, receive, send))
            passage = AttachedPassage(self._limits)
        return passage.pass_through(self._application, scope, receive, send)


def install_layer(app: Any, engine: EngineLifecycle, waiting: Callable[[], ASGIApp | None]) -> None:
    """Put a layer around the router of a Starlette application, unless it has it.

    Raises:
        ConfigurationError: it is no such application, or has the layer of another engine.
    """
    router = getattr(app, "router", None)
    inner = getattr(router, "middleware_stack", None)
    if router is None or inner is None:
        raise ConfigurationError(
            f"durable_starlette works in Starlette and FastAPI applications, not in {app!r}"
        )
    if not isinstance(inner, DurableLayer):
        router.middleware_stack = DurableLayer(inner, engine, waiting)
    elif inner.engine is not engine:
        raise ConfigurationError(
            "the application has another Durable already, and clients that wait for a run could "
            "not tell them apart: make all endpoints of an application with one"
        )
