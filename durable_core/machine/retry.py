"""The number of retries, and the delays between them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from durable_core.errors import RetryAfterError

__all__ = ["MAX_RETRIES", "RetryPolicy", "delay_ms", "retry_after_delay_ms", "validate_retries"]

#: The maximum number of retries; the first attempt is not a retry.
MAX_RETRIES = 20

_DAY_MS = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential back-off with jitter.

    Args:
        base_ms: the delay before the first retry, before jitter; 0 or more milliseconds.
        factor: the ratio of each delay to the previous one; 1 or more.
        max_ms: the maximum delay; from ``base_ms`` to 366 days.
        jitter: the share of each delay that is random, 0 (none) to 1 (all of it).

    Raises:
        ValueError: an argument out of range.
        TypeError: an argument that is not a number.
    """

    base_ms: int = 1_000
    factor: float = 2.0
    max_ms: int = 3_600_000
    jitter: float = 0.5

    def __post_init__(self) -> None:
        for name in ("base_ms", "max_ms"):
            _check_type(name, getattr(self, name), int)
        for name in ("factor", "jitter"):
            _check_type(name, getattr(self, name), (int, float))
        if not 0 <= self.base_ms <= self.max_ms <= 366 * _DAY_MS:
            raise ValueError("it must hold that 0 <= base_ms <= max_ms <= 366 days")
        if not 1 <= self.factor < float("inf"):
            raise ValueError(f"factor must be 1 or more and finite, not {self.factor!r}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be 0 to 1, not {self.jitter!r}")


def delay_ms(policy: RetryPolicy, failures: int, u: float) -> int:
    """Return the delay before the next attempt, in milliseconds.

    It is ``min(base_ms * factor**(failures - 1), max_ms)``, scaled to between ``1 - jitter`` and 1.

    Args:
        policy: the schedule.
        failures: the number of failed attempts so far, 1 or more.
        u: a random number, 0 <= u < 1.
    """
    if failures < 1:
        raise ValueError(f"failures must be 1 or more, not {failures}")
    try:
        longest = min(policy.base_ms * policy.factor ** (failures - 1), policy.max_ms)
    except OverflowError:
        longest = policy.max_ms if policy.base_ms else 0
    return round(longest * (1 - policy.jitter * (1 - u)))


def validate_retries(value: object) -> int:
    """Return the number of retries; ``ValueError`` unless it is an ``int`` from 0 to 20."""
    if type(value) is not int or not 0 <= value <= MAX_RETRIES:
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


def _check_type(name: str, value: object, kinds: type | tuple[type, ...]) -> None:
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
