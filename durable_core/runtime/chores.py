"""What is to be done every so many seconds, by whoever comes round often enough."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Chore"]


class Chore:
    """See the module.

    Args:
        every: seconds from one time to the next; the first time is at once.
        do: what is done.
    """

    def __init__(self, every: float, do: Callable[[], object]) -> None:
        self._every = every
        self._do = do
        self._due = 0.0

    def do_if_due(self) -> None:
        """Do it if it is time."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._every
            self._do()

    def hasten(self) -> None:
        """Do it again in a moment."""
        self._due = time.monotonic() + 0.1
