"""What the core needs from outside, as Protocols, and the messages that cross them.

A store is one method that writes (:meth:`Store.commit`, a batch of :class:`Write` messages in one
transaction) and a few that read. Everything about concurrency is in the messages: a
:class:`RunWrite` takes effect only while its owner and epoch still hold the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from durable_core.model.events import Event, StoredEvent
from durable_core.model.ops import Memo, Pending
from durable_core.model.run import Phase, Run

__all__ = [
    "Beat",
    "Bury",
    "Cancel",
    "Claim",
    "Claimed",
    "Clock",
    "Ids",
    "Peer",
    "Prune",
    "Register",
    "Release",
    "RunRecord",
    "RunWrite",
    "SendEvents",
    "Sent",
    "Store",
    "StoredRequest",
    "StoredResult",
    "Unregister",
    "Write",
    "Written",
]

AnswerT = TypeVar("AnswerT", covariant=True)


class Clock(Protocol):
    """Wall-clock time."""

    def now(self) -> int:
        """Return the time as epoch milliseconds."""
        ...


class Ids(Protocol):
    """New names and random numbers."""

    def ulid(self, now: int) -> str:
        """Return a fresh ULID for that time (epoch milliseconds)."""
        ...

    def uniform(self) -> float:
        """Return a random number in [0, 1)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """A request as it is kept: its head as text (``wire/requests.py``), its body as it came."""

    head: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """How a run ended.

    ``phase`` is COMPLETED, FAILED or CANCELLED, ``head`` status and headers as text
    (``wire/requests.py``), ``body`` None when it was too large to keep.
    """

    phase: Phase
    head: str
    body: bytes | None
    ended_at: int


