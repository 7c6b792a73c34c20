"""One live execution of a handler, and the checkpoints that the embedded engine makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from enum import Enum
from typing import Any, NoReturn, TypeVar

from durable_core.codec.records import dump_request
from durable_core.errors import (
    LeaseLost,
    LimitExceededError,
    StepUsageError,
    StoreBrokenError,
    StoreError,
    Suspended,
    WaitInterruptedError,
)
from durable_core.flow.attempt import StepAttempt, Stream
from durable_core.flow.effects import (
    AwaitDurable,
    Cancelled,
    Flow,
    Outcome,
    PendingCommit,
    Submit,
)
from durable_core.flow.env import AppConfig
from durable_core.flow.options import ResolvedOptions, check_labels
from durable_core.flow.step_options import Undo, UndoReport
from durable_core.flow.urls import callback_url
from durable_core.http.headers import traceparent_of
from durable_core.http.request import Request
from durable_core.machine.step_ids import StepIds, op_named
from durable_core.model.decision import HandoffReason
from durable_core.model.event import Event, StoredEvent
from durable_core.model.run import Phase, Run
from durable_core.model.step import FailedAttempt, Memo, Op, OpKind, Pending, RunningStep
from durable_core.model.stream import ChunkBatch
from durable_core.ports import (
    Checkpoint,
    CheckpointResult,
    Release,
    StoredRequest,
    StoredResult,
    Write,
)

__all__ = [
    "EVENT_SEQ",
    "EXECUTION_TRANSITIONS",
    "LIVE_PHASES",
    "Execution",
    "ExecutionEvent",
    "ExecutionState",
    "StoredExecution",
    "begin",
    "call_step",
    "check_lease",
    "checkpoint",
    "commit",
    "new_run",
    "run_label",
    "save_memo",
    "settle",
    "suspend_for",
    "utf8_size",
]

AnswerT = TypeVar("AnswerT")

#: The event sequence number up to which the code of this branch of a handler has seen events.
EVENT_SEQ: ContextVar[int] = ContextVar("durable_event_seq")


#: The phases in which a handler runs. A run leaves them when its end is decided; the execution is
#: closed only when that is durable, and tasks that the handler has left may go on meanwhile.
LIVE_PHASES = (Phase.SYNC, Phase.ASYNC)


#: The length of a run's label, which is stored with the run; a name may be as long.
_MOST_LABEL = 255


_TRACE_FIELDS = frozenset({"traceparent"})


#: Of an execution that replays nothing. It is never changed, nor are the next ones.
_NOTHING: set[str] = set()

#: Of an execution that parks no step, sends no event and waits for none. Python's collector of
#: cycles looks at each object of each run in progress, so what most runs do not need is made when
#: it is needed.
_NO_NAMES: dict[str, str] = {}
_NO_NUMBERS: dict[str, int] = {}
_NO_SEQS: frozenset[int] = frozenset()


class ExecutionState(Enum):
    """How far an execution is from its end. It never goes back."""

    #: A handler is replayed to find what undoes its steps, and may begin none. Steps that have an
    #: outcome return it, and the others wait.
    REPLAYING = "replaying"
    #: The handler runs and may begin steps.
    RUNNING = "running"
    #: The handler has failed, and its steps are undone. Other tasks or threads that it has left
    #: behind may begin no step. Their steps in flight end first, and those that wait go on waiting.
    UNDOING = "undoing"
    #: A signal unwinds a ``def`` handler. What it does outside steps it will do again. Threads of
    #: the handler that have not met the signal may begin steps.
    UNWINDING = "unwinding"
    #: The handler runs and may begin no step. Without further steps it may come to its end.
    STOPPING = "stopping"
    #: The handler has ended, or is unwound and may begin no step. Steps in flight may end.
    DRAINING = "draining"
    #: Nothing more of the execution counts.
    CLOSED = "closed"


class ExecutionEvent(Enum):
    """What moves an execution towards its end."""

    #: A step that cannot finish now unwinds a ``def`` handler.
    UNWIND = "unwind"
    #: The handler has failed, and its steps are to be undone.
    UNDO = "undo"
    #: The run is to go on elsewhere: the process stops, or a test says so.
    STOP = "stop"
    #: The run will be suspended when the steps in flight have ended.
    DRAIN = "drain"
    #: The execution is over, or something broke, or the lease is lost.
    CLOSE = "close"


#: Every step asks for these. To read a member from its class takes 0.1 us up to Python 3.11, where
#: ``Enum`` does that in its own way; a name of the module takes a fiftieth of it.
_RUNNING, _CLOSED = ExecutionState.RUNNING, ExecutionState.CLOSED
_SYNC = Phase.SYNC

_S, _E = ExecutionState, ExecutionEvent

#: What follows from each event in each state. Every pair is in the table: stopping and closing
#: come from other threads, at any time.
EXECUTION_TRANSITIONS: Mapping[tuple[ExecutionState, ExecutionEvent], ExecutionState] = {
    (_S.REPLAYING, _E.UNWIND): _S.REPLAYING,
    (_S.REPLAYING, _E.UNDO): _S.REPLAYING,
    (_S.REPLAYING, _E.STOP): _S.DRAINING,
    (_S.REPLAYING, _E.DRAIN): _S.DRAINING,
    (_S.REPLAYING, _E.CLOSE): _S.CLOSED,
    (_S.RUNNING, _E.UNWIND): _S.UNWINDING,
    (_S.RUNNING, _E.UNDO): _S.UNDOING,
    (_S.RUNNING, _E.STOP): _S.STOPPING,
    (_S.RUNNING, _E.DRAIN): _S.DRAINING,
    (_S.RUNNING, _E.CLOSE): _S.CLOSED,
    (_S.UNDOING, _E.UNWIND): _S.DRAINING,
    (_S.UNDOING, _E.UNDO): _S.UNDOING,
    (_S.UNDOING, _E.STOP): _S.STOPPING,
    (_S.UNDOING, _E.DRAIN): _S.DRAINING,
    (_S.UNDOING, _E.CLOSE): _S.CLOSED,
    (_S.UNWINDING, _E.UNWIND): _S.UNWINDING,
    (_S.UNWINDING, _E.UNDO): _S.DRAINING,
    (_S.UNWINDING, _E.STOP): _S.DRAINING,
    (_S.UNWINDING, _E.DRAIN): _S.DRAINING,
    (_S.UNWINDING, _E.CLOSE): _S.CLOSED,
    (_S.STOPPING, _E.UNWIND): _S.DRAINING,
    (_S.STOPPING, _E.UNDO): _S.STOPPING,
    (_S.STOPPING, _E.STOP): _S.STOPPING,
    (_S.STOPPING, _E.DRAIN): _S.DRAINING,
    (_S.STOPPING, _E.CLOSE): _S.CLOSED,
    (_S.DRAINING, _E.UNWIND): _S.DRAINING,
    (_S.DRAINING, _E.UNDO): _S.DRAINING,
    (_S.DRAINING, _E.STOP): _S.DRAINING,
    (_S.DRAINING, _E.DRAIN): _S.DRAINING,
    (_S.DRAINING, _E.CLOSE): _S.CLOSED,
    (_S.CLOSED, _E.UNWIND): _S.CLOSED,
    (_S.CLOSED, _E.UNDO): _S.CLOSED,
    (_S.CLOSED, _E.STOP): _S.CLOSED,
    (_S.CLOSED, _E.DRAIN): _S.CLOSED,
    (_S.CLOSED, _E.CLOSE): _S.CLOSED,
}


class Execution:
    """The live state of one execution.

    It belongs to one driver at a time: flows of one run are driven on one event loop, or under one
    lock.

    Args:
        env: the application.
        options: of the endpoint.
        run: the run when the execution begins.
        request: the request that the run was made for.
        outcomes: of finished steps, by op id. They count as asked for already.

    Attributes:
        run: the run as decided so far; what of it is durable lags behind.
        state: how far the execution is from its end.
        fault: why it was closed, if something went wrong.
        due_at_once: the handler was stopped although it could go on.
        attempts: how many attempts of steps have begun.
        in_flight: how many step functions are running.
        calls: the attempts whose functions are being called, by op id.
        parked: how many ops wait for their time.
        unawaited: ops that the handler has asked for and not begun to await, by op id.
        awaited: names of all steps that have been parked, by op id. Only these make a suspended
            run due, not what an older version of the code asked for.
        activity: counts what happened; unchanged means nothing did.
        failures: counts the failed steps the handler has been told of.
        late_handoff: why the client is handed off when the run is released; None if it is not.
        started_at: when the handler was called, epoch milliseconds.
        answered: the client has its answer, which leaves with the handler's own thread: a step
            that is to be tried again is parked although it may be due.
        followed: the attached client gets the stream, not a plain answer.
        stream: what is pushed goes here; None until something is, or somebody reads.
        stream_opener: makes that.
        tickets: the queued writes that may not be durable yet.
        undos: the steps of the handler that can be undone, in the order in which they ended.
        undo_ops: ids of the ops that undo them.
        undo_report: what was undone, once the run fails.
        deadline: when the run fails, epoch milliseconds; None without a limit, and once its steps
            are being undone.
        unasked: ids of the stored ops that this replay has not asked for yet.
        misfit: why the run is left to the code of its own version; not set if it is not.
        checked_at: the last time, by ``Clock.elapsed``, after which the store has accepted, or is
            to accept, a write of the execution: the process held the run then. It is no wall-clock
            time: that may be set back while the process is frozen.
    """

    misfit: str
    # An object with more than 30 attributes is made at half the speed without these (Python 3.11).
    __slots__ = (
        "__weakref__",
        "_asked",
        "_outcomes",
        "_size",
        "_step_ids",
        "activity",
        "answered",
        "attempts",
        "awaited",
        "calls",
        "checked_at",
        "deadline",
        "due_at_once",
        "env",
        "failures",
        "fault",
        "followed",
        "in_flight",
        "late_handoff",
        "misfit",
        "options",
        "parked",
        "request",
        "run",
        "started_at",
        "state",
        "stream",
        "stream_opener",
        "tickets",
        "unasked",
        "unawaited",
        "undo_ops",
        "undo_report",
        "undos",
    )

    def __init__(
        self,
        env: AppConfig,
        options: ResolvedOptions,
        run: Run,
        request: Request,
        outcomes: Mapping[str, object],
    ) -> None:
        self.env = env
        self.options = options
        self.run = run
        self.request = request
        self.state = _RUNNING
        self.fault: BaseException | None = None
        self.due_at_once = False
        self.in_flight = 0
        self.calls: dict[str, StepAttempt] = {}
        self.parked = 0
        self.unawaited: dict[str, Op] = {}
        self.awaited = _NO_NAMES
        self.activity = 0
        self.failures = 0
        self.late_handoff: HandoffReason | None = None
        self.started_at = run.created_at
        self.answered = False
        self.followed = False
        self.stream: Stream | None = None
        self.stream_opener: Callable[[Any], Stream | None] | None = None
        self.tickets: tuple[PendingCommit, ...] = ()
        self.checked_at = math.inf
        self.undos: tuple[Undo, ...] = ()
        self.undo_ops: set[str] = _NOTHING
        self.undo_report: UndoReport | None = None
        self.deadline = run.deadline
        self.unasked: set[str] = _NOTHING
        self._outcomes = outcomes
        self._asked = self.attempts = self._size = 0
        self._step_ids = StepIds()

    # -- its state --------------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """True while a client waits for the answer."""
        return self.run.phase is _SYNC

    @property
    def closed(self) -> bool:
        """True if nothing more of it counts."""
        return self.state is _CLOSED

    @property
    def traceparent(self) -> str | None:
        """The trace context that the run belongs to; None without one."""
        return self.run.traceparent or traceparent_of(self.request.headers)

    @property
    def is_overdue(self) -> bool:
        """True if the run is past its deadline, and nothing else keeps it from ending."""
        return (
            self.deadline is not None
            and self.fault is None
            and self.env.clock.now() >= self.deadline
        )

    @property
    def may_undo(self) -> bool:
        """True if steps of the run may have to be undone, also some that are in progress."""
        return bool(self.undos) or self.run.undoable

    def was_held_lately(self) -> bool:
        """Tell whether the process held the run a moment ago.

        Otherwise it may have been frozen, and another one may have gone on with the run meanwhile.
        """
        return self.env.clock.elapsed() - self.checked_at <= self.env.lease_check_age

    @property
    def stopping(self) -> bool:
        """True if no step may begin, although steps in flight may end."""
        return self.state is ExecutionState.STOPPING or self.state is ExecutionState.DRAINING

    def holds(self, op_id: str) -> bool:
        """Tell whether an op that has not finished waits for the end of the execution.

        Such an op neither begins, nor ends its wait.
        """
        if self.state is ExecutionState.UNDOING:
            return op_id not in self.undo_ops
        return self.stopping

    @property
    def due_ops(self) -> Collection[str]:
        """Ids of the ops that make the run due once it is suspended."""
        return self.awaited.keys() & self.undo_ops if self.undo_ops else self.awaited

    def note_awaited(self, op: Op) -> None:
        """Note that an op is parked, so that the run is due when the op is."""
        self.awaited = self.awaited or {}
        self.awaited[op.id] = op.name

    def check_open(self) -> None:
        """Raise Suspended if nothing more of the execution counts, or its run has ended.

        Otherwise the run is in a phase that the success of an op does not change.
        """
        if self.state is _CLOSED or self.run.phase not in LIVE_PHASES:
            raise Suspended

    def take(self, event: ExecutionEvent) -> None:
        """Move on as the table says."""
        self.state = EXECUTION_TRANSITIONS[self.state, event]

    def stop(self) -> None:
        """Start no more steps here; the run goes on elsewhere, at once."""
        self.due_at_once = True
        self.take(ExecutionEvent.STOP)

    def close(self, fault: BaseException | None = None) -> None:
        """Close the execution. Only the first fault is kept."""
        self.state = ExecutionState.CLOSED
        self.fault = self.fault or fault

    # -- steps ------------------------------------------------------------------------------

    def next_op(self, step_id: str, kind: OpKind, branch: object) -> Op:
        """Return the op for the next use of a step id.

        Raises:
            ValueError, TypeError: not a step id.
            DuplicateStepIdError: another task or thread of the run uses it.
            LimitExceededError: too many steps.
        """
        op = self._step_ids.next_op(step_id, kind, branch)
        op_id = op.id
        if self.state is not _CLOSED:
            self._asked += 1
        most, outcomes = self.env.limits.steps, self._outcomes
        if (self._asked > most or len(outcomes) >= most) and op_id not in outcomes:
            raise LimitExceededError(
                f"step {op.name!r} is one more than the {most} steps a run may have"
            )
        self.unawaited[op_id] = op
        if self.unasked:
            self.unasked.discard(op_id)
        return op

    def next_undo_op(self, step_id: str) -> Op:
        """Return the op of a step that undoes another; it counts for no limit."""
        op = op_named(step_id, OpKind.RUN)
        self.undo_ops = {*self.undo_ops, op.id}
        self.unasked.discard(op.id)
        return op

    @property
    def is_sequential(self) -> bool:
        """Whether one task or thread has called all steps so far."""
        return self._step_ids.has_one_branch

    def note_failure(self, step_name: str) -> None:
        """Note that the handler now learns that a step has failed."""
        self._step_ids.note_failure(step_name)

    def steps_to_retry(self, failed: Sequence[str], handler: object) -> tuple[str, ...]:
        """Return the steps that are executed again when the run, which fails, is retried.

        Args:
            failed: the names of the steps by whose failure it fails.
            handler: the task or thread of the handler itself.

        Returns:
            These, and the steps that the handler has called because they failed.
        """
        names = dict.fromkeys(failed)
        for name in failed:
            names.update(dict.fromkeys(self._step_ids.called_after_failure(name, handler)))
        return tuple(names)

    def is_replaying(self, step_name: str) -> bool:
        """Tell whether there are stored steps that this replay has not come to yet."""
        return bool(self.unasked)

    def has_outcome(self, op: Op) -> bool:
        """Return whether the op has finished, in an earlier execution or in this one."""
        return op.id in self._outcomes

    def has_ended(self, op_id: str) -> bool:
        """As :meth:`has_outcome`, of the op with this id."""
        return op_id in self._outcomes

    def callback_url(self, step_id: str) -> str:
        """Return the URL at which a step's wait is answered.

        Raises:
            StepUsageError: the engine has no callbacks, or no URL is certain.
        """
        raise StepUsageError("run.callback_url: the engine of this application has no callbacks")

    def check_threads(self, step_name: str) -> None:
        """See that the engine lets branches of a ``def`` handler run in threads; here it does."""

    def begins(
        self,
        attempt: StepAttempt,
        tickets: tuple[PendingCommit, ...],
        written: Sequence[CheckpointResult],
        event_seq: int,
    ) -> bool:
        """Note that the function of a step is called now; False if it may not be called yet.

        That is so if it is not certain that the process holds the run, see :func:`check_lease`.

        Args:
            attempt: asks for the call.
            tickets: the writes that were queued before; they are durable.
            written: the answers to them.
            event_seq: the highest event sequence number by then.

        Raises:
            Suspended: no step may begin any more.
        """
        if tickets:
            self.drop_tickets(tickets, written)
        if self.state is _CLOSED or self.run.phase not in LIVE_PHASES:  # as check_open() does
            raise Suspended
        if not (attempt.is_checked or self.was_held_lately()):
            return False
        attempt.event_seq = event_seq
        attempt.started_at = self.env.clock.now()
        if attempt.call is not None:
            self.calls[attempt.op.id] = attempt
        return True

    @property
    def running_steps(self) -> tuple[RunningStep, ...]:
        """The steps whose functions are being called. May be read by other threads."""
        return tuple(
            RunningStep(each.op, each.number - 1, each.started_at or 0)
            for each in list(self.calls.values())
        )

    def check_size(self, op: Op, value: str) -> None:
        """Count a result; raise LimitExceededError if it, or the run with it, is too large."""
        limits = self.env.limits
        size = len(value) if value.isascii() else len(value.encode("utf-8"))
        if size > limits.step_result:
            raise LimitExceededError(
                f"the result of step {op.name!r} has {size} bytes as JSON; "
                f"at most {limits.step_result} are allowed (Limits.step_result)"
            )
        if self._size + size > limits.run_state:
            raise LimitExceededError(
                f"with the result of step {op.name!r} the run would hold {self._size + size} "
                f"bytes; at most {limits.run_state} are allowed (Limits.run_state)"
            )
        self._size += size

    def open_stream(self) -> Stream | None:
        """Return the stream of the run, made if need be; None where nothing can be streamed."""
        if self.stream is None and self.stream_opener is not None:
            self.stream = self.stream_opener(self)
        return self.stream

    # -- writes -----------------------------------------------------------------------------

    def add_ticket(self, ticket: PendingCommit) -> None:
        """Remember a queued write until it is durable; the queue may have merged it with others."""
        if not self.tickets:
            self.tickets = (ticket,)
        elif ticket not in self.tickets:
            self.tickets = (*self.tickets, ticket)

    def drop_tickets(
        self, tickets: tuple[PendingCommit, ...], written: Sequence[CheckpointResult]
    ) -> None:
        """Take over what came of these writes, which are durable, and drop them.

        Others may have failed: that must still be seen.
        """
        self.apply_results(written)
        if self.tickets is tickets:
            self.tickets = ()
        else:
            self.tickets = tuple(each for each in self.tickets if each not in tickets)

    def apply_results(self, written: Sequence[CheckpointResult]) -> None:
        """Take over the answers to writes; here there is nothing in them."""

    def lease_check(self) -> Submit:
        """Return a write that changes nothing, and fails if another process holds the run.

        Here a run has no lease, and :meth:`was_held_lately` is always true.
        """
        raise NotImplementedError

    def has_delivery(self, op_id: str) -> bool:
        """Tell whether the event that ends a wait is known; here none ever is."""
        return False

    def resolve_wait(self, op_id: str, event: StoredEvent) -> None:
        """Note the event that ends a wait; here no wait is answered while the handler is live."""


class StoredExecution(Execution):
    """An execution of a run that is kept in a store.

    Args:
        env, options, run, request: see :class:`Execution`.
        owner: the name under which this process holds the run.
        memos: the memos of a claimed run; None for a new run.
        pending: its unfinished ops.
        streamed: the number of stored bytes of chunks.
        handler_chunks: the number of stored chunks from outside steps.

    Attributes:
        stored: the run has a row, or the write that makes it is queued.
        memos, pending: finished and unfinished ops by op id.
        consumed_seqs: sequence numbers of the events that ended waits of this run.
        sent: sequence numbers, by event id, of the events that steps of this execution have sent.
        crash_count: the durable crash count of the run: a checkpoint that cannot be stored is no
            progress.
        keeps_record: the run leaves a record, even if no step of it asks for one.
        unsaved: memos that the next checkpoint is to store. Nothing waits for that: a replay would
            make them again.
    """

    __slots__ = (
        "_last_completion_no",
        "consumed_seqs",
        "crash_count",
        "handler_chunks",
        "keeps_record",
        "memos",
        "owner",
        "pending",
        "sent",
        "stored",
        "streamed",
        "unsaved",
    )

    def __init__(
        self,
        env: AppConfig,
        options: ResolvedOptions,
        run: Run,
        request: Request,
        *,
        owner: str,
        memos: Sequence[Memo] | None = None,
        pending: Sequence[Pending] = (),
        streamed: int = 0,
        handler_chunks: int = 0,
    ) -> None:
        self.memos = {memo.op.id: memo for memo in memos} if memos else {}
        super().__init__(env, options, run, request, self.memos)
        self.owner = owner
        self.stored = memos is not None
        if self.stored:
            self.checked_at = env.clock.elapsed()  # it was claimed just now
        self.pending = {each.op.id: each for each in pending} if pending else {}
        if memos or pending:
            self.unasked = {*self.memos, *self.pending}
        self.unsaved: tuple[Memo, ...] = ()
        self.consumed_seqs = _NO_SEQS
        self.sent = _NO_NUMBERS
        self.crash_count = run.crash_count
        self.keeps_record = options.record == "always" or options.on_complete is not None
        self.streamed = streamed
        self.handler_chunks = handler_chunks
        self._last_completion_no = 0
        if memos:
            self._last_completion_no = max(memo.completion_no for memo in memos)
            self._size = sum(utf8_size(memo.value) for memo in memos)

    def was_held_lately(self) -> bool:
        """Tell whether the process held the run a moment ago, and nobody can have taken it since.

        That a write was accepted is not enough. If the lease of the process has expired, others
        may take the run at any moment after the write.
        """
        env = self.env
        now, lease = env.clock.elapsed(), env.lease
        return (
            now - self.checked_at <= env.lease_check_age
            and now <= lease.certain_until
            and self.owner not in lease.lost
        )

    def next_completion_no(self) -> int:
        """Return the number of the op that finishes now."""
        self._last_completion_no += 1
        return self._last_completion_no

    def apply_results(self, written: Sequence[CheckpointResult]) -> None:
        """Apply the answers of the store.

        They are numbers of sent events, waits that have ended, and waits that were refused.
        """
        self.crash_count = self.run.crash_count
        for each in written:
            if each.sent or each.matched or each.refused:
                self._apply_result(each)

    def _apply_result(self, result: CheckpointResult) -> None:
        if result.sent:
            self.sent = self.sent or {}
            self.sent.update(result.sent)
        for op_id, event in result.matched:
            self.resolve_wait(op_id, event)
        for op_id in result.refused:
            self.pending.pop(op_id, None)

    def resolve_wait(self, op_id: str, event: StoredEvent) -> None:
        """Note the event that ends a wait, unless the wait has ended."""
        pending = self.pending.get(op_id)
        if pending is not None and pending.matched is None:
            self.pending[op_id] = replace(pending, matched=event)

    def callback_url(self, step_id: str) -> str:
        """Return the URL at which a step's wait is answered; see :class:`Execution`."""
        url = callback_url(self.env, self.options, self.request, self.run.id, step_id)
        self.keeps_record = True
        return url

    def has_delivery(self, op_id: str) -> bool:
        """Tell whether the event that ends a wait, or what was delivered to it, is known."""
        pending = self.pending.get(op_id)
        return pending is not None and pending.matched is not None

    def lease_check(self) -> Submit:
        """Return a checkpoint that stores nothing; it fails if another process has the run."""
        return checkpoint(self)

    def creation_rows(self) -> tuple[Run | None, StoredRequest | None]:
        """Return the run and request to insert with the next write, once.

        Without a record there was nothing that another process could have taken. So a run whose
        process has lost its name meanwhile begins under the new one. Only here does an execution
        get another name: it goes on under the one that its record has.
        """
        if self.stored:
            return None, None
        lease = self.env.lease
        if self.owner in lease.lost:
            self.owner = lease.owner
        self.stored = True
        if self.run.traceparent is None and self.request.headers.has_any(_TRACE_FIELDS):
            self.run = replace(self.run, traceparent=traceparent_of(self.request.headers))
        omit = self.options.omit_request_body
        head = dump_request(self.request, stored_headers=self.options.store_headers, omit_body=omit)
        return self.run, StoredRequest(head=head, body=b"" if omit else self.request.body)


