"""The conformance suite of durable-core: ``python -m durable_conformance my_package:subject``."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