class Write(Generic[AnswerT]):
    """A message to :meth:`Store.commit`; the type parameter is what it is answered with."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Give the run up until ``due_at`` (epoch milliseconds), or at once if a wait has matched.

    ``awaited`` are the ops whose matches count, None all: not waits that no code asks for now.
    """

    due_at: int
    awaited: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The answer to a :class:`RunWrite`.

    Attributes:
        matched: for each WAIT in ``pending`` that a stored event already answers: its op id and
            the event. The store has noted the match.
        sent: id and sequence number of each event in ``sends``, in order; of one that was stored
            already, those of the first.
        woken: the runs with a wait that one of ``sends`` answered, and their owner or None. The
            run itself may be among them.
    """

    matched: tuple[tuple[str, StoredEvent], ...] = ()
    sent: tuple[tuple[str, int], ...] = ()
    woken: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWrite(Write[Written]):
    """One checkpoint: all that changes about one run, taken as a whole or not at all.

    Refused with ``LeaseLost`` unless the stored run has this owner and epoch (a ``create`` needs
    no stored run) and has not ended.

    Attributes:
        run_id, owner, epoch: the lease.
        create: the run to insert first, with its request; None once it is stored.
        request: goes with ``create``.
        memos: finished ops. Each replaces the pending record of the same op, also one in here.
        pending: unfinished ops, inserted or replaced. A WAIT is checked against the stored
            events with a sequence number above its mark (and not in ``seen``), in the same
            transaction, the earliest first.
        state: the run's new phase, failures and takeovers; None leaves them.
        release: give the run up.
        result: the run has ended; also removes what is pending.
        sends: events of ``step.send_event``, stored in the same transaction and matched to waits,
            before ``pending``. The memos of kind SEND get the last one's number as their mark.
        now: epoch milliseconds.
    """

    run_id: str
    owner: str
    epoch: int
    now: int
    create: Run | None = None
    request: StoredRequest | None = None
    memos: tuple[Memo, ...] = ()
    pending: tuple[Pending, ...] = ()
    state: Run | None = None
    release: Release | None = None
    result: StoredResult | None = None
    sends: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The answer to :class:`SendEvents`.

    Attributes:
        ids: the id of each event, in order; an event sent twice has the id of the first.
        woken: the runs with a wait that one of them answered, and their owner or None.
    """

    ids: tuple[str, ...]
    woken: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SendEvents(Write[Sent]):
    """Store events and match them to waits.

    Every event has its ``id`` and ``ts`` set. An event whose id the app has stored already (and
    not pruned) is not stored again and wakes nobody.
    """

    app: str
    events: tuple[Event, ...]
    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A run that is now ours, and all that replaying it needs.

    Attributes:
        run: with the epoch of this claim, in the phase it was stored with.
        request: the request it was made for.
        memos: by completion number.
        pending: unfinished ops, those matched by an event with the event.
    """

    run: Run
    request: StoredRequest
    memos: tuple[Memo, ...]
    pending: tuple[Pending, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Write[tuple[Claimed, ...]]):
    """Take runs that are due, have no owner, and whose handler we know, the earliest due first."""

    app: str
    owner: str
    keys: tuple[str, ...]
    now: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A process that shares the store. ``id`` is the owner name in its leases."""

    id: str
    host: str
    pid: int
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Register(Write[None]):
    """Add a process."""

    peer: Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat(Write[bool]):
    """Prolong the lease of a process. Answered with False if it was buried meanwhile."""

    id: str
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bury(Write[tuple[str, ...]]):
    """Remove dead processes and free their runs, due at once; answers the ids of these runs.

    Each freed run has its epoch raised, so that nothing its old owner sends is taken any more,
    and its takeovers counted up. ``orphans`` also frees runs whose owner is no known process.
    With ``unless_beat_after``, a process that has prolonged its lease past that time is spared.
    """

    ids: tuple[str, ...]
    now: int
    unless_beat_after: int | None = None
    orphans: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unregister(Write[tuple[str, ...]]):
    """Remove a process that stops in good order; answers the ids of runs that it still held.

    They are due at once, with no take-over counted.
    """

    id: str
    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Write[bool]):
    """End a run as cancelled with this result. Answered with False if it had ended already.

    Raises ``RunNotFoundError`` (as its answer) if there is no such run.
    """

    app: str
    run_id: str
    result: StoredResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune(Write[int]):
    """Delete runs that ended before ``runs_before`` and events received before ``events_before``.

    Up to ``limit`` of each, the oldest first; answers how many runs and events went.
    """

    app: str
    runs_before: int
    events_before: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What can be looked up about a run.

    ``due_at`` is None while it is live or ended, ``owner`` None while nobody holds it.
    """

    run: Run
    owner: str | None
    due_at: int | None
    ended_at: int | None
    memos: tuple[Memo, ...] = ()
    pending: tuple[Pending, ...] = ()


class Store(Protocol):
    """Where the embedded engine keeps its state.

    Methods may be called from any thread, :meth:`commit` by one thread at a time. All raise
    ``StoreError`` (or a class below it) when the store cannot answer.
    """

    def open(self) -> None:
        """Make ready for use in this process. Does nothing when it is."""
        ...

    def close(self) -> None:
        """Let go of all handles of this process. May be opened again."""
        ...

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Apply the writes in order, in one durable transaction.

        Each is answered with its answer, or with the error (``LeaseLost``, ``RunNotFoundError``)
        that undid it alone.

        Args:
            writes: at least one.
            wait: seconds to wait for a locked store; 0 does not wait.

        Raises:
            StoreBusyError: the store was locked for longer than ``wait``; nothing was done.
            StoreError: nothing was done.
        """
        ...

    def maintain(self) -> None:
        """Do what must be done now and then but would hold up a commit.

        To be called about once a second, by one thread. Does not wait for other users of the
        store, nor they for it.
        """
        ...

    def event_mark(self, app: str) -> int:
        """Return the highest event sequence number there is, of whatever app; 0 if none."""
        ...

    def result(self, app: str, run_id: str) -> StoredResult | Phase | None:
        """Return how a run ended, or the phase it is in, or None if there is no such run."""
        ...

    def ended(self, app: str, run_ids: Sequence[str]) -> Sequence[str]:
        """Return those of the runs (up to 1,000) that have ended."""
        ...

    def next_due(self, app: str, keys: Sequence[str]) -> int | None:
        """Return when the first claimable run of these handlers is due, epoch milliseconds."""
        ...

    def unclaimable(self, app: str, keys: Sequence[str], now: int) -> Sequence[RunRecord]:
        """Return up to 100 runs that are due but whose handler is not among the keys."""
        ...

    def matched(self, owner: str) -> Sequence[tuple[str, str, StoredEvent]]:
        """Return run id, op id and event of matched waits of runs that this owner holds."""
        ...

    def peers(self) -> Sequence[Peer]:
        """Return all registered processes."""
        ...

    def proven_dead(self, peers: Sequence[Peer]) -> Sequence[str]:
        """Return the ids of those processes that are certainly gone, before their lease expires.

        Needs a process of the same ``host`` registered by this store object; other hosts, and
        platforms without file locks, are never proven anything about.
        """
        ...

    def get(self, app: str, run_id: str) -> RunRecord | None:
        """Return all that is known about a run, or None."""
        ...

    def list(
        self, app: str, *, phase: Phase | None, before: str | None, limit: int
    ) -> Sequence[RunRecord]:
        """Return runs without their steps, newest first, with ids below ``before``."""
        ...

    def secret(self) -> bytes:
        """Return 32 random bytes, made once and the same for every process of the store."""
        ...

    def version(self) -> int:
        """Return a number that changes when another process has committed. Cheap.

        It may change for commits of this process too.
        """
        ...
