"""Durable endpoints in Starlette and FastAPI: handlers stay as they are."""

from __future__ import annotations

from durable_starlette._adapter import StarletteAdapter, StarletteApp, endpoint_adapter, install
from durable_starlette._passage import NotReachedError

__all__ = ["NotReachedError", "StarletteAdapter", "StarletteApp", "endpoint_adapter", "install"]
