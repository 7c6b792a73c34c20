"""Durable endpoints: wrap an HTTP handler, call steps in it, and it survives failures and crashes.

Everything a handler needs is imported from here; ``durable_core.sync`` has the steps for ``def``
handlers. Importing the package itself loads no other module of it: each name loads its own module
when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durable_core.api.adapter import EndpointAdapter, endpoint_adapter
    from durable_core.api.durable import Durable
    from durable_core.api.step import step
    from durable_core.api.stream import stream
    from durable_core.errors import (
        BadRequest,
        HTTPError,
        NonRetriableError,
        RetryAfterError,
        StepCancelled,
        StepError,
    )
    from durable_core.flow.env import Limits
    from durable_core.http.headers import Headers
    from durable_core.http.request import Request
    from durable_core.http.response import Response
    from durable_core.machine.retry import RetryPolicy
    from durable_core.model.event import Event
    from durable_core.model.run import Phase
    from durable_core.routing import Route
    from durable_core.runners.settings import Settings

__all__ = [
    "BadRequest",
    "Durable",
    "EndpointAdapter",
    "Event",
    "HTTPError",
    "Headers",
    "Limits",
    "NonRetriableError",
    "Phase",
    "Request",
    "Response",
    "RetryAfterError",
    "RetryPolicy",
    "Route",
    "Settings",
    "StepCancelled",
    "StepError",
    "__version__",
    "endpoint_adapter",
    "step",
    "stream",
]

__version__ = "0.1.0"

# Where each public name lives. The imports above say the same to type checkers.
_HOMES = {
    "BadRequest": "durable_core.errors",
    "Durable": "durable_core.api.durable",
    "EndpointAdapter": "durable_core.api.adapter",
    "Event": "durable_core.model.event",
    "HTTPError": "durable_core.errors",
    "Headers": "durable_core.http.headers",
    "Limits": "durable_core.flow.env",
    "NonRetriableError": "durable_core.errors",
    "Phase": "durable_core.model.run",
    "Request": "durable_core.http.request",
    "Response": "durable_core.http.response",
    "RetryAfterError": "durable_core.errors",
    "RetryPolicy": "durable_core.machine.retry",
    "Route": "durable_core.routing",
    "Settings": "durable_core.runners.settings",
    "StepCancelled": "durable_core.errors",
    "StepError": "durable_core.errors",
    "endpoint_adapter": "durable_core.api.adapter",
    "step": "durable_core.api.step",
    "stream": "durable_core.api.stream",
}


def __getattr__(name: str) -> object:
    """Load a public name on its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
