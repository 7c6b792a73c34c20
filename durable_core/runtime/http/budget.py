"""How long the next operation of an exchange may take."""

from __future__ import annotations

import time

from durable_core.errors import RequestTimeoutError
from durable_core.model.outgoing import Timeouts

__all__ = ["Budget"]


class Budget:
    """The time that is left of an exchange; it starts when it is made."""

    __slots__ = ("_connect_ends", "_ends", "_timeouts")

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._ends = None if timeouts.whole is None else time.monotonic() + timeouts.whole
        self._connect_ends: float | None = None

    def connecting(self, addresses: int = 1) -> float | None:
        """Return the seconds to connect in, which pass from the first time that this is asked.

        Args:
            addresses: how many of the server are left to be tried. Each gets the same share, for
                one that keeps silent must not take all the time there is.

        Raises:
            RequestTimeoutError: none are left.
        """
        limit = self._timeouts.connect
        if limit is not None:
            now = time.monotonic()
            if self._connect_ends is None:
                self._connect_ends = now + limit
            limit = self._connect_ends - now
            if limit <= 0:
                raise self.connect_error()
        left = self._within(limit)
        return None if left is None else left / addresses

    def waiting(self) -> float | None:
        """Return the seconds until the next byte must be sent or come; raises likewise."""
        return self._within(self._timeouts.idle)

    def connect_error(self) -> RequestTimeoutError:
        """Return the error of a connection that took too long."""
        return self._whole_error() or RequestTimeoutError(
            f"no connection to the server within {self._timeouts.connect:g} s (Timeouts.connect)"
        )

    def idle_error(self) -> RequestTimeoutError:
        """Return the error of a connection on which nothing moved for too long."""
        return self._whole_error() or RequestTimeoutError(
            f"nothing moved on the connection for {self._timeouts.idle:g} s (Timeouts.idle)"
        )

    def _within(self, limit: float | None) -> float | None:
        if self._ends is None:
            return limit
        left = self._ends - time.monotonic()
        if left <= 0:
            raise self._too_long()
        return left if limit is None else min(left, limit)

    def _whole_error(self) -> RequestTimeoutError | None:
        """Return the error of the whole exchange, if it is that which has run out."""
        if self._ends is None or time.monotonic() < self._ends:
            return None
        return self._too_long()

    def _too_long(self) -> RequestTimeoutError:
        return RequestTimeoutError(
            f"the exchange has taken over {self._timeouts.whole:g} s (Timeouts.whole)"
        )
