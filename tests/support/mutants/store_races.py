"""Stores whose races end wrong: ``support.mutants.store_races:<name>``."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from durable_core.model.event import StoredEvent
from durable_core.model.run import Run
from durable_core.model.step import Pending
from durable_core.ports import (
    Begin,
    Checkpoint,
    Claim,
    Prune,
    Store,
    Write,
)
from durable_core.stores.memory import MemoryStore
from durable_core.stores.memory_run import StoredRun
from durable_core.stores.memory_slots import FlowControl
from support.mutants.stores import Mutant
from support.store_subjects import MemorySubject, SQLiteSubject

__all__ = ["MUTANTS"]


class _Shared(Mutant):
    """Several handles on one store in memory, which take commits at the same time."""

    capabilities = frozenset({"shared"})

    @contextmanager
    def open_again(self, store: Store) -> Iterator[Store]:
        """Yield the same."""
        yield store


def _has_events(write: Write[object]) -> bool:
    return bool(getattr(write, "events", ()))


class NumbersEarly(MemoryStore):
    """Gives numbers to events when a commit begins; it may become visible after a later one."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = threading.local()
        self._begun = 0

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Take the numbers, and a while for every other commit."""
        if not any(map(_has_events, writes)):
            return super().commit(writes, wait=wait)
        with self._lock:
            self._begun += 1
            slow = self._begun % 2
            count = sum(len(getattr(write, "events", ())) for write in writes)
            self._numbers.left = list(range(self._last_seq + 1, self._last_seq + 1 + count))
            self._last_seq += count
        time.sleep(0.03 * slow)
        return super().commit(writes, wait=wait)

    def _next_seq(self) -> int:
        number: int = self._numbers.left.pop(0)
        return number


class ReadsCommitted(MemoryStore):
    """A commit sees of waits and events what was there when it began, as in READ COMMITTED."""

    def __init__(self) -> None:
        super().__init__()
        self._seen = threading.local()

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Look, wait, write."""
        with self._lock:
            self._seen.events = set(self._events)
            self._seen.waits = {
                (id_, op_id) for id_, row in self._runs.items() for op_id in row.pending
            }
        time.sleep(0.002)
        return super().commit(writes, wait=wait)

    def _earliest_answer(self, app: str, pending: Any) -> StoredEvent | None:
        answer = super()._earliest_answer(app, pending)
        known = {self._events[key].seq for key in self._seen.events}
        return answer if answer is not None and answer.seq in known else None

    def _wake(self, app: str, stored: StoredEvent, now: int) -> dict[str, str | None]:
        hidden = {
            (id_, op_id): row.pending.pop(op_id)
            for id_, row in self._runs.items()
            for op_id in list(row.pending)
            if (id_, op_id) not in self._seen.waits
        }
        try:
            return super()._wake(app, stored, now)
        finally:
            for (id_, op_id), pending in hidden.items():
                self._runs[id_].pending[op_id] = pending


class ClaimsBlindly(MemoryStore):
    """Takes what was due when the commit began, whatever became of it."""

    def __init__(self) -> None:
        super().__init__()
        self._due_then = threading.local()

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Look, wait, write."""
        claims = [write for write in writes if isinstance(write, Claim)]
        if not claims:
            return super().commit(writes, wait=wait)
        with self._lock:
            self._due_then.rows = self._due(claims[0].app, claims[0].now, lambda key: True)
        time.sleep(0.002)
        return super().commit(writes, wait=wait)

    def _claim(self, message: Claim) -> Any:
        return tuple(row.take(message.owner) for row in self._due_then.rows[: message.limit])


class BeginsBlindly(MemoryStore):
    """Looks for the key when the commit begins, and not when it takes it."""

    def __init__(self) -> None:
        super().__init__()
        self._keys_then = threading.local()

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Look, wait, write."""
        with self._lock:
            self._keys_then.keys = set(self._keys)
        if any(isinstance(write, Begin) for write in writes):
            time.sleep(0.002)
        return super().commit(writes, wait=wait)

    def _begin(self, message: Begin) -> Any:
        for place in set(self._keys) - self._keys_then.keys:
            del self._keys[place]
        return super()._begin(message)


class WaitsBlindly(MemoryStore):
    """Looks for deliveries when the commit begins, and not when it takes it."""

    def __init__(self) -> None:
        super().__init__()
        self._then = threading.local()

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Look, wait, write."""
        with self._lock:
            self._then.deliveries = dict(self._deliveries)
        if any(isinstance(write, Checkpoint) and write.pending for write in writes):
            time.sleep(0.002)
        return super().commit(writes, wait=wait)

    def _delivered(self, row: StoredRun, pending: Pending) -> StoredEvent | None:
        now, self._deliveries = self._deliveries, self._then.deliveries
        try:
            return super()._delivered(row, pending)
        finally:
            self._deliveries = now


class _DecidesEarly(FlowControl):
    """Decides as was decided when the commit began."""

    def __init__(self, runs: Any) -> None:
        super().__init__(runs)
        self.passed = threading.local()

    def pass_limits(self, message: Begin, run: Run) -> Any:
        then: dict[str, Any] = self.passed.runs
        return then[run.id] if run.id in then else super().pass_limits(message, run)


class AdmitsBlindly(MemoryStore):
    """Looks at the limits when the commit begins, and not when it takes a run."""

    def __init__(self) -> None:
        super().__init__()
        self._flow = self._early = _DecidesEarly(self._of)

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Look, wait, write."""
        self._early.passed.runs = {}
        begins = [write for write in writes if isinstance(write, Begin)]
        with self._lock:
            self._early.passed.runs = {
                write.checkpoint.run_id: self._early.pass_limits(write, write.checkpoint.create)
                for write in begins
                if write.checkpoint.create is not None
            }
        if begins:
            time.sleep(0.002)
        return super().commit(writes, wait=wait)


class PrunesInParts(MemoryStore):
    """Deletes the steps of a run, then the run."""

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Let others read in between."""
        for write in writes:
            if isinstance(write, Prune):
                with self._lock:
                    ended = [row for row in self._runs.values() if row.result is not None]
                    for row in sorted(ended, key=lambda row: row.run.id)[: write.limit]:
                        row.memos.clear()
                time.sleep(0.002)
        return super().commit(writes, wait=wait)


MUTANTS: dict[str, tuple[MemorySubject | SQLiteSubject, tuple[str, ...]]] = {
    "numbers_early": (_Shared(NumbersEarly), ("T23",)),
    "reads_committed": (_Shared(ReadsCommitted), ("T23",)),
    "claims_blindly": (_Shared(ClaimsBlindly), ("T24",)),
    "begins_blindly": (_Shared(BeginsBlindly), ("T31",)),
    "admits_blindly": (_Shared(AdmitsBlindly), ("T40",)),
    "waits_blindly": (_Shared(WaitsBlindly), ("T37",)),
    "prunes_in_parts": (_Shared(PrunesInParts), ("T24",)),
}


def __getattr__(name: str) -> MemorySubject | SQLiteSubject:
    if name not in MUTANTS:
        raise AttributeError(f"there is no mutant {name!r}")
    return MUTANTS[name][0]
