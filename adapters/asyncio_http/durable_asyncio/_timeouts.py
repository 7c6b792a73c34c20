"""How long the server waits for a client."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

__all__ = ["Timeouts", "timeouts_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds that a client may take; each a finite number above 0.

    Attributes:
        head: for the head of a request, from its first byte to its last, and from the beginning
            of a connection to its first byte. An unfinished request is answered with 408.
        body: for the body of a request, and a second more for each 1,000 bytes of it that have
            come. An unfinished request is answered with 408.
        keep_alive: from the end of a response to the first byte of the next request. The
            connection is closed then.
        write: for taking in a further part of a response, of whatever size. The connection is cut
            off when the client has taken nothing for so long, at the latest for twice as long.
            The system reports what a client takes in parts of tens of KiB, and over TLS asyncio
            does so in parts of about 128 KiB: a client that takes less in this time is cut off.

    Raises:
        ValueError: another value.
    """

    head: float = 10.0
    body: float = 30.0
    keep_alive: float = 75.0
    write: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not 0 < value < math.inf:
                raise ValueError(
                    f"Timeouts.{field.name} must be a number of seconds above 0, not {value!r}"
                )


def timeouts_of(given: Timeouts | None) -> Timeouts:
    """Return the time-outs of a server; the defaults if none were given.

    Raises:
        TypeError: they are of another type.
    """
    if given is not None and not isinstance(given, Timeouts):
        raise TypeError(f"timeouts= must be Timeouts(...), not {given!r}")
    return given or Timeouts()
