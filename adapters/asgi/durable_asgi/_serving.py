"""Serving whatever can be served, in one call."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

from durable_asgi._app import ASGIApp
from durable_asgi._server import EndpointServer
from durable_asgi._types import ASGIApplication
from durable_core import Durable
from durable_core.adapters import HTTPHandler, Routes, check_callable, resolve_handler

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
        ConfigurationError: routes without ``durable``, or something that cannot be served.
    """
    own = resolve_handler(handler, durable)
    if own is None:
        check_callable(cast(ASGIApplication, handler), "ASGI", 3)
    application = ASGIApp(own) if own is not None else cast(ASGIApplication, handler)
    durables = (durable.engine,) if durable is not None else getattr(application, "durables", ())
    return EndpointServer(application, durables=tuple(durables))


def serve_endpoint(
    handler: Servable,
    port: int = 8000,
    host: str = "127.0.0.1",
    *,
    durable: Durable[Any] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; see :func:`create_endpoint_server`."""
    create_endpoint_server(handler, durable=durable).listen(port, host).serve_forever()
