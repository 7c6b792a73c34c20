"""What an execution streams to, and which attempt of a step it is that does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from durable_core.model.ops import Memo
from durable_core.model.stream import Attempt, Piece

__all__ = ["InsideStep", "Source", "Stream"]


class Stream(Protocol):
    """The stream of a live execution. All methods may be called from any thread."""

    def push(self, inside: InsideStep | None, text: str) -> None:
        """Take a chunk as JSON text, from an attempt of a step or from outside steps.

        Raises:
            LimitExceededError: the step, or the run, would have streamed too much.
        """
        ...

    def roll_back(self, inside: InsideStep) -> None:
        """Tell readers that the attempt has come to nothing, unless it is being saved."""
        ...

    def unsaved(self, memos: Sequence[Memo]) -> tuple[tuple[Piece, ...], str | None]:
        """Return what a checkpoint with these memos must store, and the cursor of a handoff.

        What it returns is not returned again.
        """
        ...

    def begin_handoff(self) -> bool:
        """End here what the attached client gets; the next checkpoint has to store that place.

        False, and nothing is done, if it has been ended already.
        """
        ...

    def detach(self) -> None:
        """Let the attached client go, once it has what it gets."""
        ...


class Source(Protocol):
    """What a push is made on: an execution."""

    @property
    def stream(self) -> Stream | None:
        """Its stream, if it has one yet."""
        ...

    def open_stream(self) -> Stream | None:
        """Return its stream, made if need be; None where nothing can be streamed."""
        ...


class InsideStep:
    """Code that runs inside a step's function, where no step may be: one attempt of it.

    Attributes:
        name: of the step.
        op_id, attempt: which attempt of which step it is, for its chunks.
        source: the execution.
        over: the function has ended; what it has left behind pushes nothing.
        settled: what has become of the attempt is known.
    """

    __slots__ = ("attempt", "name", "op_id", "over", "settled", "source")

    def __init__(
        self,
        name: str,
        op_id: str = "",
        attempt: Attempt = (0, 0),
        source: Source | None = None,
    ) -> None:
        self.name = name
        self.op_id = op_id
        self.attempt = attempt
        self.source = source
        self.over = False
        self.settled = False
