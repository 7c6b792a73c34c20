"""Decisions about a run."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_conformance.store_values import memo, pending, run
from durable_core.machine.advance import Transition, advance
from durable_core.machine.retry import RetryPolicy
from durable_core.machine.table import IllegalTransition
from durable_core.model.decision import (
    BecameIdle,
    Claimed,
    Detached,
    Fail,
    Failure,
    Finish,
    HandlerRaised,
    HandlerReturned,
    Handoff,
    HandoffReason,
    Input,
    OpEnded,
    OpFailed,
    OpParked,
    Orphaned,
    ResponseInterrupted,
    ResponseStarted,
    SaveMemo,
    SavePending,
    Suspend,
)
from durable_core.model.run import Phase, Run
from durable_core.model.step import FailedAttempt, Memo, Op, OpKind

POLICY = RetryPolicy(base="1s", jitter=0.0)
OP = Op(id="1", name="step", kind=OpKind.RUN)
FAILURE = Failure(name="ValueError", message="no")


def in_phase(phase: Phase, **changes: Any) -> Run:
    return replace(run(), phase=phase, **changes)


def advanced(it: Run, happened: Input, now: int = 100) -> Transition:
    return advance(it, happened, now, POLICY)


def failed(failure: Failure = FAILURE, failures: int = 0) -> OpFailed:
    return OpFailed(
        op=OP, failure=failure, completion_no=4, event_seq=2, failures=failures, u=0.5, started_at=5
    )


@pytest.mark.parametrize("phase", [Phase.SYNC, Phase.ASYNC])
def test_op_ended(phase: Phase) -> None:
    """A finished op is stored, and the run stays where it is."""
    it = in_phase(phase)
    done = Memo(op=OP, completion_no=4, ok=True, value="7", event_seq=2, attempts=2, ended_at=90)
    after = advanced(it, OpEnded(memo=done))
    assert after.run is it
    assert (SaveMemo(done),) == after.commands


def test_a_run_changes_nothing_but_its_phase() -> None:
    """Every other field is kept when the handler returns, whatever it is."""
    it = replace(
        in_phase(Phase.SYNC),
        event_seq=7,
        failures=1,
        crash_count=2,
        epoch=3,
        key="key",
        parent="parent",
        traceparent="trace",
        labels=(("team", "a"),),
        version="v2",
        principal="ada",
        undoable=True,
        cancel_reason="why",
        slot_key="slot",
        singleton_key="one",
        client="digest",
        depth=1,
        timeout=100,
        deadline=200,
        retry_count=1,
    )
    assert [] == [each.name for each in fields(it) if getattr(it, each.name) == each.default]

    after = advanced(it, HandlerReturned())

    assert replace(it, phase=Phase.COMPLETED) == after.run


def test_op_failed_and_is_tried_again() -> None:
    """A failed op is kept with its next time; an attached client is handed off."""
    after = advanced(in_phase(Phase.SYNC), failed(failures=1))
    assert Phase.ASYNC is after.run.phase
    save, handoff = after.commands
    assert isinstance(save, SavePending)
    assert (2, 100 + 2_000) == (save.pending.failures, save.pending.due_at)
    assert "ValueError" == json.loads(save.pending.error)["name"]
    assert Handoff(HandoffReason.STEP_RETRY) == handoff
    assert 1 == len(advanced(in_phase(Phase.ASYNC), failed()).commands)


@pytest.mark.parametrize(
    ("failure", "failures"), [(FAILURE, 3), (replace(FAILURE, retriable=False), 0)]
)
def test_op_failed_for_good(failure: Failure, failures: int) -> None:
    """After the last attempt, or a final error, the failure is the op's outcome."""
    it = in_phase(Phase.SYNC)
    after = advanced(it, failed(failure, failures))
    [command] = after.commands
    assert isinstance(command, SaveMemo)
    assert (False, failures + 1) == (command.memo.ok, command.memo.attempts)
    assert after.run is it


@given(st.integers(0, 20), st.integers(0, 25))
def test_attempts_are_bounded(retries: int, failures: int) -> None:
    """An op is tried again exactly while no more than ``retries`` attempts have failed."""
    after = advanced(in_phase(Phase.ASYNC, retries=retries), failed(failures=failures))
    again = isinstance(after.commands[0], SavePending)
    assert again is (failures + 1 <= retries)


@pytest.mark.parametrize(("retries", "retry_at"), [(3, 2_100), (1, None)])
def test_a_failed_attempt_is_noted(retries: int, retry_at: int | None) -> None:
    """With its times, its error cut to 1,000 characters, and when the next one is due."""
    long = replace(FAILURE, message="no" * 1_000)
    [command] = [
        each
        for each in advanced(in_phase(Phase.ASYNC, retries=retries), failed(long, 1)).commands
        if isinstance(each, (SaveMemo, SavePending))
    ]
    assert (
        FailedAttempt(
            op_id=OP.id,
            number=2,
            started_at=5,
            ended_at=100,
            error_name="ValueError",
            error_message="no" * 500,
            retry_at=retry_at,
        )
        == command.failed
    )


