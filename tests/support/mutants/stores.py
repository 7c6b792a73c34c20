"""Stores that are broken on purpose, each in one way: ``support.mutants.stores:<name>``."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from durable_core.errors import LeaseLost
from durable_core.model.event import StoredEvent
from durable_core.model.step import Pending
from durable_core.model.stream import StoredStream, StreamPlace
from durable_core.ports import (
    ANY_RUN,
    Begin,
    Cancel,
    CancelOutcome,
    Checkpoint,
    CheckpointResult,
    Claim,
    Delete,
    Deliver,
    Delivered,
    Fork,
    Prune,
    ReapWorkers,
    Retry,
    RotateSecret,
    RunFilter,
    RunRecord,
    SendEvents,
    Store,
    StoredSecret,
    Usage,
    WorkerRecord,
    Write,
)
from durable_core.stores.memory import MemoryStore
from durable_core.stores.memory_run import StoredRun
from durable_core.stores.sqlite import SQLiteStore
from support.store_subjects import MemorySubject, SQLiteSubject

__all__ = ["MUTANTS", "Mutant", "sound"]


class Mutant(MemorySubject):
    """Yields stores of a broken class."""

    name = "mutant"

    def __init__(self, broken: Callable[[], Store]) -> None:
        self._broken = broken

    @contextmanager
    def open(self) -> Iterator[Store]:
        """Yield one."""
        yield self._broken()


class _Changing(MemoryStore):
    """Changes what is written before it is written."""

    def change(self, write: Any) -> Any:
        """Return what is written in its place."""
        return write

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Commit the changed writes."""
        return super().commit([self.change(write) for write in writes], wait=wait)


class ForgetsMemos(_Changing):
    """Loses the steps of all but the first checkpoint."""

    def change(self, write: Any) -> Any:
        """Drop them."""
        late = isinstance(write, Checkpoint) and write.create is None
        return replace(write, memos=()) if late else write


class LeaksLeases(MemoryStore):
    """Takes whoever writes for the one who holds the lease."""

    def _row_to_change(self, write: Checkpoint) -> Any:
        row = self._runs.get(write.run_id)
        if row is not None and write.create is None and row.owner is not None:
            write = replace(write, owner=row.owner, epoch=row.run.epoch)
        return super()._row_to_change(write)


class KeepsPending(MemoryStore):
    """An ended run still has unfinished ops."""

    def _write_run(self, write: Checkpoint) -> CheckpointResult | LeaseLost:
        before = dict(self._runs[write.run_id].pending) if write.run_id in self._runs else {}
        written = super()._write_run(write)
        if write.result is not None:
            self._runs[write.run_id].pending.update(before)
        return written


class FailsTogether(MemoryStore):
    """One refused member of a batch takes the others with it."""

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Answer all with the first error."""
        answers = super().commit(writes, wait=wait)
        errors = [each for each in answers if isinstance(each, BaseException)]
        return errors[:1] * len(answers) if errors else answers


class ClaimsTheLatest(MemoryStore):
    """Takes due runs from the wrong end."""

    def _due(self, app: str, now: int, wanted: Callable[[str], bool]) -> Any:
        return super()._due(app, now, wanted)[::-1]


class KeepsTheHandler(_Changing):
    """Leaves a run with its handler, whatever its release says."""

    def change(self, write: Any) -> Any:
        """Drop the other handler."""
        if not isinstance(write, Checkpoint) or write.release is None:
            return write
        return replace(write, release=replace(write.release, endpoint_key=None))


class ClaimsAnything(_Changing):
    """Takes runs whose handler nobody knows."""

    def _claim(self, message: Claim) -> Any:
        due = self._due(message.app, message.now, lambda key: True)
        return tuple(row.take(message.owner) for row in due[: message.limit])


class ClaimsForTheDead(MemoryStore):
    """Gives runs to processes that are not registered."""

    def _claim(self, message: Claim) -> Any:
        due = self._due(message.app, message.now, lambda key: key in message.keys)
        return tuple(row.take(message.owner) for row in due[: message.limit])


class WakesOne(MemoryStore):
    """An event answers one wait only."""

    def _wake(self, app: str, stored: StoredEvent, now: int) -> dict[str, str | None]:
        rows = self._of
        self._of = lambda app: list(rows(app))[:1]  # type: ignore[method-assign]
        try:
            return super()._wake(app, stored, now)
        finally:
            self._of = rows  # type: ignore[method-assign]


class LosesEvents(MemoryStore):
    """A wait hears nothing of what came before it."""

    def _earliest_answer(self, app: str, pending: Any) -> StoredEvent | None:
        return None


class StopsLooking(MemoryStore):
    """A wait is compared with the first events before it, and with no others."""

    def _earliest_answer(self, app: str, pending: Any) -> StoredEvent | None:
        found = super()._earliest_answer(app, pending)
        return found if found is None or found.seq <= 200 else None


class MatchesLoosely(_Changing):
    """Leaves the match out, and compares nothing."""

    def change(self, write: Any) -> Any:
        """Drop the rule."""
        if not isinstance(write, Checkpoint):
            return write
        pending = tuple(
            replace(each, rule='{"event":"e"}', match_path="", match_key="") if each.event else each
            for each in write.pending
        )
        return replace(write, pending=pending)


class SendsNothing(_Changing):
    """A step's events do not leave with its checkpoint."""

    def change(self, write: Any) -> Any:
        """Drop them."""
        return replace(write, events=()) if isinstance(write, Checkpoint) else write


