"""The public names of ``durable_core``, which loads this module when the first of them is used."""

from __future__ import annotations

from durable_core.api.adapter import EndpointAdapter, endpoint_adapter
from durable_core.api.durable import Durable
from durable_core.api.run import LogContext, RunContext, run
from durable_core.api.run_info import AttemptInfo, RunInfo, StepInfo
from durable_core.api.step import step
from durable_core.api.stream import stream
from durable_core.errors import (
    BadRequest,
    HTTPError,
    NonRetriableError,
    RetryAfterError,
    StepCancelled,
    StepError,
    StepInterrupted,
)
from durable_core.flow.env import Limits
from durable_core.flow.limits import Concurrency, RateLimit, Singleton
from durable_core.http.headers import Headers
from durable_core.http.request import Request
from durable_core.http.response import FetchedResponse, Response
from durable_core.machine.retry import RetryPolicy
from durable_core.model.event import Event, Signal, TypedEvent
from durable_core.routing import Route
from durable_core.runners.settings import Settings

__all__ = [
    "AttemptInfo",
    "BadRequest",
    "Concurrency",
    "Durable",
    "EndpointAdapter",
    "Event",
    "FetchedResponse",
    "HTTPError",
    "Headers",
    "Limits",
    "LogContext",
    "NonRetriableError",
    "RateLimit",
    "Request",
    "Response",
    "RetryAfterError",
    "RetryPolicy",
    "Route",
    "RunContext",
    "RunInfo",
    "Settings",
    "Signal",
    "Singleton",
    "StepCancelled",
    "StepError",
    "StepInfo",
    "StepInterrupted",
    "TypedEvent",
    "endpoint_adapter",
    "run",
    "step",
    "stream",
]