def checkpoint(
    ex: StoredExecution,
    now: int | None = None,
    memos: tuple[Memo, ...] = (),
    no_pending_row: bool = False,
    events: tuple[Event, ...] = (),
    pending: tuple[Pending, ...] = (),
    state: bool = False,
    release: Release | None = None,
    result: StoredResult | None = None,
    failed_attempts: tuple[FailedAttempt, ...] = (),
    replacing: tuple[str, ...] = (),
) -> Submit:
    """Return the effect that queues one checkpoint of the run.

    A flow writes ``ex.add_ticket((yield checkpoint(ex, ...)))``. The checkpoint is durable after
    the next :func:`settle`.

    Args:
        ex: the execution.
        now: the time, epoch milliseconds, where the caller has just read it.
        state: store the state of the run.
        memos, pending, release, result, events, no_pending_row, failed_attempts, replacing: see
            ``Checkpoint``.
    """
    if ex.unsaved:
        memos, no_pending_row = (*ex.unsaved, *memos), False
        ex.unsaved = ()
    if memos and ex.run.crash_count:
        ex.run = replace(ex.run, crash_count=0)
        state = True
    create, request = (None, None) if ex.stored else ex.creation_rows()
    run, clock = ex.run, ex.env.clock
    if now is None:
        now = clock.now()
    ex.checked_at = clock.elapsed()
    chunks: tuple[ChunkBatch, ...] = ()
    handoff = None
    if ex.stream is not None:
        chunks, handoff = ex.stream.unsaved(memos)
    if create is not None and ex.followed and handoff is None:
        # A reader that is to go on after the handoff waits for its position.
        create = replace(create, phase=Phase.SYNC)
    is_one_memo = len(memos) == 1 and not (
        create is not None
        or state
        or pending
        or release is not None
        or result is not None
        or events
        or chunks
        or handoff is not None
        or failed_attempts
    )
    write = Checkpoint(  # by position, see ``record``; each variable has the name of its field
        run.id,
        ex.owner,
        run.epoch,
        now,
        create,
        request,
        memos,
        pending,
        run if state else None,
        release,
        result,
        events,
        chunks,
        handoff,
        no_pending_row,
        failed_attempts,
        replacing,
        is_one_memo,
    )
    return Submit(write, ex.tickets)


