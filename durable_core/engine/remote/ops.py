"""Ops: what a server is told of steps and says of them, and the way of an op to the server.

A step is reported as text, in the form of one server; its outcome comes back as a JSON value, the
*memo*.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from durable_core.commit_queue import CommitFuture, ThreadWaiter, notify
from durable_core.engine.remote.streams import StreamEmitter
from durable_core.errors import EngineUnavailableError, StepError
from durable_core.flow.server_calls import FunctionCall, GatewayCall
from durable_core.machine.matching import WaitRule
from durable_core.model.event import Event, SignalWait
from durable_core.model.step import Op
from durable_core.ports import Write

__all__ = [
    "Failed",
    "FailedOp",
    "OpQueue",
    "Ops",
    "PendingOp",
    "ReportedStep",
    "RunReporter",
    "ServerOps",
    "Value",
    "size_of",
]


# --- forms ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedStep:
    """A step as it is reported.

    Attributes:
        op: the op; its name has the index.
        id: what the user called it, without the index.
        began: when its function was called, epoch milliseconds.
        took: how long that took, milliseconds.
        races: the server must call again when this op is done, whatever else is not.
        name: what people see of it; "" for its id.
        arguments: those of its function, where people are to see them.
    """

    op: Op
    id: str
    began: int = 0
    took: int = 0
    races: bool = False
    name: str = ""
    arguments: tuple[object, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingOp:
    """An op that only the server can go on from.

    Attributes:
        step: the step.
        dump: makes its JSON.
        needs_reentry: it cannot be reported while the client is attached.
    """

    step: ReportedStep
    dump: Callable[[ReportedStep], str]
    needs_reentry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedOp(PendingOp):
    """The function of a step has failed.

    Attributes:
        error: its error.
        failures: how often it has failed.
        final: it is not tried again.
        delay: how long until it is, milliseconds.
        asked: the delay, or the number of attempts, is not the server's own.
    """

    error: Mapping[str, object]
    failures: int = 1
    final: bool = False
    delay: int = 0
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Value:
    """A step has this result."""

    value: object


@dataclass(frozen=True, slots=True)
class Failed:
    """A step has failed for good, with this error."""

    error: Mapping[str, object]


class ServerOps(Protocol):
    """The forms of one server. All of it is pure, so a module may be one.

    Where a step is dumped, the result is its op as text.
    """

    def load_outcome(self, memo: object) -> Value | Failed | None:
        """Return what a memo says; None if the step is still to be run."""
        ...

    def load_failure(
        self, step_name: str, error: Mapping[str, object], *, debug: bool = False
    ) -> StepError:
        """Return what the handler sees of a failed step; ``debug`` shows its stack trace."""
        ...

    def load_event_memo(self, value: object) -> Event | None:
        """Return the event that ended a wait, None if its time ran out; ValueError for no event."""
        ...

    def load_signal_memo(self, value: object) -> tuple[str, object] | None:
        """As :meth:`load_event_memo`, for the name and the data of a signal."""
        ...

    def dump_value(self, text: str) -> str:
        """Return the JSON that stands for a value at the server, given its JSON."""
        ...

    def finished(self, step: ReportedStep, value: str) -> str:
        """Dump a function that has returned; ``value`` is as of :meth:`dump_value`."""
        ...

    def planned(self, step: ReportedStep) -> str:
        """Dump a function that is to be called in a request of its own."""
        ...

    def sleep(self, step: ReportedStep, length: int) -> str:
        """Dump a sleep of so many milliseconds, 1 or more."""
        ...

    def wait(self, step: ReportedStep, rule: WaitRule, timeout: int) -> str:
        """Dump a wait for an event, of so many milliseconds, 1 or more, at most."""
        ...

    def needs_reentry(self, rule: WaitRule) -> bool:
        """Tell whether a wait cannot be reported while the client is attached."""
        ...

    def wait_for_signal(self, step: ReportedStep, wait: SignalWait) -> str:
        """Dump a wait for a signal."""
        ...

    def signal_finished(self, step: ReportedStep, value: str, signal: str) -> str:
        """Dump a signal that was sent; ``value`` is JSON."""
        ...

    def invoke_function(self, step: ReportedStep, call: FunctionCall) -> str:
        """Dump a call of a function at the server."""
        ...

    def gateway(self, step: ReportedStep, call: GatewayCall) -> str:
        """Dump a request that the server is to send."""
        ...


# --- queue ----------------------------------------------------------------------------------------
#
# Ops on their way to the server, and who waits until it has taken them.

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ops(Write[None]):
    """Ops of a run, to be reported together."""

    reporter: RunReporter
    ops: tuple[str, ...]
    #: The id of the step that has its result by them, for the stream.
    commits: str = ""


_Queued: TypeAlias = "tuple[Ops, CommitFuture[Any]]"

#: Guards who waits for a ticket against its end.
_MUTEX = threading.Lock()


def _finish(batch: list[_Queued], error: BaseException | None) -> None:
    """Let go on who waits for queued ops: they are recorded, or an error says why not."""
    tickets = [ticket for _, ticket in batch]
    with _MUTEX:
        for ticket in tickets:
            ticket.error = error
            ticket.done = True
    notify(tickets)


class OpQueue:
    """The write queue of all runs: each write goes to the line of its run."""

    def submit(self, write: Write[T], after: object = ()) -> CommitFuture[T]:
        """Queue ops; what follows a failed report of the run fails, too."""
        ticket = CommitFuture(write)
        ops: object = write
        assert isinstance(ops, Ops)
        ops.reporter.add(ops, ticket)
        return ticket

    def wait(self, ticket: CommitFuture[T]) -> T:
        """Block until the server has taken the ops."""
        blocked = ThreadWaiter(ticket)
        with _MUTEX:
            if not ticket.done:
                ticket.threads += (blocked,)
        if blocked in ticket.threads:
            blocked.lock.acquire()
        return ticket.result()

    async def wait_async(self, ticket: CommitFuture[T]) -> T:
        """Wait until the server has taken the ops."""
        await self.ended(ticket)
        return ticket.result()

    def ended(self, ticket: CommitFuture[Any]) -> asyncio.Future[None]:
        """Return a future: the server has taken the ops, or refused them."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with _MUTEX:
            if ticket.done:
                future.set_result(None)
            else:
                ticket.tasks += (future,)
        return future

    def commit_here(self) -> None:
        """Do nothing: reports go out by themselves."""


