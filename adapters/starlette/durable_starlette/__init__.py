"""Durable endpoints in Starlette and FastAPI: handlers stay as they are."""

from __future__ import annotations

from durable_core.adapters import NotReachedError
from durable_starlette._adapter import StarletteAdapter, StarletteApp, endpoint_adapter, install

__all__ = ["NotReachedError", "StarletteAdapter", "StarletteApp", "endpoint_adapter", "install"]
