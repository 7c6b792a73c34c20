"""Durable endpoints on a small HTTP/1.1 server, asyncio and h11."""

from __future__ import annotations

from durable_asyncio._adapter import endpoint_adapter
from durable_asyncio._app import AsyncioApp, app
from durable_asyncio._server import EndpointServer
from durable_asyncio._serving import create_endpoint_server, serve, serve_endpoint
from durable_asyncio._timeouts import Timeouts

__all__ = [
    "AsyncioApp",
    "EndpointServer",
    "Timeouts",
    "app",
    "create_endpoint_server",
    "endpoint_adapter",
    "serve",
    "serve_endpoint",
]
