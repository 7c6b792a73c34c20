"""The face of the library for ``def`` handlers: ``from durable_core.sync import step``."""

from __future__ import annotations

from durable_core.api.step import sync_step as step

__all__ = ["step"]