def test_error_chooses_its_delay() -> None:
    """RetryAfterError goes before the schedule."""
    [save] = advanced(in_phase(Phase.ASYNC), failed(replace(FAILURE, retry_after=7))).commands
    assert isinstance(save, SavePending)
    assert 107 == save.pending.due_at


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (OpKind.SLEEP, HandoffReason.SLEEP),
        (OpKind.WAIT, HandoffReason.WAIT),
        (OpKind.RUN, HandoffReason.STEP_RETRY),
    ],
)
def test_parked(kind: OpKind, reason: HandoffReason) -> None:
    """What cannot finish now lets an attached client go, once."""
    parked = OpParked(pending=replace(pending(), op=replace(OP, kind=kind)))
    after = advanced(in_phase(Phase.SYNC), parked)
    assert (Phase.ASYNC, (Handoff(reason),)) == (after.run.phase, after.commands)
    assert () == advanced(after.run, parked).commands


def test_detached() -> None:
    """Whatever the reason, only an attached client is handed off."""
    detached = Detached(reason=HandoffReason.DRAIN)
    after = advanced(in_phase(Phase.SYNC), detached)
    assert (Phase.ASYNC, (Handoff(HandoffReason.DRAIN),)) == (after.run.phase, after.commands)
    assert () == advanced(after.run, detached).commands


@given(st.lists(st.integers(0, 10_000)))
def test_quiet(times: list[int]) -> None:
    """A quiet run is put away until the first op is due; without one, until now."""
    ops = tuple(pending(f"p{n}", due_at=due_at) for n, due_at in enumerate(times))
    after = advanced(in_phase(Phase.ASYNC), BecameIdle(pending=ops))
    assert Phase.SUSPENDED is after.run.phase
    assert (Suspend(min(times, default=100)),) == after.commands


def test_returned() -> None:
    """A response that is there ends the run."""
    for phase in (Phase.SYNC, Phase.ASYNC, Phase.RESPONDING):
        after = advanced(in_phase(phase), HandlerReturned())
        assert (Phase.COMPLETED, (Finish(),)) == (after.run.phase, after.commands)


def test_handler_raised() -> None:
    """A handler that fails is put away and tried again, its failures counted."""
    after = advanced(
        in_phase(Phase.SYNC, failures=1), HandlerRaised(failure=FAILURE, u=0.5, started_at=5)
    )
    assert (Phase.SUSPENDED, 2) == (after.run.phase, after.run.failures)
    attempt = FailedAttempt(
        op_id="",
        number=2,
        started_at=5,
        ended_at=100,
        error_name="ValueError",
        error_message="no",
        retry_at=2_100,
    )
    assert (Suspend(2_100, attempt), Handoff(HandoffReason.HANDLER_RETRY)) == after.commands


@pytest.mark.parametrize(
    ("failure", "failures"), [(FAILURE, 3), (replace(FAILURE, retriable=False), 0)]
)
def test_handler_raised_for_good(failure: Failure, failures: int) -> None:
    """After the last attempt, or a final error, the run has failed."""
    after = advanced(
        in_phase(Phase.ASYNC, failures=failures),
        HandlerRaised(failure=failure, u=0.5, started_at=5),
    )
    assert Phase.FAILED is after.run.phase
    [fail] = after.commands
    assert isinstance(fail, Fail)
    assert ("run-failed", "ValueError", "no") == (fail.kind, fail.name, fail.message)
    assert fail.failed is not None
    assert (failures + 1, None) == (fail.failed.number, fail.failed.retry_at)


def test_streamed_response() -> None:
    """A response that has started can be finished or broken, but not made again."""
    started = advanced(in_phase(Phase.SYNC), ResponseStarted())
    assert (Phase.RESPONDING, ()) == (started.run.phase, started.commands)
    broke = advanced(started.run, ResponseInterrupted(failure=FAILURE))
    assert Phase.FAILED is broke.run.phase
    taken = advanced(started.run, Claimed(max_crashes=10))
    assert Phase.FAILED is taken.run.phase
    [fail] = taken.commands
    assert isinstance(fail, Fail)
    assert "response-interrupted" == fail.kind


@pytest.mark.parametrize("phase", [Phase.SYNC, Phase.ASYNC, Phase.SUSPENDED])
def test_claimed(phase: Phase) -> None:
    """A claimed run is live without a client, unless its process died too often."""
    after = advanced(in_phase(phase, crash_count=9), Claimed(max_crashes=10))
    assert (Phase.ASYNC, ()) == (after.run.phase, after.commands)
    dead = advanced(in_phase(phase, crash_count=10), Claimed(max_crashes=10))
    assert Phase.FAILED is dead.run.phase
    [fail] = dead.commands
    assert isinstance(fail, Fail)
    assert "crashed-repeatedly" == fail.kind


def test_orphaned() -> None:
    """A run without code fails, and the problem names the key."""
    after = advanced(in_phase(Phase.SUSPENDED), Orphaned())
    [fail] = after.commands
    assert isinstance(fail, Fail)
    assert "endpoint-missing" == fail.kind
    assert "'key'" in fail.message


@pytest.mark.parametrize("phase", [Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED])
@pytest.mark.parametrize(
    "happened",
    [
        OpEnded(memo=memo(1)),
        failed(),
        Detached(reason=HandoffReason.DRAIN),
        BecameIdle(pending=()),
        HandlerReturned(),
        HandlerRaised(failure=FAILURE, u=0.5, started_at=5),
        Claimed(max_crashes=1),
        Orphaned(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_nothing_happens_to_a_run_that_has_ended(phase: Phase, happened: Input) -> None:
    """What has ended stays so, and the run is not changed."""
    it = in_phase(phase)
    with pytest.raises(IllegalTransition):
        advanced(it, happened)
    assert phase is it.phase
