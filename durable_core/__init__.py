"""Durable endpoints: wrap an HTTP handler, call steps in it, and it survives failures and crashes.

Everything a handler needs is imported from here; ``durable_core.sync`` has the steps for ``def``
handlers. The names are those of ``durable_core/_public.py``. That module is loaded when the first
of them is used, so that a module of the package can be imported without all the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from durable_core._public import *  # noqa: F403 - its ``__all__`` says which
    from durable_core._public import __all__ as __all__
else:

    def __getattr__(name: str) -> object:
        """Load the public names when one of them is used (PEP 562)."""
        if name == "__all__" or not name.startswith("_"):
            from durable_core import _public

            if name in {"__all__", *_public.__all__}:
                value = globals()[name] = getattr(_public, name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
