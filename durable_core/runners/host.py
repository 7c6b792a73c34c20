"""What a live run needs of the worker that hosts it."""

from __future__ import annotations

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


class RunHost(Protocol):
    """The worker, as its runs see it."""

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
    def observers(self) -> Observers:
        """Who is notified of what happens to runs."""
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
    def max_own_wait(self) -> float:
        """Seconds that a handler may await something of its own while steps of it are parked."""
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
        """Release a run later that its execution could not suspend."""
        ...

    @property
    def wrap_scope(self) -> Callable[[RunScope], RunScope] | None:
        """Makes what the code of a handler reaches as its run; None leaves that as it is."""
        ...

    def run_on_background_loop(self, awaitable: Awaitable[T]) -> T:
        """Await something on the worker's own event loop, blocking this thread."""
        ...
