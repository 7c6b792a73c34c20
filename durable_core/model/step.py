"""Ops: the steps that a handler calls, and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias

from durable_core.model._record import record
from durable_core.model.event import StoredEvent

__all__ = ["FailedAttempt", "Memo", "Op", "OpKind", "Pending", "RunningStep", "StepKind"]


class OpKind(Enum):
    """The kinds of step."""

    #: ``step.run``: a function of the user's, executed in this process.
    RUN = "run"
    #: ``step.sleep`` and ``step.sleep_until``.
    SLEEP = "sleep"
    #: ``step.wait_for_event``.
    WAIT = "wait"
    #: ``step.send_event``.
    SEND = "send"
    #: ``step.wait_for_signal``.
    SIGNAL = "signal"
    #: ``step.send_signal``.
    SEND_SIGNAL = "send-signal"
    #: ``step.wait_for_callback``.
    CALLBACK = "callback"
    #: ``step.invoke``: another endpoint, in a run of its own.
    INVOKE = "invoke"

    __hash__ = object.__hash__  # see Phase


#: The values of :class:`OpKind`, as people and programs are shown them.
StepKind: TypeAlias = Literal[
    "run", "sleep", "wait", "send", "signal", "send-signal", "callback", "invoke"
]


@record(frozen=True, slots=True, kw_only=True)
class Op:
    """One named unit of work inside a handler.

    Attributes:
        id: lower-case hexadecimal SHA-1 of ``name``; the key of its memo.
        name: the step id given by the user, with ``:1``, ``:2`` appended when it repeats.
        kind: the kind of step.
    """

    id: str
    name: str
    kind: OpKind


@record(frozen=True, slots=True)
class Memo:
    """The stored outcome of a finished op, which replay returns.

    Attributes:
        op: the op it belongs to.
        completion_no: its number in the order in which the ops of the run finished.
        ok: False if the op failed and will not be retried.
        value: JSON text of the result, or of ``{"name", "message", "data"}`` of the error.
        event_seq: the event sequence number up to which this op has seen events.
        attempts: how many times its function was called.
        ended_at: when it finished, epoch milliseconds.
        started_at: when the attempt that finished it began; of a sleep or a wait, when the handler
            asked for it. None if the engine does not know.
        arguments: the arguments of its function, as JSON text of ``{"args", "kwargs"}`` of at most
            64 KiB; "" if there were arguments that are not stored; None if there were none.
    """

    op: Op
    completion_no: int
    ok: bool
    value: str
    event_seq: int
    attempts: int
    ended_at: int
    started_at: int | None = None
    arguments: str | None = None


@record(frozen=True, slots=True, kw_only=True)
class Pending:
    """An op that the handler has called and that has not finished.

    Attributes:
        op: the op.
        failures: how often its function has failed so far.
        due_at: when it continues (retry, end of sleep, time-out of a wait), epoch milliseconds.
        error: JSON text of the last failure, or "". A RUN without one has begun an attempt, at most
            once, of whose end nothing is known.
        rule: JSON text of the wait rule of a WAIT, or "".
        event: name of the event a WAIT waits for, or "".
        match_path: dotted path of the event value that is compared, or "".
        match_key: canonical key that this value must have, or "".
        event_seq: a WAIT matches only events with a higher sequence number. Of a RUN that will be
            retried, the highest sequence number when its first attempt began.
        consumed_seqs: sequence numbers above ``event_seq`` that earlier waits of this run have
            consumed.
        address: where the outcome of this op is delivered, or "". No other op of the application
            waits at the same address; see ``Delivery``.
        started_at: when the handler asked for it; of a RUN, when its last attempt began. None if
            the engine does not know.
        matched: the event that ended the wait, once it has come. What was delivered to the address
            is an event with the sequence number 0.
    """

    op: Op
    due_at: int
    failures: int = 0
    error: str = ""
    rule: str = ""
    event: str = ""
    match_path: str = ""
    match_key: str = ""
    event_seq: int = 0
    consumed_seqs: tuple[int, ...] = ()
    address: str = ""
    started_at: int | None = None
    matched: StoredEvent | None = None


@dataclass(frozen=True, slots=True)
class RunningStep:
    """An op whose function is being called in this process.

    Attributes:
        op: the op.
        failures: how often the function has failed before.
        started_at: when it was called, epoch milliseconds.
    """

    op: Op
    failures: int
    started_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAttempt:
    """A failed call of a step's function, or of the handler itself.

    Attributes:
        op_id: the step; "" for the handler.
        number: 1 for the first attempt.
        started_at, ended_at: epoch milliseconds.
        error_name: the class of the error.
        error_message: its text, cut to 1,000 characters.
        retry_at: when the next attempt is due, epoch milliseconds; None if there is none.
        caused_by: of the handler: the names of the steps whose failure it has not handled, and of
            those that it has called because of that, for example to clean up.
    """

    op_id: str
    number: int
    started_at: int
    ended_at: int
    error_name: str
    error_message: str
    retry_at: int | None
    caused_by: tuple[str, ...] = ()
