"""Commits that touch many tables, and what a store shows of them, for crashes in their midst."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from durable_conformance.store_values import (
    addressed,
    created,
    delivery,
    ended,
    event,
    memo,
    memo_write,
    peer,
    result,
    run,
    suspended,
    wait,
)
from durable_core.model.step import OpKind
from durable_core.model.stream import ChunkBatch
from durable_core.ports import Claim, Prune, ReapWorkers, Register, SendEvents, Store, Write

__all__ = ["BATCHES", "snapshot"]

_RUNS = tuple(f"r{number}" for number in range(1, 6))
_ALIVE = [created("r1"), suspended("r1", wait()), created("r2"), created("r3"), ended("r3")]
_SENDING = memo_write(
    "r2",
    memos=(memo(2, kind=OpKind.SEND), memo(3)),
    events=(event("1"), event("2")),
    chunks=(ChunkBatch(number=3, texts=('"a"',), op_id="id-step3", attempt=(1, 1)),),
    state=run("r2"),
)

#: Each by its name: what is there before, and what is committed at once.
BATCHES: dict[str, tuple[list[Write[Any]], list[Write[Any]]]] = {
    "a new run": ([], [created("r1")]),
    "a run, from its first step to its last": ([], [created("r1"), memo_write("r1"), ended("r1")]),
    "a checkpoint that sends": (list(_ALIVE), [_SENDING]),
    "events": (list(_ALIVE), [SendEvents(app="app", events=(event("1"), event("2")), now=100)]),
    "a run that is put away": (list(_ALIVE), [suspended("r2", wait("w1"), wait("w2"))]),
    "the end of a run": (list(_ALIVE), [ended("r2")]),
    "the end of a run that another one waits for": (
        [*_ALIVE, suspended("r2", addressed())],
        [replace(created("r4"), result=result(), deliveries=(delivery(run_id="r2"),))],
    ),
    "a claim": (
        [*_ALIVE, Register(worker=peer("o2"))],
        [Claim(app="app", owner="o2", keys=("key",), now=2000, limit=9)],
    ),
    "a process that is gone": (
        [*_ALIVE, Register(worker=peer("o1"))],
        [ReapWorkers(ids=("o1",), now=100, skip_if_renewed_after=None, orphans=False)],
    ),
    "what is old": (
        [*_ALIVE, SendEvents(app="app", events=(event("1"),), now=1)],
        [Prune(app="app", runs_before=1000, events_before=1000, limit=9)],
    ),
    "of everything something": (
        list(_ALIVE),
        [
            created("r4"),
            SendEvents(app="app", events=(event("1"),), now=100),
            _SENDING,
            memo_write("r4"),
            ended("r2"),
        ],
    ),
}


def snapshot(store: Store) -> tuple[Any, ...]:
    """Return all that can be read of the app."""
    return (
        tuple(store.get("app", id_) for id_ in _RUNS),
        tuple(store.result("app", id_) for id_ in _RUNS),
        tuple(store.read_stream("app", id_, done=0, outside=0, most=1000) for id_ in _RUNS),
        store.event_seq("app"),
        store.next_due("app", ("key",)),
        sorted(store.matched_waits("o1"), key=lambda match: match[:2]),
        sorted((each.id, each.expires_at) for each in store.workers()),
    )
