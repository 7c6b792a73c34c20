"""The line of one live run to the server: ops go out in order, one call at a time."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from durable_core.errors import EngineUnavailableError
from durable_core.ports import Clock, Write
from durable_core.runtime.tickets import Blocked, Ticket, wake
from durable_inngest._calls import Begun
from durable_inngest._client import ServerClient
from durable_inngest._streams import Emitter

__all__ = ["Link", "Ops", "Reports"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ops(Write[None]):
    """Ops of a run, to be reported together."""

    link: Link
    ops: tuple[str, ...]
    #: The id of the step that has its result by them, for the stream.
    commits: str = ""


_Queued: TypeAlias = "tuple[Ops, Ticket[Any]]"


class Link:
    """Reports the ops of a run whose client is attached.

    The first call begins the run, with the ops that are there; each later one has what has
    gathered while the one before was on its way.

    Args:
        client: calls the server.
        loop: where the client is used.
        clock: tells the time.
        run_id: the run.
        event: what begins it.
        retries: how often the server may try a step again.
    """

    def __init__(
        self,
        client: ServerClient,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        run_id: str,
        event: object,
        retries: int,
    ) -> None:
        self._client = client
        self._loop = loop
        self._clock = clock
        self._run_id = run_id
        self._event = event
        self._retries = retries
        self._queue: list[_Queued] = []
        self._sending: asyncio.Task[None] | None = None
        self._broken: BaseException | None = None
        self._redirected = False
        #: What the server said when the run was begun.
        self.begun: Begun | None = None
        #: The attached client's stream, if it wants one.
        self.emitter: Emitter | None = None

    @property
    def token(self) -> str:
        """What opens the run's output.

        Raises:
            EngineUnavailableError: the server has given none.
        """
        if self.begun is None or not self.begun.token:
            raise EngineUnavailableError("the Inngest server gave no token for the run's output")
        return self.begun.token

    def add(self, ops: Ops, ticket: Ticket[Any]) -> None:
        """Queue ops; they go out as soon as nothing is on its way. From any thread."""
        if asyncio._get_running_loop() is self._loop:
            self._add(ops, ticket)
        else:
            self._loop.call_soon_threadsafe(self._add, ops, ticket)

    def _add(self, ops: Ops, ticket: Ticket[Any]) -> None:
        self._queue.append((ops, ticket))
        if self._sending is None:
            self._sending = self._loop.create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._queue:
                batch, self._queue = self._queue, []
                if self._broken is None:
                    await self._report([op for each, _ in batch for op in each.ops])
                    self._publish([ops for ops, _ in batch])
                _finish(batch, self._broken)
        except BaseException as error:  # the loop is ending, or a bug: nobody may wait for ever
            self._broken = EngineUnavailableError(f"the report was cut short: {error!r}")
            _finish([*batch, *self._queue], self._broken)
            self._queue.clear()
            raise
        finally:
            self._sending = None

    def _publish(self, recorded: list[Ops]) -> None:
        """Tell the stream what is recorded now: that comes before what happens next."""
        if self.emitter is None or self._broken is not None:
            return
        for ops in recorded:
            if ops.commits:
                self.emitter.commit(ops.commits)
        if not self._redirected and self.begun is not None and self.begun.realtime_token:
            self._redirected = True
            self.emitter.redirect(self._client.calls.stream_url(self.begun.realtime_token))

    async def _report(self, ops: list[str]) -> None:
        now = self._clock.now()
        try:
            if self.begun is not None:
                await self._client.go_on(run_id=self._run_id, begun=self.begun, ops=ops, ts=now)
            else:
                self.begun = await self._client.begin(
                    run_id=self._run_id,
                    event=self._event,
                    ops=ops,
                    ts=now,
                    retries=self._retries,
                )
        except EngineUnavailableError as error:
            self._broken = error


#: Guards who waits for a ticket against its end.
_MUTEX = threading.Lock()


def _finish(batch: list[_Queued], error: BaseException | None) -> None:
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
