"""What a run streams: chunks, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

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
    "Streamed",
]

#: One call of a step's function: the epoch of the run's claim, and a number within it. No two
#: attempts of a run are the same, and of two attempts of one step the later is the greater.
Attempt: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """A chunk.

    Attributes:
        text: its value as JSON text.
        index: its place among the chunks of its attempt; outside steps, among all chunks that
            the handler pushes outside steps.
        op_id, attempt: of the step that pushed it; None outside steps.
        number: the completion number of the attempt, once that has succeeded.
    """

    text: str
    index: int
    op_id: str | None = None
    attempt: Attempt | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The checkpoint of a step is durable: what its last attempt pushed stays."""

    op_id: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """An attempt of a step has come to nothing: what it pushed is void."""

    op_id: str
    attempt: Attempt


#: What happens on a run's stream, in the order in which its readers are told.
Streamed: TypeAlias = Pushed | Committed | RolledBack


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkBatch:
    """Chunks of one source, as they are stored.

    Attributes:
        number: the completion number of the step. Outside steps, that of the last step whose
            checkpoint was queued before; 0 before the first.
        texts: the chunks as JSON texts. A step that has pushed nothing has a piece without any
            where the stream is read, and none where it is stored.
        op_id, attempt: of the step; None outside steps.
        start: the index of the first chunk; 0 in steps.
    """

    number: int
    texts: tuple[str, ...]
    op_id: str | None = None
    attempt: Attempt | None = None
    start: int = 0

    @property
    def size(self) -> int:
        """How many bytes the chunks have."""
        return sum(len(text) if text.isascii() else len(text.encode()) for text in self.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStream:
    """What is stored of a run's stream, from some point on.

    Attributes:
        pieces: of steps that have succeeded, by completion number, and of the code outside steps
            between them.
        more: there are further pieces.
        handoff: where in the stream the client was handed off, as the text of a cursor; None if
            it was not, or was no reader of the stream.
        phase, epoch: of the run.
        held: some process executes the run.
    """

    chunks: tuple[ChunkBatch, ...]
    more: bool
    handoff: str | None
    phase: Phase
    epoch: int
    is_running: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAttempt:
    """An attempt whose checkpoint is not known to be durable, with what it has pushed so far.

    ``number`` is its completion number, once it has one. ``texts`` does not change.
    """

    op_id: str
    texts: Sequence[str]
    number: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveStream:
    """What the process that executes a run knows of its stream and the store may not.

    Attributes:
        epoch: of its claim.
        attempts: all that are open.
        outside: chunks pushed outside steps.
        done: a completion number below that of every open attempt, whether or not that has got
            one yet, and no lower than that of the last commit it knows of.
        is_copy: it is what another process has told, and may be a moment old.
    """

    epoch: int
    attempts: Mapping[Attempt, OpenAttempt]
    handler_chunks: tuple[Pushed, ...] = ()
    done: int = 0
    is_remote: bool = False
