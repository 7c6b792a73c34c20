"""The adapter that ``Durable`` takes."""

from __future__ import annotations

from durable_asyncio._app import AsyncioApp
from durable_core.adapters import AppAdapter

__all__ = ["endpoint_adapter"]

#: The adapter for the server of this package.
endpoint_adapter = AppAdapter(AsyncioApp)
