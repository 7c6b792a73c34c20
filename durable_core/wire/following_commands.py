"""What the client of a run's stream is told to do by its machine (``following.py``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from durable_core.codec.stream_events import Chunk, Commit, Metadata, Rollback
from durable_core.http.headers import Headers
from durable_core.model._record import record

__all__ = [
    "Close",
    "Command",
    "Commands",
    "Deliver",
    "DeliveredEvent",
    "Fail",
    "Finish",
    "Open",
    "Read",
]


#: What a caller is told of; the others are for the client itself.
DeliveredEvent: TypeAlias = Metadata | Chunk | Commit | Rollback


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Send a request after a delay, and tell ``opened`` or ``failed`` by its number."""

    number: int
    method: str
    url: str
    headers: Headers
    sends_body: bool
    delay_ms: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """Read the body of this response now, and tell ``received``, and ``ended`` or ``failed``."""

    number: int


@dataclass(frozen=True, slots=True)
class Close:
    """Close this response, or give up opening it; nothing is to be told of it any more."""

    number: int


@record(frozen=True, slots=True)
class Deliver:
    """Give this event to the callback for its type."""

    event: DeliveredEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Return this response; nothing more comes."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Fail:
    """Raise this error; nothing more comes."""

    error: Exception


Command: TypeAlias = Open | Read | Close | Deliver | Finish | Fail


Commands: TypeAlias = tuple[Command, ...]
