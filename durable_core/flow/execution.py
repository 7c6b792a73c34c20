"""One live execution of a handler: what it has asked for so far, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace

from durable_core.codec.records import dump_request
from durable_core.errors import (
    LeaseLost,
    LimitExceededError,
    StoreBrokenError,
    StoreError,
    Suspended,
)
from durable_core.flow.effects import (
    AwaitDurable,
    BeginStep,
    Begun,
    Cancelled,
    Flow,
    PendingCommit,
    Stream,
    Submit,
)
from durable_core.flow.env import AppConfig, ResolvedOptions
from durable_core.http.request import Request
from durable_core.machine.step_ids import StepIds, op_named
from durable_core.model.event import Event, StoredEvent
from durable_core.model.run import Phase, Run
from durable_core.model.step import FailedAttempt, Memo, Op, OpKind, Pending
from durable_core.model.stream import Attempt
from durable_core.ports import Checkpoint, CheckpointResult, Release, StoredRequest, StoredResult

__all__ = ["MARK", "Execution", "begin", "checkpoint", "save", "settle"]

#: The event sequence number up to which the code of this branch of a handler has seen events.
MARK: ContextVar[int] = ContextVar("durable_event_mark")


class Execution:
    """The live state of one execution.

    It belongs to one driver at a time: flows of one run are driven on one event loop, or under one
    lock.

    Attributes:
        run: the run as decided so far; what of it is durable lags behind.
        request: the request it was made for.
        owner: the name under which this process holds the run.
        stored: the run has a row, or the write that makes it is queued.
        memos, pending: finished and unfinished ops by op id.
        taken: sequence numbers of events that waits of this run have been answered with.
        sent: sequence numbers, by event id, of the events that steps of this execution have sent.
        in_flight: how many step functions are running.
        parked: ids of ops that wait for their time.
        awaited: ids of all that have been parked; only these make a run due that is put away, not
            what an older version of the code asked for.
        activity: counts what happened; unchanged means nothing did.
        failures: counts the failed steps the handler has been told of.
        started_at: when the handler was called, epoch milliseconds.
        stopping: no new step may start; what is in flight may end.
        due_immediately: the handler is suspended although it could go on: the run is due at once.
        answered: the client has its answer, which leaves with the handler's own thread: what is to
            be tried again is put away although it may be due.
        unwound: a signal puts the handler away: what it does outside steps it will do again.
        closed: nothing more of this execution counts.
        fault: why it was closed, if something went wrong.
        crash_count: those of the run, as far as their count is durable: a checkpoint that cannot be
            stored is no progress.
        streamed, outside: how many bytes of chunks, and how many chunks from outside steps, are
            stored already.
        stream: what is pushed goes here; None until something is, or somebody reads.
        stream_opener: makes that.
        followed: the attached client gets the stream, not a plain answer.
        tickets: the queued writes that may not be durable yet.
    """

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
        self.env = env
        self.options = options
        self.run = run
        self.request = request
        self.owner = owner
        self.stored = memos is not None
        self.memos = {memo.op.id: memo for memo in memos or ()}
        self.pending = {each.op.id: each for each in pending}
        self.consumed_seqs: set[int] = set()
        self.sent: dict[str, int] = {}
        self.in_flight = 0
        self.parked: set[str] = set()
        self.awaited: set[str] = set()
        self.activity = 0
        self.started_at = run.created_at
        self.failures = 0
        self.stopping = False
        self.due_immediately = False
        self.answered = False
        self.unwound = False
        self.closed = False
        self.fault: BaseException | None = None
        self.crash_count = run.crash_count
        self.streamed = streamed
        self.handler_chunks = handler_chunks
        self.stream: Stream | None = None
        self.stream_opener: Callable[[Execution], Stream | None] | None = None
        self.followed = False
        self._asked = 0
        self._attempts = 0
        self._step_ids = StepIds()
        self.tickets: tuple[PendingCommit, ...] = ()
        self._last_number = self._size = 0
        if memos:
            self._last_number = max(memo.completion_no for memo in memos)
            self._size = sum(_size(memo.value) for memo in memos)

    @property
    def attached(self) -> bool:
        """True while a client waits for the answer."""
        return self.run.phase is Phase.SYNC

    @property
    def is_idle(self) -> bool:
        """True if something is parked and nothing runs."""
        return self.in_flight == 0 and bool(self.parked)

    def next_op(self, step_id: str, kind: OpKind, branch: object) -> Op:
        """Return the op for the next use of a step id.

        Raises:
            ValueError, TypeError: not a step id.
            DuplicateStepIdError: another task or thread of the run uses it.
            LimitExceededError: too many steps.
        """
        name, _ = self._step_ids.next_op(step_id, branch)
        op = op_named(name, kind)
        if not self.closed:
            self._asked += 1
        most = self.env.limits.steps
        if (self._asked > most or len(self.memos) >= most) and op.id not in self.memos:
            raise LimitExceededError(
                f"step {name!r} is one more than the {self.env.limits.steps} steps a run may have"
            )
        return op

    def open_stream(self) -> Stream | None:
        """Return the stream of the run, made if need be; None where nothing can be streamed."""
        if self.stream is None and self.stream_opener is not None:
            self.stream = self.stream_opener(self)
        return self.stream

    def next_attempt(self) -> Attempt:
        """Return the identity of the attempt of a step that begins now."""
        self._attempts += 1
        return self.run.epoch, self._attempts

    def next_number(self) -> int:
        """Return the completion number of the op that finishes now."""
        self._last_number += 1
        return self._last_number

    def check_size(self, op: Op, value: str) -> None:
        """Count a result; raise LimitExceededError if it, or the run with it, is too large."""
        limits = self.env.limits
        size = _size(value)
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

    def stop(self) -> None:
        """Start no more steps here; the run goes on elsewhere, at once."""
        self.stopping = self.due_immediately = True

    def close(self, fault: BaseException | None = None) -> None:
        """Let nothing more of this execution count."""
        self.closed = True
        self.fault = self.fault or fault

    def check_open(self) -> None:
        """Raise Suspended if the execution is closed."""
        if self.closed:
            raise Suspended

    def queued(self, ticket: PendingCommit) -> None:
        """Remember a queued write until it is durable."""
        self.tickets = (*self.tickets, ticket)

    def settled(
        self, tickets: tuple[PendingCommit, ...], written: Sequence[CheckpointResult]
    ) -> None:
        """Take over what came of these writes, which are durable, and drop them.

        Others may have failed: that must still be seen.
        """
        self.apply_results(written)
        self.crash_count = self.run.crash_count
        if self.tickets is tickets:
            self.tickets = ()
        else:
            self.tickets = tuple(each for each in self.tickets if each not in tickets)

    def apply_results(self, written: Sequence[CheckpointResult]) -> None:
        """Take over what the store found out: numbers of sent events, waits answered already."""
        for each in written:
            if each.sent:
                self.sent.update(each.sent)
            for op_id, event in each.matched:
                self.resolve_wait(op_id, event)

    def resolve_wait(self, op_id: str, event: StoredEvent) -> None:
        """Note the event that ends a wait, unless the wait has ended."""
        pending = self.pending.get(op_id)
        if pending is not None and pending.matched is None:
            self.pending[op_id] = replace(pending, matched=event)

    def creation_rows(self) -> tuple[Run | None, StoredRequest | None]:
        """Return the run and request to insert with the next write, once."""
        if self.stored:
            return None, None
        self.stored = True
        head = dump_request(self.request, stored_headers=self.options.store_headers)
        return self.run, StoredRequest(head=head, body=self.request.body)


def save(
    ex: Execution,
    *,
    memos: tuple[Memo, ...] = (),
    pending: tuple[Pending, ...] = (),
    state: bool = False,
    release: Release | None = None,
    result: StoredResult | None = None,
    events: tuple[Event, ...] = (),
    no_pending_row: bool = False,
    failed_attempts: tuple[FailedAttempt, ...] = (),
) -> Flow[None]:
    """Queue one checkpoint of the run. It is durable after the next :func:`settle`."""
    ask = checkpoint(
        ex,
        memos=memos,
        pending=pending,
        state=state,
        release=release,
        result=result,
        events=events,
        no_pending_row=no_pending_row,
        failed_attempts=failed_attempts,
    )
    ex.queued((yield ask))


def checkpoint(
    ex: Execution,
    *,
    memos: tuple[Memo, ...] = (),
    pending: tuple[Pending, ...] = (),
    state: bool = False,
    release: Release | None = None,
    result: StoredResult | None = None,
    events: tuple[Event, ...] = (),
    no_pending_row: bool = False,
    failed_attempts: tuple[FailedAttempt, ...] = (),
) -> Submit:
    """Return what :func:`save` asks; its answer is for ``ex.queued``."""
    if memos and ex.run.crash_count:
        ex.run = replace(ex.run, crash_count=0)
        state = True
    create, request = (None, None) if ex.stored else ex.creation_rows()
    run = ex.run
    pieces, handoff = ((), None) if ex.stream is None else ex.stream.unsaved(memos)
    write = Checkpoint(
        run_id=run.id,
        owner=ex.owner,
        epoch=run.epoch,
        now=ex.env.clock.now(),
        create=create,
        request=request,
        memos=memos,
        pending=pending,
        state=run if state else None,
        release=release,
        result=result,
        events=events,
        no_pending_row=no_pending_row,
        failed_attempts=failed_attempts,
        chunks=pieces,
        handoff=handoff,
    )
    return Submit(write, ex.tickets)


def settle(ex: Execution) -> Flow[None]:
    """Wait until all that was saved is durable.

    Raises:
        Suspended: it could not be made durable. The execution is closed, with the reason as its
            fault; user code must not mistake that for an error of its own.
    """
    tickets = ex.tickets
    if not tickets:
        return
    try:
        written: Sequence[CheckpointResult] = yield AwaitDurable(tickets)
    except (Exception, LeaseLost) as error:
        ex.close(_fault(error))
        raise Suspended from error
    ex.settled(tickets, written)


def begin(ex: Execution) -> Flow[int | Cancelled]:
    """Do what :func:`settle` does, for a step that is about to begin.

    Returns:
        The highest event sequence number, or the cancellation if user code cancels the step.
    """
    tickets = ex.tickets
    try:
        begun: Begun | Cancelled = yield BeginStep(tickets)
    except (Exception, LeaseLost) as error:
        ex.close(_fault(error))
        raise Suspended from error
    if isinstance(begun, Cancelled):
        return begun
    written, mark = begun
    ex.settled(tickets, written)
    return mark


def _size(text: str) -> int:
    """Return how many bytes the text has as UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _fault(error: BaseException) -> BaseException:
    """Return why an execution is closed when this has come of a checkpoint."""
    if isinstance(error, (StoreError, LeaseLost)):
        return error
    broken = StoreBrokenError(f"a checkpoint broke: {error!r}")
    broken.__cause__ = error
    return broken
