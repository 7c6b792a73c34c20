"""The inputs and the commands of ``machine/advance.py``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from durable_core.model._record import record
from durable_core.model.step import FailedAttempt, Memo, Op, OpKind, Pending

__all__ = [
    "BecameIdle",
    "Claimed",
    "Command",
    "Detached",
    "EndCancelled",
    "Fail",
    "Failure",
    "Finish",
    "HandlerRaised",
    "HandlerReturned",
    "Handoff",
    "HandoffReason",
    "Input",
    "OpEnded",
    "OpFailed",
    "OpParked",
    "Orphaned",
    "ResponseInterrupted",
    "ResponseStarted",
    "ResponseTooLarge",
    "SaveMemo",
    "SavePending",
    "Suspend",
    "TimedOut",
    "Undone",
]


# --- commands -------------------------------------------------------------------------------------
#
# The results of ``machine/advance.py``: what the engine must do.


class HandoffReason(Enum):
    """Why a client does not get the response on its own connection."""

    #: A step failed and will be retried.
    STEP_RETRY = "step-retry"
    #: The handler sleeps.
    SLEEP = "sleep"
    #: The handler waits for an event, a signal or a callback.
    WAIT = "wait"
    #: The handler waits for the end of a child run.
    INVOKE = "invoke"
    #: The handler itself failed and will be retried.
    HANDLER_RETRY = "handler-retry"
    #: The client disconnected.
    DISCONNECT = "disconnect"
    #: The process stops.
    DRAIN = "drain"
    #: The client prefers not to wait.
    PREFERENCE = "preference"
    #: The client has waited for as long as it may, or as it wants to.
    TIME_LIMIT = "time-limit"
    #: The endpoint executes as many runs as it may; this one waits its turn.
    QUEUED = "queued"


@record(frozen=True, slots=True)
class SaveMemo:
    """Make the outcome of a finished op durable, with its last attempt if that failed."""

    memo: Memo
    failed: FailedAttempt | None = None


@dataclass(frozen=True, slots=True)
class SavePending:
    """Make an unfinished op durable, with the attempt that has just failed, if any."""

    pending: Pending
    failed: FailedAttempt | None = None


@dataclass(frozen=True, slots=True)
class Handoff:
    """Send the attached client a redirect to the wait URL, or a token."""

    reason: HandoffReason


@dataclass(frozen=True, slots=True)
class Suspend:
    """Release the run until it is due (epoch milliseconds); ``failed`` if the handler failed."""

    due_at: int
    failed: FailedAttempt | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """Store the handler's response as the run's result and send it."""


@dataclass(frozen=True, slots=True)
class Fail:
    """Store a problem document as the run's result and send it.

    Attributes:
        kind: the last part of the problem's type, such as ``"run-failed"``.
        name, message: the error that ended the run.
        reason: the message of the step's error, if a StepError ended the run; else "".
        failed: the attempt of the handler that ended the run, if any.
        public: what the error says to clients, or "".
    """

    kind: str
    name: str
    message: str
    reason: str = ""
    failed: FailedAttempt | None = None
    public: str = ""


@dataclass(frozen=True, slots=True)
class EndCancelled:
    """Store as the run's result that it was cancelled."""


Command = SaveMemo | SavePending | Handoff | Suspend | Finish | Fail | EndCancelled


# --- decision -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The facts about an error of user code that decisions need.

    Attributes:
        name: the class name of the error.
        message: its text.
        data: JSON text of its ``data`` attribute, or "".
        retriable: another attempt may succeed.
        retry_after: milliseconds to wait, if the error sets them.
        cancelled: user code cancelled the step.
        interrupted: the process died in a step that must not begin twice.
        conflict: another run has the address at which the step was to wait.
        result: the defect of the value that the step returned, if this is the failure.
        reason: the message of the original error in the step, if this is a StepError; else "".
        http: status, detail and headers, if the error is an ``HTTPError``.
        public: what the error says to clients, or "".
        trace: the stack trace, if debugging asks for it; else "".
        response: status, headers and body that ``exception_to_response`` has made of it, if any.
        steps: of the handler: the names of the steps whose failure it has not handled, and of those
            that it has called because of that.
    """

    name: str
    message: str
    data: str = ""
    retriable: bool = True
    retry_after: int | None = None
    cancelled: bool = False
    interrupted: bool = False
    conflict: bool = False
    result: Literal["", "unstorable", "too-large"] = ""
    reason: str = ""
    http: tuple[int, str, tuple[tuple[str, str], ...]] | None = None
    public: str = ""
    trace: str = ""
    response: tuple[int, tuple[tuple[str, str], ...], bytes] | None = None
    steps: tuple[str, ...] = ()


@record(frozen=True, slots=True, kw_only=True)
class OpEnded:
    """An op has its result."""

    memo: Memo


@dataclass(frozen=True, slots=True, kw_only=True)
class OpFailed:
    """The function of an op raised; ``started_at`` is when it was called, epoch milliseconds.

    ``failures`` counts earlier ones; ``u`` is random in [0, 1). ``retries`` is how often the step
    may be retried; None stands for that of the run. ``arguments`` are those of ``Memo``.
    """

    op: Op
    failure: Failure
    completion_no: int
    event_seq: int
    failures: int
    u: float
    started_at: int
    retries: int | None = None
    arguments: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpParked:
    """An op cannot finish now; ``pending`` has the time at which it continues."""

    pending: Pending

    @property
    def reason(self) -> HandoffReason:
        """Why the client cannot wait for it."""
        return _REASONS[self.pending.op.kind]


_REASONS = {
    OpKind.RUN: HandoffReason.STEP_RETRY,
    OpKind.SEND: HandoffReason.STEP_RETRY,
    OpKind.SLEEP: HandoffReason.SLEEP,
    OpKind.WAIT: HandoffReason.WAIT,
    OpKind.SIGNAL: HandoffReason.WAIT,
    OpKind.SEND_SIGNAL: HandoffReason.STEP_RETRY,
    OpKind.CALLBACK: HandoffReason.WAIT,
    OpKind.INVOKE: HandoffReason.INVOKE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Detached:
    """The client must be handed off for a reason outside the handler."""

    reason: HandoffReason


@dataclass(frozen=True, slots=True, kw_only=True)
class BecameIdle:
    """Nothing is left to do until the first of these is due (at once, if there are none)."""

    pending: tuple[Pending, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerReturned:
    """The handler's response is complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseStarted:
    """The first byte of a streamed body is about to be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseInterrupted:
    """A streamed response had started; it can neither be finished nor made again."""

    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseTooLarge:
    """The body of a response that must be stored has more than ``most`` bytes."""

    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerRaised:
    """The handler raised outside steps, or let a StepError pass.

    ``started_at`` is when it was called, epoch milliseconds; ``u`` is random in [0, 1).
    """

    failure: Failure
    u: float
    started_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A worker took the run. ``max_crashes`` bounds the crashes in a row without progress."""

    max_crashes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphaned:
    """No process has known the run's endpoint key for too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut:
    """The run has taken as long as it may, and what was to be undone was undone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """The steps of a run have been undone: it fails so, or else was cancelled."""

    fail: Fail | None = None


Input = (
    OpEnded
    | OpFailed
    | OpParked
    | Detached
    | BecameIdle
    | HandlerReturned
    | ResponseStarted
    | ResponseInterrupted
    | ResponseTooLarge
    | HandlerRaised
    | Claimed
    | Orphaned
    | TimedOut
    | Undone
)