class Shares(MemoryStore):
    """Hands out its own values."""

    def matched_waits(self, owner: str) -> Sequence[tuple[str, str, StoredEvent]]:
        """Return what is stored, not a copy."""
        return [
            (row.run.id, op_id, pending.matched)
            for row in self._runs.values()
            for op_id, pending in row.pending.items()
            if row.owner == owner and pending.matched is not None
        ]


class SparesNobody(MemoryStore):
    """Buries processes that have prolonged their lease."""

    def _reap(self, message: ReapWorkers) -> tuple[str, ...]:
        return super()._reap(replace(message, skip_if_renewed_after=None))


class CancelsAgain(MemoryStore):
    """Cancels what has ended."""

    def _cancel(self, message: Cancel) -> CancelOutcome:
        super()._cancel(message)
        return CancelOutcome.ENDED


class EndsCancelledRuns(MemoryStore):
    """Lets a run end although it was cancelled and is to be undone."""

    def _write_run(self, write: Checkpoint) -> CheckpointResult | LeaseLost:
        row = self._runs.get(write.run_id)
        if row is not None and write.result is not None:
            row.run = replace(row.run, cancel_reason=None)
        return super()._write_run(write)


class PrunesAll(MemoryStore):
    """Knows no limit."""

    def _prune(self, message: Prune) -> int:
        return super()._prune(replace(message, limit=1000))


class DeletesLiveRuns(MemoryStore):
    """Deletes runs that have not ended, too."""

    def _delete(self, message: Delete) -> bool:
        if not super()._delete(message):
            del self._runs[message.run_id]
        return True


class ListsTheOldest(MemoryStore):
    """Lists runs from the wrong end."""

    def list(self, app: str, *, where: RunFilter = ANY_RUN, limit: int) -> Sequence[RunRecord]:
        """Return the oldest first."""
        return super().list(app, where=where, limit=limit)[::-1]


class FindsAll(MemoryStore):
    """Knows no labels."""

    def list(self, app: str, *, where: RunFilter = ANY_RUN, limit: int) -> Sequence[RunRecord]:
        """Leave the label out."""
        return super().list(app, where=replace(where, label=None), limit=limit)


class ForgetsFailures(_Changing):
    """Stores no failed attempts."""

    def change(self, write: Any) -> Any:
        """Drop them."""
        return replace(write, failed_attempts=()) if isinstance(write, Checkpoint) else write


class OneSource(_Changing):
    """Takes all senders for one."""

    def change(self, write: Any) -> Any:
        """Drop the source."""
        return replace(write, source="") if isinstance(write, SendEvents) else write


class DeliversAgain(MemoryStore):
    """Remembers no delivery to a name."""

    def _deliver(self, message: Deliver) -> Delivered:
        delivered = super()._deliver(message)
        if message.delivery.run_id is None:
            self._deliveries.clear()
        return delivered


class KeepsNothing(MemoryStore):
    """Delivers only to an op that waits already."""

    def _delivered(self, row: StoredRun, pending: Pending) -> StoredEvent | None:
        return None


class SharesAddresses(MemoryStore):
    """Lets several ops wait at one address."""

    def _take_address(self, row: StoredRun, pending: Pending, replacing: Sequence[str]) -> bool:
        return True


class EndsInSilence(_Changing):
    """Delivers nothing with a checkpoint."""

    def change(self, write: Any) -> Any:
        """Drop it."""
        return replace(write, deliveries=()) if isinstance(write, Checkpoint) else write


class NewSecrets(MemoryStore):
    """Makes its secret anew."""

    def secrets(self) -> Sequence[StoredSecret]:
        """Return another one."""
        return [StoredSecret(value=os.urandom(32), created_at=0)]


class KeepsOldSecrets(_Changing):
    """Revokes no secret."""

    def change(self, write: Any) -> Any:
        """Remove none."""
        return replace(write, replaced_before=0) if isinstance(write, RotateSecret) else write


class CountsEverybody(MemoryStore):
    """Takes the runs of all for those of a principal."""

    def usage(self, app: str, *, principal: str | None = None, most: int) -> Usage:
        """Leave the principal out."""
        return super().usage(app, most=most)


