"""The line of one live run to the server: ops go out in order, one call at a time."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from durable_core.commit_queue import CommitFuture, ThreadWaiter, notify
from durable_core.errors import EngineUnavailableError
from durable_core.ports import Clock, Write
from durable_inngest._api import MOST_BYTES, Begun
from durable_inngest._client import ServerClient
from durable_inngest._streams import Emitter

__all__ = [
    "Line",
    "Link",
    "Ops",
    "Queued",
    "Reports",
    "finish",
]


# --- reports --------------------------------------------------------------------------------------
#
# Ops on their way to the server, and who waits until it has taken them.

T = TypeVar("T")


class Line(Protocol):
    """The line of a run to the server."""

    def add(self, ops: Ops, ticket: CommitFuture[Any]) -> None:
        """Queue ops."""
        ...


@dataclass(frozen=True, slots=True)
class Ops(Write[None]):
    """Ops of a run, to be reported together."""

    link: Line
    ops: tuple[str, ...]
    #: The id of the step that has its result by them, for the stream.
    commits: str = ""


Queued: TypeAlias = "tuple[Ops, CommitFuture[Any]]"

#: Guards who waits for a ticket against its end.
_MUTEX = threading.Lock()


def finish(batch: list[Queued], error: BaseException | None) -> None:
    """Let go on who waits for queued ops: they are recorded, or an error says why not."""
    tickets = [ticket for _, ticket in batch]
    with _MUTEX:
        for ticket in tickets:
            ticket.error = error
            ticket.done = True
    notify(tickets)


class Reports:
    """The write queue of all runs: each write goes to the line of its run."""

    def submit(self, write: Write[T], after: object = ()) -> CommitFuture[T]:
        """Queue ops; what follows a failed report of the run fails, too."""
        ticket = CommitFuture(write)
        ops: object = write
        assert isinstance(ops, Ops)
        ops.link.add(ops, ticket)
        return ticket

    def wait(self, ticket: CommitFuture[T]) -> T:
        """Block until the server has taken the ops."""
        blocked = ThreadWaiter(ticket)
        with _MUTEX:
            if not ticket.done:
                ticket.threads.append(blocked)
        if blocked in ticket.threads:
            blocked.lock.acquire()
        return ticket.result()

    async def wait_async(self, ticket: CommitFuture[T]) -> T:
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


# --- link -----------------------------------------------------------------------------------------


class Link:
    """Reports the ops of a run whose client is attached.

    The first call begins the run, with the ops that are there; each later one has what has
    gathered while the one before was on its way.

    Args:
        client: calls the server.
        loop: where the client is used.
        clock: tells the time.
        run_id: the run.
        function: what we call its function, the same for each run of it.
        event: what begins it, as JSON.
        retries: how often the server may try a step again.
    """

    def __init__(
        self,
        client: ServerClient,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        run_id: str,
        function: str,
        event: str,
        retries: int,
    ) -> None:
        self._client = client
        self._loop = loop
        self._clock = clock
        self._run_id = run_id
        self._function = function
        self._event = event
        self._retries = retries
        self._queue: list[Queued] = []
        self._sending: asyncio.Task[None] | None = None
        self._broken: BaseException | None = None
        self._redirected = False
        #: What the server said when the run was begun.
        self.begun: Begun | None = None
        #: The attached client's stream, if it wants one.
        self.emitter: Emitter | None = None

    @property
    def token(self) -> str:
        """What opens the run's output; "" where the server has given nothing that does."""
        return self.begun.token if self.begun is not None else ""

    @property
    def room(self) -> int:
        """How many bytes of ops the server takes in one call now."""
        return MOST_BYTES - (_size(self._event) if self.begun is None else 0)

    def add(self, ops: Ops, ticket: CommitFuture[Any]) -> None:
        """Queue ops; they go out as soon as nothing is on its way. From any thread."""
        if asyncio._get_running_loop() is self._loop:
            self._add(ops, ticket)
        else:
            self._loop.call_soon_threadsafe(self._add, ops, ticket)

    def _add(self, ops: Ops, ticket: CommitFuture[Any]) -> None:
        self._queue.append((ops, ticket))
        if self._sending is None:
            self._sending = self._loop.create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._queue:
                batch = self._next()
                if self._broken is None:
                    await self._report([op for each, _ in batch for op in each.ops])
                    self._publish([ops for ops, _ in batch])
                finish(batch, self._broken)
        except BaseException as error:  # the loop is ending, or a bug: nobody may wait for ever
            self._broken = EngineUnavailableError(f"the report was cut short: {error!r}")
            finish([*batch, *self._queue], self._broken)
            self._queue.clear()
            raise
        finally:
            self._sending = None

    def _next(self) -> list[Queued]:
        """Take what goes out together: as much as the server takes in one call, one at least."""
        count, size = 0, 0
        for ops, _ in self._queue:
            size += sum(map(_size, ops.ops))
            if count and size > self.room:
                break
            count += 1
        batch, self._queue = self._queue[:count], self._queue[count:]
        return batch

    def _publish(self, recorded: list[Ops]) -> None:
        """Tell the stream what is recorded now: that comes before what happens next."""
        if self.emitter is None or self._broken is not None:
            return
        for ops in recorded:
            if ops.commits:
                self.emitter.commit(ops.commits)
            self._redirect(self.emitter)

    def _redirect(self, emitter: Emitter) -> None:
        """Tell the stream, once, where it goes on after a handoff."""
        if not self._redirected and self.begun is not None and self.begun.realtime_token:
            self._redirected = True
            emitter.redirect(self._client.calls.stream_url(self.begun.realtime_token))

    async def _report(self, ops: list[str]) -> None:
        now = self._clock.now()
        try:
            if self.begun is not None:
                await self._client.go_on(run_id=self._run_id, begun=self.begun, ops=ops, ts=now)
            else:
                self.begun = await self._client.begin(
                    run_id=self._run_id,
                    function=self._function,
                    event=self._event,
                    ops=ops,
                    ts=now,
                    retries=self._retries,
                )
        except EngineUnavailableError as error:
            self._broken = error


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
