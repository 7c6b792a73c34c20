"""Flow limits of an endpoint: how many of its runs are executed, begin, and exist at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from durable_core.duration import Duration, is_int, parse_duration
from durable_core.http.request import Request

if TYPE_CHECKING:
    from durable_core.model.run import Run
    from durable_core.ports.limits import RateRule, Slots

__all__ = [
    "Concurrency",
    "FlowLimits",
    "LimitKey",
    "RateLimit",
    "Singleton",
    "SingletonMode",
    "resolve_limits",
]

#: A plain function of the request that names what a limit is counted by, such as a customer.
LimitKey: TypeAlias = Callable[[Request], str]
#: What becomes of a request while another run has its key.
SingletonMode: TypeAlias = Literal["reject", "attach", "cancel"]

_MODES = ("reject", "attach", "cancel")
_MOST_CHARS = 255
#: A store counts up to this number whenever a run begins.
_LARGEST = 10_000


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many runs of an endpoint are executed at a time, in all processes of the store.

    A run that sleeps, waits or is to be tried again later is not executed and does not count.

    Args:
        limit: 1 to 10,000.
        key: a plain function of the request that returns a str of 1 to 255 characters. The limit
            then holds for the runs of each key. Without it, for all runs of the endpoint.

    Raises:
        ValueError, TypeError: an argument is something else.
    """

    limit: int
    key: LimitKey | None = None

    def __post_init__(self) -> None:
        _check_number("concurrency: limit", self.limit, 1)
        _check_key("concurrency", self.key)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How often runs of an endpoint may begin: others are answered 429.

    It is a token bucket: ``limit`` runs may begin at once, and the bucket refills evenly within
    ``period``.

    Args:
        limit: 1 to 10,000.
        period: a duration of 1 second to 366 days.
        key: as for :class:`Concurrency`.

    Raises:
        ValueError, TypeError: an argument is something else.
    """

    limit: int
    period: Duration
    key: LimitKey | None = None

    def __post_init__(self) -> None:
        _check_number("rate_limit: limit", self.limit, 1)
        if parse_duration(self.period, what="rate_limit: period") < 1000:
            raise ValueError(f"rate_limit: period must be 1 second or more, not {self.period!r}")
        _check_key("rate_limit", self.key)


@dataclass(frozen=True, slots=True)
class Singleton:
    """At most one run of an endpoint, or of each key, that has not ended.

    Args:
        mode: what becomes of a request while there is such a run: ``"reject"`` answers 409,
            ``"attach"`` has the client wait for the response of that run, ``"cancel"`` cancels
            that run and begins another.
        key: as for :class:`Concurrency`.

    Raises:
        ValueError, TypeError: an argument is something else.
    """

    mode: SingletonMode = "reject"
    key: LimitKey | None = None

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise ValueError(
                f"singleton must be 'reject', 'attach' or 'cancel', or a Singleton, "
                f"not {self.mode!r}"
            )
        _check_key("singleton", self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowLimits:
    """The limits of one endpoint, resolved.

    Attributes:
        slots: of ``concurrency=``; None without it.
        slot_key: its function; None if it has no key.
        queue_limit: how many runs may wait for a slot; None for any number.
        rate: of ``rate_limit=``; None without it.
        singleton: None without it.
    """

    slots: Slots | None = None
    slot_key: LimitKey | None = None
    queue_limit: int | None = None
    rate: RateLimit | None = None
    singleton: Singleton | None = None

    @property
    def queues(self) -> bool:
        """True if a run may have to wait before its handler begins."""
        return self.slots is not None and self.queue_limit != 0

    def keyed(self, run: Run, request: Request) -> Run:
        """Return a run with what it keeps for the limits.

        Raises:
            TypeError, ValueError: a function of the user's returned no key.
            Exception: what it raised, with a note that names the option.
        """
        if self.slots is not None:
            run = replace(run, slot_key=_key_of("concurrency", self.slot_key, request))
        if self.singleton is not None:
            key = _key_of("singleton", self.singleton.key, request)
            run = replace(run, singleton_key=key, client=_client_of(request))
        return run

    def rate_rule(self, request: Request) -> RateRule | None:
        """Return the rate limit for this request. Raises as :meth:`keyed`."""
        if self.rate is None:
            return None
        from durable_core.ports.limits import RateRule

        return RateRule(
            key=_key_of("rate_limit", self.rate.key, request),
            limit=self.rate.limit,
            period=parse_duration(self.rate.period),
        )


def resolve_limits(
    endpoint_key: str,
    *,
    concurrency: int | Concurrency | Sequence[Concurrency] | None,
    queue_limit: int | None,
    rate_limit: RateLimit | None,
    singleton: SingletonMode | Singleton | None,
) -> FlowLimits | None:
    """Return the limits of an endpoint; None without any.

    Args:
        endpoint_key: the endpoint; "" where only the options are to be checked.
        concurrency, queue_limit, rate_limit, singleton: as a user has given them.

    Raises:
        ValueError, TypeError: one of them has another form; for an endpoint, ``queue_limit``
            without ``concurrency``.
    """
    if rate_limit is not None and not isinstance(rate_limit, RateLimit):
        raise TypeError(f"rate_limit must be a RateLimit, not {rate_limit!r}")
    if singleton is not None and not isinstance(singleton, Singleton):
        singleton = Singleton(singleton)
    slots, slot_key = _resolve_slots(endpoint_key, concurrency)
    if queue_limit is not None:
        _check_number("queue_limit", queue_limit, 0)
        if slots is None and endpoint_key:
            raise ValueError("queue_limit= needs concurrency=, past which runs are queued")
    if slots is None and rate_limit is None and singleton is None:
        return None
    return FlowLimits(
        slots=slots,
        slot_key=slot_key,
        queue_limit=queue_limit,
        rate=rate_limit,
        singleton=singleton,
    )


def _resolve_slots(
    endpoint_key: str, concurrency: int | Concurrency | Sequence[Concurrency] | None
) -> tuple[Slots | None, LimitKey | None]:
    if concurrency is None:
        return None, None
    if isinstance(concurrency, int):
        concurrency = Concurrency(concurrency)
    given = (concurrency,) if isinstance(concurrency, Concurrency) else concurrency
    if not isinstance(given, (tuple, list)) or not all(isinstance(e, Concurrency) for e in given):
        raise TypeError(
            f"concurrency must be a number, a Concurrency, or a tuple of these, not {concurrency!r}"
        )
    from durable_core.ports.limits import Slots

    most = [each.limit for each in given if each.key is None]
    keyed = [each for each in given if each.key is not None]
    if not given or len(most) > 1 or len(keyed) > 1:
        raise ValueError("concurrency must have at most one limit with a key and one without")
    slots = Slots(
        endpoint_key=endpoint_key,
        most=most[0] if most else None,
        most_of_key=keyed[0].limit if keyed else None,
    )
    return slots, keyed[0].key if keyed else None


def _check_number(what: str, value: object, least: int) -> None:
    if not is_int(value) or not least <= value <= _LARGEST:
        raise ValueError(f"{what} must be an int from {least} to {_LARGEST:,}, not {value!r}")


def _check_key(option: str, key: object) -> None:
    if key is not None and not callable(key):
        raise TypeError(f"{option}: key must be a function of the request, not {key!r}")


def _key_of(option: str, function: LimitKey | None, request: Request) -> str:
    if function is None:
        return ""
    try:
        key: Any = function(request)
    except Exception as error:
        error.add_note(f"raised by the key of {option}=")
        raise
    if not isinstance(key, str):
        raise TypeError(f"the key of {option}= must return a str, not {type(key).__name__}")
    if not 1 <= len(key) <= _MOST_CHARS:
        raise ValueError(
            f"the key of {option}= must return 1 to {_MOST_CHARS} characters, not {len(key)}"
        )
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(
            f"the key of {option}= must return a text without lone surrogates"
        ) from None
    return key


def _client_of(request: Request) -> str:
    """Return a digest of the principal; without one, of the request's credentials."""
    from hashlib import sha256

    found = sha256()
    if request.principal is not None:
        found.update(b"principal\0" + request.principal.encode("utf-8", "surrogatepass"))
    else:
        found.update(request.headers.identity())
    return found.hexdigest()
