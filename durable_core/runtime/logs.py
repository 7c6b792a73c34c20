"""Logging: one logger for the library, the run id in every record about a run."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

__all__ = ["logger", "run_logger"]

#: The logger of the library; quiet unless the application configures logging.
logger = logging.getLogger("durable")
logger.addHandler(logging.NullHandler())


class _RunLogger(logging.LoggerAdapter[logging.Logger]):
    """Puts the run id before the message, and into the record as ``run_id``."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the run id."""
        extra = self.extra or {}
        kwargs["extra"] = {**extra, **(kwargs.get("extra") or {})}
        return f"run {extra['run_id']}: {msg}", kwargs


def run_logger(run_id: str, function_id: str) -> logging.LoggerAdapter[logging.Logger]:
    """Return a logger for one run."""
    return _RunLogger(logger, {"run_id": run_id, "function_id": function_id})