def save_memo(
    ex: StoredExecution,
    memo: Memo,
    now: int,
    sends: tuple[Event, ...] = (),
    failed: FailedAttempt | None = None,
) -> Submit:
    """Note that an op has finished; return the effect that makes it durable."""
    op_id = memo.op.id
    ex.memos[op_id] = memo
    had_no_row = ex.pending.pop(op_id, None) is None
    if failed is not None:
        return checkpoint(ex, now, (memo,), had_no_row, failed_attempts=(failed,))
    return checkpoint(ex, now, (memo,), had_no_row, sends)


def new_run(
    env: AppConfig,
    options: ResolvedOptions,
    request: Request,
    route: str | None,
    event_seq: int = 0,
) -> Run:
    """Return a run that begins now, with a client attached.

    Args:
        env: the application.
        options: of the endpoint.
        request: what the client asks.
        route: the template that the path was found by, where a router knows it.
        event_seq: the event sequence number up to which events came before the run.

    Raises:
        TypeError, ValueError: the function of ``labels=`` returns none, or that of a limit no key;
            or what it raises.
    """
    now = env.clock.now()
    labels = options.labels
    if callable(labels):
        labels = labels(request)
    run = Run(  # what each run has, by position; see ``record``
        env.ids.ulid(now),
        env.app,
        options.key,
        run_label(options, request, route),
        _SYNC,
        options.retries,
        now,
        event_seq,
        labels=() if labels is None else check_labels(labels),
        version=options.version,
        principal=getattr(request, "_principal", None),
        timeout=options.run_timeout,
        deadline=None if options.run_timeout is None else now + options.run_timeout,
    )
    return run if options.limits is None else options.limits.keyed(run, request)


