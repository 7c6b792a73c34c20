"""Serving whatever can be served, in one call."""

from __future__ import annotations

import asyncio
import logging
import ssl as tls
from typing import Any, TypeAlias

from durable_asyncio._app import AsyncioApp
from durable_asyncio._listener import Listener
from durable_asyncio._server import EndpointServer
from durable_asyncio._timeouts import Timeouts, timeouts_of
from durable_core import Durable
from durable_core.adapters import (
    HTTPHandler,
    Routes,
    bind,
    refuse_other_adapter,
    resolve_handler,
    url_of,
)
from durable_core.errors import ConfigurationError

__all__ = ["Servable", "create_endpoint_server", "serve", "serve_endpoint"]

_logger = logging.getLogger("durable.asyncio")

#: What can be served: a handler of the core, wrapped or not, or routes.
Servable: TypeAlias = "HTTPHandler | AsyncioApp | Routes"


def create_endpoint_server(
    handler: Servable,
    *,
    durable: Durable[Any] | None = None,
    timeouts: Timeouts | None = None,
    ssl: tls.SSLContext | None = None,
    max_connections: int | None = None,
) -> EndpointServer:
    """Return a server, to be started by :meth:`EndpointServer.listen`.

    Args:
        handler: an endpoint, an ``app``, or routes (which need ``durable``).
        durable: whose endpoints the routes lead to.
        timeouts: how long clients may take.
        ssl: serve HTTPS with it.
        max_connections: clients over so many are refused with 503. By default 10,000, or less where
            the process may open fewer files.

    Raises:
        ValueError: ``max_connections`` is less than 1.
        ConfigurationError: routes without ``durable``, or something that cannot be served.
    """
    served = _application(handler, durable)
    return EndpointServer(
        served,
        durables=served.durables,
        timeouts=timeouts,
        ssl=ssl,
        max_connections=max_connections,
    )


def serve_endpoint(
    handler: Servable,
    port: int = 8000,
    host: str = "127.0.0.1",
    *,
    durable: Durable[Any] | None = None,
    timeouts: Timeouts | None = None,
    ssl: tls.SSLContext | None = None,
    max_connections: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; see :func:`create_endpoint_server`."""
    server = create_endpoint_server(
        handler, durable=durable, timeouts=timeouts, ssl=ssl, max_connections=max_connections
    )
    server.listen(port, host).serve_forever()


async def serve(
    handler: Servable,
    port: int = 8000,
    host: str = "127.0.0.1",
    *,
    durable: Durable[Any] | None = None,
    timeouts: Timeouts | None = None,
    ssl: tls.SSLContext | None = None,
    max_connections: int | None = None,
    drain: float = 10.0,
) -> None:
    """Serve on this event loop until cancelled; then close in good order.

    It installs no signal handlers; ``asyncio.run`` cancels its task on SIGINT.

    Args:
        handler, port, host, durable, timeouts, ssl, max_connections: see :func:`serve_endpoint`.
        drain: seconds that steps and answers in flight have to finish. Another cancellation ends
            that at once.

    Raises:
        OSError: the address cannot be had.
        StoreError: a store cannot be opened.
    """
    served = _application(handler, durable)
    listener = Listener(
        served,
        served.durables,
        timeouts=timeouts_of(timeouts),
        tls=ssl,
        max_connections=max_connections,
    )
    sockets = bind(host, port)
    await listener.open(sockets)
    _logger.info("serving on %s", url_of(sockets[0], listener.scheme))
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await listener.drain(drain)


def _application(handler: Servable, durable: Durable[Any] | None) -> AsyncioApp:
    if isinstance(handler, AsyncioApp):
        return handler
    own = resolve_handler(handler, durable)
    if own is None:
        refuse_other_adapter(handler)
        raise ConfigurationError(
            f"{handler!r} is no endpoint; a plain function is served by a route, as in "
            'app(durable, {"GET /": function})'
        )
    return AsyncioApp(own)
