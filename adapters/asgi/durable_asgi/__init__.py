"""Durable endpoints under any ASGI server."""

from __future__ import annotations

from durable_asgi._adapter import endpoint_adapter
from durable_asgi._app import ASGIApp, app
from durable_asgi._exchange import ASGIExchange
from durable_asgi._lifespan import check_event_loop
from durable_asgi._replay import ASGIReplay, replay_scope, replayed_receive
from durable_asgi._server import EndpointServer
from durable_asgi._serving import create_endpoint_server, serve_endpoint
from durable_asgi._types import ASGIApplication, Message, Receive, Scope, Send

__all__ = [
    "ASGIApp",
    "ASGIApplication",
    "ASGIExchange",
    "ASGIReplay",
    "EndpointServer",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "app",
    "check_event_loop",
    "create_endpoint_server",
    "endpoint_adapter",
    "replay_scope",
    "replayed_receive",
    "serve_endpoint",
]
