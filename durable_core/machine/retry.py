"""Retries: how many there are and when, and which steps a retried run executes again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from durable_core.duration import Duration, is_int, is_number, parse_duration
from durable_core.errors import RetryAfterError

if TYPE_CHECKING:
    from durable_core.ports import RunRecord

__all__ = [
    "MAX_RETRIES",
    "RetryPolicy",
    "delay_ms",
    "retry_after_delay_ms",
    "steps_to_retry",
    "validate_retries",
]


#: The maximum number of retries; the first attempt is not a retry.
MAX_RETRIES = 20

_DAY_MS = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, init=False)
class RetryPolicy:
    """Exponential back-off with jitter.

    Args:
        base: the delay before the first retry, before jitter; a duration.
        factor: the ratio of each delay to the previous one; 1 or more.
        max: the maximum delay; a duration from ``base`` to 366 days.
        jitter: the share of each delay that is random, 0 (none) to 1 (all of it).

    Attributes:
        base, max: in seconds.

    Raises:
        ValueError: an argument out of range.
        TypeError: a factor or jitter that is not a number.
    """

    base: float
    factor: float
    max: float
    jitter: float

    def __init__(
        self,
        *,
        base: Duration = "1s",
        factor: float = 2.0,
        max: Duration = "1h",
        jitter: float = 0.5,
    ) -> None:
        base_ms, max_ms = parse_duration(base, what="base"), parse_duration(max, what="max")
        if base_ms > max_ms:
            raise ValueError(f"base must not be longer than max; {base!r} is longer than {max!r}")
        _check_number("factor", factor)
        _check_number("jitter", jitter)
        if not 1 <= factor < float("inf"):
            raise ValueError(f"factor must be 1 or more and finite, not {factor!r}")
        if not 0 <= jitter <= 1:
            raise ValueError(f"jitter must be 0 to 1, not {jitter!r}")
        checked = {"base": base_ms / 1000, "factor": factor, "max": max_ms / 1000, "jitter": jitter}
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def delay_ms(policy: RetryPolicy, failures: int, u: float) -> int:
    """Return the delay before the next attempt, in milliseconds.

    It is ``min(base * factor**(failures - 1), max)``, scaled to between ``1 - jitter`` and 1.

    Args:
        policy: the schedule.
        failures: the number of failed attempts so far, 1 or more.
        u: a random number, 0 <= u < 1.
    """
    if failures < 1:
        raise ValueError(f"failures must be 1 or more, not {failures}")
    try:
        longest = min(policy.base * policy.factor ** (failures - 1), policy.max)
    except OverflowError:
        longest = policy.max if policy.base else 0.0
    return round(longest * 1_000 * (1 - policy.jitter * (1 - u)))


def validate_retries(value: object) -> int:
    """Return the number of retries; ``ValueError`` unless it is an ``int`` from 0 to 20."""
    if not is_int(value) or not 0 <= value <= MAX_RETRIES:
        raise ValueError(f"retries must be an int from 0 to {MAX_RETRIES}, not {value!r:.60}")
    return value


def retry_after_delay_ms(error: RetryAfterError, now: int) -> int:
    """Return the delay that the error sets, clamped to 0 to 24 hours, in milliseconds.

    Args:
        error: the error that user code raised.
        now: epoch milliseconds.
    """
    if isinstance(error.retry_after, datetime):
        asked: float = (error.retry_after - _EPOCH) / timedelta(milliseconds=1) - now
    else:
        asked = min(error.retry_after, 86_400) * 1_000
    return round(min(max(asked, 0), _DAY_MS))


def _check_number(name: str, value: object) -> None:
    if not is_number(value):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")


def steps_to_retry(record: RunRecord) -> tuple[str, ...]:
    """Return the ids of the ops that a retried run executes again.

    These are the ops whose failure the handler has failed by, and what it did because of that; and
    the failed ones after which nothing was begun, as other branches that have failed at the same
    time. The handler has gone on after any other failure: what it did then would not fit another
    outcome of that op.

    Args:
        record: a failed run, with its steps and attempts.
    """
    handlers = [each for each in record.failed_attempts if not each.op_id]
    last = max(handlers, key=lambda each: (each.ended_at, each.number), default=None)
    causes = () if last is None else last.caused_by
    begun = [
        (memo.op.id, memo.ended_at if memo.started_at is None else memo.started_at)
        for memo in record.memos
    ]
    return tuple(
        memo.op.id
        for memo in record.memos
        if memo.op.name in causes
        or not (memo.ok or any(at >= memo.ended_at for id, at in begun if id != memo.op.id))
    )
