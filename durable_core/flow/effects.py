"""The effects that a flow can request from its runner.

A flow is a generator: it yields an effect and is resumed with its answer. An effect that several
flows need is wrapped in a small generator here, so that the answer is typed at one spot and flows
read ``outcome = yield from call_user(...)``. What every step needs is yielded as it is, because
each generator in between costs time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from enum import Enum
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from durable_core.flow.attempt import Call, StepAttempt
from durable_core.http.response import Response
from durable_core.machine.stream_cursor import Cursor
from durable_core.model._record import record
from durable_core.model.fact import Fact
from durable_core.model.step import Op
from durable_core.model.stream import StoredStream, StreamPlace
from durable_core.ports import StoredResult, Write

__all__ = [
    "ERROR",
    "INFO",
    "WARNING",
    "AwaitDelivery",
    "AwaitDurable",
    "AwaitEnd",
    "AwaitOtherSteps",
    "AwaitReplayTurn",
    "AwaitRun",
    "AwaitStream",
    "CallHandler",
    "CallUser",
    "Cancelled",
    "DrainSteps",
    "Effect",
    "Flow",
    "Log",
    "Notify",
    "Outcome",
    "Park",
    "PendingCommit",
    "Raised",
    "ReadResult",
    "ReadStream",
    "Returned",
    "SeeHandlerBranch",
    "SeeIfAlone",
    "SendResponse",
    "Submit",
    "UnwindIfAlone",
    "Unwound",
    "WakeReason",
    "await_delivery",
    "await_end",
    "await_other_steps",
    "await_replay_turn",
    "await_stream",
    "call_handler",
    "call_user",
    "drain_steps",
    "log_error",
    "log_warning",
    "notify",
    "park",
    "read_result",
    "read_stream",
    "see_handler_branch",
    "see_if_alone",
    "send_response",
    "unwind_if_alone",
]


T = TypeVar("T")

#: Levels of lines of the log, as of ``logging``, which flows do not import.
INFO = 20
WARNING = 30
ERROR = 40


class PendingCommit(Protocol):
    """The receipt for a write that was queued."""

    @property
    def done(self) -> bool:
        """True once the write is durable, or has failed."""
        ...


@record(frozen=True, slots=True)
class Returned:
    """User code returned this."""

    value: object


@record(frozen=True, slots=True)
class Raised:
    """User code raised this.

    Attributes:
        error: the exception.
        trace: its stack trace, if debugging asks for it.
        is_mistake: the code is wrong, and no further attempt mends it.
    """

    error: Exception
    trace: str = ""
    is_mistake: bool = False


@record(frozen=True, slots=True)
class Cancelled:
    """User code was cancelled by user code; ``error`` is what the runtime uses for that."""

    error: BaseException


@record(frozen=True, slots=True)
class Unwound:
    """The handler was unwound before its end."""


Outcome: TypeAlias = Returned | Raised | Cancelled


@record(frozen=True, slots=True)
class Submit:
    """Queue a write; answered with its ticket at once.

    ``after`` are earlier writes of the run: if one of them has failed, so does this one.
    """

    waits: ClassVar[bool] = False
    write: Write[Any]
    after: tuple[PendingCommit, ...] = ()


@record(frozen=True, slots=True)
class AwaitDurable:
    """Wait until these writes are durable; answered with their answers. Raises their error.

    ``step_name`` is the step that is to park after that, if one is. It raises WaitInterruptedError
    if a time-out of the handler's ends the wait.
    """

    waits: ClassVar[bool] = True
    tickets: tuple[PendingCommit, ...]
    step_name: str = ""


@record(frozen=True, slots=True)
class CallUser:
    """Call a hook; answered with an Outcome. The function of a step is called by its attempt."""

    waits: ClassVar[bool] = True
    call: Call


@record(frozen=True, slots=True)
class CallHandler:
    """Run the handler to its end, or until it is unwound."""

    waits: ClassVar[bool] = True


@record(frozen=True, slots=True)
class Park:
    """Wait until the op may be due (the flow checks again), or until the handler is unwound."""

    waits: ClassVar[bool] = True
    op_id: str
    due_at: int | None


@record(frozen=True, slots=True)
class UnwindIfAlone:
    """Unwind the handler, whose only work is to wait for the step that asks for this.

    Nothing is done, and the flow goes on, if the handler may have other work.
    """

    waits: ClassVar[bool] = False
    op_id: str


@record(frozen=True, slots=True)
class SeeIfAlone:
    """Answered with whether the caller is the only task or thread of the handler."""

    waits: ClassVar[bool] = False


@record(frozen=True, slots=True)
class SeeHandlerBranch:
    """Answered with what stands for the handler's own task or thread; None if that is gone."""

    waits: ClassVar[bool] = False