class RunReporter(ABC):
    """Reports the ops of a run whose client is attached, in order, one call at a time.

    Each call has what has gathered while the one before was on its way. Belongs to a loop.

    Args:
        loop: where the server is called.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: list[_Queued] = []
        self._sending: asyncio.Task[None] | None = None
        self._broken: BaseException | None = None
        #: The attached client's stream, if it wants one.
        self.stream: StreamEmitter | None = None

    @abstractmethod
    async def send(self, ops: list[str]) -> None:
        """Report ops in one call.

        Raises:
            EngineUnavailableError: the server has not taken them.
        """

    @abstractmethod
    def recorded(self, ops: Ops, stream: StreamEmitter | None) -> None:
        """Note that the server has ops, before anything that follows from them happens.

        Args:
            ops: the ops.
            stream: the attached client's, if it wants one.
        """

    @property
    @abstractmethod
    def room(self) -> int:
        """How many bytes of ops the server takes in one call now."""

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
                    await self._report(batch)
                _finish(batch, self._broken)
        except BaseException as error:  # the loop is ending, or a bug: nobody may wait for ever
            self._broken = EngineUnavailableError(f"the report was cut short: {error!r}")
            _finish([*batch, *self._queue], self._broken)
            self._queue.clear()
            raise
        finally:
            self._sending = None

    def _next(self) -> list[_Queued]:
        """Take what goes out together: as much as the server takes in one call, one at least."""
        count, size = 0, 0
        for ops, _ in self._queue:
            size += sum(map(size_of, ops.ops))
            if count and size > self.room:
                break
            count += 1
        batch, self._queue = self._queue[:count], self._queue[count:]
        return batch

    async def _report(self, batch: list[_Queued]) -> None:
        try:
            await self.send([op for ops, _ in batch for op in ops.ops])
        except EngineUnavailableError as error:
            self._broken = error
            return
        for ops, _ in batch:
            self.recorded(ops, self.stream)


def size_of(text: str) -> int:
    """Return how many bytes text has as UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
