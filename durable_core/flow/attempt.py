"""One attempt of a step: the function that it calls, and the stream that it pushes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from durable_core.model._record import record

if TYPE_CHECKING:
    from durable_core.codec.typed import ValueType
    from durable_core.flow.env import AppConfig
    from durable_core.flow.step_options import StepOptions
    from durable_core.model.run import Run
    from durable_core.model.step import Memo, Op
    from durable_core.model.stream import Attempt, ChunkBatch

__all__ = ["Call", "StepAttempt", "Stream", "StreamOwner"]


@record(frozen=True, slots=True)
class Call:
    """A function of the user's, with its arguments.

    Attributes:
        fn, args, kwargs: what to call.
        options: those of the step, if it has any.
        result: the type of what the function returns; None if that is JSON.
    """

    fn: Callable[..., object]
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] | None = None
    options: StepOptions | None = None
    result: ValueType | None = None


class Stream(Protocol):
    """The stream of a live execution. All methods may be called from any thread."""

    def push(self, inside: StepAttempt | None, text: str) -> None:
        """Add a chunk as JSON text, from an attempt of a step or from outside steps.

        Raises:
            LimitExceededError: the step, or the run, would have streamed too much.
        """
        ...

    def roll_back(self, inside: StepAttempt) -> None:
        """Send readers a rollback of the attempt, unless its checkpoint is being saved."""
        ...

    def unsaved(self, memos: Sequence[Memo]) -> tuple[tuple[ChunkBatch, ...], str | None]:
        """Return what a checkpoint with these memos must store, and the cursor of a handoff.

        A chunk is returned only once.
        """
        ...

    def begin_handoff(self) -> bool:
        """End the attached client's stream here; the next checkpoint must store this position.

        Returns False, and does nothing, if the stream has ended already.
        """
        ...

    def detach(self) -> None:
        """Detach the client, once it has received the rest of its stream."""
        ...


class StreamOwner(Protocol):
    """An execution, as code in a step sees it."""

    @property
    def run(self) -> Run:
        """Its run."""
        ...

    @property
    def env(self) -> AppConfig:
        """The application."""
        ...

    @property
    def traceparent(self) -> str | None:
        """The trace context of its run; None without one."""
        ...

    @property
    def stream(self) -> Stream | None:
        """Its stream, if it has one yet."""
        ...

    def open_stream(self) -> Stream | None:
        """Return its stream, and open it first if necessary; None if it cannot stream."""
        ...


@dataclass(eq=False, slots=True)
class StepAttempt:
    """One attempt of a step: code inside the step's function, which may not call steps.

    It is an effect, too: a flow yields it to have the function called once all that the run has
    queued is durable. What has failed of that is raised. The answer is an Outcome, or None if
    ``Execution.begins`` says that the function may not be called yet.

    Attributes:
        op: of the step.
        attempt: which attempt of the step it is, for its chunks.
        owner: the execution.
        call: what is called; None if the step has no function, and only begins.
        function_ended: the function has ended; threads or tasks that it has left push nothing.
        settled: the outcome of the attempt is known.
        is_checked: a write was queued to check the lease. That it is durable shows that the process
            holds the run, however slow the store is.
        number: how often the function is called with this attempt; 1 for the first.
        event_seq: the highest event sequence number when the function was called.
        started_at: when it was called, epoch milliseconds; None before that.
        arguments: those of the function, see ``Memo.arguments``.
    """

    waits: ClassVar[bool] = True
    #: It is no run, whose kind of handler is asked for.
    kind: ClassVar[None] = None
    #: No run is suspended because of what the tasks of a step wait for.
    tasks: ClassVar[None] = None
    op: Op
    attempt: Attempt = (0, 0)
    owner: StreamOwner | None = None
    call: Call | None = None
    function_ended: bool = False
    settled: bool = False
    is_checked: bool = False
    number: int = 1
    event_seq: int = 0
    started_at: int | None = None
    arguments: str | None = None

    @property
    def name(self) -> str:
        """The name of the step."""
        return self.op.name
