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
    """Where the embedded engine keeps its state.

    It may have an attribute ``channel``, see ``ports.Channel``, for processes that share it.

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

    def run_maintenance(self) -> None:
        """Do what must be done now and then but would hold up a commit.

        To be called about once a second, by one thread. Does not wait for other users of the
        store, nor they for it.
        """
        ...

    def event_seq(self, app: str) -> int:
        """Return the highest event sequence number there is, of whatever app; 0 if none."""
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
                pieces. None are that were stored under a lower number than ``done``.
            most: no further piece is added once so many bytes of chunks are there.
        """
        ...

    def stream_versions(self, app: str, run_ids: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
        """Return, for those of the runs that there are, numbers that tell whether a stream changed.

        They change with each further step, piece, claim, release, handoff and end. The first is the
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
        """Return all that is known about a run, or None."""
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

    def change_counter(self) -> int:
        """Return a number that changes when another process has committed. Cheap.

        It may change for commits of this process too.
        """
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
