"""Who can run the endpoints of an application: ``Durable(engine=...)``."""

from __future__ import annotations

from durable_core.api.engine import Engine
from durable_core.engine.embedded import EmbeddedEngine

__all__ = ["EmbeddedEngine", "Engine"]
