"""How a claimed run is released, or ended, that no execution has gone on with."""

from __future__ import annotations

import logging
from dataclasses import replace

from durable_core.codec.records import dump_head
from durable_core.duration import time_of
from durable_core.flow.child_runs import end_deliveries
from durable_core.flow.execution import StoredExecution
from durable_core.flow.facts import run_facts
from durable_core.http.problem import problem
from durable_core.model.fact import Fact, RunNoted, StoreFault
from durable_core.model.run import Phase, Run
from durable_core.ports import Checkpoint, CorruptRun, Release, StoredResult

__all__ = ["cut_short_fact", "end_of_corrupt", "release_of", "release_unbegun"]


def cut_short_fact(run: Run, fault: BaseException, now: int, *, is_crash: bool) -> Fact:
    """Return what observers are told of a run whose execution was cut short."""
    facts, at = run_facts(run), time_of(now)
    text = f"cut short, it continues from its last checkpoint: {fault!r}"
    if is_crash:
        return RunNoted(run=facts, at=at, level=logging.ERROR, message=text, error=fault)
    return StoreFault(app=run.app, run=facts, at=at, error=fault, message=text)


def release_of(run: Run, owner: str, now: int, pause: int) -> Checkpoint:
    """Return the write by which a run goes on in ``pause`` milliseconds, in whatever process."""
    return Checkpoint(
        run_id=run.id,
        owner=owner,
        epoch=run.epoch,
        now=now,
        state=replace(run, phase=Phase.SUSPENDED),
        release=Release(due_at=now + pause),
    )


def release_unbegun(ex: StoredExecution) -> Checkpoint:
    """Return the write that releases a claimed run as it was; it keeps its place among due runs."""
    run, now = ex.run, ex.env.clock.now()
    due_at = min((now, *(each.due_at for each in ex.pending.values())))
    return Checkpoint(run.id, ex.owner, run.epoch, now, state=run, release=Release(due_at=due_at))


def end_of_corrupt(claimed: CorruptRun, owner: str, now: int) -> Checkpoint:
    """Return the write that fails a run whose record cannot be read."""
    detail = "what is stored of the run cannot be read"
    response = problem(500, "unreadable-record", detail=detail, run_id=claimed.run_id)
    assert isinstance(response.body, bytes)
    return Checkpoint(
        run_id=claimed.run_id,
        owner=owner,
        epoch=claimed.epoch,
        now=now,
        result=StoredResult(
            phase=Phase.FAILED, head=dump_head(response), body=response.body, ended_at=now
        ),
        deliveries=end_deliveries(claimed.run_id, claimed.parent, Phase.FAILED, now),
    )
