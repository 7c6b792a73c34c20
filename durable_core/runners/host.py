"""What a live run needs of the worker that hosts it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from durable_core.commit_queue import CommitFuture
from durable_core.flow.execution import Execution
from durable_core.flow.flows import EngineFlows
from durable_core.flow.scope import RunScope
from durable_core.ports import Write
from durable_core.runners.event_loops import Loops
from durable_core.runners.live import ActiveRuns
from durable_core.runners.observers import Observers
from durable_core.runners.thread_pool import DaemonThreadPool

if TYPE_CHECKING:
    from asyncio import Future

__all__ = [
    "NoWatermark",
    "RunHost",
    "Watermark",
    "WriteQueue",
]


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

    def ended(self, ticket: CommitFuture[Any]) -> Future[None]:
        """Return a future of the event loop: the write is durable, or has failed."""
        ...

    def commit_here(self) -> None:
        """Make durable what is queued, if that is soon done; nobody else will join it."""
        ...


class Watermark(Protocol):
    """How far the numbers of stored events have come."""

    def recent(self) -> int:
        """Return a number that counts every event of this process."""
        ...

    def recent_async(self) -> int | Coroutine[Any, Any, int]:
        """As :meth:`recent`, on an event loop: the number, or what it is awaited from."""
        ...


class NoWatermark:
    """Of a host that matches no events."""

    def recent(self) -> int:
        """Return 0."""
        return 0

    def recent_async(self) -> int:
        """Return 0."""
        return 0


class RunHost(ABC):
    """A worker, as its runs see it: where they are executed, and what they ask for.

    Args:
        flows: what the engine does for a run.
        observers: who is notified of what happens to runs.
        serving_threads: how many threads each of its pools has.
        max_own_wait: seconds that a handler may await something of its own while steps of it are
            parked.
        unwind_time: seconds a cancelled handler may take to unwind.

    Attributes:
        live: the runs that are live in this process.
        loops: the event loops that handlers run on.
        threads: where plain functions of ``async def`` handlers run.
        servers: where ``def`` handlers run for clients of an asynchronous server.
        stopping: no run may start any more.
        wrap_scope: makes what the code of a handler reaches as its run; a test may set it.
    """

    #: The way to what is durable.
    queue: WriteQueue
    #: How far the numbers of stored events have come.
    event_watermark: Watermark

    def __init__(
        self,
        flows: EngineFlows[Any],
        observers: Observers,
        *,
        serving_threads: int,
        max_own_wait: float,
        unwind_time: float,
    ) -> None:
        self.flows = flows
        self.observers = observers
        self.max_own_wait = max_own_wait
        self.unwind_time = unwind_time
        self.stopping = False
        self.wrap_scope: Callable[[RunScope], RunScope] | None = None
        self.live = ActiveRuns()
        self.loops = Loops()
        self.threads = DaemonThreadPool(serving_threads, "durable-step")
        self.servers = DaemonThreadPool(serving_threads, "durable-serve")

    @abstractmethod
    def release_later(self, ex: Execution) -> None:
        """Release a run later that its execution could not suspend."""

    def run_on_background_loop(self, awaitable: Awaitable[T]) -> T:
        """Await something on the host's own event loop, blocking this thread."""
        return self.loops.background_loop.run(awaitable)
