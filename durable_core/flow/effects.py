"""What a flow can ask of the runtime that drives it.

A flow is a generator: it yields an Ask and is resumed with its answer. An Ask that several flows
make is wrapped in a small generator here, so that the answer is typed at one spot and flows read
``outcome = yield from invoke(...)``. What every step asks is yielded as it is, for each generator
in between counts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from durable_core.http.response import Response
from durable_core.machine.stream_cursor import Cursor
from durable_core.model._record import record
from durable_core.model.step import Memo
from durable_core.model.stream import Attempt, Piece, StoredStream
from durable_core.ports import StoredResult, Write, Written

__all__ = [
    "Answer",
    "Ask",
    "AwaitMore",
    "Begin",
    "Begun",
    "Call",
    "Cancelled",
    "Flow",
    "Handle",
    "Hold",
    "InTurn",
    "InsideStep",
    "Invoke",
    "Outcome",
    "Park",
    "Quiesce",
    "Raised",
    "ReadResult",
    "ReadStream",
    "Report",
    "Returned",
    "Settle",
    "Source",
    "Stream",
    "Submit",
    "Ticket",
    "Unwound",
    "Woken",
    "answer",
    "await_more",
    "handle",
    "hold",
    "in_turn",
    "invoke",
    "park",
    "quiesce",
    "read_result",
    "read_stream",
    "report",
]


# --- streaming ------------------------------------------------------------------------------------
#
# What an execution streams to, and which attempt of a step it is that does.


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


# --- effects --------------------------------------------------------------------------------------

T = TypeVar("T")


class Ticket(Protocol):
    """The receipt for a write that was queued."""

    @property
    def done(self) -> bool:
        """True once the write is durable, or has failed."""
        ...


@record(frozen=True, slots=True)
class Call:
    """A function of the user's, with its arguments."""

    fn: Callable[..., object]
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] | None = None


@record(frozen=True, slots=True)
class Returned:
    """User code returned this."""

    value: object


@dataclass(frozen=True, slots=True)
class Raised:
    """User code raised this; ``trace`` is its stack trace if debugging asks for it."""

    error: Exception
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """User code was cancelled by user code; ``error`` is what the runtime uses for that."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Unwound:
    """The handler was put away before it came to an end."""


Outcome: TypeAlias = Returned | Raised | Cancelled


@record(frozen=True, slots=True)
class Submit:
    """Queue a write; answered with its ticket at once.

    ``after`` are earlier writes of the run: if one of them has failed, so does this one.
    """

    waits: ClassVar[bool] = False
    write: Write[Any]
    after: tuple[Ticket, ...] = ()


@dataclass(frozen=True, slots=True)
class Settle:
    """Wait until these writes are durable; answered with their answers. Raises what failed."""

    waits: ClassVar[bool] = True
    tickets: tuple[Ticket, ...]


@record(frozen=True, slots=True)
class Begin:
    """Wait until these writes are durable, so that a step may begin. Raises what failed.

    Answered with their answers and the highest event sequence number by then, or, if user code
    cancels the step meanwhile, with the cancellation.
    """

    waits: ClassVar[bool] = True
    tickets: tuple[Ticket, ...]


Begun: TypeAlias = tuple[Sequence[Written], int]


@record(frozen=True, slots=True)
class Invoke:
    """Call a step's function (``inside``), or a hook (None); answered with an Outcome."""

    waits: ClassVar[bool] = True
    inside: InsideStep | None
    call: Call


@dataclass(frozen=True, slots=True)
class Handle:
    """Run the handler to its end or until it is put away."""

    waits: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Park:
    """Wait until the op may be due (it must look again), or until the handler is put away."""

    waits: ClassVar[bool] = True
    op_id: str
    due_at: int | None


@dataclass(frozen=True, slots=True)
class Quiesce:
    """Let no more steps begin, and wait for those in flight: they must be able to checkpoint."""

    waits: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class InTurn:
    """Wait for the turn of a memo: those asked for in one tick resolve by completion number."""

    waits: ClassVar[bool] = True
    number: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer the attached client."""

    waits: ClassVar[bool] = False
    response: Response


@dataclass(frozen=True, slots=True)
class Report:
    """Tell whoever runs the application: a warning about this run, and the error behind it."""

    waits: ClassVar[bool] = False
    text: str
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Look up how a run ended."""

    waits: ClassVar[bool] = False
    run_id: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Wait until the run ends, or for so many milliseconds; False if too many wait already."""

    waits: ClassVar[bool] = True
    run_id: str
    for_ms: int


class Woken(Enum):
    """Why a reader of a stream is woken."""

    #: There may be more to read.
    MORE = "more"
    #: There was nothing for the time given.
    TIME_OUT = "time-out"
    #: The process stops.
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class ReadStream:
    """Look up what is stored of a run's stream past a cursor, about so many bytes of it."""

    waits: ClassVar[bool] = False
    run_id: str
    cursor: Cursor
    most: int


@dataclass(frozen=True, slots=True)
class AwaitMore:
    """Wait until there may be more to read of the stream, or for so many milliseconds."""

    waits: ClassVar[bool] = True
    for_ms: int


Ask: TypeAlias = (
    Submit
    | Settle
    | Begin
    | Invoke
    | Handle
    | Park
    | Quiesce
    | InTurn
    | Answer
    | Report
    | ReadResult
    | Hold
    | ReadStream
    | AwaitMore
)
Flow: TypeAlias = Generator[Ask, Any, T]


def invoke(inside: InsideStep | None, call: Call) -> Flow[Outcome]:
    """Call user code."""
    outcome: Outcome = yield Invoke(inside, call)
    return outcome


def handle() -> Flow[Outcome | Unwound]:
    """Run the handler."""
    outcome: Outcome | Unwound = yield Handle()
    return outcome


def park(op_id: str, due_at: int | None) -> Flow[None]:
    """Wait until the op may be due."""
    yield Park(op_id, due_at)


def quiesce() -> Flow[None]:
    """Wait for the steps in flight."""
    yield Quiesce()


def in_turn(number: int) -> Flow[None]:
    """Wait for the turn of a memo."""
    yield InTurn(number)


def answer(response: Response) -> Flow[None]:
    """Answer the attached client."""
    yield Answer(response)


def report(text: str, error: BaseException | None = None) -> Flow[None]:
    """Log a warning about the run."""
    yield Report(text, error)


def read_result(run_id: str) -> Flow[StoredResult | object | None]:
    """Look up how a run ended."""
    result: StoredResult | object | None = yield ReadResult(run_id)
    return result


def hold(run_id: str, for_ms: int) -> Flow[bool]:
    """Wait for the run to end."""
    there_was_room: bool = yield Hold(run_id, for_ms)
    return there_was_room


def read_stream(run_id: str, cursor: Cursor, most: int) -> Flow[StoredStream | None]:
    """Look up what is stored of a run's stream."""
    stored: StoredStream | None = yield ReadStream(run_id, cursor, most)
    return stored


def await_more(for_ms: int) -> Flow[Woken]:
    """Wait for more to read."""
    woken: Woken = yield AwaitMore(for_ms)
    return woken
