"""The life of a run, as one table. A phase changes here and nowhere else.

A run is born in SYNC, in memory, with the client attached. What cannot be done while the client
waits moves it to ASYNC; a live handler with nothing left to do is put away, SUSPENDED, and claimed
again when it is due. What is not in the table cannot happen, and trying it is an
:class:`IllegalTransition` that changes nothing.

``docs/reference/run-states.md`` is generated from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from durable_core.model.run import Phase, Run

__all__ = ["TRANSITIONS", "IllegalTransition", "Trigger", "next_phase"]


class Trigger(Enum):
    """What happened, as far as the table is concerned."""

    #: An op finished, well or for good; the handler goes on.
    CHECKPOINT = "checkpoint"
    #: An op cannot finish now: a retry, a sleep, a wait.
    PARK = "park"
    #: The client is gone, or the process stops.
    DETACH = "detach"
    #: The live handler has nothing left to do until something is due.
    QUIET = "quiet"
    #: The handler failed and will be tried again.
    RETRY = "retry"
    #: The first byte of a streamed body is about to be sent.
    STREAM = "stream"
    #: The response is complete.
    FINISH = "finish"
    #: The run failed for good.
    FAIL = "fail"
    #: A worker took the run: it was due, or its owner had died.
    CLAIM = "claim"
    #: Somebody cancelled it.
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
    (Phase.SYNC, Trigger.CLAIM): Phase.ASYNC,
    (Phase.SYNC, Trigger.CANCEL): Phase.CANCELLED,
    (Phase.ASYNC, Trigger.CHECKPOINT): Phase.ASYNC,
    (Phase.ASYNC, Trigger.PARK): Phase.ASYNC,
    (Phase.ASYNC, Trigger.DETACH): Phase.ASYNC,
    (Phase.ASYNC, Trigger.QUIET): Phase.SUSPENDED,
    (Phase.ASYNC, Trigger.RETRY): Phase.SUSPENDED,
    (Phase.ASYNC, Trigger.FINISH): Phase.COMPLETED,
    (Phase.ASYNC, Trigger.FAIL): Phase.FAILED,
    (Phase.ASYNC, Trigger.CLAIM): Phase.ASYNC,
    (Phase.ASYNC, Trigger.CANCEL): Phase.CANCELLED,
    (Phase.SUSPENDED, Trigger.CLAIM): Phase.ASYNC,
    (Phase.SUSPENDED, Trigger.FAIL): Phase.FAILED,
    (Phase.SUSPENDED, Trigger.CANCEL): Phase.CANCELLED,
    (Phase.RESPONDING, Trigger.FINISH): Phase.COMPLETED,
    (Phase.RESPONDING, Trigger.FAIL): Phase.FAILED,
    (Phase.RESPONDING, Trigger.CLAIM): Phase.FAILED,
    (Phase.RESPONDING, Trigger.CANCEL): Phase.CANCELLED,
}


class IllegalTransition(AssertionError):  # noqa: N818 - a bug in this library, not a user's error
    """Something happened to a run that cannot happen in its phase."""


def next_phase(run: Run, cue: Trigger) -> Phase:
    """Return the phase that follows.

    Raises:
        IllegalTransition: naming the cue, the phase and the run.
    """
    try:
        return TRANSITIONS[run.phase, cue]
    except KeyError:
        raise IllegalTransition(
            f"{cue.value!r} cannot happen to run {run.id} in phase {run.phase.value!r}"
        ) from None