class DropsChunks(_Changing):
    """Stores steps without what they pushed."""

    def change(self, write: Any) -> Any:
        """Drop it."""
        return replace(write, chunks=()) if isinstance(write, Checkpoint) else write


class StreamsAtOnce(MemoryStore):
    """Reads streams without regard to how much was asked for."""

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
        """Return all of it."""
        return super().read_stream(app, run_id, done=0, outside=0, most=10**9)


class _HidingSubject(Mutant):
    """Stores more than it shows."""

    def peek(self, store: Store) -> Mapping[str, int]:
        """Count one row too many."""
        return {**super().peek(store), "runs": super().peek(store)["runs"] + 1}


class _Forking(Mutant):
    """Every handle goes on with data of its own."""

    capabilities = frozenset({"shared"})

    @contextmanager
    def open_again(self, store: Store) -> Iterator[Store]:
        """Yield a copy."""
        assert isinstance(store, MemoryStore)
        copy = MemoryStore()
        copy._runs = deepcopy(store._runs)
        yield copy


class _Piecemeal(SQLiteStore):
    """Commits the members of a batch one after the other."""

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Commit each by itself."""
        commit = super().commit
        return [answer for write in writes for answer in commit([write], wait=wait)]


class ForgetsChildren(_Changing):
    """Stores a step that waits for another run, and not that run."""

    def change(self, write: Any) -> Any:
        """Drop the runs that a run starts."""
        return replace(write, children=()) if isinstance(write, Checkpoint) else write


class RetriesNothing(MemoryStore):
    """Keeps the failed steps of a run that is to go on."""

    def _retry(self, message: Retry) -> bool:
        row = self._find(message.app, message.run_id)
        memos = {} if row is None else dict(row.memos)
        answer = super()._retry(message)
        if row is not None:
            row.memos = memos
        return answer


class CopiesAll(_Changing):
    """Copies also the step that a run is to go on from."""

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Give the copy all steps."""
        answers = super().commit(writes, wait=wait)
        for write in writes:
            if isinstance(write, Fork) and write.run.id in self._runs:
                self._runs[write.run.id].memos = dict(self._runs[write.run_id].memos)
        return answers


class ForgetsKeys(MemoryStore):
    """Begins a run for each request, whatever its key."""

    def _begin(self, message: Begin) -> Any:
        self._keys.clear()
        return super()._begin(message)


class HasSlotsForAll(MemoryStore):
    """Queues no run."""

    def _begin(self, message: Begin) -> Any:
        return super()._begin(replace(message, slots=None))


class ForgetsRates(MemoryStore):
    """Begins runs at any rate."""

    def _begin(self, message: Begin) -> Any:
        return super()._begin(replace(message, rate=None))


class CountsAgain(MemoryStore):
    """Frees the runs of a process as often as it is told that the process is dead."""

    def _reap(self, message: ReapWorkers) -> tuple[str, ...]:
        freed = super()._reap(message)
        for row in self._runs.values():
            if message.ids and row.due_at is not None:
                row.free(message.now, crashed=True)
        return freed


class ForgetsHeld(MemoryStore):
    """Does not know what a process holds."""

    def held(self, owner: str) -> Mapping[str, int]:
        """Return nothing."""
        return {}


class BreaksWhenClosed(MemoryStore):
    """Raises what its driver raises."""

    def close(self) -> None:
        """Take the lock away."""
        del self._lock

    def open(self) -> None:
        """Give it back."""
        self._lock = threading.RLock()


