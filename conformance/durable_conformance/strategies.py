"""Strategies for what is written to stores: few ids and times, so that things meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st

from durable_conformance.store_values import (
    REQUEST,
    addressed,
    created,
    delivery,
    memo,
    pending,
    run,
    wait,
)
from durable_core.model.event import Event
from durable_core.model.run import Phase
from durable_core.model.step import FailedAttempt, OpKind, Pending
from durable_core.model.stream import ChunkBatch
from durable_core.ports import (
    Begin,
    Cancel,
    Checkpoint,
    Claim,
    Delete,
    Deliver,
    Heartbeat,
    LeaveQueue,
    NewRun,
    Prune,
    RateRule,
    ReapWorkers,
    Register,
    Release,
    RunFilter,
    SendEvents,
    Slots,
    StoredResult,
    Unregister,
    WorkerRecord,
    Write,
)

__all__ = [
    "APPS",
    "KEYS",
    "OWNERS",
    "RUNS",
    "apps",
    "begins",
    "claims",
    "few",
    "filters",
    "key_sets",
    "one_memo",
    "owners",
    "processes",
    "releases",
    "run_ids",
    "run_writes",
    "sends",
    "slot_sets",
    "times",
    "waits",
    "writes",
]

APPS = ("app", "other")
KEYS = ("key", "key2")
RUNS = tuple(f"r{number}" for number in range(3))
OWNERS = ("o1", "o2", "o3")
_LIVE = [Phase.SYNC, Phase.ASYNC, Phase.SUSPENDED, Phase.RESPONDING]
_ENDED = [Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED]

times = st.integers(0, 20)
few = st.integers(1, 3)
apps = st.sampled_from(("app", "app", "app", "other"))
run_ids = st.sampled_from(RUNS)
owners = st.sampled_from(OWNERS)
_values = st.sampled_from([None, 1, 1.0, True, "1", "true", [1], {"z": 2}, "\N{SNOWMAN}"])
_events = st.builds(
    Event,
    name=st.sampled_from(["e", "f"]),
    data=st.fixed_dictionaries({}, optional={"x": _values, "y": _values}),
    id=st.sampled_from(["1", "2", "3", "4", "5", "6"]),
    ts=times,
)
_keys = st.sampled_from(["t:1", "j:1", "t:true", "j:true", 'j:"1"', "j:[1]", "t:\N{SNOWMAN}"])
_conditions = st.sampled_from([(), ((("data", "x"), "1"),), ((("data", "y", "z"), "2"),)])


@st.composite
def waits(draw: st.DrawFn) -> Pending:
    path = draw(st.sampled_from(["", "data.x", "data.y"]))
    return wait(
        draw(st.sampled_from(["step1", "w1", "w2"])),
        event=draw(st.sampled_from(["e", "f"])),
        path=path,
        key=draw(_keys) if path else "",
        mark=draw(st.integers(0, 4)),
        seen=tuple(draw(st.lists(st.integers(1, 6), max_size=2))),
        conditions=draw(_conditions),
        due_at=draw(times),
    )


_naps = st.builds(pending, st.sampled_from(["step2", "nap"]), due_at=times)
_addressed = st.builds(
    addressed,
    st.sampled_from(["step1", "w1", "w2"]),
    address=st.sampled_from(["a", "b", "r1", "r2"]),
    due_at=times,
)
_ids = st.sampled_from(["1", "2"])
#: A name takes any number of deliveries; an address of a run has the run's id here.
_deliveries = st.one_of(
    st.builds(delivery, _ids, address=st.sampled_from(["a", "b"])),
    st.sampled_from(["r1", "r2"]).flatmap(
        lambda id_: st.builds(delivery, _ids, address=st.just(id_), run_id=st.just(id_))
    ),
)


_memos = st.builds(memo, st.integers(2, 20), kind=st.sampled_from([OpKind.RUN, OpKind.SEND]))
_texts = st.lists(st.sampled_from(["1", '"\N{SNOWMAN}"', "null"]), min_size=1, max_size=3).map(
    tuple
)
_pieces = st.one_of(
    st.builds(
        ChunkBatch,
        number=st.integers(2, 20),
        texts=_texts,
        op_id=st.just("id-step2"),
        attempt=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        start=st.integers(0, 3),
        last=st.booleans(),
    ),
    st.builds(ChunkBatch, number=st.integers(0, 20), texts=_texts, start=st.integers(0, 5)),
)
_failed_attempts = st.builds(
    FailedAttempt,
    op_id=st.sampled_from(["", "id-step2"]),
    number=few,
    started_at=times,
    ended_at=times,
    error_name=st.just("OSError"),
    error_message=st.sampled_from(["", "\N{SNOWMAN}"]),
    retry_at=st.none() | times,
)
_run_keys = st.none() | st.sampled_from(["a", "b"])
_labels = st.sampled_from([("l", "1"), ("l", "2"), ("m", "1")])
filters = st.builds(
    RunFilter,
    phases=st.just(()) | st.lists(st.sampled_from(Phase), max_size=3, unique=True).map(tuple),
    endpoint_key=st.none() | st.sampled_from(KEYS),
    key=_run_keys,
    label=st.none() | _labels,
    since=st.none() | run_ids,
    before=st.none() | run_ids,
    held=st.booleans(),
    cancelled=st.booleans(),
)
_awaited = st.none() | st.just(()) | st.just(("id-w1",)) | st.just(("id-step1", "id-w2"))
releases = st.builds(Release, due_at=times, awaited=_awaited)


def _results(phases: Sequence[Phase]) -> st.SearchStrategy[StoredResult]:
    return st.builds(
        StoredResult,
        phase=st.sampled_from(phases),
        head=st.just("200"),
        body=st.sampled_from([None, b"", b"body"]),
        ended_at=times,
    )


@st.composite
def run_writes(draw: st.DrawFn) -> Checkpoint:
    id_ = draw(run_ids)
    state = run(id_, app=draw(apps), key=draw(st.sampled_from(KEYS)))
    state = replace(
        state,
        phase=draw(st.sampled_from(_LIVE)),
        failures=draw(st.integers(0, 2)),
        crash_count=draw(st.integers(0, 2)),
        key=draw(_run_keys),
        parent=draw(st.none() | run_ids),
        traceparent=draw(st.none() | st.just("00-1-2-01")),
        labels=tuple(sorted(dict(draw(st.lists(_labels, max_size=2))).items())),
        version=draw(st.none() | st.just("v1")),
        undoable=draw(st.booleans()),
        depth=draw(st.integers(0, 2)),
        timeout=draw(st.none() | st.just(100)),
        deadline=draw(st.none() | times),
    )
    creates = draw(st.booleans())
    child = replace(state, id=draw(run_ids), parent=id_)
    ops = draw(st.lists(waits() | _naps | _addressed, max_size=2, unique_by=lambda op: op.op.id))
    return Checkpoint(
        run_id=id_,
        owner=draw(owners),
        epoch=1 if creates else draw(few),
        now=draw(times),
        create=state if creates else None,
        request=REQUEST if creates else None,
        memos=tuple(draw(st.lists(_memos, max_size=2))),
        pending=tuple(ops),
        state=draw(st.none() | st.sampled_from([state, replace(state, cancel_reason="why")])),
        release=draw(st.none() | releases),
        result=draw(st.none() | _results(_ENDED)) if draw(few) == 1 else None,
        events=tuple(draw(st.lists(_events, max_size=2))),
        chunks=tuple(draw(st.lists(_pieces, max_size=2))),
        handoff=draw(st.none() | st.sampled_from(["0.0", "1.2"])),
        failed_attempts=tuple(draw(st.lists(_failed_attempts, max_size=2))),
        deliveries=tuple(draw(st.lists(_deliveries, max_size=1))),
        replacing=draw(st.sampled_from([(), ("id-w1", "id-w2")])),
        closing=draw(st.sampled_from([(), (), ("id-w1",)])),
        no_pending_row=draw(st.booleans()),
        children=(NewRun(child, REQUEST),) if draw(few) == 1 else (),
    )


one_memo = st.builds(
    Checkpoint,
    run_id=run_ids,
    owner=owners,
    epoch=few,
    now=times,
    memos=st.tuples(st.builds(memo, st.integers(2, 20))),
    no_pending_row=st.booleans(),
    is_one_memo=st.booleans(),
)
_workers = st.builds(
    WorkerRecord,
    id=owners,
    host=st.just("h"),
    pid=st.integers(1, 9),
    expires_at=times,
    app=apps,
)
key_sets = st.sampled_from([KEYS, KEYS[:1], KEYS[1:], ()])
sends = st.builds(
    SendEvents,
    app=apps,
    events=st.lists(_events, min_size=1, max_size=3).map(tuple),
    now=times,
    source=st.sampled_from(["", "", "hook"]),
)
_delivers = st.builds(Deliver, app=apps, delivery=_deliveries, now=times)
slot_sets = st.sampled_from(
    [
        (),
        (Slots(endpoint_key=KEYS[0], most=1),),
        (Slots(endpoint_key=KEYS[0], most=2, most_of_key=1),),
        (
            Slots(endpoint_key=KEYS[0], most=None, most_of_key=1),
            Slots(endpoint_key=KEYS[1], most=1),
        ),
    ]
)
claims = st.builds(
    Claim,
    app=apps,
    owner=owners,
    keys=key_sets,
    now=st.integers(10, 20),
    limit=few,
    slots=slot_sets,
)


_cancels = st.builds(
    Cancel,
    app=apps,
    run_id=run_ids,
    result=_results([Phase.CANCELLED]),
    deliveries=st.lists(_deliveries, max_size=1).map(tuple),
    reason=st.sampled_from(["", "why"]),
)


@st.composite
def begins(draw: st.DrawFn) -> Begin:
    """Return the beginning of a run of the first endpoint, with limits."""
    id_ = draw(run_ids)
    new = replace(
        run(id_, app=draw(apps), key=KEYS[0]),
        slot_key=draw(st.sampled_from(["", "a", "b"])),
        singleton_key=draw(st.none() | st.sampled_from(["s", "t"])),
    )
    slots = draw(slot_sets)
    checkpoint = replace(created(id_, owner=draw(owners)), create=new, now=draw(times))
    rule = st.builds(RateRule, key=_ids, limit=few, period=st.integers(1, 20))
    return Begin(
        checkpoint=checkpoint,
        slots=slots[0] if slots else None,
        queue_limit=draw(st.none() | st.integers(0, 2)),
        rate=draw(st.none() | rule),
        replaces=draw(st.none() | _cancels),
    )


_leave_queues = st.builds(
    LeaveQueue,
    app=apps,
    unlimited=st.sampled_from([(), KEYS[:1]]),
    limited=st.sampled_from([(), KEYS[:1]]),
    before=times,
    limit=st.just(100),
)
_ends: st.SearchStrategy[Write[object]] = st.one_of(
    _cancels,
    st.builds(Delete, app=apps, run_id=run_ids),
    st.builds(Prune, app=apps, runs_before=times, events_before=times, limit=few),
)
processes: st.SearchStrategy[Write[object]] = st.one_of(
    st.builds(Register, worker=_workers),
    st.builds(Heartbeat, id=owners, expires_at=times),
    st.builds(
        ReapWorkers,
        ids=st.lists(owners, max_size=2).map(tuple),
        now=times,
        skip_if_renewed_after=st.none() | times,
        orphans=st.booleans(),
    ),
    st.builds(Unregister, id=owners, now=times),
)
writes: st.SearchStrategy[Write[object]] = st.one_of(
    run_writes(), one_memo, sends, _delivers, claims, _ends, processes
)
