"""Durable endpoints under any WSGI server."""

from __future__ import annotations

from durable_wsgi._adapter import endpoint_adapter
from durable_wsgi._app import WSGIApp, app
from durable_wsgi._exchange import WSGIExchange
from durable_wsgi._head import length_of_plain
from durable_wsgi._replay import WSGIReplay, replay_environ
from durable_wsgi._server import EndpointServer
from durable_wsgi._serving import create_endpoint_server, serve_endpoint

__all__ = [
    "EndpointServer",
    "WSGIApp",
    "WSGIExchange",
    "WSGIReplay",
    "app",
    "create_endpoint_server",
    "endpoint_adapter",
    "length_of_plain",
    "replay_environ",
    "serve_endpoint",
]
