"""What a live run needs of the node that hosts it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol, TypeVar

from durable_core.flow.current import Scope
from durable_core.flow.execution import Execution
from durable_core.flow.flows import Flows
from durable_core.ports import Write
from durable_core.runtime.live import LiveRuns
from durable_core.runtime.loops import Loops
from durable_core.runtime.pool import DaemonPool
from durable_core.runtime.tickets import Ticket

__all__ = ["Host", "Mark", "WriteQueue"]

T = TypeVar("T")


class WriteQueue(Protocol):
    """The way from a live run to where its engine keeps what is durable."""

    def submit(self, write: Write[T], after: Sequence[Ticket[Any]] = ()) -> Ticket[T]:
        """Queue a write; it fails if one of those before it has failed."""
        ...

    def wait(self, ticket: Ticket[T]) -> T:
        """Block until the write is durable; return its answer or raise its error."""
        ...

    async def wait_async(self, ticket: Ticket[T]) -> T:
        """As :meth:`wait`, on an event loop."""
        ...

    def commit_here(self) -> None:
        """Make durable what is queued, if that is soon done; nobody else will join it."""
        ...


class Mark(Protocol):
    """How far the numbers of stored events have come."""

    def recent(self) -> int:
        """Return a number that counts every event of this process."""
        ...


class Host(Protocol):
    """The node, as its runs see it."""

    @property
    def flows(self) -> Flows:
        """What the engine does for a run."""
        ...

    @property
    def event_mark(self) -> Mark:
        """How far the numbers of stored events have come."""
        ...

    @property
    def live(self) -> LiveRuns:
        """The runs that are live in this process."""
        ...

    @property
    def queue(self) -> WriteQueue:
        """The way to what is durable."""
        ...

    @property
    def threads(self) -> DaemonPool:
        """Where plain functions of ``async def`` handlers run."""
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

    def give_up(self, ex: Execution) -> None:
        """See that a run which its execution could not put away is given up later."""
        ...

    def scope(self, run: Scope) -> Scope:
        """Return what the code of the run's handler reaches as its run."""
        ...

    def await_elsewhere(self, awaitable: Awaitable[T]) -> T:
        """Await something on the node's own event loop, blocking this thread."""
        ...
