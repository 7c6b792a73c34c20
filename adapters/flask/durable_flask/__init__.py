"""Durable endpoints in Flask: views stay as they are."""

from __future__ import annotations

from durable_core.adapters import NotReachedError
from durable_flask._adapter import FlaskAdapter, FlaskApp, endpoint_adapter, install

__all__ = ["FlaskAdapter", "FlaskApp", "NotReachedError", "endpoint_adapter", "install"]
