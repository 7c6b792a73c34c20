"""Any store does what the memory store does, whatever is written to both."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import ClassVar

from hypothesis import HealthCheck, seed, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from durable_conformance.contract import Capability, StoreSubject
from durable_conformance.store_values import created, peer, suspended
from durable_conformance.strategies import (
    APPS,
    KEYS,
    OWNERS,
    RUNS,
    apps,
    begins,
    claims,
    few,
    filters,
    key_sets,
    one_memo,
    owners,
    processes,
    releases,
    run_ids,
    run_writes,
    sends,
    slot_sets,
    times,
    waits,
    writes,
)
from durable_core.model.step import Pending
from durable_core.model.stream import StreamPlace
from durable_core.ports import (
    Begin,
    Checkpoint,
    CheckpointResult,
    Claim,
    Register,
    Release,
    RunFilter,
    RunRecord,
    SendEvents,
    Sent,
    Slots,
    WorkerRecord,
    Write,
)
from durable_core.stores.memory import MemoryStore

__all__ = ["StoreMachine", "check_store"]


def _comparable(answer: object) -> object:
    """Return the answer with errors as their type, and sorted where the order is open."""
    if isinstance(answer, BaseException):
        return type(answer)
    if isinstance(answer, Sent | CheckpointResult):
        return replace(
            answer, resumed_runs=tuple(sorted(answer.resumed_runs, key=lambda woken: woken[0]))
        )
    if isinstance(answer, tuple) and all(isinstance(item, str) for item in answer):
        return sorted(answer)
    return answer


def _by_id(peers: Sequence[WorkerRecord]) -> dict[str, WorkerRecord]:
    return {peer.id: peer for peer in peers}


def _is_held_due_or_ended(record: RunRecord) -> bool:
    return [record.owner, record.due_at, record.ended_at].count(None) == 2


class StoreMachine(RuleBasedStateMachine):
    """Writes to the store and to the reference, and compares all answers and all reads."""

    #: Judged; set by :func:`check_store`.
    subject: ClassVar[StoreSubject]

    def __init__(self) -> None:
        super().__init__()
        self.reference = MemoryStore()
        self._stack = ExitStack()
        self.store = self._stack.enter_context(self.subject.open())

    def teardown(self) -> None:
        """Close everything."""
        self._stack.close()

    @initialize(awaited=st.lists(waits(), min_size=3, max_size=3))
    def create_runs(self, awaited: list[Pending]) -> None:
        """Create the runs, each with a wait, and the processes that claim them."""
        self.commit([Register(worker=peer(owner)) for owner in OWNERS])
        for id_, op in zip(RUNS, awaited, strict=True):
            self.commit([replace(created(id_), pending=(op,))])

    @rule(write=run_writes() | one_memo, by_owner=st.booleans())
    def write_run(self, write: Checkpoint, by_owner: bool) -> None:
        """Write a checkpoint."""
        self.commit([self.by_owner(write) if by_owner else write])

    @rule(id_=run_ids, release=releases, ops=st.lists(waits(), max_size=1))
    def suspended(self, id_: str, release: Release, ops: list[Pending]) -> None:
        """Give a run up."""
        self.commit([self.by_owner(replace(suspended(id_, *ops), release=release))])

    @rule(write=sends)
    def send(self, write: SendEvents) -> None:
        """Send events."""
        self.commit([write])

    @rule(write=claims)
    def claim(self, write: Claim) -> None:
        """Claim due runs."""
        self.commit([write])

    @rule(write=begins())
    def begin(self, write: Begin) -> None:
        """Begin a run that limits may refuse or queue."""
        self.commit([write])

    @rule(write=processes)
    def change_processes(self, write: Write[object]) -> None:
        """Let processes come and go."""
        self.commit([write])

    @rule(batch=st.lists(writes, min_size=2, max_size=5))
    def write_group(self, batch: list[Write[object]]) -> None:
        """Write several things at once."""
        self.commit([self.by_owner(write) for write in batch])

    def commit(self, batch: list[Write[object]]) -> None:
        """Commit to both, and compare the answers."""
        batch = [self.consistent(write, batch) for write in batch]
        expected = [_comparable(answer) for answer in self.reference.commit(batch, wait=0)]
        actual = [_comparable(answer) for answer in self.store.commit(batch, wait=0)]

        assert expected == actual

    def by_owner(self, write: Write[object]) -> Write[object]:
        """Return the write as the one who holds the run would make it."""
        if not isinstance(write, Checkpoint):
            return write
        records = [self.reference.get(app, write.run_id) for app in APPS]
        for record in records:
            if record is not None and record.owner is not None:
                epoch = record.run.epoch
                return replace(write, owner=record.owner, epoch=epoch, create=None, request=None)
        return write

    def consistent(self, write: Write[object], batch: list[Write[object]]) -> Write[object]:
        """Return the write with ``no_pending_row`` only if there is none that it removes."""
        if not isinstance(write, Checkpoint):
            return write
        records = (self.reference.get(app, write.run_id) for app in APPS)
        known = [op.op.id for record in records if record for op in record.pending]
        known += [op.op.id for each in batch if isinstance(each, Checkpoint) for op in each.pending]
        known += [op.op.id for op in write.pending]
        removed = set(known)
        if write.result is None:
            removed &= {memo.op.id for memo in write.memos}
        return replace(write, no_pending_row=write.no_pending_row and not removed)

    @rule()
    def reopen(self) -> None:
        """Close it and open it again."""
        self.store.run_maintenance()
        self.store.close()
        self.store.open()

    @precondition(lambda self: Capability.SHARED in self.subject.capabilities)
    @rule()
    def abandon(self) -> None:
        """Go on with another handle, as if the process of the one before had died."""
        self.store = self._stack.enter_context(self.subject.open_again(self.store))

    @invariant()
    def nothing_is_hidden(self) -> None:
        """What is read is what is stored."""
        records = [self.reference.get(app, id_) for app in APPS for id_ in RUNS]
        known = [record for record in records if record is not None]
        stored = self.subject.peek(self.store)
        assert len(known) == stored["runs"]
        assert sum(len(record.memos) for record in known) == stored["steps"]
        assert sum(len(record.pending) for record in known) == stored["pending"]

    @invariant()
    def runs_read_the_same(self) -> None:
        """Each run, its result and its end."""
        for app in APPS:
            for id_ in RUNS:
                record = self.reference.get(app, id_)
                assert record == self.store.get(app, id_)
                assert record is None or _is_held_due_or_ended(record)
                assert self.reference.result(app, id_) == self.store.result(app, id_)
            assert set(self.reference.which_ended(app, RUNS)) == set(
                self.store.which_ended(app, RUNS)
            )

    @invariant()
    def the_rest_reads_the_same(self) -> None:
        """Marks, processes and due times."""
        assert self.reference.event_seq("app") == self.store.event_seq("app")
        assert _by_id(self.reference.workers()) == _by_id(self.store.workers())
        for owner in OWNERS:
            assert self.reference.held(owner) == self.store.held(owner)
            expected = sorted(self.reference.cancelled_runs(owner))
            assert expected == sorted(self.store.cancelled_runs(owner))
        for app in APPS:
            assert self.reference.next_due(app, KEYS) == self.store.next_due(app, KEYS)
            abandoned = self.reference.abandoned_children(app)
            assert abandoned == self.store.abandoned_children(app)

    @rule(app=apps, known=key_sets, now=times, slots=slot_sets)
    def read_queues(
        self, app: str, known: tuple[str, ...], now: int, slots: tuple[Slots, ...]
    ) -> None:
        """Due times and what nobody can claim."""
        due_at = self.reference.next_due(app, known, slots=slots)
        assert due_at == self.store.next_due(app, known, slots=slots)
        expected = self.reference.unclaimable(app, known, now)
        assert expected == self.store.unclaimable(app, known, now)

    @rule(owner=owners)
    def read_matches(self, owner: str) -> None:
        """Matched waits."""
        expected = sorted(self.reference.matched_waits(owner), key=lambda match: match[:2])
        actual = sorted(self.store.matched_waits(owner), key=lambda match: match[:2])
        assert expected == actual

    @rule(
        app=apps,
        run_id=run_ids,
        done=times,
        outside=st.integers(0, 6),
        most=st.integers(1, 300),
        begin=st.none() | st.tuples(st.integers(0, 6), st.integers(0, 1), st.integers(0, 3)),
    )
    def read_stream(
        self,
        app: str,
        run_id: str,
        done: int,
        outside: int,
        most: int,
        begin: StreamPlace | None,
    ) -> None:
        """Stored chunks, some at a time."""
        expected = self.reference.read_stream(
            app, run_id, done=done, outside=outside, most=most, begin=begin
        )
        actual = self.store.read_stream(
            app, run_id, done=done, outside=outside, most=most, begin=begin
        )
        assert expected == actual

    @invariant()
    def whole_streams_read_the_same(self) -> None:
        """All chunks of each run."""
        for id_ in RUNS:
            expected = self.reference.read_stream("app", id_, done=0, outside=0, most=1000)
            assert expected == self.store.read_stream("app", id_, done=0, outside=0, most=1000)

    @rule(app=apps, where=filters, limit=few)
    def list_runs(self, app: str, where: RunFilter, limit: int) -> None:
        """Pages of runs."""
        expected = self.reference.list(app, where=where, limit=limit)
        assert expected == self.store.list(app, where=where, limit=limit)


def check_store(subject: StoreSubject, examples: int) -> None:
    """Let the machine write to the subject's stores at random; raise where they differ.

    What failed is kept in ``.hypothesis`` in the working directory, and is tried first the next
    time. ``DURABLE_CONFORMANCE_SEED`` sets where the random numbers begin; then what fails is also
    made as small as it can be, which may take minutes.
    """
    given = os.environ.get("DURABLE_CONFORMANCE_SEED")
    value = int(given or random.SystemRandom().getrandbits(32))
    made_small = [Stage.shrink] if given else []
    machine = seed(value)(type("Machine", (StoreMachine,), {"subject": subject}))
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=30,
                deadline=None,
                # More than this would take longer than a case may, and its limit would hide why.
                phases=[Stage.explicit, Stage.reuse, Stage.generate, *made_small],
                suppress_health_check=list(HealthCheck),
            ),
        )
    except BaseException as error:
        error.add_note(f"to have the same again, and small: DURABLE_CONFORMANCE_SEED={value}")
        raise