@record(frozen=True, slots=True)
class AwaitDelivery:
    """Wait in place, for at most ``for_ms`` milliseconds, until something is delivered to an op.

    ``step_name`` is that of the op. The flow looks at the op afterwards. It may be answered
    earlier, as when the process stops. In a thread, ``on_wait`` is given a function that ends the
    wait, before it begins.
    """

    waits: ClassVar[bool] = True
    op_id: str
    step_name: str
    for_ms: int
    on_wait: Callable[[Callable[[], object]], None] | None = None


@record(frozen=True, slots=True)
class DrainSteps:
    """Begin no more steps, and wait for those in flight, which may still checkpoint."""

    waits: ClassVar[bool] = True


@record(frozen=True, slots=True)
class AwaitOtherSteps:
    """Wait until no other step is in progress, besides those that are parked.

    ``may_come`` tells whether a replay has steps to return that nobody has asked for yet. Tasks
    that the handler has left behind get the time for it that they may await something of their own.
    """

    waits: ClassVar[bool] = True
    may_come: Callable[[], bool]


@record(frozen=True, slots=True)
class AwaitReplayTurn:
    """Wait for the turn of a memo: those asked for in one tick resolve by completion number."""

    waits: ClassVar[bool] = True
    completion_no: int


@record(frozen=True, slots=True)
class AwaitRun:
    """Let the run begin that was made for the first step of its handler."""

    waits: ClassVar[bool] = True


@record(frozen=True, slots=True)
class SendResponse:
    """Answer the attached client."""

    waits: ClassVar[bool] = False
    response: Response


@record(frozen=True, slots=True)
class Log:
    """Write a line about this run to the log, and the error behind it; levels as of ``logging``."""

    waits: ClassVar[bool] = False
    text: str
    error: BaseException | None = None
    level: int = WARNING


@record(frozen=True, slots=True)
class Notify:
    """Notify observers of a fact about the run; the log is one of them.

    ``make`` returns the fact. It is called only if there are observers, or if the log takes lines
    of this level (as of ``logging``), for most applications listen to few facts.
    """

    waits: ClassVar[bool] = False
    make: Callable[[], Fact]
    level: int = INFO


@record(frozen=True, slots=True)
class ReadResult:
    """Look up how a run ended."""

    waits: ClassVar[bool] = False
    run_id: str


@record(frozen=True, slots=True)
class AwaitEnd:
    """Wait for the end of a run, at most ``for_ms`` milliseconds; False if too many wait."""

    waits: ClassVar[bool] = True
    run_id: str
    for_ms: int


class WakeReason(Enum):
    """Why a reader of a stream is woken."""

    #: There may be more to read.
    MORE = "more"
    #: There was nothing for the time given.
    TIME_OUT = "time-out"
    #: The process stops.
    STOPPING = "stopping"


@record(frozen=True, slots=True)
class ReadStream:
    """Read a part of a run's stored stream after a cursor; see ``Store.read_stream``."""

    waits: ClassVar[bool] = False
    run_id: str
    cursor: Cursor
    most: int
    begin: StreamPlace | None = None


