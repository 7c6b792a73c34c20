"""What must be done after something happened to a run: the answers of ``machine/advance.py``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from durable_core.model.ops import Memo, Pending

__all__ = [
    "Command",
    "Fail",
    "Finish",
    "Handoff",
    "HandoffReason",
    "PutAway",
    "SaveMemo",
    "SavePending",
]


class HandoffReason(Enum):
    """Why a client is not answered on its own connection."""

    #: A step failed and will be tried again.
    STEP_RETRY = "step-retry"
    #: The handler sleeps.
    SLEEP = "sleep"
    #: The handler waits for an event.
    WAIT = "wait"
    #: The handler itself failed and will be tried again.
    HANDLER_RETRY = "handler-retry"
    #: The client went away.
    DISCONNECT = "disconnect"
    #: The process was told to stop.
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class SaveMemo:
    """Make the outcome of a finished op durable."""

    memo: Memo


@dataclass(frozen=True, slots=True)
class SavePending:
    """Make an unfinished op durable."""

    pending: Pending


@dataclass(frozen=True, slots=True)
class Handoff:
    """Answer the attached client with the way to the result."""

    reason: HandoffReason


@dataclass(frozen=True, slots=True)
class PutAway:
    """Give the run up until it is due (epoch milliseconds)."""

    due_at: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Store the handler's response as the run's result and send it."""


@dataclass(frozen=True, slots=True)
class Fail:
    """Store a problem document as the run's result and send it.

    Attributes:
        kind: the last part of the problem's type, such as ``"run-failed"``.
        name, message: the error that ended the run.
        reason: what the error in the step said, if that is what ended it; else "".
    """

    kind: str
    name: str
    message: str
    reason: str = ""


Command = SaveMemo | SavePending | Handoff | PutAway | Finish | Fail
