"""A run: one durable execution of an endpoint, for one request."""

from __future__ import annotations

from enum import Enum

from durable_core.model._record import record

__all__ = ["Phase", "Run", "is_parked", "plain_key", "versioned_key"]


class Phase(Enum):
    """The phases of a run. ``machine/table.py`` has the transitions between them."""

    #: The client is attached and the handler is live.
    SYNC = "sync"
    #: The client was handed off and the handler is live.
    ASYNC = "async"
    #: No handler is live; the run waits until it is due.
    SUSPENDED = "suspended"
    #: No handler is live; the run is due, and waits for a slot of its endpoint.
    QUEUED = "queued"
    #: The handler returned a streamed body whose first byte may have been sent.
    RESPONDING = "responding"
    #: The handler's response is final.
    COMPLETED = "completed"
    #: The run failed; its response is a problem document.
    FAILED = "failed"
    #: The run was cancelled.
    CANCELLED = "cancelled"

    # Members are singletons. Every step hashes some; this takes 0.10 us, and Enum's own hash, which
    # is written in Python, 0.25 us (Python 3.11).
    __hash__ = object.__hash__

    @property
    def ended(self) -> bool:
        """True if the run cannot change any more."""
        return self in _ENDED


_ENDED = frozenset({Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED})


@record(frozen=True, slots=True)
class Run:
    """The state of a run, on which decisions depend.

    Attributes:
        id: a ULID with the time at which the request arrived.
        app: the ``Durable(id=)`` it belongs to.
        endpoint_key: which handler runs it; see also :func:`versioned_key`.
        function_id: the label shown to people, such as ``"GET /users/{id}"``.
        phase: its current phase.
        retries: how often a step or the handler may be retried, 0 to 20.
        failures: how often the handler itself has failed (errors outside steps).
        crash_count: the number of crashes in a row without a new checkpoint.
        epoch: incremented by each claim; the store accepts only writes with the current epoch.
        created_at: epoch milliseconds.
        event_seq: the highest event sequence number when the run began.
        key: the caller's name for it: an idempotency key or a business key; None without one.
            Several runs may have the same key.
        parent: the id of the run that started it; None if a client started it.
        traceparent: the W3C trace context that it belongs to; None without one.
        labels: names and values to find it by, a few short ones, ordered by name.
        version: the version of the code that began it; None if the code has none.
        principal: who began it, as ``authorize=`` has said; None if it says nothing.
        undoable: a step of it that has begun can be undone. Once true it stays so.
        cancel_reason: why it was cancelled, "" without a reason; None if it was not. Of a run that
            has not ended, it says that the run is being undone.
        depth: how many runs are above it: 0 if a client started it, 1 for a child of such a run.
        timeout: how long it may take, milliseconds; None for no limit.
        deadline: when it fails, if it has not ended by then; epoch milliseconds. None without a
            limit.
        slot_key: what its endpoint's slots are shared out by, "" where they have no key; None if
            its endpoint had no ``concurrency=`` when it began.
        singleton_key: while it has not ended, no other run of its endpoint with the same one may
            begin; None without a rule for that.
        client: what tells clients apart who ask for the same ``singleton_key``: a digest of the
            principal or the credentials; None without one.
        retry_count: how often it was let go on after it had failed (``runs.retry``).
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
    principal: str | None = None
    undoable: bool = False
    cancel_reason: str | None = None
    depth: int = 0
    timeout: int | None = None
    deadline: int | None = None
    slot_key: str | None = None
    singleton_key: str | None = None
    client: str | None = None
    retry_count: int = 0


def versioned_key(endpoint_key: str, version: str) -> str:
    """Return the key of a handler in the code of one version only.

    A run that newer code does not fit gets it. Code of that version knows its endpoints by both
    keys, any other code does not know this one.
    """
    return f"{endpoint_key} (version {version})"


def plain_key(run: Run) -> str:
    """Return the key of the run's handler, whatever the version of its code."""
    if run.version is None:
        return run.endpoint_key
    return run.endpoint_key.removesuffix(versioned_key("", run.version))


def is_parked(run: Run) -> bool:
    """Tell whether only code of the run's own version executes it."""
    return run.endpoint_key != plain_key(run)
