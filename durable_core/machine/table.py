"""The life of a run, as one table.

What a handler does changes the phase only by this table. What happens without a handler is written
by the store, as the table says: a run is queued, or cancelled, its endpoint is gone, or its record
cannot be read.

A run begins in SYNC, in memory, with the client attached. When a step cannot finish while the
client waits, the run moves to ASYNC. When its handler has nothing left to do, the run is SUSPENDED;
it is claimed again when it is due. A transition that is not in the table raises
:class:`IllegalTransition` and changes nothing.

``docs/reference/run-states.md`` is generated from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from durable_core.model.run import Phase, Run

__all__ = ["TRANSITIONS", "IllegalTransition", "Trigger", "next_phase"]


class Trigger(Enum):
    """The events that the table knows."""

    #: An op succeeded, or failed without a retry; the handler continues.
    CHECKPOINT = "checkpoint"
    #: An op cannot finish now: a retry, a sleep, a wait.
    PARK = "park"
    #: The client has disconnected, or the process stops.
    DETACH = "detach"
    #: The live handler has nothing left to do until something is due.
    QUIET = "quiet"
    #: The handler failed and will be retried.
    RETRY = "retry"
    #: The first byte of a streamed body is about to be sent.
    STREAM = "stream"
    #: The response is complete.
    FINISH = "finish"
    #: The run failed, and no retry is left.
    FAIL = "fail"
    #: The run is due, and its endpoint has no slot for it.
    QUEUE = "queue"
    #: A worker took the run: it was due, or its owner had died.
    CLAIM = "claim"
    #: The run was cancelled.
    CANCEL = "cancel"

    __hash__ = object.__hash__  # see Phase


TRANSITIONS: Mapping[tuple[Phase, Trigger], Phase] = {
    (Phase.SYNC, Trigger.CHECKPOINT): Phase.SYNC,
    (Phase.SYNC, Trigger.PARK): Phase.ASYNC,
    (Phase.SYNC, Trigger.DETACH): Phase.ASYNC,
    (Phase.SYNC, Trigger.RETRY): Phase.SUSPENDED,
    (Phase.SYNC, Trigger.STREAM): Phase.RESPONDING,
    (Phase.SYNC, Trigger.FINISH): Phase.COMPLETED,
    (Phase.SYNC, Trigger.FAIL): Phase.FAILED,
    (Phase.SYNC, Trigger.QUEUE): Phase.QUEUED,
    (Phase.SYNC, Trigger.CLAIM): Phase.ASYNC,
    (Phase.SYNC, Trigger.CANCEL): Phase.CANCELLED,
    (Phase.ASYNC, Trigger.CHECKPOINT): Phase.ASYNC,
    (Phase.ASYNC, Trigger.PARK): Phase.ASYNC,
    (Phase.ASYNC, Trigger.DETACH): Phase.ASYNC,
    (Phase.ASYNC, Trigger.QUIET): Phase.SUSPENDED,
    (Phase.ASYNC, Trigger.RETRY): Phase.SUSPENDED,
    (Phase.ASYNC, Trigger.FINISH): Phase.COMPLETED,
    (Phase.ASYNC, Trigger.FAIL): Phase.FAILED,
    (Phase.ASYNC, Trigger.QUEUE): Phase.QUEUED,
    (Phase.ASYNC, Trigger.CLAIM): Phase.ASYNC,
    (Phase.ASYNC, Trigger.CANCEL): Phase.CANCELLED,
    (Phase.SUSPENDED, Trigger.QUEUE): Phase.QUEUED,
    (Phase.SUSPENDED, Trigger.CLAIM): Phase.ASYNC,
    (Phase.SUSPENDED, Trigger.FAIL): Phase.FAILED,
    (Phase.SUSPENDED, Trigger.CANCEL): Phase.CANCELLED,
    (Phase.QUEUED, Trigger.CLAIM): Phase.ASYNC,
    (Phase.QUEUED, Trigger.FAIL): Phase.FAILED,
    (Phase.QUEUED, Trigger.CANCEL): Phase.CANCELLED,
    (Phase.RESPONDING, Trigger.FINISH): Phase.COMPLETED,
    (Phase.RESPONDING, Trigger.FAIL): Phase.FAILED,
    (Phase.RESPONDING, Trigger.CLAIM): Phase.FAILED,
    (Phase.RESPONDING, Trigger.CANCEL): Phase.CANCELLED,
}


class IllegalTransition(AssertionError):  # noqa: N818 - a bug in this library, not a user's error
    """An event that is not possible in the phase of the run."""


def next_phase(run: Run, trigger: Trigger) -> Phase:
    """Return the next phase.

    Raises:
        IllegalTransition: the table has none; the message names trigger, phase and run.
    """
    try:
        return TRANSITIONS[run.phase, trigger]
    except KeyError:
        raise IllegalTransition(
            f"{trigger.value!r} cannot happen to run {run.id} in phase {run.phase.value!r}"
        ) from None
