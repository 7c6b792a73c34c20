"""The adapter that ``Durable`` takes."""

from __future__ import annotations

from durable_asgi._app import ASGIApp
from durable_core.adapters import AppAdapter

__all__ = ["endpoint_adapter"]

#: The adapter for ASGI servers.
endpoint_adapter = AppAdapter(ASGIApp)
