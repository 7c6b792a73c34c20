"""The face of the library for ``def`` handlers: ``from durable_core.sync import step, stream``."""

from __future__ import annotations

from durable_core.api.step import sync_step as step
from durable_core.api.stream import sync_stream as stream

__all__ = ["step", "stream"]
