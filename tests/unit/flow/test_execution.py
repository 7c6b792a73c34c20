"""One live execution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_conformance.store_values import failed_attempt, memo, pending, result, run, wait
from durable_core.errors import (
    LeaseLost,
    LimitExceededError,
    StoreBrokenError,
    StoreError,
    Suspended,
)
from durable_core.flow.driver import drive_sync
from durable_core.flow.effects import AwaitDurable, Effect, Flow, PendingCommit, Submit
from durable_core.flow.env import AppConfig, Limits
from durable_core.flow.execution import (
    EXECUTION_TRANSITIONS,
    ExecutionEvent,
    ExecutionState,
    StoredExecution,
    checkpoint,
    new_run,
    settle,
)
from durable_core.flow.options import ResolvedOptions
from durable_core.machine.table import TRANSITIONS, Trigger
from durable_core.model.event import StoredEvent
from durable_core.model.run import Phase, Run
from durable_core.model.step import Memo, OpKind, Pending
from durable_core.platform import SystemIds
from durable_core.ports import Checkpoint, CheckpointResult, Release
from support.harness import FakeClock, event, request


class Queue:
    """Answers Submit and Settle, and remembers what was submitted."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.writes: list[Checkpoint] = []
        self.after: list[tuple[PendingCommit, ...]] = []

    def perform(self, ask: Effect) -> Any:
        if isinstance(ask, Submit):
            assert isinstance(ask.write, Checkpoint)
            self.writes.append(ask.write)
            self.after.append(ask.after)
            return _Ticket()
        assert isinstance(ask, AwaitDurable)
        if self.error is not None:
            raise self.error
        for ticket in ask.tickets:
            assert isinstance(ticket, _Ticket)
            ticket.done = True
        return [CheckpointResult() for _ in ask.tickets]


class _Ticket:
    def __init__(self) -> None:
        self.done = False


class _NoLock:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def execution(
    memos: Sequence[Memo] | None = None,
    waiting: Sequence[Pending] = (),
    limits: Limits | None = None,
    **changes: Any,
) -> StoredExecution:
    env = AppConfig(
        app="app",
        clock=FakeClock(50),
        ids=SystemIds(),
        secrets=tuple,
        limits=limits or Limits(),
    )
    it = replace(run(), **changes)
    options = ResolvedOptions(key="key", store_headers=frozenset())
    return StoredExecution(env, options, it, request(), owner="me", memos=memos, pending=waiting)


def save(ex: StoredExecution, **changes: Any) -> Flow[None]:
    ex.add_ticket((yield checkpoint(ex, **changes)))


def drive(flow: Any, queue: Queue) -> Any:
    return drive_sync(flow, queue.perform, _NoLock())


def test_attached() -> None:
    """A client is attached in SYNC."""
    assert (False, True) == (execution(phase=Phase.ASYNC).attached, execution().attached)


@pytest.mark.parametrize("phase", Phase)
def test_an_open_execution_may_store_a_success_as_it_is(phase: Phase) -> None:
    """Where ``check_open`` raises nothing, the success of an op leaves the run in its phase.

    The flow of a step relies on it: it does not ask the table.
    """
    ex = execution(phase=phase)
    try:
        ex.check_open()
    except Suspended:
        assert phase not in (Phase.SYNC, Phase.ASYNC)
    else:
        assert phase is TRANSITIONS[phase, Trigger.CHECKPOINT]


def test_first_write_creates_the_run() -> None:
    """The first checkpoint brings the run and its request, once."""
    ex, queue = execution(), Queue()
    assert not ex.stored
    drive(save(ex, memos=(memo(1),)), queue)
    drive(save(ex, memos=(memo(2),)), queue)
    first, second = queue.writes
    assert ex.stored
    assert ex.run == first.create
    assert first.request is not None
    assert "/it" in first.request.head
    assert (None, None) == (second.create, second.request)
    assert ("me", 1, 50, None) == (first.owner, first.epoch, first.now, first.state)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"memos": (memo(1),)}, True),
        ({"memos": (memo(1),), "no_pending_row": True}, True),
        ({}, False),
        ({"memos": (memo(1), memo(2))}, False),
        ({"memos": (memo(1),), "state": True}, False),
        ({"memos": (memo(1),), "release": Release(due_at=1)}, False),
        ({"memos": (memo(1),), "result": result()}, False),
        ({"memos": (memo(1),), "pending": (pending(),)}, False),
        ({"memos": (memo(1),), "events": (event("e"),)}, False),
        ({"memos": (memo(1),), "failed_attempts": (failed_attempt(1),)}, False),
    ],
)
def test_a_checkpoint_says_whether_it_is_one_memo(parts: dict[str, Any], expected: bool) -> None:
    """Whatever else it may hold makes it another kind of write, and so does a new run."""
    ex, queue = execution(memos=()), Queue()
    drive(save(ex, **parts), queue)
    drive(save(execution(), **parts), queue)
    assert [expected, False] == [write.is_one_memo for write in queue.writes]


