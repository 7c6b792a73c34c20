"""The stream of one execution: what it pushes, what of that is saved, durable, or void."""

from __future__ import annotations

from collections.abc import Sequence

from durable_core.errors import LimitExceededError
from durable_core.flow.attempt import StepAttempt
from durable_core.flow.execution import ExecutionState, StoredExecution
from durable_core.machine.stream_cursor import Cursor
from durable_core.model.step import Memo, OpKind
from durable_core.model.stream import (
    ChunkBatch,
    Committed,
    LiveStream,
    OpenAttempt,
    Pushed,
    RolledBack,
    split_texts,
)
from durable_core.ports import Checkpoint
from durable_core.streams.log import LiveAttempt, PrefixView, RunLog

__all__ = ["Publisher"]

_STREAMING = (OpKind.RUN, OpKind.SEND)
#: So many steps of a run may stream at a time: the id of an event names them all, and clients
#: send it back in one header field.
_MOST_OPEN = 64


#: Where what the handler pushes outside steps counts: later it is pushed again by a replay.
_HANDLER_COUNTS = (ExecutionState.RUNNING, ExecutionState.STOPPING)


class Publisher:
    """See ``flow.effects.Stream``. Pushes come from any thread, and never wait for a reader.

    Args:
        ex: the execution.
        log: where readers of the run find what it does.
    """

    def __init__(self, ex: StoredExecution, log: RunLog) -> None:
        self.epoch = ex.run.epoch
        self.finished = self.is_remote = False
        self.log = log
        self._ex: StoredExecution | None = ex
        self._limits = ex.env.limits
        self._size = ex.streamed
        self._done = 0
        memos = list(ex.memos.values())  # at once: a reader may bring this about in another thread
        self._position = max((memo.completion_no for memo in memos), default=0)
        self._before = self._position
        self._attempts: dict[str, LiveAttempt] = {}
        # Chunks from outside steps: how many this execution has pushed; how many are saved; and
        # those whose checkpoint is not durable, from the one with index `_durable` on.
        self._pushed_outside = 0
        self._saved_outside = self._durable = ex.handler_chunks
        self._outside: list[Pushed] = []
        self._handoff: str | None = None
        self._has_handoff = False

    @property
    def is_stored(self) -> bool:
        """True if the run has a record, or one is being made, and its execution goes on."""
        ex = self._ex
        return ex is not None and ex.stored

    # -- what pushes ------------------------------------------------------------------------

    def push(self, inside: StepAttempt | None, text: str) -> None:
        """Take a chunk; nothing, if what it comes from does not count any more.

        Raises:
            LimitExceededError: the chunk is too large, the step or the run would have streamed too
                much, or too many steps would stream at a time.
        """
        size = len(text) if text.isascii() else len(text.encode())
        if size > self._limits.stream_chunk:
            raise LimitExceededError(
                f"a chunk of {size} bytes as JSON is too large; at most "
                f"{self._limits.stream_chunk} are allowed (Limits.stream_chunk)"
            )
        with self.log.lock:
            ex = self._ex
            if ex is None or ex.state is ExecutionState.CLOSED or self.log.source is not self:
                return
            if inside is None:
                if ex.state in _HANDLER_COUNTS:
                    self._push_from_handler(text, size)
            elif not inside.function_ended:
                self._push_from_step(inside, text, size)
        self.log.wake()

    def _push_from_handler(self, text: str, size: int) -> None:
        index = self._pushed_outside
        if index >= self._saved_outside:
            self._count(size)
            chunk = Pushed(text=text, index=index)
            self._outside.append(chunk)
            self.log.append(chunk, size)
        self._pushed_outside = index + 1

    def _push_from_step(self, inside: StepAttempt, text: str, size: int) -> None:
        attempt = self._attempts.get(inside.op.id)
        if attempt is None and len(self._attempts) >= _MOST_OPEN:
            raise LimitExceededError(
                f"step {inside.name!r} may not stream while {_MOST_OPEN} other steps of its run "
                "do; let fewer of them stream at a time"
            )
        if attempt is None or attempt.attempt != inside.attempt:
            attempt = self._attempts[inside.op.id] = LiveAttempt(inside.op.id, inside.attempt)
        most = self._limits.stream_step
        if attempt.size + size > most:
            raise LimitExceededError(
                f"step {inside.name!r} would have streamed {attempt.size + size} bytes as JSON; "
                f"at most {most} are allowed (Limits.stream_step)"
            )
        self._count(size)
        attempt.size += size
        attempt.texts.append(text)
        self.log.append((attempt, len(attempt.texts) - 1), size)

    def _count(self, size: int) -> None:
        most = self._limits.stream_run
        if self._size + size > most:
            raise LimitExceededError(
                f"the run would have streamed {self._size + size} bytes as JSON; "
                f"at most {most} are allowed (Limits.stream_run)"
            )
        self._size += size

    # -- what becomes of it -----------------------------------------------------------------

    def roll_back(self, inside: StepAttempt) -> None:
        """Tell readers that the attempt has come to nothing, unless it is being saved."""
        with self.log.lock:
            inside.settled = True
            attempt = self._attempts.get(inside.op.id)
            if attempt is not None and attempt.attempt == inside.attempt:
                if attempt.number is not None:
                    return
                del self._attempts[inside.op.id]
                self._size -= attempt.size
            if self.log.source is self:
                self.log.append(RolledBack(op_id=inside.op.id, attempt=inside.attempt))
        self.log.wake()

    def unsaved(self, memos: Sequence[Memo]) -> tuple[tuple[ChunkBatch, ...], str | None]:
        """Return what a checkpoint with these memos must store, and the cursor of a handoff."""
        pieces: list[ChunkBatch] = []
        with self.log.lock:
            if self._saved_outside < self._durable + len(self._outside):
                unsaved = self._outside[self._saved_outside - self._durable :]
                first, self._saved_outside = self._saved_outside, self._durable + len(self._outside)
                pieces += [
                    ChunkBatch(number=self._position, texts=texts, start=first + start)
                    for start, texts in split_texts([chunk.text for chunk in unsaved])
                ]
            for memo in memos:
                self._position = max(self._position, memo.completion_no)
                attempt = self._attempts.get(memo.op.id)
                if attempt is not None and memo.ok:
                    attempt.number = memo.completion_no
                    pieces += [
                        ChunkBatch(
                            number=memo.completion_no,
                            texts=texts,
                            op_id=attempt.op_id,
                            attempt=attempt.attempt,
                            start=start,
                            last=start + len(texts) == len(attempt.texts),
                        )
                        for start, texts in split_texts(attempt.texts)
                    ]
            handoff, self._handoff = self._handoff, None
        return tuple(pieces), handoff

    def committed(self, write: Checkpoint) -> None:
        """Tell readers what is durable now. Called in the order of the commits."""
        if write.epoch != self.epoch:
            return
        with self.log.lock:
            for memo in write.memos:
                if memo.ok and memo.op.kind in _STREAMING:
                    self._attempts.pop(memo.op.id, None)
                    self._done = memo.completion_no
                    self.log.append(Committed(op_id=memo.op.id, number=memo.completion_no))
            for piece in write.chunks:
                if piece.op_id is None:
                    end = piece.start + len(piece.texts)
                    del self._outside[: end - self._durable]
                    self._durable = end
            self.log.checkpointed()
        self.log.wake()

    def end(self) -> None:
        """The execution is over: what is not durable is void."""
        with self.log.lock:
            for attempt in self._attempts.values():
                if self.log.source is self:
                    self.log.append(RolledBack(op_id=attempt.op_id, attempt=attempt.attempt))
            self._attempts.clear()
            self.finished = True
            self._ex = None  # a reader may keep the log for long
        self.log.wake()

    # -- the attached client ----------------------------------------------------------------

    def begin_handoff(self) -> bool:
        """End here what the attached client gets; False if that was done before."""
        with self.log.lock:
            if self._has_handoff:
                return False
            self._has_handoff = True
            opened = {
                op_id: (each.attempt, len(each.texts)) for op_id, each in self._attempts.items()
            }
            outside = max(self._pushed_outside, self._saved_outside)
            self._handoff = Cursor(self._done, outside, opened).dump()
            self.log.begin_handoff(self._handoff)
        return True

    def detach(self) -> None:
        """Let the attached client go, once it has what it gets."""
        self.log.detach()

    # -- readers ----------------------------------------------------------------------------

    def live(self) -> LiveStream:
        """Return what the store may not have yet. The log's lock is held."""
        return LiveStream(
            epoch=self.epoch,
            attempts={
                each.attempt: OpenAttempt(
                    op_id=each.op_id, texts=PrefixView(each.texts), number=each.number
                )
                for each in self._attempts.values()
            },
            handler_chunks=tuple(self._outside),
            done=max(self._before, self._done),
        )
