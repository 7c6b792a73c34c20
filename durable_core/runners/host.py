"""What a live run needs of the node that hosts it."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol, TypeVar

from durable_core.commit_queue import CommitFuture
from durable_core.flow.execution import Execution
from durable_core.flow.scope import EngineFlows, RunScope
from durable_core.ports import Store, Write
from durable_core.runners.event_loops import Loops
from durable_core.runners.live import ActiveRuns
from durable_core.runners.thread_pool import DaemonThreadPool

__all__ = [
    "EventWatermark",
    "RunHost",
    "Watermark",
    "WriteQueue",
]


# --- marks ----------------------------------------------------------------------------------------
#
# The highest event sequence number, without asking the store for it at every request and step.


class EventWatermark:
    """Reads the highest event sequence number, and remembers it until it may have changed.

    Where events are matched from, a number that is too low errs on the safe side: the event is
    still found. May be used by several threads.
    """

    def __init__(self, store: Store, app: str) -> None:
        self._store = store
        self._app = app
        self._lock = threading.Lock()
        self._known = 0
        self._is_current = False
        self._is_shared = True  # until the keeper has looked

    def recent(self) -> int:
        """Return a number that counts every event of this process, and of those known to be there.

        Those of a process that has just come are counted once the keeper has noticed it, up to
        0.1 s later. To the run or step that asks, they seem to have come after it began.
        """
        return self._known if self._is_current else self._read()

    def _read(self) -> int:
        # Before reading, so that a change meanwhile is not missed.
        self._is_current = not self._is_shared
        try:
            mark = self._store.event_seq(self._app)
        except BaseException:
            self._is_current = False
            raise
        with self._lock:
            self._known = max(self._known, mark)
            return self._known

    def share(self, shared: bool) -> None:
        """Note whether other processes may store events, too; then every step asks the store."""
        self._is_shared = shared
        if shared:
            self._is_current = False

    def changed(self) -> None:
        """Note that there may be newer events."""
        self._is_current = False


# --- host -----------------------------------------------------------------------------------------

T = TypeVar("T")


class WriteQueue(Protocol):
    """The way from a live run to where its engine keeps what is durable."""

    def submit(self, write: Write[T], after: Sequence[CommitFuture[Any]] = ()) -> CommitFuture[T]:
        """Queue a write; it fails if one of those before it has failed."""
        ...

    def wait(self, ticket: CommitFuture[T]) -> T:
        """Block until the write is durable; return its answer or raise its error."""
        ...

    async def wait_async(self, ticket: CommitFuture[T]) -> T:
        """As :meth:`wait`, on an event loop."""
        ...

    def commit_here(self) -> None:
        """Make durable what is queued, if that is soon done; nobody else will join it."""
        ...


class Watermark(Protocol):
    """How far the numbers of stored events have come."""

    def recent(self) -> int:
        """Return a number that counts every event of this process."""
        ...


class RunHost(Protocol):
    """The node, as its runs see it."""

    @property
    def flows(self) -> EngineFlows[Any]:
        """What the engine does for a run."""
        ...

    @property
    def event_watermark(self) -> Watermark:
        """How far the numbers of stored events have come."""
        ...

    @property
    def live(self) -> ActiveRuns:
        """The runs that are live in this process."""
        ...

    @property
    def queue(self) -> WriteQueue:
        """The way to what is durable."""
        ...

    @property
    def stopping(self) -> bool:
        """No run may start any more."""
        ...

    @property
    def threads(self) -> DaemonThreadPool:
        """Where plain functions of ``async def`` handlers run."""
        ...

    @property
    def servers(self) -> DaemonThreadPool:
        """Where ``def`` handlers run for clients of an asynchronous server."""
        ...

    @property
    def settle_time(self) -> float:
        """Seconds without activity after which a parked handler is put away."""
        ...

    @property
    def unwind_time(self) -> float:
        """Seconds a cancelled handler may take to unwind."""
        ...

    @property
    def loops(self) -> Loops:
        """The event loops that handlers run on."""
        ...

    def release_later(self, ex: Execution) -> None:
        """See that a run which its execution could not put away is given up later."""
        ...

    def scope(self, run: RunScope) -> RunScope:
        """Return what the code of the run's handler reaches as its run."""
        ...

    def run_on_background_loop(self, awaitable: Awaitable[T]) -> T:
        """Await something on the node's own event loop, blocking this thread."""
        ...
