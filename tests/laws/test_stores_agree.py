"""The SQLite store does what the memory store does, whatever is written to both."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hypothesis import Phase as Stage
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from durable_core.model.events import Event
from durable_core.model.ops import OpKind, Pending
from durable_core.model.run import Phase
from durable_core.model.stream import Piece
from durable_core.ports import (
    Beat,
    Bury,
    Cancel,
    Claim,
    Peer,
    Prune,
    Register,
    Release,
    RunRecord,
    RunWrite,
    SendEvents,
    Sent,
    StoredResult,
    Unregister,
    Write,
    Written,
)
from durable_core.runtime.memory_store import MemoryStore
from durable_core.runtime.sqlite import SQLiteStore
from support.stores import REQUEST, created, memo, pending, put_away, run, wait

APPS = ("app", "other")
KEYS = ("key", "key2")
RUNS = tuple(f"r{number}" for number in range(3))
OWNERS = ("o1", "o2", "o3")
LIVE = [Phase.SYNC, Phase.ASYNC, Phase.SUSPENDED, Phase.RESPONDING]
ENDED = [Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED]

times = st.integers(0, 20)
few = st.integers(1, 3)
apps = st.sampled_from(("app", "app", "app", "other"))
run_ids = st.sampled_from(RUNS)
owners = st.sampled_from(OWNERS)
values = st.sampled_from([None, 1, 1.0, True, "1", "true", [1], {"z": 2}, "\N{SNOWMAN}"])
events = st.builds(
    Event,
    name=st.sampled_from(["e", "f"]),
    data=st.fixed_dictionaries({}, optional={"x": values, "y": values}),
    id=st.sampled_from(["1", "2", "3", "4", "5", "6"]),
    ts=times,
)
keys = st.sampled_from(["t:1", "j:1", "t:true", "j:true", 'j:"1"', "j:[1]", "t:\N{SNOWMAN}"])
conditions = st.sampled_from([(), ((("data", "x"), "1"),), ((("data", "y", "z"), "2"),)])


@st.composite
def waits(draw: st.DrawFn) -> Pending:
    path = draw(st.sampled_from(["", "data.x", "data.y"]))
    return wait(
        draw(st.sampled_from(["step1", "w1", "w2"])),
        event=draw(st.sampled_from(["e", "f"])),
        path=path,
        key=draw(keys) if path else "",
        mark=draw(st.integers(0, 4)),
        seen=tuple(draw(st.lists(st.integers(1, 6), max_size=2))),
        conditions=draw(conditions),
        due_at=draw(times),
    )


naps = st.builds(pending, st.sampled_from(["step2", "nap"]), due_at=times)


memos = st.builds(memo, st.integers(2, 20), kind=st.sampled_from([OpKind.RUN, OpKind.SEND]))
texts = st.lists(st.sampled_from(["1", '"\N{SNOWMAN}"', "null"]), min_size=1, max_size=3).map(tuple)
pieces = st.one_of(
    st.builds(
        Piece,
        number=st.integers(2, 20),
        texts=texts,
        op_id=st.just("id-step2"),
        attempt=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    ),
    st.builds(Piece, number=st.integers(0, 20), texts=texts, start=st.integers(0, 5)),
)
awaited = st.none() | st.just(()) | st.just(("id-w1",)) | st.just(("id-step1", "id-w2"))
releases = st.builds(Release, due_at=times, awaited=awaited)


def results(phases: Sequence[Phase]) -> st.SearchStrategy[StoredResult]:
    return st.builds(
        StoredResult,
        phase=st.sampled_from(phases),
        head=st.just("200"),
        body=st.sampled_from([None, b"", b"body"]),
        ended_at=times,
    )


@st.composite
def run_writes(draw: st.DrawFn) -> RunWrite:
    id_ = draw(run_ids)
    state = run(id_, app=draw(apps), key=draw(st.sampled_from(KEYS)))
    state = replace(
        state,
        phase=draw(st.sampled_from(LIVE)),
        failures=draw(st.integers(0, 2)),
        takeovers=draw(st.integers(0, 2)),
    )
    creates = draw(st.booleans())
    ops = draw(st.lists(waits() | naps, max_size=2, unique_by=lambda op: op.op.id))
    return RunWrite(
        run_id=id_,
        owner=draw(owners),
        epoch=1 if creates else draw(few),
        now=draw(times),
        create=state if creates else None,
        request=REQUEST if creates else None,
        memos=tuple(draw(st.lists(memos, max_size=2))),
        pending=tuple(ops),
        state=draw(st.none() | st.just(state)),
        release=draw(st.none() | releases),
        result=draw(st.none() | results(ENDED)) if draw(few) == 1 else None,
        sends=tuple(draw(st.lists(events, max_size=2))),
        pieces=tuple(draw(st.lists(pieces, max_size=2))),
        handoff=draw(st.none() | st.sampled_from(["0.0", "1.2"])),
        direct=draw(st.booleans()),
    )


one_memo = st.builds(
    RunWrite,
    run_id=run_ids,
    owner=owners,
    epoch=few,
    now=times,
    memos=st.tuples(st.builds(memo, st.integers(2, 20))),
    direct=st.booleans(),
)
peers = st.builds(Peer, id=owners, host=st.just("h"), pid=st.integers(1, 9), expires_at=times)
key_sets = st.sampled_from([KEYS, KEYS[:1], KEYS[1:], ()])
sends = st.builds(
    SendEvents, app=apps, events=st.lists(events, min_size=1, max_size=3).map(tuple), now=times
)
claims = st.builds(Claim, app=apps, owner=owners, keys=key_sets, now=st.integers(10, 20), limit=few)
ends: st.SearchStrategy[Write[object]] = st.one_of(
    st.builds(Cancel, app=apps, run_id=run_ids, result=results([Phase.CANCELLED])),
    st.builds(Prune, app=apps, runs_before=times, events_before=times, limit=few),
)
processes: st.SearchStrategy[Write[object]] = st.one_of(
    st.builds(Register, peer=peers),
    st.builds(Beat, id=owners, expires_at=times),
    st.builds(
        Bury,
        ids=st.lists(owners, max_size=2).map(tuple),
        now=times,
        unless_beat_after=st.none() | times,
        orphans=st.booleans(),
    ),
    st.builds(Unregister, id=owners, now=times),
)
writes: st.SearchStrategy[Write[object]] = st.one_of(
    run_writes(), one_memo, sends, claims, ends, processes
)


def comparable(answer: object) -> object:
    """Return the answer with errors as their type, and sorted where the order is open."""
    if isinstance(answer, BaseException):
        return type(answer)
    if isinstance(answer, Sent | Written):
        return replace(answer, woken=tuple(sorted(answer.woken, key=lambda woken: woken[0])))
    if isinstance(answer, tuple) and all(isinstance(item, str) for item in answer):
        return sorted(answer)
    return answer


def by_id(peers: Sequence[Peer]) -> dict[str, Peer]:
    return {peer.id: peer for peer in peers}


def is_held_due_or_ended(record: RunRecord) -> bool:
    return [record.owner, record.due_at, record.ended_at].count(None) == 2


class StoresAgree(RuleBasedStateMachine):
    """Writes to both stores, and compares all answers and all that can be read."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.memory = MemoryStore()
        self.sqlite = self.opened()
        self.crashed: list[SQLiteStore] = []

    def opened(self) -> SQLiteStore:
        store = SQLiteStore(self.directory / "store.db")
        store.open()
        return store

    def teardown(self) -> None:
        for store in (self.sqlite, *self.crashed):
            store.close()
        shutil.rmtree(self.directory)

    @initialize(awaited=st.lists(waits(), min_size=3, max_size=3))
    def create_runs(self, awaited: list[Pending]) -> None:
        for id_, op in zip(RUNS, awaited, strict=True):
            self.commit([replace(created(id_), pending=(op,))])

    @rule(write=run_writes() | one_memo, by_owner=st.booleans())
    def write_run(self, write: RunWrite, by_owner: bool) -> None:
        self.commit([self.by_owner(write) if by_owner else write])

    @rule(id_=run_ids, release=releases, ops=st.lists(waits(), max_size=1))
    def put_away(self, id_: str, release: Release, ops: list[Pending]) -> None:
        self.commit([self.by_owner(replace(put_away(id_, *ops), release=release))])

    @rule(write=sends)
    def send(self, write: SendEvents) -> None:
        self.commit([write])

    @rule(write=claims)
    def claim(self, write: Claim) -> None:
        self.commit([write])

    @rule(write=processes)
    def change_processes(self, write: Write[object]) -> None:
        self.commit([write])

    @rule(batch=st.lists(writes, min_size=2, max_size=5))
    def write_group(self, batch: list[Write[object]]) -> None:
        self.commit([self.by_owner(write) for write in batch])

    def commit(self, batch: list[Write[object]]) -> None:
        batch = [self.truthful(write, batch) for write in batch]
        expected = [comparable(answer) for answer in self.memory.commit(batch, wait=0)]
        actual = [comparable(answer) for answer in self.sqlite.commit(batch, wait=0)]

        assert expected == actual

    def by_owner(self, write: Write[object]) -> Write[object]:
        """Return the write as the one who holds the run would make it."""
        if not isinstance(write, RunWrite):
            return write
        records = [self.memory.get(app, write.run_id) for app in APPS]
        for record in records:
            if record is not None and record.owner is not None:
                epoch = record.run.epoch
                return replace(write, owner=record.owner, epoch=epoch, create=None, request=None)
        return write

    def truthful(self, write: Write[object], batch: list[Write[object]]) -> Write[object]:
        """Return the write with ``direct`` only if its memos' ops have no pending records."""
        if not isinstance(write, RunWrite):
            return write
        records = (self.memory.get(app, write.run_id) for app in APPS)
        known = [op.op.id for record in records if record for op in record.pending]
        known += [op.op.id for each in batch if isinstance(each, RunWrite) for op in each.pending]
        direct = write.direct and not {memo.op.id for memo in write.memos} & set(known)
        return replace(write, direct=direct)

    @rule(cleanly=st.booleans())
    def restart(self, cleanly: bool) -> None:
        if cleanly:
            self.sqlite.maintain()
            self.sqlite.close()
            self.sqlite.open()
        else:
            self.crashed.append(self.sqlite)
            self.sqlite = self.opened()

    @invariant()
    def runs_read_the_same(self) -> None:
        for app in APPS:
            for id_ in RUNS:
                record = self.memory.get(app, id_)
                assert record == self.sqlite.get(app, id_)
                assert record is None or is_held_due_or_ended(record)
                assert self.memory.result(app, id_) == self.sqlite.result(app, id_)
            assert set(self.memory.ended(app, RUNS)) == set(self.sqlite.ended(app, RUNS))

    @invariant()
    def the_rest_reads_the_same(self) -> None:
        assert self.memory.event_mark("app") == self.sqlite.event_mark("app")
        assert by_id(self.memory.peers()) == by_id(self.sqlite.peers())
        for app in APPS:
            assert self.memory.next_due(app, KEYS) == self.sqlite.next_due(app, KEYS)

    @rule(app=apps, known=key_sets, now=times)
    def read_queues(self, app: str, known: tuple[str, ...], now: int) -> None:
        assert self.memory.next_due(app, known) == self.sqlite.next_due(app, known)
        expected = self.memory.unclaimable(app, known, now)
        assert expected == self.sqlite.unclaimable(app, known, now)

    @rule(owner=owners)
    def read_matches(self, owner: str) -> None:
        expected = sorted(self.memory.matched(owner), key=lambda match: match[:2])
        assert expected == self.sqlite.matched(owner)

    @rule(app=apps, run_id=run_ids, done=times, outside=st.integers(0, 6), most=st.integers(1, 9))
    def read_stream(self, app: str, run_id: str, done: int, outside: int, most: int) -> None:
        """Stored chunks, some at a time."""
        expected = self.memory.stream(app, run_id, done=done, outside=outside, most=most)
        actual = self.sqlite.stream(app, run_id, done=done, outside=outside, most=most)
        assert expected == actual

    @invariant()
    def whole_streams_read_the_same(self) -> None:
        """All chunks of each run."""
        for id_ in RUNS:
            expected = self.memory.stream("app", id_, done=0, outside=0, most=1000)
            assert expected == self.sqlite.stream("app", id_, done=0, outside=0, most=1000)

    @rule(app=apps, phase=st.none() | st.sampled_from(Phase), before=st.none() | run_ids, limit=few)
    def list_runs(self, app: str, phase: Phase | None, before: str | None, limit: int) -> None:
        expected = self.memory.list(app, phase=phase, before=before, limit=limit)
        assert expected == self.sqlite.list(app, phase=phase, before=before, limit=limit)


TestStoresAgree = StoresAgree.TestCase
TestStoresAgree.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    # Explaining a failure would take longer than the test may.
    phases=[Stage.explicit, Stage.reuse, Stage.generate, Stage.shrink],
)
