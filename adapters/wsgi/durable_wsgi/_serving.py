"""Serving whatever can be served, in one call."""

from __future__ import annotations

from typing import Any, TypeAlias, cast
from wsgiref.types import WSGIApplication

from durable_core import Durable, Limits
from durable_core.adapters import HTTPHandler, Routes, check_callable, resolve_handler
from durable_wsgi._app import WSGIApp, durables_of
from durable_wsgi._server import EndpointServer

__all__ = ["Servable", "create_endpoint_server", "serve_endpoint"]

#: What can be served: a handler of the core, wrapped or not, a WSGI callable, or routes.
Servable: TypeAlias = "HTTPHandler | WSGIApplication | Routes"


def create_endpoint_server(
    handler: Servable, *, durable: Durable[Any] | None = None
) -> EndpointServer:
    """Return a server, to be started by :meth:`EndpointServer.listen`.

    Args:
        handler: an endpoint, an ``app``, routes (which need ``durable``), or any WSGI callable.
        durable: what to start and stop with the server, where ``handler`` does not show it.

    Raises:
        ConfigurationError: routes without ``durable``, or something that cannot be served.
    """
    own = resolve_handler(handler, durable)
    if own is None:
        check_callable(cast(WSGIApplication, handler), "WSGI", 2)
    application = WSGIApp(own) if own is not None else cast(WSGIApplication, handler)
    if durable is not None:
        limits = durable.engine.limits
        return EndpointServer(application, durables=(durable,), limits=limits)
    limits = application.limits if isinstance(application, WSGIApp) else Limits()
    return EndpointServer(application, durables=durables_of(application), limits=limits)


def serve_endpoint(
    handler: Servable,
    port: int = 8000,
    host: str = "127.0.0.1",
    *,
    durable: Durable[Any] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; see :func:`create_endpoint_server`."""
    create_endpoint_server(handler, durable=durable).listen(port, host).serve_forever()
