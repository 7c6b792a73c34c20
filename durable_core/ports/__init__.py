"""What the core needs from outside, as Protocols, and the messages that cross them.

A store is one method that writes (:meth:`Store.commit`, a batch of :class:`Write` messages in one
transaction) and a few that read. Everything about concurrency is in the messages: a
:class:`Checkpoint` takes effect only while its owner and epoch still hold the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from durable_core.model.event import StoredEvent
from durable_core.model.run import Phase
from durable_core.model.stream import StoredStream, Streamed
from durable_core.ports.messages import (
    ANY_RUN,
    Cancel,
    Checkpoint,
    CheckpointResult,
    Claim,
    Claimed,
    CorruptRun,
    Heartbeat,
    Prune,
    ReapWorkers,
    Register,
    Release,
    RunFilter,
    RunRecord,
    SendEvents,
    Sent,
    StoredRequest,
    StoredResult,
    Unregister,
    WorkerRecord,
    Write,
)

__all__ = [
    "ANY_RUN",
    "Cancel",
    "Channel",
    "ChannelWrite",
    "Checkpoint",
    "CheckpointResult",
    "Claim",
    "Claimed",
    "Clock",
    "CorruptRun",
    "Heartbeat",
    "Ids",
    "LiveExecution",
    "Prune",
    "ReapWorkers",
    "Register",
    "Release",
    "RunFilter",
    "RunRecord",
    "SendEvents",
    "Sent",
    "Store",
    "StoredRequest",
    "StoredResult",
    "Unregister",
    "Wakeups",
    "WorkerRecord",
    "Write",
    "channel_of",
]


# --- world ----------------------------------------------------------------------------------------
#
# Time, and what is fresh or random.


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


# --- store ----------------------------------------------------------------------------------------
#
# What the embedded engine needs of a store.


class Store(Protocol):
    """Where the embedded engine keeps its state. ``durable_conformance`` judges all that it says.

    Its methods may be called from any thread, :meth:`commit` by one thread at a time. They raise
    ``StoreError``, or a class below it, if the store cannot answer, also when it is not open. They
    raise nothing else but what a programming mistake deserves. What a caller does with a value
    that it has handed in or was given changes nothing in the store.

    **Isolation.** Commits take effect one after the other, as if no two overlapped. A read shows
    every commit that was answered before the read began, of whatever process, and of each commit
    all or nothing.

    **No event is lost.** Each stored event has a number, unique in the store, that is never given
    again, even after the event was pruned. Each number that the store hands out, be it by
    :meth:`event_seq`, in an answer, or with an event, is a *watermark*: an event that becomes
    visible later has a higher number. A wait is registered under a watermark and is matched with
    events that have a higher number. A store in which a transaction that has a lower number may
    commit later than one with a higher number does not hand out the higher one before that. A wait
    and an event that are committed at the same time find each other, whichever comes first.

    **Order.** Texts are equal, and in order, by their bytes as UTF-8, whatever the collation of a
    database.

    **Locks.** A run whose record somebody has locked holds up no other run and no heartbeat.

    Attributes:
        reads_are_fast: :meth:`event_seq`, :meth:`result` and :meth:`read_stream` answer from memory
            or from a local file, so that an event loop may call them in place. Otherwise they are
            called in a thread.
    """

    # It may have an attribute ``channel``, see ``Channel``, for processes that share it.

    @property
    def reads_are_fast(self) -> bool: ...

    def open(self) -> None:
        """Make ready for use in this process. Does nothing if it is.

        Raises:
            StoreVersionError: what is there is not a store, or a newer release made it.
            StoreError: it cannot be opened, or is where it would not be safe.
        """
        ...

    def close(self) -> None:
        """Close all handles of this process. The store may be opened again."""
        ...

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Apply the writes in order, in one durable transaction.

        Each write is answered by its answer, or by the error that undid it alone: ``LeaseLost``,
        ``RunNotFoundError``, ``ValueError``, or a ``StoreError`` if something about this write
        cannot be stored or its run stays locked. An error of one write is an answer. It is not
        raised, and changes nothing about the others.

        Args:
            writes: at least one.
            wait: seconds to wait for a store, or a run, that is locked; 0 does not wait.

        Raises:
            StoreBusyError: the store was locked for longer than ``wait``; nothing was done.
            StoreConflictError: the batch met another one and was undone; commit it again.
            StoreOutcomeUnknownError: all of it was done, or nothing: the answer was lost. Writes
                that are ``repeatable`` may be committed again; of a claim, :meth:`held` tells.
            StoreError: nothing was done.
        """
        ...

    def run_maintenance(self) -> None:
        """Do what must be done now and then but would hold up a commit.

        To be called about once a second, by one thread of one process; see :class:`WorkerRecord`.
        Does not wait for other users of the store, nor they for it.
        """
        ...

    def now(self, local: int) -> int:
        """Return the time that leases begin and end by, epoch milliseconds.

        Args:
            local: what the clock of this host says. A store that only processes of one host share
                returns it; another one returns the same time to all hosts.
        """
        ...

    def event_seq(self, app: str) -> int:
        """Return a watermark, see above: a number that no event has that is not yet visible.

        It may be of whatever app, and lower than it could be: 0 if there is no event.
        """
        ...

    def result(self, app: str, run_id: str) -> StoredResult | Phase | None:
        """Return how a run ended, or the phase it is in, or None if there is no such run."""
        ...

    def read_stream(
        self, app: str, run_id: str, *, done: int, outside: int, most: int
    ) -> StoredStream | None:
        """Return what is stored of a run's stream, all from one moment; None without such a run.

        Args:
            app, run_id: the run.
            done: steps that have succeeded with a higher completion number are wanted (those of
                the kinds RUN and SEND), whether or not they have pushed anything.
            outside: chunks from outside steps with this index and later ones are wanted, in whole
                batches. None are that were stored under a lower number than ``done``.
            most: no further batch is added once so many bytes of chunks are there.
        """
        ...

    def stream_versions(self, app: str, run_ids: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
        """Return, for those of the runs that there are, numbers that tell whether a stream changed.

        They change with each further step, batch, claim, release, handoff and end. The first is the
        run's epoch, the second is 1 while some process executes it and else 0.
        """
        ...

    def which_ended(self, app: str, run_ids: Sequence[str]) -> Sequence[str]:
        """Return those of the runs (up to 1,000) that have ended."""
        ...

    def next_due(self, app: str, keys: Sequence[str]) -> int | None:
        """Return when the first claimable run of these handlers is due, epoch milliseconds."""
        ...

    def unclaimable(self, app: str, keys: Sequence[str], now: int) -> Sequence[RunRecord]:
        """Return up to 100 runs that are due but whose handler is not among the keys."""
        ...

    def matched_waits(self, owner: str) -> Sequence[tuple[str, str, StoredEvent]]:
        """Return run id, op id and event of matched waits of runs that this owner holds."""
        ...

    def held(self, owner: str) -> Mapping[str, int]:
        """Return the ids of the runs that this owner holds, each with its epoch."""
        ...

    def workers(self) -> Sequence[WorkerRecord]:
        """Return all registered processes."""
        ...

    def dead_workers(self, workers: Sequence[WorkerRecord]) -> Sequence[str]:
        """Return the ids of those processes that are certainly gone, before their lease expires.

        Needs a process of the same ``host`` registered by this store object; other hosts, and
        platforms without file locks, are never proven anything about.
        """
        ...

    def get(self, app: str, run_id: str) -> RunRecord | None:
        """Return all that is known about a run, or None.

        Steps are in the order of their completion numbers, pending ops in that of their ids, and
        failed attempts in that of op id and number.
        """
        ...

    def list(self, app: str, *, where: RunFilter = ANY_RUN, limit: int) -> Sequence[RunRecord]:
        """Return runs without their steps, those with the highest ids first.

        What it costs depends on ``limit`` and on how many runs the narrowest condition leaves, not
        on how many there are.
        """
        ...

    def secret(self) -> bytes:
        """Return 32 random bytes, made once and the same for every process of the store."""
        ...

    def wakeups(self) -> Wakeups:
        """Return what one thread of this process learns of other processes' commits from."""
        ...


class Wakeups(Protocol):
    """How a thread learns that another process, which shares the store, has committed."""

    def changed(self) -> bool:
        """Return whether another process may have committed since the last call. Cheap.

        The first call returns True.

        Raises:
            StoreError: the store cannot answer.
        """
        ...

    def wait(self, timeout: float, *, eager: bool) -> None:
        """Block until another process has committed, or :meth:`notify` was called.

        It may return earlier. A store that has to look for commits does, so that its caller looks.

        Args:
            timeout: the longest it blocks, seconds.
            eager: somebody waits for what other processes do; look more often.
        """
        ...

    def notify(self) -> None:
        """Make :meth:`wait` return, now or as soon as it is called. For any thread."""
        ...


# --- channel --------------------------------------------------------------------------------------
#
# What a store may offer besides: news of running steps, between the processes that share it.


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelWrite:
    """What an execution of this process tells the others.

    Attributes:
        run_id, epoch: the run, and its claim.
        events: in the order in which readers see them.
        done: the execution begins to tell, or begins anew: what it, and those before it, have
            written is removed, ``events`` is all that it has open, and this is
            ``LiveStream.done`` as of that. None to go on.
    """

    run_id: str
    epoch: int
    events: Sequence[Streamed]
    done: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveExecution:
    """An execution, of whatever process, that has written to the channel.

    Attributes:
        run_id, epoch: the run, and its claim.
        begun: when it has begun anew, this is another one.
        done: as of when it has begun; see ``LiveStream.done``.
    """

    run_id: str
    epoch: int
    begun: tuple[int, int]
    done: int


class Channel(Protocol):
    """What executions tell the other processes. Nothing durable depends on it.

    Methods may be called from any thread. All raise ``StoreError`` when they cannot do what they
    should.
    """

    def write(self, writes: Sequence[ChannelWrite]) -> Sequence[bool]:
        """Tell this; for each, False if what it goes on from is gone: it was not written."""
        ...

    def remove(self, executions: Sequence[tuple[str, int]]) -> None:
        """Forget what these executions have told, by run id and epoch."""
        ...

    def version(self) -> tuple[int, int]:
        """Return what changes when another process has written. Cheap."""
        ...

    def executions(self, run_ids: Sequence[str]) -> Sequence[LiveExecution]:
        """Return, for each of the runs of which there is one, the execution of the last epoch."""
        ...

    def read(
        self, execution: LiveExecution, after: int, most: int
    ) -> Sequence[tuple[int, Streamed]]:
        """Return up to ``most`` events, each with its position.

        Args:
            execution: whose.
            after: the last position that was read; 0 for the beginning.
            most: fewer than this mean that there are no more for now.
        """
        ...

    def prune(self, age: float) -> None:
        """Forget what was told more than so many seconds ago."""
        ...


def channel_of(store: object) -> Channel | None:
    """Return the channel of a store, its attribute ``channel``; None if it has none."""
    channel: Channel | None = getattr(store, "channel", None)
    return channel