class _Patient(SQLiteStore):
    """Waits although it should not."""

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Wait for three seconds at least."""
        return super().commit(writes, wait=max(wait, 3.0))


class _Suspicious(SQLiteStore):
    """Takes every other process for dead."""

    def dead_workers(self, workers: Sequence[WorkerRecord]) -> Sequence[str]:
        """Return all of them."""
        return [each.id for each in workers]


class _Early(SQLiteStore):
    """Answers before it commits."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._later: list[Write[object]] = []

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Commit five batches at a time."""
        self._later += writes
        if len(self._later) < 15:
            return [CheckpointResult()] * len(writes)
        later, self._later = self._later, []
        time.sleep(0.01)
        return super().commit(later, wait=wait)[-len(writes) :]


class ForgetsChunks(_Changing):
    """Stores checkpoints without what was streamed before them."""

    def change(self, write: Any) -> Any:
        """Drop it."""
        return replace(write, chunks=()) if isinstance(write, Checkpoint) else write


class ForgetsHandoffs(MemoryStore):
    """Does not know where the client of a stream was handed off."""

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
        stored = super().read_stream(
            app, run_id, done=done, outside=outside, most=most, begin=begin
        )
        return stored and replace(stored, handoff=None)


class LosesParts(MemoryStore):
    """Takes the next part of a step for the next step."""

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
        """Leave out what is in the middle of a step."""
        if begin is not None and begin[2] > 0 and begin[1] == 0:
            begin = (begin[0] + 1, 0, 0)
        return super().read_stream(app, run_id, done=done, outside=outside, most=most, begin=begin)


#: Each mutant by what it gets wrong: (subject, the requirements that must fail for it).
MUTANTS: dict[str, tuple[MemorySubject | SQLiteSubject, tuple[str, ...]]] = {
    "forgets_memos": (Mutant(ForgetsMemos), ("T1",)),
    "forgets_failures": (Mutant(ForgetsFailures), ("T1",)),
    "finds_all": (Mutant(FindsAll), ("T15",)),
    "one_source": (Mutant(OneSource), ("T7",)),
    "leaks_leases": (Mutant(LeaksLeases), ("T2",)),
    "keeps_pending": (Mutant(KeepsPending), ("T3",)),
    "fails_together": (Mutant(FailsTogether), ("T4",)),
    "claims_the_latest": (Mutant(ClaimsTheLatest), ("T5",)),
    "claims_anything": (Mutant(ClaimsAnything), ("T6", "T16")),
    "keeps_the_handler": (Mutant(KeepsTheHandler), ("T6",)),
    "claims_for_the_dead": (Mutant(ClaimsForTheDead), ("T12",)),
    "forgets_chunks": (Mutant(ForgetsChunks), ("T20",)),
    "forgets_handoffs": (Mutant(ForgetsHandoffs), ("T21",)),
    "wakes_one": (Mutant(WakesOne), ("T7",)),
    "loses_events": (Mutant(LosesEvents), ("T8",)),
    "stops_looking": (Mutant(StopsLooking), ("T28",)),
    "matches_loosely": (Mutant(MatchesLoosely), ("T9",)),
    "sends_nothing": (Mutant(SendsNothing), ("T10",)),
    "shares_its_values": (Mutant(Shares), ("T11",)),
    "spares_nobody": (Mutant(SparesNobody), ("T12",)),
    "cancels_again": (Mutant(CancelsAgain), ("T13",)),
    "ends_cancelled_runs": (Mutant(EndsCancelledRuns), ("T13",)),
    "prunes_all": (Mutant(PrunesAll), ("T14",)),
    "deletes_live_runs": (Mutant(DeletesLiveRuns), ("T14",)),
    "lists_the_oldest": (Mutant(ListsTheOldest), ("T15",)),
    "keeps_old_secrets": (Mutant(KeepsOldSecrets), ("T15",)),
    "makes_new_secrets": (Mutant(NewSecrets), ("T15",)),
    "counts_everybody": (Mutant(CountsEverybody), ("T29",)),
    "drops_chunks": (Mutant(DropsChunks), ("T20",)),
    "streams_at_once": (Mutant(StreamsAtOnce), ("T21",)),
    "loses_parts": (Mutant(LosesParts), ("T21",)),
    "commits_piecemeal": (SQLiteSubject(_Piecemeal), ("T22",)),
    "forks_its_data": (_Forking(MemoryStore), ("T18", "T19")),
    "retries_nothing": (Mutant(RetriesNothing), ("T32",)),
    "delivers_again": (Mutant(DeliversAgain), ("T34",)),
    "shares_addresses": (Mutant(SharesAddresses), ("T34",)),
    "keeps_nothing": (Mutant(KeepsNothing), ("T35",)),
    "ends_in_silence": (Mutant(EndsInSilence), ("T36",)),
    "forgets_children": (Mutant(ForgetsChildren), ("T41",)),
    "copies_all": (Mutant(CopiesAll), ("T33",)),
    "forgets_keys": (Mutant(ForgetsKeys), ("T30",)),
    "has_slots_for_all": (Mutant(HasSlotsForAll), ("T38",)),
    "forgets_rates": (Mutant(ForgetsRates), ("T39",)),
    "counts_again": (Mutant(CountsAgain), ("T25",)),
    "forgets_held": (Mutant(ForgetsHeld), ("T25",)),
    "breaks_when_closed": (Mutant(BreaksWhenClosed), ("T26",)),
    "waits_too_long": (SQLiteSubject(_Patient), ("T26",)),
    "takes_all_for_dead": (SQLiteSubject(_Suspicious), ("T26",)),
    "answers_early": (SQLiteSubject(_Early), ("T27",)),
    "kills_by_parts": (SQLiteSubject(_Piecemeal), ("T27",)),
    "hides_rows": (_HidingSubject(MemoryStore), ("T17",)),
}


#: What they are made of, with nothing wrong.
sound = Mutant(MemoryStore)


def __getattr__(name: str) -> MemorySubject | SQLiteSubject:
    if name not in MUTANTS:
        raise AttributeError(f"there is no mutant {name!r}")
    return MUTANTS[name][0]
