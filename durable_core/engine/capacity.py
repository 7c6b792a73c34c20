"""How many due runs a process claims: for the threads and tasks that are free, and a few ahead."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator

from durable_core.flow.scope import HandlerKind
from durable_core.runners.thread import ThreadRun

__all__ = ["Capacity"]

#: As many runs may wait for a thread as have ended in so long, seconds: they begin about as soon.
_AHEAD = 0.05
#: The maximum of these for each thread.
_MOST_AHEAD = 2
#: Tasks are claimed for when there is room for so many, or for a quarter of them: the others of
#: them have the event loop meanwhile.
_SEVERAL = 20


class Capacity:
    """The claimed runs that have not ended, and how many more there may be.

    Runs with ``def`` handlers are claimed ahead: they wait in this process for a thread, which then
    need not wait for a claim. Where handlers take long, none are. May be used by several threads.

    Args:
        threads: how many ``def`` handlers may be replayed at a time.
        tasks: how many ``async def`` handlers may be.

    Attributes:
        busy: how many claimed runs of each kind of handler have not ended.
    """

    def __init__(self, threads: int, tasks: int) -> None:
        self.busy = {HandlerKind.DEF: 0, HandlerKind.ASYNC_DEF: 0}
        self._most = {HandlerKind.DEF: threads, HandlerKind.ASYNC_DEF: tasks}
        self._several = min(_SEVERAL, -(-tasks // 4))
        self._lock = threading.Lock()
        #: When the last runs of ``def`` handlers ended, by the monotonic clock, seconds.
        self._ended: deque[float] = deque(maxlen=_MOST_AHEAD * threads)
        #: The runs that wait for a thread, in their order, and since when.
        self._waiting: dict[ThreadRun, float] = {}

    def replaying(self, kind: HandlerKind) -> int:
        """Return how many such handlers are replayed now."""
        return min(self.busy[kind], self._most[kind])

    def free(self, kind: HandlerKind) -> int:
        """Return how many more such handlers may be replayed now."""
        return max(0, self._most[kind] - self.busy[kind])

    def room(self, kind: HandlerKind) -> int:
        """Return how many more runs of such handlers may be claimed now."""
        return max(0, self._most[kind] - self.busy[kind] + self._ahead(kind))

    def is_worth_a_claim(self, kind: HandlerKind) -> bool:
        """Return whether there is room for so many runs that claiming them costs little of each."""
        if kind is HandlerKind.ASYNC_DEF:
            return self.free(kind) >= self._several
        ahead = self._ahead(kind)
        return self._most[kind] - self.busy[kind] + ahead >= max(1, ahead // 2)

    def _ahead(self, kind: HandlerKind) -> int:
        """Return how many runs may wait for a thread."""
        if kind is HandlerKind.ASYNC_DEF:
            return 0
        since = time.monotonic() - _AHEAD
        return sum(ended > since for ended in tuple(self._ended))

    def take(self, kind: HandlerKind) -> None:
        """Count a claimed run."""
        with self._lock:
            self.busy[kind] += 1

    def give_back(self, kind: HandlerKind) -> None:
        """Count a claimed run no more."""
        with self._lock:
            self.busy[kind] -= 1

    def add_waiting(self, run: ThreadRun) -> None:
        """Note a run that waits for a thread."""
        self._waiting[run] = time.monotonic()

    def begin(self, run: ThreadRun) -> bool:
        """Note that a run has a thread; False if it was taken back before."""
        return self._waiting.pop(run, None) is not None

    @property
    def has_waiting(self) -> bool:
        """Whether a run waits for a thread."""
        return bool(self._waiting)

    def thread_ended(self) -> None:
        """Note that a ``def`` handler has ended, and has made room for another one."""
        self._ended.append(time.monotonic())

    def take_back(self, older_than: float) -> Iterator[ThreadRun]:
        """Yield runs that have waited for longer than so many seconds; they do not begin any more.

        It is called in the thread that adds them, or when none does any more.
        """
        since = time.monotonic() - older_than
        for run, added in self._waiting.copy().items():
            if added > since:
                return
            if self.begin(run):
                yield run