def test_resumed_run_is_not_created() -> None:
    """A run that was claimed is stored already, even without a memo."""
    ex, queue = execution(memos=()), Queue()
    drive(save(ex, state=True), queue)
    [write] = queue.writes
    assert write.create is None
    assert ex.run == write.state


def test_progress_ends_a_row_of_take_overs() -> None:
    """The first new memo after a crash sets the count of take-overs back."""
    ex, queue = execution(memos=(), crash_count=3), Queue()
    drive(save(ex, pending=(pending(),)), queue)
    drive(save(ex, memos=(memo(1),)), queue)
    drive(save(ex, memos=(memo(2),)), queue)
    assert [None, 0, None] == [write.state and write.state.crash_count for write in queue.writes]


def test_settle_waits_for_what_was_saved() -> None:
    """After a settle nothing is open; another one asks for nothing."""
    ex, queue = execution(), Queue()
    drive(save(ex, memos=(memo(1),)), queue)
    before = len(ex.tickets)
    drive(settle(ex), queue)
    assert (1, 0) == (before, len(ex.tickets))
    drive(settle(ex), Queue(StoreError("not asked")))


def test_settling_keeps_what_came_meanwhile() -> None:
    """A write that was queued while others were awaited is not forgotten with them."""
    ex = execution()
    one, two = _Ticket(), _Ticket()
    ex.add_ticket(one)
    awaited = ex.tickets
    ex.add_ticket(two)
    one.done = True
    ex.drop_tickets(awaited, (CheckpointResult(),))
    assert (two,) == ex.tickets


def test_settling_keeps_what_ended_meanwhile() -> None:
    """Such a write may have failed, which nobody has seen yet."""
    ex = execution()
    one, two = _Ticket(), _Ticket()
    ex.add_ticket(one)
    awaited = ex.tickets
    ex.add_ticket(two)
    one.done = two.done = True
    ex.drop_tickets(awaited, (CheckpointResult(),))
    assert (two,) == ex.tickets


def test_a_write_goes_after_those_that_are_open() -> None:
    """A checkpoint says which earlier ones of the run it builds on."""
    ex, queue = execution(), Queue()
    drive(save(ex, memos=(memo(1),)), queue)
    earlier = ex.tickets
    drive(save(ex, memos=(memo(2),)), queue)
    assert [(), earlier] == queue.after


def test_a_checkpoint_that_breaks_is_no_error_of_the_handler() -> None:
    """Whatever a commit raises, the handler is unwound by the signal and the cause is kept."""
    ex, error = execution(), OverflowError("too large to bind")
    drive(save(ex, memos=(memo(1),)), Queue())
    with pytest.raises(Suspended):
        drive(settle(ex), Queue(error))
    assert ex.closed
    assert isinstance(ex.fault, StoreBrokenError)
    assert error is ex.fault.__cause__


@pytest.mark.parametrize("error", [StoreError("full"), LeaseLost()])
def test_what_cannot_be_durable_closes_the_execution(error: BaseException) -> None:
    """The handler is unwound by the signal, not by an error it could catch."""
    ex = execution()
    drive(save(ex, memos=(memo(1),)), Queue())
    with pytest.raises(Suspended):
        drive(settle(ex), Queue(error))
    assert (True, error) == (ex.closed, ex.fault)
    with pytest.raises(Suspended):
        ex.check_open()


def test_first_fault_is_kept() -> None:
    """Why an execution was closed is what happened first."""
    ex = execution()
    ex.close()
    assert ex.closed
    first = StoreError("first")
    ex.close(first)
    ex.close(StoreError("second"))
    assert first is ex.fault


def test_take_names_and_counts() -> None:
    """A repeated id gets an index, and an id its hash."""
    ex = execution()
    branch = object()
    ops = [ex.next_op("save", OpKind.RUN, branch) for _ in range(3)]
    assert ["save", "save:1", "save:2"] == [op.name for op in ops]
    assert 3 == len({op.id for op in ops})


def test_steps_limit_counts_new_steps_only() -> None:
    """A replay may take every step that is stored, and none more than the limit."""
    ex = execution(memos=(), limits=Limits(steps=1))
    op = ex.next_op("one", OpKind.RUN, ex)
    ex.memos[op.id] = memo(1)
    again = execution(memos=(), limits=Limits(steps=1))
    again.memos.update(ex.memos)
    assert op == again.next_op("one", OpKind.RUN, again)
    with pytest.raises(LimitExceededError, match="'two'"):
        again.next_op("two", OpKind.RUN, again)


def test_numbers_go_on() -> None:
    """Completion numbers go on from the highest one stored."""
    assert [1, 2] == [number(execution()), number(execution(memos=(memo(1),)))]
    ex = execution(memos=(memo(4), memo(2)))
    assert [5, 6] == [number(ex), number(ex)]


def number(ex: StoredExecution) -> int:
    return ex.next_completion_no()


