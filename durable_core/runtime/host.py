"""What a live run needs of the node that hosts it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol, TypeVar

from durable_core.flow.current import Scope
from durable_core.flow.execution import Execution
from durable_core.runtime.commits import CommitQueue
from durable_core.runtime.live import LiveRuns
from durable_core.runtime.loops import Loops
from durable_core.runtime.marks import EventMark
from durable_core.runtime.pool import DaemonPool

__all__ = ["Host"]

T = TypeVar("T")


class Host(Protocol):
    """The node, as its runs see it."""

    @property
    def event_mark(self) -> EventMark:
        """How far the numbers of stored events have come."""
        ...

    @property
    def live(self) -> LiveRuns:
        """The runs that are live in this process."""
        ...

    @property
    def queue(self) -> CommitQueue:
        """The way to write to it."""
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
