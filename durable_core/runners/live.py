"""The runs whose handlers are live in this process, and the clients that wait for a run's end."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from durable_core.flow.execution import Execution
from durable_core.model.decision import HandoffReason
from durable_core.model.event import StoredEvent

__all__ = ["ActiveRun", "ActiveRuns", "Waiters"]

#: Seconds for which a client is held that comes after all were released. Its server may still
#: accept connections for a moment: without a pause a redirected client would use up its redirects.
_PAUSE = 0.3


class ActiveRun(Protocol):
    """A run whose handler is live. All methods may be called from any thread."""

    @property
    def ex(self) -> Execution:
        """The execution."""
        ...

    def on_event(self, op_id: str, event: StoredEvent) -> None:
        """End one of the run's waits with this event."""
        ...

    def recheck_deadlines(self) -> None:
        """Check the deadlines of the parked steps again."""
        ...

    def detach(self, reason: HandoffReason) -> None:
        """Hand its client off as soon as that can be done."""
        ...

    def stop(self) -> None:
        """Start no new step, and suspend the run when the steps in flight have ended."""
        ...

    def lease_lost(self) -> None:
        """Close the execution: another process owns the run, or it was cancelled."""
        ...


class ActiveRuns(dict[str, ActiveRun]):
    """The live runs by id, and those whose streamed responses are being sent.

    Attributes:
        awaited: somebody waits until it is empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.awaited = False
        self._sending: set[str] = set()
        self._empty = threading.Condition()

    def remove(self, live: ActiveRun) -> None:
        """Remove a run that is not live any more."""
        if self.get(live.ex.run.id) is live:  # else a later execution has its place
            del self[live.ex.run.id]
        self.notify_if_empty()

    def body_started(self, run_id: str) -> None:
        """Note that a streamed response is being sent, whose end must be recorded."""
        self._sending.add(run_id)

    def body_finished(self, run_id: str) -> None:
        """Note that the end is recorded, or cannot be recorded."""
        self._sending.discard(run_id)
        self.notify_if_empty()

    def notify_if_empty(self) -> None:
        """Wake those who wait, if no run is live or sent."""
        if self.awaited and not self and not self._sending:
            with self._empty:
                self._empty.notify_all()

    def all(self) -> list[ActiveRun]:
        """Return the runs that are live now."""
        return list(self.values())

    def wait_until_empty(self, timeout: float) -> bool:
        """Wait until no run is live or sent; False if some still are after ``timeout`` seconds."""
        with self._empty:
            self.awaited = True  # runs that ended before this are seen by the check below
            return self._empty.wait_for(lambda: not self and not self._sending, timeout)

    def names(self) -> list[str]:
        """Return the ids of all that :meth:`wait_until_empty` waits for."""
        return sorted({*self, *self._sending})


class Waiters:
    """The clients that are held at wait URLs, by the run they wait for.

    Args:
        most: the maximum number of held clients.
        attend: called for the first client, in the client's thread.
        most_of_run: the maximum number for one run; None for no such limit.

    Attributes:
        wakers: what wakes the clients, by run; empty while nobody waits.
    """

    def __init__(
        self, most: int, attend: Callable[[], None], *, most_of_run: int | None = None
    ) -> None:
        self._most = most
        self._most_of_run = most if most_of_run is None else most_of_run
        self._attend = attend
        self._lock = threading.Lock()
        self.wakers: dict[str, list[Callable[[], None]]] = {}
        self._count = 0
        self._most_in_threads: int | None = None
        self._in_threads: Counter[str] = Counter()
        self._released = False

    def __len__(self) -> int:
        return self._count

    def limit_threads(self, server_threads: int | None) -> None:
        """Keep threads of a server free for requests that do not wait.

        Clients that hold a thread each get three in four of the threads, and those of one run half
        of these.

        Args:
            server_threads: how many requests the server answers at a time; None for no limit.
        """
        if server_threads is None:
            self._most_in_threads = None
        else:
            self._most_in_threads = max(1, server_threads * 3 // 4)

    def has_thread_for(self, run_id: str) -> bool:
        """Return whether one more client of the run may hold a thread of the server."""
        most = self._most_in_threads
        if most is None:
            return True
        held = self._in_threads
        return held.total() < most and held[run_id] < (most + 1) // 2

    def add(self, run_id: str, wake: Callable[[], None], *, in_thread: bool = False) -> bool:
        """Register ``wake`` for the end of the run; False if too many clients wait already.

        Args:
            run_id: the run.
            wake: called when it ends.
            in_thread: the client holds a thread of the server meanwhile.
        """
        with self._lock:
            of_run = len(self.wakers.get(run_id, ()))
            if self._count >= self._most or of_run >= self._most_of_run:
                return False
            if in_thread:
                if not self.has_thread_for(run_id):
                    return False
                self._in_threads[run_id] += 1
            self._count += 1
            self.wakers.setdefault(run_id, []).append(wake)
            first = self._count == 1
        if first:
            self._attend()
        return True

    def remove(self, run_id: str, wake: Callable[[], None], *, in_thread: bool = False) -> None:
        """Undo :meth:`add`; the arguments are the same."""
        with self._lock:
            if in_thread:
                self._in_threads[run_id] -= 1
                if not self._in_threads[run_id]:
                    del self._in_threads[run_id]
            wakers = self.wakers[run_id]
            wakers.remove(wake)
            if not wakers:
                del self.wakers[run_id]
            self._count -= 1

    def run_ids(self) -> list[str]:
        """Return the runs that clients wait for."""
        with self._lock:
            return list(self.wakers)

    def wake(self, run_ids: Iterable[str]) -> None:
        """Wake all clients that wait for one of these runs."""
        if not self.wakers:
            return
        with self._lock:
            wakers = [wake for run_id in run_ids for wake in self.wakers.get(run_id, ())]
        for wake in wakers:
            wake()

    @property
    def released(self) -> bool:
        """Whether all clients were released."""
        return self._released

    def hold_time(self, seconds: float) -> float:
        """Return for how long a client is held: ``seconds``, or a moment after a release."""
        return min(seconds, _PAUSE) if self._released else seconds

    def release_all(self) -> None:
        """Wake all clients, whether or not their run has ended; hold later ones for a moment."""
        with self._lock:
            self._released = True
        self.wake(self.run_ids())