@record(frozen=True, slots=True)
class AwaitStream:
    """Wait until the stream may have more to read, at most ``for_ms`` milliseconds."""

    waits: ClassVar[bool] = True
    for_ms: int


Effect: TypeAlias = (
    Submit
    | AwaitDurable
    | StepAttempt
    | CallUser
    | CallHandler
    | Park
    | UnwindIfAlone
    | SeeIfAlone
    | SeeHandlerBranch
    | AwaitDelivery
    | DrainSteps
    | AwaitOtherSteps
    | AwaitReplayTurn
    | AwaitRun
    | SendResponse
    | Log
    | Notify
    | ReadResult
    | AwaitEnd
    | ReadStream
    | AwaitStream
)
Flow: TypeAlias = Generator[Effect, Any, T]


def call_user(call: Call) -> Flow[Outcome]:
    """Call a hook."""
    outcome: Outcome = yield CallUser(call)
    return outcome


def call_handler() -> Flow[Outcome | Unwound]:
    """Run the handler."""
    outcome: Outcome | Unwound = yield CallHandler()
    return outcome


def park(op_id: str, due_at: int | None) -> Flow[None]:
    """Wait until the op may be due."""
    yield Park(op_id, due_at)


def unwind_if_alone(op_id: str) -> Flow[None]:
    """Unwind the handler if it only waits for this op."""
    yield UnwindIfAlone(op_id)


def see_if_alone() -> Flow[bool]:
    """Return whether the caller is the only task or thread of the handler."""
    is_alone: bool = yield SeeIfAlone()
    return is_alone


def see_handler_branch() -> Flow[object]:
    """Return what stands for the handler's own task or thread; None if that is gone."""
    return (yield SeeHandlerBranch())


def await_delivery(op: Op, for_ms: int) -> Flow[None]:
    """Wait in place until something is delivered to an op."""
    yield AwaitDelivery(op.id, op.name, for_ms)


def drain_steps() -> Flow[None]:
    """Wait for the steps in flight."""
    yield DrainSteps()


def await_other_steps(may_come: Callable[[], bool]) -> Flow[None]:
    """Wait for the steps in progress in other tasks or threads of the handler."""
    yield AwaitOtherSteps(may_come)


def await_replay_turn(completion_no: int) -> Flow[None]:
    """Wait for the turn of a memo."""
    yield AwaitReplayTurn(completion_no)


def send_response(response: Response) -> Flow[None]:
    """Answer the attached client."""
    yield SendResponse(response)


def notify(make: Callable[[], Fact], level: int = INFO) -> Flow[None]:
    """Notify observers of a fact."""
    yield Notify(make, level)


def log_warning(text: str, error: BaseException | None = None) -> Flow[None]:
    """Log a warning about the run."""
    yield Log(text, error)


def log_error(text: str, error: BaseException | None = None) -> Flow[None]:
    """Log that the run has failed for good."""
    yield Log(text, error, level=ERROR)


def read_result(run_id: str) -> Flow[StoredResult | object | None]:
    """Look up how a run ended."""
    result: StoredResult | object | None = yield ReadResult(run_id)
    return result


def await_end(run_id: str, for_ms: int) -> Flow[bool]:
    """Wait for the run to end."""
    there_was_room: bool = yield AwaitEnd(run_id, for_ms)
    return there_was_room


def read_stream(
    run_id: str, cursor: Cursor, most: int, begin: StreamPlace | None = None
) -> Flow[StoredStream | None]:
    """Look up a part of what is stored of a run's stream, from the place where it begins."""
    stored: StoredStream | None = yield ReadStream(run_id, cursor, most, begin)
    return stored


def await_stream(for_ms: int) -> Flow[WakeReason]:
    """Wait for more to read."""
    woken: WakeReason = yield AwaitStream(for_ms)
    return woken
