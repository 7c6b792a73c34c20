"""How a thread learns of the commits of other processes where it has to look for them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from durable_core.ports import Wakeups

__all__ = ["PolledWakeups"]

#: Seconds from one look to the next: while somebody waits, and otherwise.
_EAGER = 0.02
_IDLE = 0.1


class PolledWakeups(Wakeups):
    """Looks at a value that changes with each commit of another process.

    Args:
        counter: returns that value, which is not None. Cheap.
    """

    def __init__(self, counter: Callable[[], object]) -> None:
        self._counter = counter
        self._seen: object = None
        self._notified = threading.Event()

    def changed(self) -> bool:
        last, self._seen = self._seen, self._counter()
        return last != self._seen

    def wait(self, timeout: float, *, eager: bool) -> None:
        self._notified.wait(min(timeout, _EAGER if eager else _IDLE))
        self._notified.clear()

    def notify(self) -> None:
        self._notified.set()
