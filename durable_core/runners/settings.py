"""The settings of the engine in a process, and its endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from durable_core.duration import Duration, is_int, parse_duration
from durable_core.errors import DuplicateEndpointError
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.scope import HandlerKind
from durable_core.http.request import Request
from durable_core.platform import logger

if TYPE_CHECKING:
    from durable_core.ports import Slots

__all__ = ["RegisteredEndpoint", "Settings", "add_endpoint", "endpoint_keys", "slots_of"]


@dataclass(frozen=True, slots=True)
class RegisteredEndpoint:
    """An endpoint's handler, by its key."""

    handler: Callable[[Request], Any]
    kind: HandlerKind
    options: ResolvedOptions
    _warned: set[str] = field(default_factory=set, compare=False)
    #: :meth:`warn_of_header`, which is bound once and not for each request.
    on_sensitive_header: Callable[[str], None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "on_sensitive_header", self.warn_of_header)

    def warn_of_header(self, name: str) -> None:
        """Warn once that a handler reads a header that a replay cannot have.

        Args:
            name: of the header, in lower case.
        """
        if name in self.options.store_headers or name in self._warned:
            return
        self._warned.add(name)
        logger.warning(
            "%s reads the request header %r, which is not stored with a run: where a run is "
            "replayed, reading it raises HeaderNotStoredError. Name it in store_headers=, or read "
            "it in authorize=, which is called once (see docs/explanation/"
            "replay-and-determinism.md)",
            _name(self),
            name,
        )


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


def endpoint_keys(endpoints: Mapping[str, RegisteredEndpoint]) -> list[str]:
    """Return the keys of endpoints as people know them: without those of one version only."""
    return sorted(key for key, endpoint in endpoints.items() if key == endpoint.options.key)


def slots_of(endpoints: Iterable[RegisteredEndpoint]) -> tuple[Slots, ...]:
    """Return the slots of those of the endpoints that have any (``concurrency=``)."""
    limits = (endpoint.options.limits for endpoint in endpoints)
    slots = (each.slots for each in limits if each is not None and each.slots is not None)
    return tuple(dict.fromkeys(slots))  # an endpoint may be known by two keys


def _identity(endpoint: RegisteredEndpoint) -> tuple[str, str | None]:
    """Return the identity that an endpoint shares only with newer versions of itself."""
    handler = endpoint.handler
    module = getattr(handler, "__module__", type(handler).__module__)
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    return f"{module}.{name}", endpoint.options.name


def _name(endpoint: RegisteredEndpoint) -> str:
    function, shown = _identity(endpoint)
    return function if shown is None else f"{function} (name={shown!r})"


#: Runs may be kept for longer than any of them may sleep; milliseconds.
_LONGEST = 36_525 * 86_400_000


@dataclass(frozen=True, slots=True, init=False)
class Settings:
    """How an engine works in one process. Durations are given as texts, seconds or ``timedelta``.

    Args:
        worker_threads: ``def`` handlers that are replayed at a time.
        worker_tasks: ``async def`` handlers that are replayed at a time.
        serving_threads: ``def`` handlers that serve clients of an asynchronous server at a time,
            and plain functions that ``async def`` handlers call in steps. As many ``def`` functions
            of routes have threads of their own.
        max_own_wait: an ``async def`` handler that awaits something of its own while steps of it
            are parked is suspended after this time, with a warning.
        invoke_wait: a run whose client is attached waits this long for a child run
            (``step.invoke``) before the client is handed off.
        unwind_time: how long a handler may take to end when it is suspended.
        busy_timeout: how long another process may keep the store locked.
        start_timeout: how long ``start()`` tries again while another process keeps it locked.
        heartbeat, lease: a process renews its lease every ``heartbeat``; a lease expires after
            ``lease``.
        keep_runs, keep_events: ended runs and events are deleted after this time.
        orphan_after: due runs whose endpoint no process knows fail after this time.
        on_demand: execute due runs only in ``Durable.run_due``, and those that clients wait for
            here: for a process that does nothing between two requests.

    Attributes:
        max_own_wait, invoke_wait, unwind_time, busy_timeout, start_timeout, heartbeat, lease,
            keep_runs, keep_events, orphan_after: in seconds.

    Raises:
        ValueError: a number that is no int of 1 or more; a duration of 0, or over 100 years; a
            ``lease`` that would end before it is renewed.
    """

    worker_threads: int
    worker_tasks: int
    serving_threads: int
    max_own_wait: float
    invoke_wait: float
    unwind_time: float
    busy_timeout: float
    start_timeout: float
    heartbeat: float
    lease: float
    keep_runs: float
    keep_events: float
    orphan_after: float
    on_demand: bool

    def __init__(
        self,
        *,
        worker_threads: int = 8,
        worker_tasks: int = 100,
        serving_threads: int = 40,
        max_own_wait: Duration = "30s",
        invoke_wait: Duration = "2s",
        unwind_time: Duration = "10s",
        busy_timeout: Duration = "5s",
        start_timeout: Duration = "20s",
        heartbeat: Duration = "3s",
        lease: Duration = "15s",
        keep_runs: Duration = "7 days",
        keep_events: Duration = "1 day",
        orphan_after: Duration = "7 days",
        on_demand: bool = False,
    ) -> None:
        numbers = {
            "worker_threads": worker_threads,
            "worker_tasks": worker_tasks,
            "serving_threads": serving_threads,
        }
        durations = {
            "max_own_wait": max_own_wait,
            "invoke_wait": invoke_wait,
            "unwind_time": unwind_time,
            "busy_timeout": busy_timeout,
            "start_timeout": start_timeout,
            "heartbeat": heartbeat,
            "lease": lease,
            "keep_runs": keep_runs,
            "keep_events": keep_events,
            "orphan_after": orphan_after,
        }
        for name, number in numbers.items():
            if not is_int(number) or number < 1:
                raise ValueError(f"{name} must be an int of 1 or more, not {number!r}")
            object.__setattr__(self, name, number)
        for name, duration in durations.items():
            ms = parse_duration(duration, what=name, longest=_LONGEST)
            if ms == 0:
                raise ValueError(f"{name} must be longer than 0, not {duration!r}")
            object.__setattr__(self, name, ms / 1000)
        if self.lease <= self.heartbeat:
            raise ValueError(
                f"lease must be longer than heartbeat, which renews it: {lease!r} is not longer "
                f"than {heartbeat!r}"
            )
        if not isinstance(on_demand, bool):
            raise ValueError(f"on_demand must be True or False, not {on_demand!r}")
        object.__setattr__(self, "on_demand", on_demand)

    @property
    def keep_runs_ms(self) -> int:
        """For how long runs are kept that have ended, milliseconds."""
        return int(self.keep_runs * 1000)