def test_sizes() -> None:
    """One result, and all together, have limits in bytes."""
    op = execution().next_op("x", OpKind.RUN, None)
    ex = execution(memos=(memo(1, value="1" * 6),), limits=Limits(step_result=5, run_state=10))
    with pytest.raises(LimitExceededError, match=r"Limits\.step_result"):
        ex.check_size(op, "\N{SNOWMAN}" * 2)
    ex.check_size(op, "1234")
    with pytest.raises(LimitExceededError, match=r"Limits\.run_state"):
        ex.check_size(op, "1")


def test_happensends_a_wait_once() -> None:
    """The first event that is noted for a wait stays; others and unknown ones do nothing."""
    op = wait("w")
    ex = execution(memos=(), waiting=(op,))
    one, two = (StoredEvent(seq=n, event=event("e"), received_at=0) for n in (1, 2))
    ex.drop_tickets((), [CheckpointResult(matched=((op.op.id, one),), sent=(("e1", 4),))])
    ex.resolve_wait(op.op.id, two)
    ex.resolve_wait("unknown", two)
    assert one == ex.pending[op.op.id].matched
    assert {"e1": 4} == ex.sent


def test_stop() -> None:
    """A stopped execution starts nothing, and its run is due at once."""
    ex = execution()
    ex.stop()
    assert (True, True, False) == (ex.stopping, ex.due_at_once, ex.closed)


@given(st.lists(st.sampled_from(ExecutionEvent)))
def test_every_happensis_decided_in_every_state(events: list[ExecutionEvent]) -> None:
    """Whatever happens, in whatever order: an execution never goes back, and a closed one stays.

    Once it may begin no step it never may again, and once its handler does not count it never does.
    """
    order = list(ExecutionState)
    ex = execution()
    for happens in events:
        before = ex.state
        if happens is ExecutionEvent.CLOSE:
            ex.close()
        else:
            ex.take(happens)
        assert EXECUTION_TRANSITIONS[before, happens] is ex.state
        assert order.index(before) <= order.index(ex.state)
        assert not may_begin_no_step(before) or may_begin_no_step(ex.state)
    happened = set(events)
    assert (ExecutionEvent.CLOSE in happened) is ex.closed
    assert bool(happened - {ExecutionEvent.UNWIND}) is may_begin_no_step(ex.state)


def may_begin_no_step(state: ExecutionState) -> bool:
    return state not in (ExecutionState.RUNNING, ExecutionState.UNWINDING)


def test_the_table_is_whole() -> None:
    """There is no pair of a state and an event that the table leaves open."""
    pairs = {(state, event) for state in ExecutionState for event in ExecutionEvent}
    assert pairs == EXECUTION_TRANSITIONS.keys()


def test_steps_limit_counts_steps_that_have_not_ended() -> None:
    """However many are asked for before the first of them ends."""
    ex = execution(memos=(), limits=Limits(steps=3))
    for index in range(3):
        ex.next_op(f"s{index}", OpKind.SLEEP, ex)
    with pytest.raises(LimitExceededError, match="'s3' is one more than the 3 steps"):
        ex.next_op("s3", OpKind.SLEEP, ex)


def test_steps_that_are_refused_do_not_count() -> None:
    """Each of them is answered as such, however often a stray handler asks."""
    ex = execution(memos=(), limits=Limits(steps=3))
    ex.close()
    for index in range(9):
        ex.next_op(f"s{index}", OpKind.RUN, ex)


def test_stored_results_count_in_bytes() -> None:
    """As they did when they were stored: three bytes for each of these characters."""
    stored = replace(memo(1), value='"' + "\N{SNOWMAN}" * 10 + '"')
    ex = execution(memos=(stored,), limits=Limits(run_state=40))
    op = ex.next_op("next", OpKind.RUN, ex)
    ex.check_size(op, "12345678")
    with pytest.raises(LimitExceededError, match="would hold 41 bytes; at most 40"):
        ex.check_size(op, "1")


def test_new_run() -> None:
    """A run begins now, with an id of this time, under the app and the key of its endpoint."""
    clock = FakeClock()
    env = AppConfig(app="a", clock=clock, ids=SystemIds(), secrets=tuple)
    options = ResolvedOptions(key="k", retries=7)
    run = new_run(env, options, request("/users/7"), "/users/{id}", 9)
    expected = Run(
        id=run.id,
        app="a",
        endpoint_key="k",
        function_id="GET /users/{id}",
        phase=Phase.SYNC,
        retries=7,
        created_at=clock.now(),
        event_seq=9,
    )

    assert expected == run
    assert run.id[:10] == SystemIds().ulid(clock.now())[:10]
    assert run.id != new_run(env, options, request("/users/7"), None).id


def test_function_id() -> None:
    """The label is the given one, else the method with the route or the path."""
    env = AppConfig(app="a", clock=FakeClock(), ids=SystemIds(), secrets=tuple)
    unnamed, named = ResolvedOptions(key="k"), ResolvedOptions(key="k", function_id="mine")
    asked, route = request("/users/7?x=1", "POST"), "/users/{id}"
    assert "POST /users/7" == new_run(env, unnamed, asked, None).function_id
    assert "POST /users/{id}" == new_run(env, unnamed, asked, route).function_id
    assert "mine" == new_run(env, named, asked, route).function_id
