"""Checkpoints: the writes of the embedded engine while a handler is executed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from durable_core.codec.records import dump_request
from durable_core.flow.effects import Submit
from durable_core.flow.env import AppConfig, ResolvedOptions
from durable_core.flow.execution import Execution, utf8_size
from durable_core.http.request import Request
from durable_core.model.event import Event, StoredEvent
from durable_core.model.run import Run
from durable_core.model.step import FailedAttempt, Memo, Pending
from durable_core.ports import Checkpoint, CheckpointResult, Release, StoredRequest, StoredResult

__all__ = ["StoredExecution", "checkpoint"]


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
        self.memos = {memo.op.id: memo for memo in memos or ()}
        super().__init__(env, options, run, request, self.memos)
        self.owner = owner
        self.stored = memos is not None
        if self.stored:
            self.checked_at = env.clock.now()  # it was claimed just now
        self.pending = {each.op.id: each for each in pending}
        self.consumed_seqs: set[int] = set()
        self.sent: dict[str, int] = {}
        self.crash_count = run.crash_count
        self.streamed = streamed
        self.handler_chunks = handler_chunks
        self._last_completion_no = 0
        if memos:
            self._last_completion_no = max(memo.completion_no for memo in memos)
            self._size = sum(utf8_size(memo.value) for memo in memos)

    def next_completion_no(self) -> int:
        """Return the number of the op that finishes now."""
        self._last_completion_no += 1
        return self._last_completion_no

    def apply_results(self, written: Sequence[CheckpointResult]) -> None:
        """Apply the answers of the store: numbers of sent events, and waits that have ended."""
        self.crash_count = self.run.crash_count
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

    def lease_check(self) -> Submit:
        """Return a checkpoint that stores nothing; it fails if another process has the run."""
        return checkpoint(self)

    def creation_rows(self) -> tuple[Run | None, StoredRequest | None]:
        """Return the run and request to insert with the next write, once."""
        if self.stored:
            return None, None
        self.stored = True
        head = dump_request(self.request, stored_headers=self.options.store_headers)
        return self.run, StoredRequest(head=head, body=self.request.body)


def checkpoint(
    ex: StoredExecution,
    *,
    now: int | None = None,
    memos: tuple[Memo, ...] = (),
    pending: tuple[Pending, ...] = (),
    state: bool = False,
    release: Release | None = None,
    result: StoredResult | None = None,
    events: tuple[Event, ...] = (),
    no_pending_row: bool = False,
    failed_attempts: tuple[FailedAttempt, ...] = (),
) -> Submit:
    """Return the effect that queues one checkpoint of the run.

    A flow writes ``ex.queued((yield checkpoint(ex, ...)))``. The checkpoint is durable after the
    next :func:`settle`.

    Args:
        ex: the execution.
        now: the time, epoch milliseconds, where the caller has just read it.
        state: store the state of the run.
        memos, pending, release, result, events, no_pending_row, failed_attempts: see
            ``Checkpoint``.
    """
    if memos and ex.run.crash_count:
        ex.run = replace(ex.run, crash_count=0)
        state = True
    create, request = (None, None) if ex.stored else ex.creation_rows()
    run = ex.run
    now = ex.env.clock.now() if now is None else now
    ex.checked_at = now
    chunks, handoff = ((), None) if ex.stream is None else ex.stream.unsaved(memos)
    write = Checkpoint(
        run_id=run.id,
        owner=ex.owner,
        epoch=run.epoch,
        now=now,
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
        chunks=chunks,
        handoff=handoff,
    )
    return Submit(write, ex.tickets)
