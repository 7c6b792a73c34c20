"""The steps: the flow of each kind of step that calls no function, and what all steps do."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from durable_core.codec.records import dump_event, load_event, load_step_error
from durable_core.codec.tokens import event_id
from durable_core.errors import LimitExceededError, Suspended
from durable_core.flow.attempt import Call
from durable_core.flow.child_runs import Invocation, child_response
from durable_core.flow.effects import (
    AwaitReplayTurn,
    CallUser,
    Cancelled,
    Flow,
    Outcome,
    Raised,
    Submit,
    await_delivery,
    await_replay_turn,
    park,
    unwind_if_alone,
)
from durable_core.flow.execution import (
    EVENT_SEQ,
    ExecutionState,
    StoredExecution,
    begin,
    checkpoint,
    commit,
    save_memo,
    settle,
)
from durable_core.flow.handoff import hand_off
from durable_core.flow.step_options import StepOptions
from durable_core.flow.versions import check_kind, check_order
from durable_core.http.response import Response
from durable_core.machine.addresses import child_address, child_of
from durable_core.machine.advance import Transition, advance
from durable_core.machine.matching import WaitRule, dump_rule
from durable_core.model.decision import (
    Failure,
    Handoff,
    Input,
    OpEnded,
    OpFailed,
    OpParked,
    SaveMemo,
    SavePending,
)
from durable_core.model.event import Event, StoredEvent
from durable_core.model.step import Memo, Op, OpKind, Pending
from durable_core.ports import Checkpoint, Write

__all__ = [
    "AddressWait",
    "apply",
    "commit_step",
    "decide",
    "final_failure",
    "invoke",
    "leave_children",
    "own_event_id",
    "replayed",
    "return_outcome",
    "send_events",
    "sleep_until",
    "until_due",
    "wait_at_address",
    "wait_for_event",
]

AnswerT = TypeVar("AnswerT")


#: Added to times, so that ops ordered by time come after the memos, which have small numbers.
_AFTER_MEMOS = 1_000_000_000
#: What every step compares with, see ``execution.py``.
_RUNNING = ExecutionState.RUNNING
_WAIT = OpKind.WAIT
_event_seq_seen = EVENT_SEQ.get  # see ``scope.py``


def sleep_until(ex: StoredExecution, op: Op, due_at: Callable[[int], int]) -> Flow[None]:
    """``step.sleep`` and ``step.sleep_until``; ``due_at`` gets the time now."""
    memo = yield from replayed(ex, op)
    if memo is None:
        pending = ex.pending.get(op.id)
        if pending is None:
            now = ex.env.clock.now()
            pending = Pending(op=op, due_at=due_at(now), started_at=now)
            if pending.due_at > now:
                # Nothing of this is seen before it is durable, which it is when the op is parked.
                ex.pending[op.id] = pending
                ex.add_ticket((yield checkpoint(ex, now=now, pending=(pending,))))
        else:
            yield from _await_replay_turn(ex, pending)
        yield from until_due(ex, pending)
        memo = yield from _end(ex, pending, "null", _event_seq_seen())
    return_outcome(ex, memo)


def wait_for_event(ex: StoredExecution, op: Op, rule: WaitRule, timeout: int) -> Flow[Event | None]:
    """``step.wait_for_event``: the first matching event after the last step, or None."""
    memo = yield from replayed(ex, op)
    if memo is None:
        pending = ex.pending.get(op.id)
        if pending is None:
            pending = _wait(ex, op, rule, timeout)
            yield from _save_pending(ex, pending)
        else:
            yield from _await_replay_turn(ex, pending)
        yield from until_due(ex, pending)
        event = ex.pending[op.id].matched
        if event is None:
            memo = yield from _end(ex, pending, "null", pending.event_seq)
        else:
            ex.consumed_seqs |= {event.seq}
            memo = yield from _end(ex, pending, dump_event(event.event), event.seq)
    return_outcome(ex, memo)
    return None if memo.value == "null" else load_event(memo.value)


@dataclass(frozen=True, slots=True)
class AddressWait:
    """How an op waits for what is delivered to an address; see ``ports.Delivery``.

    Attributes:
        address: where.
        timeout: milliseconds.
        dump: makes the result of the op, as JSON text, of what was delivered.
        replaces: take the address from an op of another run that waits there.
        conflict: the message of the error if such an op waits there.
    """

    address: str
    timeout: int
    dump: Callable[[Event], str]
    replaces: bool = False
    conflict: str = ""


def wait_at_address(ex: StoredExecution, op: Op, wait: AddressWait) -> Flow[str]:
    """Wait for what is delivered to an address; return what is made of it, or ``"null"``.

    Raises:
        SignalConflictError: another op waits there, and is not to be replaced.
    """
    memo = yield from replayed(ex, op)
    if memo is None:
        pending = ex.pending.get(op.id)
        if pending is None:
            now = ex.env.clock.now()
            pending = Pending(
                op=op,
                due_at=now + wait.timeout,
                address=wait.address,
                event_seq=_event_seq_seen(),
                started_at=now,
            )
            yield from _save_pending(ex, pending, replaces=wait.replaces)
        else:
            yield from _await_replay_turn(ex, pending)
        if op.id in ex.pending:
            yield from until_due(ex, pending)
            event = ex.pending[op.id].matched
            if event is None:
                event = yield from _close_address(ex, op)
            value = "null" if event is None else wait.dump(event.event)
            memo = yield from _end(ex, pending, value, pending.event_seq)
        else:
            text = wait.conflict
            failure = Failure(
                name="SignalConflictError", message=text, retriable=False, conflict=True
            )
            memo = yield from _fail_pending(ex, pending, failure)
    return_outcome(ex, memo)
    return memo.value


def _close_address(ex: StoredExecution, op: Op) -> Flow[StoredEvent | None]:
    """Let nothing more be delivered to an op whose time is over.

    Whoever delivers is told which run has it, so what came in time, as the store sees it, counts.
    """
    effect = checkpoint(ex)
    assert isinstance(effect.write, Checkpoint)
    ex.add_ticket((yield replace(effect, write=replace(effect.write, closing=(op.id,)))))
    yield from settle(ex)
    ex.check_open()
    return ex.pending[op.id].matched


def commit_step(
    ex: StoredExecution,
    op: Op,
    make_write: Callable[[int], Write[AnswerT]],
    dump: Callable[[AnswerT], object],
) -> Flow[object]:
    """Do a step that is a write of its own, which may be committed again; return its result.

    Args:
        ex: the execution.
        op: the step.
        make_write: makes the write, given the time; the same one in every attempt.
        dump: makes the result of the step, which is JSON, of the answer to the write.
    """
    memo = yield from replayed(ex, op)
    if memo is None:
        begun = yield from begin(ex, op)
        ex.check_open()
        if isinstance(begun, Cancelled):
            raise begun.error
        event_seq, started_at = begun
        answer = yield from commit(ex, make_write(started_at))
        now = ex.env.clock.now()
        value = json.dumps(dump(answer), ensure_ascii=False)
        ended = OpEnded(memo=_success(ex, op, value, event_seq, now, started_at=started_at))
        memo = yield from apply(ex, decide(ex, ended, now), now)
        assert memo is not None
    return_outcome(ex, memo)
    result: object = json.loads(memo.value)
    return result


def send_events(ex: StoredExecution, op: Op, events: tuple[Event, ...]) -> Flow[list[str]]:
    """``step.send_event``: the events and the step's checkpoint are one transaction.

    Ids that the user left out are made from run and step, so that a crash cannot send twice. They
    are made with the application's secret, so that no client can guess them.
    """
    memo = yield from replayed(ex, op)
    if memo is None:
        now = ex.env.clock.now()
        named = tuple(
            replace(event, id=event.id or own_event_id(ex, op, index), ts=event.ts or now)
            for index, event in enumerate(events)
        )
        value = json.dumps([event.id for event in named], ensure_ascii=False)
        ended = OpEnded(memo=_success(ex, op, value, _event_seq_seen(), now, started_at=now))
        yield from apply(ex, decide(ex, ended, now), now, named)
        yield from settle(ex)
        # A wait after this step matches only events that come after the events sent here.
        sent = max(ex.sent.get(event.id or "", 0) for event in named)
        memo = ex.memos[op.id]
        memo = ex.memos[op.id] = replace(memo, event_seq=max(memo.event_seq, sent))
    return_outcome(ex, memo)
    ids: list[str] = json.loads(memo.value)
    return ids


def invoke(ex: StoredExecution, op: Op, child: Invocation) -> Flow[Response]:
    """``step.invoke``: begin a child run, once; return its response when it has ended.

    The child is stored in the transaction that stores the step. Its end is delivered to the step in
    the transaction that stores that end.
    """
    memo = yield from replayed(ex, op)
    if memo is None:
        pending = ex.pending.get(op.id)
        if pending is None:
            pending = yield from _begin_child(ex, op, child)
        else:
            yield from _await_replay_turn(ex, pending)
        if ex.attached and child.wait_in_place and not _is_due(ex, op.id, pending):
            yield from await_delivery(op, child.wait_in_place)
            ex.check_open()
        yield from until_due(ex, pending)
        memo = yield from _end_child(ex, pending, child)
    return_outcome(ex, memo)
    return child_response(memo.value)


def leave_children(ex: StoredExecution, op_ids: Collection[str]) -> Flow[None]:
    """End steps that wait for a child, of code that has lost a race; the children are cancelled.

    Whoever looks for children that nobody waits for cancels them.
    """
    for op_id in op_ids:
        pending = ex.pending.get(op_id)
        if pending is None or pending.op.kind is not OpKind.INVOKE:
            continue
        ex.unasked.discard(op_id)
        text = "another branch has won the race"
        failure = Failure(name="StepCancelled", message=text, retriable=False, cancelled=True)
        yield from _fail_pending(ex, pending, failure)


def _begin_child(ex: StoredExecution, op: Op, child: Invocation) -> Flow[Pending]:
    now = ex.env.clock.now()
    new = child.start(now)
    pending = Pending(
        op=op,
        due_at=now + child.timeout,
        address=child_address(new.run.id),
        event_seq=_event_seq_seen(),
        started_at=now,
    )
    ex.pending[op.id] = pending
    effect = checkpoint(ex, now=now, pending=(pending,))
    write: Any = effect.write
    most = ex.env.limits.child_runs
    write = replace(write, children=(new,), child_limit=most)
    ex.add_ticket((yield Submit(write, effect.after)))
    yield from settle(ex, op.name)
    ex.check_open()
    if op.id not in ex.pending:
        raise LimitExceededError(
            f"step {op.name!r} would begin one child run more than the {most} that may begin below "
            "one run (Limits.child_runs): does an endpoint invoke itself?"
        )
    return pending


def _end_child(ex: StoredExecution, pending: Pending, child: Invocation) -> Flow[Memo]:
    """Store what has come of a child that has ended, or has taken too long."""
    run_id = child_of(pending.address)
    has_ended = ex.pending[pending.op.id].matched is not None
    look: Callable[[str], object] = child.read if has_ended else child.give_up
    outcome: Outcome = yield CallUser(Call(look, (run_id,)))
    if isinstance(outcome, Cancelled):
        raise outcome.error
    if isinstance(outcome, Raised):
        ex.close(outcome.error)  # the store cannot answer now: the run goes on when it can
        raise Suspended from outcome.error
    result = outcome.value
    if isinstance(result, str):
        try:
            ex.check_size(pending.op, result)
        except LimitExceededError as error:
            result = Failure(
                name="StepResultTooLargeError",
                message=str(error),
                retriable=False,
                result="too-large",
            )
    if isinstance(result, str):
        return (yield from _end(ex, pending, result, pending.event_seq))
    assert isinstance(result, Failure)
    return (yield from _fail_pending(ex, pending, result))


def own_event_id(ex: StoredExecution, op: Op, index: int = 0) -> str:
    """Return the id of something that a step sends; the same one wherever the step is executed."""
    secret, run = ex.env.secrets()[0], ex.run
    return event_id(
        secret,
        app=ex.env.app,
        run_id=run.id,
        retry_count=run.retry_count,
        op_id=op.id,
        index=index,
    )


def replayed(ex: StoredExecution, op: Op) -> Flow[Memo | None]:
    """Return the memo of an op, in its turn; None if the op has not finished."""
    ex.unawaited.pop(op.id, None)
    ex.activity += 1
    if ex.state is not _RUNNING:
        ex.check_open()
        while ex.stopping or (op.id not in ex.memos and _may_not_begin(ex, op)):
            yield from park(op.id, None)
            ex.check_open()
    memo = ex.memos.get(op.id)
    stored = memo or ex.pending.get(op.id)
    if stored is not None and stored.op.kind is not op.kind:
        yield from check_kind(ex, stored.op.kind, op)
    if stored is None and ex.unasked:
        yield from check_order(ex, op)
    if memo is not None:
        yield AwaitReplayTurn(memo.completion_no)
        ex.check_open()
        ex.activity += 1
    return memo


def _may_not_begin(ex: StoredExecution, op: Op) -> bool:
    return ex.state is ExecutionState.REPLAYING or ex.holds(op.id)


def return_outcome(ex: StoredExecution, memo: Memo) -> None:
    """Note what the handler now knows of an outcome, or raise it, as replay would."""
    if memo.event_seq > _event_seq_seen():
        EVENT_SEQ.set(memo.event_seq)
    if memo.op.kind is _WAIT and memo.value != "null":
        ex.consumed_seqs |= {memo.event_seq}
    if not memo.ok:
        ex.failures += 1
        ex.note_failure(memo.op.name)
        raise load_step_error(memo.op.name, memo.value)


def _fail_pending(ex: StoredExecution, pending: Pending, failure: Failure) -> Flow[Memo]:
    """Fail an op for good whose function, if it has one, was not called here."""
    now = ex.env.clock.now()
    yield from apply(ex, decide(ex, final_failure(ex, pending, failure, now), now), now)
    return ex.memos[pending.op.id]


def final_failure(ex: StoredExecution, pending: Pending, failure: Failure, now: int) -> OpFailed:
    return OpFailed(
        op=pending.op,
        failure=failure,
        completion_no=ex.next_completion_no(),
        event_seq=pending.event_seq,
        failures=pending.failures,
        u=0.0,
        started_at=now if pending.started_at is None else pending.started_at,
    )


def _success(
    ex: StoredExecution,
    op: Op,
    value: str,
    event_seq: int,
    now: int,
    *,
    started_at: int | None,
) -> Memo:
    """Return the memo of an op without a function, with its result (JSON text)."""
    return Memo(
        op=op,
        completion_no=ex.next_completion_no(),
        ok=True,
        value=value,
        event_seq=event_seq,
        attempts=1,
        ended_at=now,
        started_at=started_at,
    )


def _end(ex: StoredExecution, pending: Pending, value: str, event_seq: int) -> Flow[Memo]:
    """Finish an op that has no function."""
    now = ex.env.clock.now()
    memo = _success(ex, pending.op, value, event_seq, now, started_at=pending.started_at)
    if _would_end_again(ex, pending.op):
        # Only the next step's outcome is worth a commit; it takes this one along.
        ex.check_open()
        ex.memos[memo.op.id] = memo
        del ex.pending[memo.op.id]
        ex.unsaved = (*ex.unsaved, memo)
    else:
        yield from apply(ex, decide(ex, OpEnded(memo=memo), now), now)
    return memo


def _would_end_again(ex: StoredExecution, op: Op) -> bool:
    """Tell whether a replay would end the op as it ends now, before any later step.

    That is so if all that the run has asked for so far is durable, and nothing goes on beside the
    op: a sleep that was due is due then, and an event that was matched is there. A wait that has
    timed out may get its event after all. An address is taken until the op's end is stored, and
    the place of chunks in a stream counts the ends that were stored before them.
    """
    known = ex.pending.get(op.id)
    return (
        known is not None
        and (op.kind is OpKind.SLEEP or (known.matched is not None and not known.address))
        and ex.is_sequential
        and not ex.tickets
        and ex.stream is None
    )


def decide(
    ex: StoredExecution, ended: Input, now: int, options: StepOptions | None = None
) -> Transition:
    """Advance the run by the end of an op."""
    ex.check_open()
    policy = ex.env.policy
    if options is not None and options.backoff is not None:
        policy = options.backoff
    transition = advance(ex.run, ended, now, policy)
    ex.run = transition.run
    return transition


def apply(
    ex: StoredExecution, transition: Transition, now: int, sends: tuple[Event, ...] = ()
) -> Flow[Memo | None]:
    """Carry out the commands of a transition. Return the memo if the op has finished."""
    memo: Memo | None = None
    for command in transition.commands:
        match command:
            case SaveMemo(memo=memo, failed=failed):
                ex.add_ticket((yield save_memo(ex, memo, now, sends, failed)))
            case SavePending(pending=pending, failed=failed):
                ex.pending[pending.op.id] = pending
                failed_attempts = () if failed is None else (failed,)
                effect = checkpoint(
                    ex, now=now, pending=(pending,), failed_attempts=failed_attempts
                )
                ex.add_ticket((yield effect))
            case Handoff(reason=reason):
                yield from hand_off(ex, reason)
            case _:
                raise AssertionError(f"a step cannot lead to {command!r}")
    return memo


def _wait(ex: StoredExecution, op: Op, rule: WaitRule, timeout: int) -> Pending:
    event_seq, now = _event_seq_seen(), ex.env.clock.now()
    return Pending(
        op=op,
        due_at=now + timeout,
        rule=dump_rule(rule),
        event=rule.event,
        match_path=".".join(rule.match.path) if rule.match else "",
        match_key=rule.match.key if rule.match else "",
        event_seq=event_seq,
        started_at=now,
        consumed_seqs=tuple(sorted(seq for seq in ex.consumed_seqs if seq > event_seq)),
    )


def _save_pending(ex: StoredExecution, pending: Pending, *, replaces: bool = False) -> Flow[None]:
    """Make an unfinished op durable; ``replaces`` an op that waits at its address."""
    ex.pending[pending.op.id] = pending
    replacing = (pending.op.id,) if replaces else ()
    ex.add_ticket((yield checkpoint(ex, pending=(pending,), replacing=replacing)))
    yield from settle(ex, pending.op.name)
    ex.check_open()


def _await_replay_turn(ex: StoredExecution, pending: Pending) -> Flow[None]:
    """Resolve an op that became due while the run was suspended after all finished ops.

    The handler may race it against one of them, and cancels it when it sees the other result.
    """
    if not _is_due(ex, pending.op.id, pending):
        return
    matched = pending.matched
    yield from await_replay_turn(
        _AFTER_MEMOS + (pending.due_at if matched is None else matched.received_at)
    )
    ex.check_open()
    ex.activity += 1


def until_due(ex: StoredExecution, pending: Pending) -> Flow[None]:
    """Return when the op is due, or its event has come; until then it is parked.

    It stays parked once no step may begin any more. Of a run that is being undone it must not end:
    a handler that fails of that would hide from its replay what its other branches have done.
    """
    op_id = pending.op.id
    while ex.answered or ex.holds(op_id) or not _is_due(ex, op_id, pending):
        ex.check_open()
        now = ex.env.clock.now()
        parked = advance(ex.run, OpParked(pending=pending), now, ex.env.policy)
        ex.run = parked.run
        ex.parked += 1
        ex.note_awaited(pending.op)
        try:
            yield from _park(ex, pending, parked, now)
        finally:
            ex.parked -= 1
            ex.activity += 1
        ex.check_open()


def _park(ex: StoredExecution, pending: Pending, parked: Transition, now: int) -> Flow[None]:
    """Hand the client off if there is one, and wait until the op may be due.

    If the op is still to be made durable, and the handler has no other work, the client is handed
    off when the run is released: both take one commit.
    """
    op = pending.op
    if ex.tickets and not ex.followed:
        ex.late_handoff = OpParked(pending=pending).reason if parked.commands else None
        yield from unwind_if_alone(op.id)
        ex.late_handoff = None
    yield from settle(ex, op.name)
    ex.check_open()
    yield from apply(ex, parked, now)
    yield from unwind_if_alone(op.id)
    yield from park(op.id, None if ex.holds(op.id) else pending.due_at)


def _is_due(ex: StoredExecution, op_id: str, pending: Pending) -> bool:
    known = ex.pending.get(op_id, pending)
    return known.matched is not None or known.due_at <= ex.env.clock.now()
