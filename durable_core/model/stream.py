"""The stream of a run: chunks, commits and rollbacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from durable_core.model._record import record
from durable_core.model.run import Phase

__all__ = [
    "Attempt",
    "ChunkBatch",
    "Committed",
    "LiveStream",
    "OpenAttempt",
    "Pushed",
    "RolledBack",
    "StoredStream",
    "StreamPlace",
    "Streamed",
    "split_texts",
]

#: A batch of chunks has at most this many bytes, unless it is a single chunk.
_MOST_BATCH = 64 * 1024
#: What a batch counts besides its chunks where bytes bound how many are read at a time.
_BATCH_OVERHEAD = 100

#: One call of a step's function: the epoch of the run's claim, and a number within it. No two
#: attempts of a run are the same, and of two attempts of one step the later is the greater.
Attempt: TypeAlias = tuple[int, int]


@record(frozen=True, slots=True, kw_only=True)
class Pushed:
    """A chunk.

    Attributes:
        text: its value as JSON text.
        index: its position among the chunks of its attempt; outside steps, among all chunks that
            the handler pushes outside steps.
        op_id, attempt: the step that pushed it and its attempt; None outside steps.
        number: the completion number of the attempt, once that has succeeded.
    """

    text: str
    index: int
    op_id: str | None = None
    attempt: Attempt | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The checkpoint of a step is durable: the chunks of its last attempt are final."""

    op_id: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """An attempt of a step has failed or was lost: its chunks are void."""

    op_id: str
    attempt: Attempt


#: An event of a run's stream; readers get the events in order.
Streamed: TypeAlias = Pushed | Committed | RolledBack


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True)
class ChunkBatch:
    """Consecutive chunks of one source, as they are stored: 64 KiB at most, or a single chunk.

    Attributes:
        number: the completion number of the step. Outside steps, that of the last step whose
            checkpoint was queued before; 0 before the first.
        texts: the chunks as JSON texts. For a step that has pushed nothing, a read returns a batch
            without texts; such a batch is not stored.
        op_id, attempt: the step and its attempt; None outside steps.
        start: the index of the first chunk.
        last: no batch of the same step follows; always True outside steps.
    """

    number: int
    texts: tuple[str, ...]
    op_id: str | None = None
    attempt: Attempt | None = None
    start: int = 0
    last: bool = True

    @property
    def size(self) -> int:
        """The size of the chunks in bytes."""
        return sum(map(_size, self.texts))

    @property
    def cost(self) -> int:
        """Its size and 100 bytes more, so that a read of many empty batches is bounded, too."""
        return self.size + _BATCH_OVERHEAD

    @property
    def place(self) -> StreamPlace:
        """Its place in the stored stream."""
        return self.number, int(self.op_id is None), self.start


#: The place of a batch in the stored stream of its run: its number, then 0 for a step or 1 for code
#: outside steps, then the index of its first chunk. Batches are in the order of their places.
StreamPlace: TypeAlias = tuple[int, int, int]


def split_texts(texts: Sequence[str]) -> Sequence[tuple[int, tuple[str, ...]]]:
    """Split chunks into batches of at most 64 KiB; a chunk that is larger is a batch of its own.

    Args:
        texts: at least one.

    Returns:
        For each batch the index of its first chunk, and its chunks.
    """
    batches: list[tuple[int, tuple[str, ...]]] = []
    start, size = 0, 0
    for index, text in enumerate(texts):
        added = _size(text)
        if index > start and size + added > _MOST_BATCH:
            batches.append((start, tuple(texts[start:index])))
            start, size = index, 0
        size += added
    return (*batches, (start, tuple(texts[start:])))


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStream:
    """The stored part of a run's stream after some position.

    Attributes:
        chunks: the batches of succeeded steps, by completion number, and of the code outside steps
            between them.
        next: the place of the batch after these; None if there is none.
        handoff: the position at which the client was handed off, as the text of a cursor; None if
            it was not handed off, or did not read the stream.
        phase, epoch: those of the run.
        is_running: a process executes the run.
    """

    chunks: tuple[ChunkBatch, ...]
    next: StreamPlace | None
    handoff: str | None
    phase: Phase
    epoch: int
    is_running: bool

    @property
    def more(self) -> bool:
        """True if there are further batches."""
        return self.next is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAttempt:
    """An attempt whose checkpoint is not known to be durable, with its chunks so far.

    ``number`` is its completion number, once it has one. ``texts`` does not change.
    """

    op_id: str
    texts: Sequence[str]
    number: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveStream:
    """The part of a run's stream that its process knows and the store may lack.

    Attributes:
        epoch: the epoch of the process's claim.
        attempts: all open attempts.
        handler_chunks: chunks pushed outside steps.
        done: a completion number. It is lower than the numbers that open attempts have or will
            get, and not lower than that of the last commit that the process knows.
        is_remote: it comes from another process, and may be a moment old.
    """

    epoch: int
    attempts: Mapping[Attempt, OpenAttempt]
    handler_chunks: tuple[Pushed, ...] = ()
    done: int = 0
    is_remote: bool = False
