"""Telling the server of a run whose client is attached."""

from __future__ import annotations

from durable_core.flow.asks import Flow, Submit, Ticket
from durable_core.flow.execution import settle
from durable_inngest._execution import RemoteExecution
from durable_inngest._link import Link
from durable_inngest._reports import Ops

__all__ = ["queue", "tell"]


def queue(ex: RemoteExecution, link: Link, op: str, commits: str = "") -> Flow[None]:
    """Let an op go out; it is recorded after the next ``settle``."""
    ex.stored = True
    ticket: Ticket = yield Submit(Ops(link, (op,), commits), ex.tickets)
    ex.queued(ticket)


def tell(ex: RemoteExecution, link: Link, *ops: str) -> Flow[None]:
    """Report ops one by one: together they would be taken for parallel steps.

    Raises:
        Suspended: the server has not taken one; the execution is closed.
    """
    yield from settle(ex)
    for op in ops:
        yield from queue(ex, link, op)
        yield from settle(ex)
