"""A run: one durable execution of an endpoint, for one request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Phase", "Run"]


class Phase(Enum):
    """Where a run is in its life. The moves between phases are ``machine/table.py``."""

    #: The client is attached and the handler is live.
    SYNC = "sync"
    #: The client was handed off and the handler is live.
    ASYNC = "async"
    #: The handler is put away; the run waits until it is due.
    SUSPENDED = "suspended"
    #: The handler returned a streamed body whose first byte may have been sent.
    RESPONDING = "responding"
    #: The handler's response is final.
    COMPLETED = "completed"
    #: The run failed for good; its response is a problem document.
    FAILED = "failed"
    #: Somebody cancelled the run.
    CANCELLED = "cancelled"

    # Members are singletons. Every step hashes some; this takes 0.10 us, and Enum's own hash, which
    # is written in Python, 0.25 us (Python 3.11).
    __hash__ = object.__hash__

    @property
    def ended(self) -> bool:
        """True once nothing about the run will change any more."""
        return self in _ENDED


_ENDED = frozenset({Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The state of a run that decisions are made on.

    Attributes:
        id: a ULID; its time is when the request came in.
        app: the ``Durable(id=)`` it belongs to.
        endpoint_key: which handler runs it.
        function_id: the label shown to people, such as ``"GET /users/{id}"``.
        phase: where it is in its life.
        retries: how often a step or the handler may be tried again, 0 to 20.
        failures: how often the handler itself has failed (errors outside steps).
        crash_count: how often in a row it was taken from a dead process without a new checkpoint.
        epoch: raised by each claim; only a write with the current epoch is taken.
        created_at: epoch milliseconds.
        event_seq: the event sequence number up to which events came before the run.
        key: what the caller knows it by: an idempotency key or a business key; None without one.
            Several runs may have the same.
        parent: the id of the run that started it; None if a client did.
        traceparent: the W3C trace context of the request that started it; None without one.
        labels: names and values to find it by, a few short ones, ordered by name.
        version: of the code that began it; None if that has none.
    """

    id: str
    app: str
    endpoint_key: str
    function_id: str
    phase: Phase
    retries: int
    created_at: int
    event_seq: int = 0
    failures: int = 0
    crash_count: int = 0
    epoch: int = 1
    key: str | None = None
    parent: str | None = None
    traceparent: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    version: str | None = None
