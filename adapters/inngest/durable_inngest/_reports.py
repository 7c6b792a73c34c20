"""Ops on their way to the server, and who waits until it has taken them."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from durable_core.ports import Write
from durable_core.runtime.tickets import Blocked, Ticket, wake

__all__ = ["Line", "Ops", "Queued", "Reports", "finish"]

T = TypeVar("T")


class Line(Protocol):
    """The line of a run to the server."""

    def add(self, ops: Ops, ticket: Ticket[Any]) -> None:
        """Queue ops."""
        ...


@dataclass(frozen=True, slots=True)
class Ops(Write[None]):
    """Ops of a run, to be reported together."""

    link: Line
    ops: tuple[str, ...]
    #: The id of the step that has its result by them, for the stream.
    commits: str = ""


Queued: TypeAlias = "tuple[Ops, Ticket[Any]]"

#: Guards who waits for a ticket against its end.
_MUTEX = threading.Lock()


def finish(batch: list[Queued], error: BaseException | None) -> None:
    """Let go on who waits for queued ops: they are recorded, or an error says why not."""
    tickets = [ticket for _, ticket in batch]
    with _MUTEX:
        for ticket in tickets:
            ticket.error = error
            ticket.done = True
    wake(tickets)


class Reports:
    """The write queue of all runs: each write goes to the line of its run."""

    def submit(self, write: Write[T], after: object = ()) -> Ticket[T]:
        """Queue ops; what follows a failed report of the run fails, too."""
        ticket = Ticket(write)
        ops: object = write
        assert isinstance(ops, Ops)
        ops.link.add(ops, ticket)
        return ticket

    def wait(self, ticket: Ticket[T]) -> T:
        """Block until the server has taken the ops."""
        blocked = Blocked(ticket)
        with _MUTEX:
            if not ticket.done:
                ticket.threads.append(blocked)
        if blocked in ticket.threads:
            blocked.lock.acquire()
        return ticket.result()

    async def wait_async(self, ticket: Ticket[T]) -> T:
        """Wait until the server has taken the ops."""
        future: asyncio.Future[None] | None = None
        with _MUTEX:
            if not ticket.done:
                future = asyncio.get_running_loop().create_future()
                ticket.tasks.append(future)
        if future is not None:
            await future
        return ticket.result()

    def commit_here(self) -> None:
        """Do nothing: reports go out by themselves."""
