"""Durable endpoints under any ASGI server."""

from __future__ import annotations

from durable_asgi._adapter import endpoint_adapter
from durable_asgi._app import ASGIApp, app
from durable_asgi._server import EndpointServer
from durable_asgi._serving import create_endpoint_server, serve_endpoint

__all__ = [
    "ASGIApp",
    "EndpointServer",
    "app",
    "create_endpoint_server",
    "endpoint_adapter",
    "serve_endpoint",
]
