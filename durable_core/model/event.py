"""Events and signals: messages from outside code to waiting runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from durable_core.duration import is_int

__all__ = ["Event", "Signal", "SignalWait", "StoredEvent", "TypedEvent", "check_text"]

DataT_co = TypeVar("DataT_co", covariant=True)

_LONGEST = 255
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The last moment that Python has a time for, epoch milliseconds.
_LATEST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, as its sender describes it.

    Args:
        name: what happened, such as ``"trip/approved"``; 1 to 255 characters.
        data: a JSON object. Its contents are checked where the event enters the library.
        id: 1 to 255 characters that identify the event. A second event with the same id within
            24 hours is not stored. None makes every event a new one.
        ts: when it happened, epoch milliseconds, 0 or more; None for "when it is received".

    Attributes:
        time: ``ts`` as a ``datetime`` in UTC; None without one.

    Raises:
        TypeError: an argument of another type.
        ValueError: an argument that is out of range.
    """

    name: str
    data: Mapping[str, object] = field(default_factory=dict)
    id: str | None = None
    ts: int | None = None

    @property
    def time(self) -> datetime | None:
        """When it happened, in UTC; None for an event that has not been sent."""
        return _time(self.ts)

    def __post_init__(self) -> None:
        check_text("event name", self.name)
        if not isinstance(self.data, Mapping):
            raise TypeError(f"event data must be a JSON object, not {type(self.data).__name__}")
        if self.id is not None:
            check_text("event id", self.id)
        if self.ts is not None:
            _check_time(self.ts)


@dataclass(frozen=True, slots=True)
class TypedEvent(Generic[DataT_co]):
    """An event whose data is of a type: what ``step.wait_for_event(..., data=Model)`` returns.

    Attributes:
        name: what happened.
        data: the data, as an object of the type.
        id: identifies the event.
        ts: when it happened, epoch milliseconds.
        time: ``ts`` as a ``datetime`` in UTC.
    """

    name: str
    data: DataT_co
    id: str | None = None
    ts: int | None = None

    @property
    def time(self) -> datetime | None:
        """When it happened, in UTC; None for an event that has not been sent."""
        return _time(self.ts)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event as the store keeps it.

    Attributes:
        seq: its number in the order in which events were stored; 1 or more. 0 if it was delivered
            to one wait, and not stored for others.
        event: the event as it was sent.
        received_at: epoch milliseconds.
    """

    seq: int
    event: Event
    received_at: int


def _time(ts: int | None) -> datetime | None:
    return None if ts is None else _EPOCH + timedelta(milliseconds=ts)


def check_text(what: str, value: object) -> None:
    """Check a name or an id; ``what`` is how errors call it.

    Raises:
        TypeError: it is no str.
        ValueError: it has not 1 to 255 characters, or has lone surrogates, which no store takes.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    if not 1 <= len(value) <= _LONGEST:
        raise ValueError(f"{what} must have 1 to {_LONGEST} characters, not {len(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{what} must not contain lone surrogates") from None


def _check_time(value: object) -> None:
    if not is_int(value):
        raise TypeError(f"event ts must be an int or None, not {type(value).__name__}")
    if not 0 <= value <= _LATEST:
        raise ValueError(f"event ts must be epoch milliseconds up to the year 9999, not {value}")


# --- signals --------------------------------------------------------------------------------------
#
# Messages to the one run that waits for a name.


@dataclass(frozen=True, slots=True)
class Signal(Generic[DataT_co]):
    """What ended the wait of a run for a signal.

    Args:
        name: of the signal; 1 to 255 characters.
        data: what its sender sent with it, as JSON values; or an object of a type.

    Raises:
        TypeError: the name is no str.
        ValueError: it is empty, too long, or has lone surrogates.
    """

    name: str
    data: DataT_co

    def __post_init__(self) -> None:
        check_text("signal name", self.name)


@dataclass(frozen=True, slots=True)
class SignalWait:
    """What ``step.wait_for_signal`` waits for.

    Attributes:
        name: of the signal.
        timeout: milliseconds.
        replaces: take the place of a run that waits for the name; else that is an error.
    """

    name: str
    timeout: int
    replaces: bool = False
