"""For tests of applications: endpoints in the test's own process, on a clock that it moves.

Nothing here is imported by an application, and nothing needs a test framework.
"""

from __future__ import annotations

from durable_core.errors import (
    HarnessError,
    NotDeterministicError,
    NotFinishedError,
    UnusedFaultError,
)
from durable_core.testing.client import AsyncClient, Client, Reply
from durable_core.testing.clock import FakeClock
from durable_core.testing.harnesses import AsyncHarness, Harness, harness
from durable_core.testing.simulation import StepRecord

__all__ = [
    "AsyncClient",
    "AsyncHarness",
    "Client",
    "FakeClock",
    "Harness",
    "HarnessError",
    "NotDeterministicError",
    "NotFinishedError",
    "Reply",
    "StepRecord",
    "UnusedFaultError",
    "harness",
]
