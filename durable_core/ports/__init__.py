"""The ports of the core as Protocols, and their messages.

A store has one method that writes (:meth:`Store.commit`, a batch of :class:`Write` messages in one
transaction) and several that read. The messages contain the rules of concurrency: a
:class:`Checkpoint` takes effect only while its owner and epoch are those of the stored run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from durable_core.model.event import StoredEvent
from durable_core.model.run import Phase
from durable_core.model.stream import StoredStream, Streamed, StreamPlace
from durable_core.ports.limits import BeginRefused, CancelOutcome, RateRule, Slots
from durable_core.ports.messages import (
    ANY_RUN,
    Begin,
    Begun,
    Cancel,
    Checkpoint,
    CheckpointResult,
    Claim,
    ClaimedRun,
    CorruptRun,
    Delete,
    Deliver,
    Delivered,
    Delivery,
    EarlierRun,
    EndedWait,
    Fork,
    Heartbeat,
    IdempotencyKey,
    LeaveQueue,
    NewRun,
    Prune,
    ReapWorkers,
    RecentEvent,
    Register,
    Release,
    Retry,
    RotateSecret,
    RunFilter,
    RunProgress,
    RunRecord,
    SealedRun,
    SendEvents,
    Sent,
    StoredRequest,
    StoredResult,
    StoredSecret,
    Unregister,
    Usage,
    WorkerRecord,
    Write,
)

__all__ = [
    "ANY_RUN",
    "Begin",
    "BeginRefused",
    "Begun",
    "Cancel",
    "CancelOutcome",
    "Channel",
    "ChannelWrite",
    "Checkpoint",
    "CheckpointResult",
    "Claim",
    "ClaimedRun",
    "Clock",
    "CorruptRun",
    "Delete",
    "Deliver",
    "Delivered",
    "Delivery",
    "EarlierRun",
    "EndedWait",
    "Fork",
    "Heartbeat",
    "IdempotencyKey",
    "Ids",
    "LeaveQueue",
    "LiveExecution",
    "NewRun",
    "Prune",
    "RateRule",
    "ReapWorkers",
    "RecentEvent",
    "Register",
    "Release",
    "Retry",
    "RotateSecret",
    "RunFilter",
    "RunProgress",
    "RunRecord",
    "SealedRun",
    "SendEvents",
    "Sent",
    "Slots",
    "Store",
    "StoredRequest",
    "StoredResult",
    "StoredSecret",
    "Unregister",
    "Usage",
    "Wakeups",
    "WorkerRecord",
    "Write",
    "channel_of",
]


# --- world ----------------------------------------------------------------------------------------
#
# Time, new ids, and random numbers.


class Clock(Protocol):
    """Wall-clock time, and time that nobody sets."""

    def now(self) -> int:
        """Return the time as epoch milliseconds."""
        ...

    def elapsed(self) -> float:
        """Return the seconds since some fixed moment.

        Setting the system's clock does not change it. Time in which the machine sleeps counts.
        """
        ...


class Ids(Protocol):
    """New names and random numbers."""

    def ulid(self, now: int) -> str:
        """Return a fresh ULID for that time (epoch milliseconds)."""
        ...

    def uniform(self) -> float:
        """Return a random number in [0, 1)."""
        ...


# --- store ----------------------------------------------------------------------------------------
#
# The store of the embedded engine.


class Store(Protocol):
    """The state of the embedded engine. ``durable_conformance`` tests all of this contract.

    Its methods may be called from any thread. :meth:`commit` is called by one thread at a time of
    each application that has the object. They raise ``StoreError``, or a subclass, if the store
    cannot answer, also when it is not open. They raise other errors only for programming mistakes.
    A caller that changes an argument or a returned value does not change the store.

    **Isolation.** Commits take effect one after the other, as if no two overlapped. A read shows
    every commit of any process that was answered before the read began. It shows a commit
    completely or not at all.

    **No event is lost.** Each stored event has a number, unique in the store, that is never reused,
    even after the event was pruned. Each number that the store returns (by :meth:`event_seq`, in
    an answer, or with an event) is a *watermark*: an event that becomes visible later has a higher
    number. A wait is registered under a watermark and is matched with
    events that have a higher number. In some stores a transaction with a lower number may commit
    later than one with a higher number; such a store must not return the higher number before that.
    If a wait and an event are committed at the same time, the event ends the wait.

    **Bounded commits.** Senders decide how many events there are. When a wait is registered, a
    store may compare it with the first of them only, and with the others in
    :meth:`run_maintenance`. Until it has done so, no later event ends the wait, since the first one
    that matches does. The match is then found by :meth:`matched_waits`, and a run that was released
    is due. If the time-out of the wait comes first, the event is still there for the next wait.

    **Addresses.** At most one op of an application waits at an address. An op that is registered
    and a delivery that is committed at the same time find each other; see :class:`Delivery`.

    **Order.** Texts are equal, and in order, by their bytes as UTF-8, whatever the collation of a
    database.

    **Locks.** A locked record of a run delays neither other runs nor heartbeats.

    Attributes:
        reads_are_fast: :meth:`event_seq`, :meth:`result` and :meth:`read_stream` answer from memory
            or from a local file, so that an event loop may call them in place. Otherwise they are
            called in a thread.
    """

    # A store may have an attribute ``channel`` for processes that share it; see ``Channel``.

    @property
    def reads_are_fast(self) -> bool: ...

    def open(self) -> None:
        """Open the store in this process. Does nothing if it is open.

        Raises:
            StoreVersionError: the data is not a store, or a newer release made it.
            StoreError: it cannot be opened, or its location is not safe.
        """
        ...

    def close(self) -> None:
        """Close all handles of this process. The store may be opened again.

        The engine calls it when the last application that works with the object stops.
        """
        ...

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Apply the writes in order, in one durable transaction.

        The result has for each write its answer, or the error that undid only this write:
        ``LeaseLost``, ``RunNotFoundError``, ``ValueError``, or a ``StoreError`` if this write
        cannot be stored or its run stays locked. Such an error is returned, not
        raised, and does not affect the other writes.

        Args:
            writes: at least one.
            wait: seconds to wait for a store, or a run, that is locked; 0 does not wait.

        Raises:
            StoreBusyError: the store was locked for longer than ``wait``; nothing was done.
            StoreConflictError: the batch conflicted with another and was undone; commit it again.
            StoreOutcomeUnknownError: the answer was lost; all of it was done, or nothing. Writes
                that are ``repeatable`` may be committed again; after a claim, use :meth:`held`.
            StoreError: nothing was done.
        """
        ...

    def run_maintenance(self) -> None:
        """Do periodic work that would delay a commit: move logs, go on with unfinished waits.

        One thread of one process calls it up to 50 times a second; see :class:`WorkerRecord`. It
        does not wait for other users of the store, and they do not wait for it.
        """
        ...

    def now(self, local: int) -> int:
        """Return the time for leases, epoch milliseconds.

        Args:
            local: the time of this host's clock. A store for the processes of one host returns it;
                a store for several hosts returns the same time to all of them.
        """
        ...

    def event_seq(self, app: str) -> int:
        """Return a watermark, see above: events that become visible later have higher numbers.

        It may be the number of another app's event, and lower than necessary; 0 without events.
        """
        ...

    def result(self, app: str, run_id: str) -> StoredResult | Phase | None:
        """Return the result of a run, or its phase if it has not ended; None if it is unknown."""
        ...

    def keyed_run(self, app: str, key: IdempotencyKey, now: int) -> Begun | None:
        """Return the run that a :class:`Begin` of this key would find; None if it is free.

        ``now`` is the time, epoch milliseconds. ``Begun.is_new`` is False.
        """
        ...

    def read_stream(
        self,
        app: str,
        run_id: str,
        *,
        done: int,
        outside: int,
        most: int,
        begin: StreamPlace | None = None,
    ) -> StoredStream | None:
        """Return a consistent part of a run's stored stream; None if the run is unknown.

        The memory that it takes is bounded by ``most`` and the size of one batch, however much the
        run has streamed. A step of many batches is returned in several parts.

        Args:
            app, run_id: the run.
            done: return steps of the kinds RUN and SEND that have succeeded with a higher
                completion number, whether or not they have pushed chunks.
            outside: return chunks from outside steps with this index or a higher one, in whole
                batches, but none that were stored under a lower number than ``done``.
            most: add no further batch once the batches cost this much (``ChunkBatch.cost``).
            begin: return no batch before this place: the ``next`` of the part before.
        """
        ...

    def stream_versions(self, app: str, run_ids: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
        """Return, for each known run, numbers that change when its stream changes.

        They change with each further step, batch, claim, release, handoff and end. The first is the
        run's epoch, the second is 1 while a process executes it, else 0.
        """
        ...

    def which_ended(self, app: str, run_ids: Sequence[str]) -> Sequence[str]:
        """Return those of the runs (up to 1,000) that have ended."""
        ...

    def next_due(self, app: str, keys: Sequence[str], *, slots: Sequence[Slots] = ()) -> int | None:
        """Return the due time of the first claimable run of these handlers, epoch milliseconds.

        A queued run is claimable if it is the next in line and its endpoint, which must be among
        ``slots``, has a slot for it.
        """
        ...

    def unclaimable(self, app: str, keys: Sequence[str], now: int) -> Sequence[RunRecord]:
        """Return up to 100 runs that are due but whose handler is not among the keys."""
        ...

    def matched_waits(self, owner: str) -> Sequence[tuple[str, str, StoredEvent]]:
        """Return run id, op id and event of matched waits of runs that this owner holds."""
        ...

    def cancelled_runs(self, owner: str) -> Sequence[str]:
        """Return the ids of the runs that this owner holds and that were cancelled."""
        ...

    def abandoned_children(
        self, app: str, parents: Sequence[str] | None = None
    ) -> Sequence[RunRecord]:
        """Return up to 100 runs, without their steps, whose parent does not wait for them.

        It has ended, or was cancelled, or has no op that waits at the address of the child
        (``machine.addresses.child_address``). One that is not there any more has ended. Runs that
        have ended or were cancelled themselves are left out. The cost depends on the children that
        have not ended: of these parents, or of all.

        Args:
            app: the application.
            parents: only children of these runs; None for all.
        """
        ...

    def held(self, owner: str) -> Mapping[str, int]:
        """Return the ids of the runs that this owner holds, each with its epoch."""
        ...

    def workers(self) -> Sequence[WorkerRecord]:
        """Return all registered processes."""
        ...

    def dead_workers(self, workers: Sequence[WorkerRecord]) -> Sequence[str]:
        """Return the ids of the processes that are certainly dead, before their lease expires.

        This store object must have registered a process of the same ``host``. Nothing is returned
        about other hosts, or on platforms without file locks.
        """
        ...

    def get(self, app: str, run_id: str) -> RunRecord | None:
        """Return the complete record of a run, or None.

        Steps are in the order of their completion numbers, pending ops in that of their ids, and
        failed attempts in that of op id and number.
        """
        ...

    def progress(self, app: str, run_id: str) -> RunProgress | None:
        """Return how far a run is; None if it is unknown.

        Clients may ask often: the cost does not depend on the sizes of results.
        """
        ...

    def list(self, app: str, *, where: RunFilter = ANY_RUN, limit: int) -> Sequence[RunRecord]:
        """Return runs without their steps, those with the highest ids first.

        The cost depends on ``limit``, not on the number of all runs: each phase, endpoint, key and
        label, and each phase of an endpoint, is found by an index. With a label and other
        conditions it depends on the number of runs that fulfil one of them; a store may assume that
        nearly all runs have completed.
        """
        ...

    def request(self, app: str, run_id: str) -> StoredRequest | None:
        """Return the request that began a run; None if the run is unknown."""
        ...

    def recent_events(self, app: str, limit: int) -> Sequence[RecentEvent]:
        """Return the events that were stored last, the newest first, and the waits they ended.

        The cost depends on ``limit``, not on the number of all events and runs. Only the thousand
        waits that ended last need be looked at. An event that cannot be read is left out.
        """
        ...

    def apps(self) -> Sequence[str]:
        """Return the ids of the applications that have runs, in order."""
        ...

    def usage(self, app: str, *, principal: str | None = None, most: int) -> Usage:
        """Return how much an application, or one of its principals, has in the store.

        The engine asks once a second for the application, and when a run begins for a principal. So
        the cost may depend on ``most``, and on what the principal has, but not on all runs.

        Args:
            app: the application.
            principal: whose runs; None for those of everybody.
            most: count no more live runs than this.
        """
        ...

    def secrets(self) -> Sequence[StoredSecret]:
        """Return the secrets of the store, the newest first; the same for each of its processes.

        The first one, 32 random bytes, is made with the store. See :class:`RotateSecret`.
        """
        ...

    def wakeups(self) -> Wakeups:
        """Return an object by which one thread notices the commits of other processes."""
        ...


class Wakeups(Protocol):
    """Notifies a thread that another process, which shares the store, has committed.

    It also notifies of what :meth:`Store.run_maintenance` has committed in this process, if that
    has ended a wait. The engine knows of its other commits itself: a store that notifies of them,
    too, is slower.
    """

    def changed(self) -> bool:
        """Return whether another process may have committed since the last call. Cheap.

        The first call returns True.

        Raises:
            StoreError: the store cannot answer.
        """
        ...

    def wait(self, timeout: float, *, eager: bool) -> None:
        """Block until another process has committed, or :meth:`notify` was called.

        It may return earlier. A store that polls for commits does so, and its caller then polls.

        Args:
            timeout: the maximum time, seconds.
            eager: a client waits for another process; poll more often.
        """
        ...

    def notify(self) -> None:
        """End the current :meth:`wait`, or the next one. May be called from any thread."""
        ...


# --- channel --------------------------------------------------------------------------------------
#
# An optional part of a store: news of running steps for the processes that share it.


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelWrite:
    """A message from an execution of this process to the others.

    Attributes:
        run_id, epoch: the run, and its claim.
        events: in the order in which readers see them.
        done: set if the execution begins to publish, or begins again. Then everything that it and
            earlier executions have written is removed, ``events`` has all open attempts, and this
            is ``LiveStream.done`` at that moment. None to continue.
    """

    run_id: str
    epoch: int
    events: Sequence[Streamed]
    done: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveExecution:
    """An execution of any process that has written to the channel.

    Attributes:
        run_id, epoch: the run, and its claim.
        begun: identifies its last beginning; another value means that it has begun again.
        done: ``LiveStream.done`` at its last beginning.
    """

    run_id: str
    epoch: int
    begun: tuple[int, int]
    done: int


class Channel(Protocol):
    """Messages of executions to other processes. Nothing durable depends on it.

    Methods may be called from any thread. All raise ``StoreError`` if they fail.
    """

    def write(self, writes: Sequence[ChannelWrite]) -> Sequence[bool]:
        """Write the messages. False for each that was not written, as its predecessors are gone."""
        ...

    def remove(self, executions: Sequence[tuple[str, int]]) -> None:
        """Remove the messages of these executions, by run id and epoch."""
        ...

    def version(self) -> tuple[int, int]:
        """Return a value that changes when another process has written. Cheap."""
        ...

    def executions(self, run_ids: Sequence[str]) -> Sequence[LiveExecution]:
        """Return, for each of the runs that has one, the execution of the last epoch."""
        ...

    def read(
        self, execution: LiveExecution, after: int, most: int
    ) -> Sequence[tuple[int, Streamed]]:
        """Return up to ``most`` events, each with its position.

        Args:
            execution: the execution.
            after: the last position that was read; 0 for the beginning.
            most: the maximum number; fewer events mean that there are no more for now.
        """
        ...

    def prune(self, age: float) -> None:
        """Remove messages that are more than ``age`` seconds old."""
        ...


def channel_of(store: object) -> Channel | None:
    """Return the channel of a store, its attribute ``channel``; None if it has none."""
    channel: Channel | None = getattr(store, "channel", None)
    return channel