def run_label(options: ResolvedOptions, request: Request, route: str | None) -> str:
    """Return what people see of a run: the endpoint's name, else the method and the route.

    A client chooses the path, and a few the method: no more than 255 characters are kept of them.
    """
    shown = options.name or options.function_id
    return shown or f"{request.method} {route or request.path}"[:_MOST_LABEL]


def settle(ex: Execution, step_name: str = "") -> Flow[None]:
    """Wait until all that was queued is durable.

    Args:
        ex: the execution.
        step_name: the step that is to park after that, if one is.

    Raises:
        WaitInterruptedError: a time-out of the handler's has ended the wait of such a step.
        Suspended: it could not be made durable. The execution is closed, with the reason as its
            fault; user code must not mistake that for an error of its own.
    """
    tickets = ex.tickets
    if not tickets:
        return
    try:
        written: Sequence[CheckpointResult] = yield AwaitDurable(tickets, step_name)
    except WaitInterruptedError:
        raise
    except (Exception, LeaseLost) as error:
        suspend_for(ex, error)
    ex.drop_tickets(tickets, written)


def commit(ex: Execution, write: Write[AnswerT]) -> Flow[AnswerT]:
    """Commit a write that is no checkpoint, after all that was queued; return its answer.

    Raises:
        Suspended: it could not be made durable; as of :func:`settle`.
    """
    ticket: PendingCommit = yield Submit(write, ex.tickets)
    try:
        [answer] = yield AwaitDurable((ticket,))
    except (Exception, LeaseLost) as error:
        suspend_for(ex, error)
    committed: AnswerT = answer
    return committed


