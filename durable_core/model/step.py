"""What a handler asks for: ops, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from durable_core.model.event import StoredEvent

__all__ = ["Memo", "Op", "OpKind", "Pending"]


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

    __hash__ = object.__hash__  # see Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One named unit of work inside a handler.

    Attributes:
        id: lower-case hexadecimal SHA-1 of ``name``; the key of its memo.
        name: the step id given by the user, with ``:1``, ``:2`` appended when it repeats.
        kind: what it does.
    """

    id: str
    name: str
    kind: OpKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Memo:
    """The stored outcome of a finished op; replay answers from it.

    Attributes:
        op: the op it belongs to.
        number: rises with each op of the run that finishes.
        ok: False if the op failed for good.
        value: JSON text of the result, or of ``{"name", "message", "data"}`` of the error.
        mark: the event sequence number up to which this op has seen events.
        attempts: how many times its function was called.
        ended_at: when it finished, epoch milliseconds.
    """

    op: Op
    completion_no: int
    ok: bool
    value: str
    event_seq: int
    attempts: int
    ended_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """An op that was asked for and has not finished.

    Attributes:
        op: the op.
        failures: how often its function has failed so far.
        due_at: when to go on (retry, end of sleep, time-out of a wait), epoch milliseconds.
        error: JSON text of the last failure, or "".
        rule: JSON text of the wait rule of a WAIT, or "".
        event: name of the event a WAIT waits for, or "".
        match_path: dotted path of the event value that is compared, or "".
        match_key: canonical key that this value must have, or "".
        mark: a WAIT matches only events with a higher sequence number; what a RUN that will be
            tried again had seen when it was first tried.
        seen: sequence numbers above ``mark`` that earlier waits of this run have taken.
        matched: the event that ended the wait, once it has come.
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
    matched: StoredEvent | None = None
