"""The flow limits of an endpoint, as a store enforces them.

A *slot* is what a run holds while a process executes it. A run that sleeps or waits holds none.
A run that is to go on and finds no slot is *queued*. So nothing is counted but runs: a process that
dies frees its slots when its runs are taken from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["NO_KEY", "BeginRefused", "RateRule", "RefusalReason", "Slots"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginRefused:
    """The answer to a ``Begin`` whose run may not begin; nothing was stored.

    Attributes:
        reason: the limit that refuses it.
        retry_at: when the rate limit lets the next run begin, epoch milliseconds; None for others.
        run_id: the run that has the singleton key, and has not ended.
        client: who began that run; see ``Run.client``.
    """

    reason: RefusalReason
    retry_at: int | None = None
    run_id: str = ""
    client: str | None = None