def begin(ex: Execution, op: Op) -> Flow[tuple[int, int] | Cancelled]:
    """Do what :func:`settle` does, for a step that is about to begin.

    Returns:
        The highest event sequence number and the time, epoch milliseconds; or the cancellation if
        user code cancels the step.
    """
    attempt = StepAttempt(op)
    outcome = yield from call_step(ex, attempt)
    if isinstance(outcome, Cancelled):
        return outcome
    assert attempt.started_at is not None
    return attempt.event_seq, attempt.started_at


def call_step(ex: Execution, attempt: StepAttempt) -> Flow[Outcome]:
    """Call the function of a step once all that was queued is durable.

    If the process may not hold the run any more, its lease is checked before.

    Raises:
        Suspended: something could not be made durable, as of :func:`settle`; or no step may begin.
    """
    while True:
        try:
            outcome: Outcome | None = yield attempt
        except MemoryError:
            raise
        except (Exception, LeaseLost) as error:
            suspend_for(ex, error)
        if outcome is not None:
            return outcome
        yield from check_lease(ex, attempt)


def check_lease(ex: Execution, attempt: StepAttempt) -> Flow[None]:
    """Queue a write that fails if another process holds the run, for this one may not hold it."""
    ex.add_ticket((yield ex.lease_check()))
    attempt.is_checked = True


def suspend_for(ex: Execution, error: BaseException) -> NoReturn:
    """Close an execution of which a write has failed.

    Raises:
        Suspended: always.
    """
    ex.close(_fault(error))
    raise Suspended from error


def utf8_size(text: str) -> int:
    """Return how many bytes the text has as UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _fault(error: BaseException) -> BaseException:
    """Return the fault of an execution whose checkpoint raised this error."""
    if isinstance(error, (StoreError, LeaseLost)):
        return error
    broken = StoreBrokenError(f"a checkpoint broke: {error!r}")
    broken.__cause__ = error
    return broken
