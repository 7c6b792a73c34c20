"""The command line ``durable``, also ``python -m durable_core``."""

from __future__ import annotations

from durable_core.cli.commands import main

__all__ = ["main"]
