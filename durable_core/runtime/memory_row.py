"""A run in the memory store."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace

from durable_core.model.ops import Memo, OpKind, Pending
from durable_core.model.run import Run
from durable_core.model.stream import Piece, StoredStream
from durable_core.ports import Claimed, RunRecord, RunWrite, StoredRequest, StoredResult

__all__ = ["MemoryRow", "place_of"]


@dataclass(slots=True)
class MemoryRow:
    """A run and all that belongs to it. It has an owner, or a due time, or has ended."""

    run: Run
    request: StoredRequest
    owner: str | None
    due_at: int | None = None
    result: StoredResult | None = None
    memos: dict[int, Memo] = field(default_factory=dict)
    pending: dict[str, Pending] = field(default_factory=dict)
    pieces: dict[tuple[int, int], Piece] = field(default_factory=dict)
    handoff: str | None = None

    @property
    def due(self) -> tuple[int, str]:
        """What due runs are ordered by."""
        assert self.due_at is not None
        return self.due_at, self.run.id

    def record(self) -> RunRecord:
        """Return what can be looked up about the run, without its ops."""
        ended_at = None if self.result is None else self.result.ended_at
        return RunRecord(run=self.run, owner=self.owner, due_at=self.due_at, ended_at=ended_at)

    def ops(self) -> tuple[tuple[Memo, ...], tuple[Pending, ...]]:
        """Return finished ops by number and unfinished ones by id."""
        memos = tuple(self.memos[number] for number in sorted(self.memos))
        return memos, tuple(_copied(self.pending[op_id]) for op_id in sorted(self.pending))

    def wake(self, now: int) -> None:
        """Make the run due, if nobody holds it and it has not ended."""
        if self.due_at is not None:
            self.due_at = min(self.due_at, now)

    def end(self, result: StoredResult) -> None:
        """End the run."""
        self.run = replace(self.run, phase=result.phase)
        self.owner = self.due_at = None
        self.result = result
        self.pending.clear()

    def settle(self, write: RunWrite) -> None:
        """Give the run its new state; end it, or put it away, as the write says."""
        state = write.state
        if state is not None:
            self.run = replace(
                self.run, phase=state.phase, failures=state.failures, takeovers=state.takeovers
            )
        self.pieces.update((place_of(piece), piece) for piece in write.pieces)
        if write.handoff is not None:
            self.handoff = write.handoff
        if write.result is not None:
            self.end(write.result)
        elif write.release is not None:
            self.owner, self.due_at = None, write.release.due_at
            awaited = write.release.awaited
            if any(
                pending.matched is not None and (awaited is None or op_id in awaited)
                for op_id, pending in self.pending.items()
            ):
                self.wake(write.now)

    def take(self, owner: str) -> Claimed:
        """Give the run to an owner, in a new epoch."""
        self.owner, self.due_at = owner, None
        self.run = replace(self.run, epoch=self.run.epoch + 1)
        memos, pending = self.ops()
        outside = (len(piece.texts) for piece in self.pieces.values() if piece.op_id is None)
        return Claimed(
            run=self.run,
            request=self.request,
            memos=memos,
            pending=pending,
            streamed=sum(piece.size for piece in self.pieces.values()),
            outside=sum(outside),
        )

    def stream(self, done: int, outside: int, most: int) -> StoredStream:
        """Return what is stored of its stream; see ``ports.Store``."""
        wanted, size = self._pieces_after(done, outside), 0
        enough = len(wanted)
        for index, piece in enumerate(wanted):
            if size >= most:
                enough = index
                break
            size += piece.size
        return StoredStream(
            pieces=tuple(wanted[:enough]),
            more=enough < len(wanted),
            handoff=self.handoff,
            phase=self.run.phase,
            epoch=self.run.epoch,
            held=self.owner is not None,
        )

    def streamed(self) -> tuple[int, ...]:
        """Return numbers that change whenever what ``stream`` returns does."""
        flags = self.owner is not None, self.result is not None, self.handoff is not None
        steps = max(self.memos, default=0)
        return self.run.epoch, *map(int, flags), len(self.pieces), steps

    def _pieces_after(self, done: int, outside: int) -> list[Piece]:
        """Return those of steps and those between, in order."""
        found = {
            place: piece
            for place, piece in self.pieces.items()
            if piece.op_id is None
            and piece.number >= done
            and piece.start + len(piece.texts) > outside
        }
        for memo in self.memos.values():
            if memo.number > done and memo.ok and memo.op.kind in (OpKind.RUN, OpKind.SEND):
                nothing = Piece(number=memo.number, texts=(), op_id=memo.op.id)
                stored = self.pieces.get((memo.number, -1))
                piece = nothing if stored is None else replace(stored, op_id=memo.op.id)
                found[memo.number, -1] = piece
        return [found[place] for place in sorted(found)]

    def free(self, now: int, take_overs: int) -> None:
        """Take the run from its owner."""
        run = self.run
        self.owner, self.due_at = None, now
        self.run = replace(run, epoch=run.epoch + take_overs, takeovers=run.takeovers + take_overs)


def place_of(piece: Piece) -> tuple[int, int]:
    """Return what the pieces of a run are known and ordered by."""
    return piece.number, piece.start if piece.op_id is None else -1


def _copied(pending: Pending) -> Pending:
    """Return an op whose event the caller may change without changing the store."""
    if pending.matched is None:
        return pending
    return replace(pending, matched=deepcopy(pending.matched))
