"""The settings of the engine in a process, and its endpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from durable_core.errors import DuplicateEndpointError
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.scope import HandlerKind
from durable_core.http.request import Request

__all__ = ["RegisteredEndpoint", "Settings", "add_endpoint"]


@dataclass(frozen=True, slots=True)
class RegisteredEndpoint:
    """An endpoint's handler, by its key."""

    handler: Callable[[Request], Any]
    kind: HandlerKind
    options: ResolvedOptions


def add_endpoint(endpoints: dict[str, RegisteredEndpoint], endpoint: RegisteredEndpoint) -> None:
    """Add an endpoint to those of an engine, or replace it by a newer version of its function.

    Raises:
        DuplicateEndpointError: another function has its key.
    """
    key = endpoint.options.key
    known = endpoints.get(key)
    if known is not None and _identity(known) != _identity(endpoint):
        raise DuplicateEndpointError(
            f"two endpoints have the key {key!r}: {_name(known)} and {_name(endpoint)}; give one "
            "of them endpoint(function_id=...)"
        )
    endpoints[key] = endpoint


def _identity(endpoint: RegisteredEndpoint) -> tuple[str, str | None]:
    """Return the identity that an endpoint shares only with newer versions of itself."""
    handler = endpoint.handler
    module = getattr(handler, "__module__", type(handler).__module__)
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    return f"{module}.{name}", endpoint.options.name


def _name(endpoint: RegisteredEndpoint) -> str:
    function, shown = _identity(endpoint)
    return function if shown is None else f"{function} (name={shown!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an engine works in one process. Times are seconds.

    Attributes:
        worker_threads: ``def`` handlers that are replayed at a time.
        worker_tasks: ``async def`` handlers that are replayed at a time.
        serving_threads: ``def`` handlers that serve clients of an asynchronous server at a time,
            and plain functions that ``async def`` handlers call in steps. As many ``def`` functions
            of routes have threads of their own.
        max_own_wait: an ``async def`` handler that awaits something of its own while steps of it
            are parked is suspended after this time, with a warning.
        unwind_time: how long a handler may take to end when it is suspended.
        busy_timeout: how long another process may keep the store locked.
        start_timeout: how long ``start()`` tries again while another process keeps it locked.
        heartbeat, lease: a process renews its lease every ``heartbeat``; a lease expires after
            ``lease``.
        keep_runs, keep_events: ended runs and events are deleted after this time.
        orphan_after: due runs whose endpoint no process knows fail after this time.
    """

    worker_threads: int = 8
    worker_tasks: int = 100
    serving_threads: int = 40
    max_own_wait: float = 30.0
    unwind_time: float = 10.0
    busy_timeout: float = 5.0
    start_timeout: float = 20.0
    heartbeat: float = 3.0
    lease: float = 15.0
    keep_runs: float = 7 * 86_400.0
    keep_events: float = 86_400.0
    orphan_after: float = 7 * 86_400.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"{name} must be a number greater than 0, not {value!r}")
