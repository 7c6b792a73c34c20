"""Durable endpoints on the Inngest server: ``Durable(id="shop", engine=InngestEngine())``."""

from __future__ import annotations

from durable_inngest._engine import InngestEngine, InngestFunction, InngestGateway

__all__ = ["InngestEngine", "InngestFunction", "InngestGateway"]
