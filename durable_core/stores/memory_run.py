"""A run in the memory store, and all that belongs to it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace

from durable_core.model.run import Phase, Run
from durable_core.model.step import FailedAttempt, Memo, OpKind, Pending
from durable_core.model.stream import ChunkBatch, StoredStream, StreamPlace
from durable_core.ports import (
    Cancel,
    CancelOutcome,
    Checkpoint,
    ClaimedRun,
    RunRecord,
    StoredRequest,
    StoredResult,
)
from durable_core.ports.limits import NO_KEY

__all__ = ["StoredRun"]


@dataclass(slots=True)
class StoredRun:
    """A run and all that belongs to it. It has an owner, or a due time, or has ended."""

    run: Run
    request: StoredRequest
    owner: str | None
    due_at: int | None = None
    result: StoredResult | None = None
    memos: dict[int, Memo] = field(default_factory=dict)
    pending: dict[str, Pending] = field(default_factory=dict)
    chunks: dict[StreamPlace, ChunkBatch] = field(default_factory=dict)
    failed_attempts: dict[tuple[str, int], FailedAttempt] = field(default_factory=dict)
    handoff: str | None = None
    descendants: int = 0
    claimed_ahead: bool = False

    @property
    def due(self) -> tuple[int, str]:
        """What due runs are ordered by."""
        assert self.due_at is not None
        return self.due_at, self.run.id

    @property
    def size(self) -> int:
        """The size of its request and its result."""
        size = len(self.request.head) + len(self.request.body)
        if self.result is not None:
            size += len(self.result.head) + len(self.result.body or b"")
        return size

    def record(self) -> RunRecord:
        """Return what can be looked up about the run, without its ops."""
        ended_at = None if self.result is None else self.result.ended_at
        return RunRecord(run=self.run, owner=self.owner, due_at=self.due_at, ended_at=ended_at)

    def ops(self) -> tuple[tuple[Memo, ...], tuple[Pending, ...]]:
        """Return finished ops by number and unfinished ones by id."""
        memos = tuple(self.memos[number] for number in sorted(self.memos))
        return memos, tuple(_copy(self.pending[op_id]) for op_id in sorted(self.pending))

    def enqueue(self) -> None:
        """Have the run, which is due, wait for a slot of its endpoint."""
        slot_key = self.run.slot_key or NO_KEY
        self.owner = None
        self.run = replace(self.run, phase=Phase.QUEUED, slot_key=slot_key)

    def leave_queue(self) -> None:
        """Have the run go on as one that needs no slot, or has one."""
        if self.run.phase is Phase.QUEUED:
            self.run = replace(self.run, phase=Phase.SUSPENDED)

    def wake(self, now: int) -> None:
        """Make the run due, if nobody holds it and it has not ended."""
        if self.due_at is not None:
            self.due_at = min(self.due_at, now)

    def cancel(self, message: Cancel) -> CancelOutcome:
        """End the run as cancelled, or have it undone."""
        if self.result is not None or self.run.cancel_reason is not None:
            return CancelOutcome.NOTHING
        self.run = replace(self.run, cancel_reason=message.reason)
        if not self.run.undoable:
            self.end(message.result)
            return CancelOutcome.ENDED
        self.pending = {
            op_id: replace(op, event="", address="") if op.matched is None else op
            for op_id, op in self.pending.items()
        }
        if self.owner is None:
            self.release_cancelled(message.result.ended_at)
        return CancelOutcome.UNDOING

    def release_cancelled(self, now: int) -> None:
        """Let the run be claimed at once, to be undone."""
        self.run = replace(self.run, phase=Phase.SUSPENDED)
        self.owner, self.due_at = None, now

    def is_unknown_to_be_cancelled(self, write: Checkpoint) -> bool:
        """Tell whether the run was cancelled, and whoever writes this does not know it."""
        return self.run.cancel_reason is not None and (
            write.state is not None and write.state.cancel_reason is None
        )

    def end(self, result: StoredResult) -> None:
        """End the run."""
        self.run = replace(self.run, phase=result.phase)
        self.owner = self.due_at = None
        self.result = replace(result, follow_up=None)
        self.pending.clear()

    def settle(self, write: Checkpoint) -> bool:
        """Give the run its new state; end it, or put it away, as the write says.

        Returns False if the run was to end, and does not, as it was cancelled.
        """
        state = write.state
        if state is not None:
            self.run = replace(
                self.run,
                phase=state.phase,
                failures=state.failures,
                crash_count=state.crash_count,
                undoable=self.run.undoable or state.undoable,
            )
        self.chunks.update((batch.place, batch) for batch in write.chunks)
        self.failed_attempts.update(
            ((each.op_id, each.number), each) for each in write.failed_attempts
        )
        if write.handoff is not None:
            self.handoff = write.handoff
        if write.result is not None:
            if self.is_unknown_to_be_cancelled(write):
                self.release_cancelled(write.now)
                return False
            self.end(write.result)
        elif write.release is not None:
            self.owner, self.due_at = None, write.release.due_at
            self.claimed_ahead = False
            if write.release.endpoint_key is not None:
                self.run = replace(self.run, endpoint_key=write.release.endpoint_key)
            if self.run.cancel_reason is not None and (
                write.state is None or write.state.cancel_reason is None
            ):
                self.wake(write.now)
            awaited = write.release.awaited
            if any(
                pending.matched is not None and (awaited is None or op_id in awaited)
                for op_id, pending in self.pending.items()
            ):
                self.wake(write.now)
        return True

    def take(self, owner: str, *, ahead: bool = False) -> ClaimedRun:
        """Give the run to an owner, in a new epoch."""
        self.owner, self.due_at, self.claimed_ahead = owner, None, ahead
        self.leave_queue()
        self.run = replace(self.run, epoch=self.run.epoch + 1)
        memos, pending = self.ops()
        outside = (len(piece.texts) for piece in self.chunks.values() if piece.op_id is None)
        return ClaimedRun(
            run=self.run,
            request=self.request,
            memos=memos,
            pending=pending,
            streamed=sum(piece.size for piece in self.chunks.values()),
            handler_chunks=sum(outside),
        )

    def read_stream(
        self, done: int, outside: int, most: int, begin: StreamPlace | None
    ) -> StoredStream:
        """Return a part of its stored stream; see ``ports.Store``."""
        part: list[ChunkBatch] = []
        following: StreamPlace | None = None
        cost = 0
        for batch in self._batches_after(done, outside):
            if begin is not None and batch.place < begin:
                continue
            if cost >= most:
                following = batch.place
                break
            part.append(batch)
            cost += batch.cost
        return StoredStream(
            chunks=tuple(part),
            next=following,
            handoff=self.handoff,
            phase=self.run.phase,
            epoch=self.run.epoch,
            is_running=self.owner is not None,
        )

    def stream_version(self) -> tuple[int, ...]:
        """Return numbers that change whenever what ``stream`` returns does."""
        flags = self.owner is not None, self.result is not None, self.handoff is not None
        steps = max(self.memos, default=0)
        return self.run.epoch, *map(int, flags), len(self.chunks), steps

    def _batches_after(self, done: int, outside: int) -> list[ChunkBatch]:
        """Return those of steps and those between, in order."""
        found = [
            batch
            for batch in self.chunks.values()
            if batch.op_id is None
            and batch.number >= done
            and batch.start + len(batch.texts) > outside
        ]
        for memo in self.memos.values():
            number, op_id = memo.completion_no, memo.op.id
            if number > done and memo.ok and memo.op.kind in (OpKind.RUN, OpKind.SEND):
                pushed = [
                    replace(batch, op_id=op_id)
                    for batch in self.chunks.values()
                    if batch.number == number and batch.op_id is not None
                ]
                found += pushed or [ChunkBatch(number=number, texts=(), op_id=op_id)]
        return sorted(found, key=lambda batch: batch.place)

    def free(self, now: int, *, crashed: bool) -> None:
        """Take the run from its owner."""
        run = self.run
        self.owner, self.due_at = None, now
        if crashed:  # one that was claimed ahead may not have begun
            crash_count = run.crash_count + (not self.claimed_ahead)
            self.run = replace(run, epoch=run.epoch + 1, crash_count=crash_count)
        else:
            self.claimed_ahead = False


def _copy(pending: Pending) -> Pending:
    """Return an op whose event the caller may change without changing the store."""
    if pending.matched is None:
        return pending
    return replace(pending, matched=deepcopy(pending.matched))
