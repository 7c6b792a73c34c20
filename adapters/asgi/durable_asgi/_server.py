"""A server to start from Python, for development, tests and small services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable_asgi._types import ASGIApplication
from durable_core.adapters import EngineLifecycle, Server, bind
from durable_core.errors import ConfigurationError

if TYPE_CHECKING:
    from durable_asgi._uvicorn import BackgroundServer

__all__ = ["EndpointServer"]


class EndpointServer(Server["BackgroundServer"]):
    """Serves an ASGI application by uvicorn, which must be installed.

    It starts what works in the background of the application, and stops it in good order.

    Args:
        application: what to serve.
        durables: what to start and stop.
    """

    def __init__(
        self, application: ASGIApplication, *, durables: tuple[EngineLifecycle, ...] = ()
    ) -> None:
        super().__init__(lambda host, port: _launch(application, durables, host=host, port=port))


def _launch(
    application: ASGIApplication, durables: tuple[EngineLifecycle, ...], *, host: str, port: int
) -> BackgroundServer:
    make = _background_server()
    server = make(application, durables, bind(host, port))
    server.launch()
    return server


def _background_server() -> type[BackgroundServer]:
    try:
        from durable_asgi._uvicorn import BackgroundServer
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "EndpointServer runs on uvicorn, which is not installed (pip install uvicorn); "
            "without it, name the application to an ASGI server of your choice"
        ) from error
    return BackgroundServer
