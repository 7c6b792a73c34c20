"""The dashboard by itself: a server that looks into a store, and works on no run."""

from __future__ import annotations

from typing import Any

from durable_core import Durable
from durable_core.adapters import is_async
from durable_core.errors import ConfigurationError
from durable_dashboard._dashboard import Authorize, Dashboard
from durable_dashboard._live import Changes
from durable_wsgi import EndpointServer, WSGIApp

__all__ = ["create_dashboard_server"]

#: How many event streams may hold a thread each: this server has no other clients.
_STREAMS = 100


def create_dashboard_server(
    durable: Durable[Any], *, authorize: Authorize | None = None, read_only: bool = False
) -> EndpointServer:
    """Return a server of the dashboard alone: no run is executed by it.

    Args:
        durable: the application, or one that only has the id and the store of it.
        authorize, read_only: as of ``Durable.dashboard``.

    Raises:
        ConfigurationError: ``authorize`` is a coroutine function, or the engine is not the embedded
            one.
    """
    if authorize is not None and is_async(authorize):
        raise ConfigurationError("authorize= of a dashboard by itself must be a plain function")
    dashboard = Dashboard(
        durable, authorize=authorize, read_only=read_only, thread_streams=_STREAMS
    )
    streams = _Streams(dashboard.changes)
    return EndpointServer(WSGIApp(dashboard), durables=(streams,), limits=durable.engine.limits)


class _Streams:
    """What the server starts and stops in place of an engine: the event streams alone."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    def start(self, *, server_threads: int | None = None) -> None:
        """Allow streams."""
        self._changes.begin()

    def drain(self) -> None:
        """End them: the server waits for those who read them."""
        self._changes.end()

    def stop(self, timeout: float, /) -> None:
        """End them."""
        self._changes.end()
