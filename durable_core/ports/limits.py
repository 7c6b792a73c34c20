"""The flow limits of an endpoint, as a store enforces them.

A *slot* is what a run holds while a process executes it. A run that sleeps or waits holds none.
A run that is to go on and finds no slot is *queued*. So nothing is counted but runs: a process that
dies frees its slots when its runs are taken from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias

__all__ = ["NO_KEY", "BeginRefused", "CancelOutcome", "RateRule", "RefusalReason", "Slots"]

#: Why a run may not begin.
RefusalReason: TypeAlias = Literal["singleton", "rate-limited", "queue-full"]

#: The slot key of a run whose endpoint has no function for it.
NO_KEY = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """How many runs of an endpoint may be executed at a time.

    Attributes:
        endpoint_key: the endpoint.
        most: of all its runs; None for any number.
        most_of_key: of those with one slot key; None if runs have no slot keys. Queued runs of
            different slot keys take turns; those of one key go in the order in which they were due.
    """

    endpoint_key: str
    most: int | None
    most_of_key: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRule:
    """How often runs may begin; see ``machine/rate.py``.

    Attributes:
        key: runs of an endpoint with different keys are counted apart.
        limit, period: so many runs, refilled within so many milliseconds.
    """

    key: str
    limit: int
    period: int


class CancelOutcome(Enum):
    """What came of a ``Cancel``."""

    #: The run has ended, with the result of the message.
    ENDED = "ended"
    #: The run is undoable, and has the reason now. It is due at once, or has an owner still.
    UNDOING = "undoing"
    #: Nothing: the run had ended, or had been cancelled and is being undone.
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginRefused:
    """The answer to a ``Begin`` whose run may not begin; it was not stored.

    Attributes:
        reason: the limit that refuses it.
        retry_at: when the rate limit lets the next run begin, epoch milliseconds; None for others.
        run_id: the run that has the singleton key, and has not ended.
        client: who began that run; see ``Run.client``.
        replaced: what came of ``Begin.replaces``: it was cancelled only if nothing but its undoing
            is in the way of the new run.
    """

    reason: RefusalReason
    retry_at: int | None = None
    run_id: str = ""
    client: str | None = None
    replaced: CancelOutcome = CancelOutcome.NOTHING
