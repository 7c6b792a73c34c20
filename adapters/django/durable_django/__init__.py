"""Durable endpoints in Django: views stay as they are."""

from __future__ import annotations

from durable_core.adapters import NotReachedError
from durable_django._adapter import DjangoAdapter, DjangoApp, endpoint_adapter, install
from durable_django._middleware import DurableMiddleware

__all__ = [
    "DjangoAdapter",
    "DjangoApp",
    "DurableMiddleware",
    "NotReachedError",
    "endpoint_adapter",
    "install",
]
