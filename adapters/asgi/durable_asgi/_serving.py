"""Serving whatever can be served, in one call."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

from durable_asgi._app import ASGIApp, app
from durable_asgi._server import EndpointServer
from durable_asgi._types import ASGIApplication
from durable_core import Durable
from durable_core.api.adapter import HTTPHandler
from durable_core.api.application import Routes
from durable_core.errors import ConfigurationError

__all__ = ["Servable", "create_endpoint_server", "serve_endpoint"]

#: What can be served: a handler of the core, wrapped or not, an ASGI callable, or routes.
Servable: TypeAlias = "HTTPHandler | ASGIApplication | Routes"


def create_endpoint_server(
    handler: Servable, *, durable: Durable[Any] | None = None
) -> EndpointServer:
    """Return a server, to be started by :meth:`EndpointServer.listen`.

    Args:
        handler: an endpoint, an ``app``, routes (which need ``durable``), or any ASGI callable.
        durable: what to start and stop with the server, where ``handler`` does not show it.

    Raises:
        ConfigurationError: routes without ``durable``.
        TypeError: something that cannot be served.
    """
    application = _application(handler, durable)
    durables = (durable.engine,) if durable is not None else getattr(application, "durables", ())
    return EndpointServer(application, durables=tuple(durables))


def _application(handler: Servable, durable: Durable[Any] | None) -> ASGIApplication:
    if hasattr(handler, "handle") and hasattr(handler, "handle_async"):
        return ASGIApp(cast(HTTPHandler, handler))
    if callable(handler):
        return handler
    if durable is None:
        raise ConfigurationError("routes need durable=, or app(durable, routes) in their place")
    return app(durable, handler)


def serve_endpoint(
    handler: Servable,
    port: int = 8000,
    host: str = "127.0.0.1",
    *,
    durable: Durable[Any] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; see :func:`create_endpoint_server`."""
    create_endpoint_server(handler, durable=durable).listen(port, host).serve_forever()
