"""Webhooks that tell of the end of runs: ``endpoint(on_complete=Webhook(...))``."""

from __future__ import annotations

from durable_core.api.webhook import Webhook
from durable_core.flow.completion import Completed

__all__ = ["Completed", "Webhook"]
