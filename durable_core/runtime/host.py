"""What a live run needs of the node that hosts it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol, TypeVar

from durable_core.ports import Store
from durable_core.runtime.commits import CommitQueue
from durable_core.runtime.pool import DaemonPool

__all__ = ["Host"]

T = TypeVar("T")


class Host(Protocol):
    """The node, as its runs see it."""

    @property
    def store(self) -> Store:
        """The store, for reading."""
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

    def await_elsewhere(self, awaitable: Awaitable[T]) -> T:
        """Await something on the node's own event loop, blocking this thread."""
        ...
