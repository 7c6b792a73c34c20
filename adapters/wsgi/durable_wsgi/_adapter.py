"""The adapter that ``Durable`` takes."""

from __future__ import annotations

from durable_core.adapters import AppAdapter
from durable_wsgi._app import WSGIApp

__all__ = ["endpoint_adapter"]

#: The adapter for WSGI servers.
endpoint_adapter = AppAdapter(WSGIApp)
