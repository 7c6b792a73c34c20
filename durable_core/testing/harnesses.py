"""The way into a harness: one ``with`` block, of either kind."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, TypeVar

from durable_core.api.durable import Durable
from durable_core.api.runs import RunInfo, show_run
from durable_core.errors import ConfigurationError
from durable_core.http.response import Response
from durable_core.model.event import Event
from durable_core.ports import RunRecord
from durable_core.testing.client import AsyncClient, Client, Reply, concluded, handler_of
from durable_core.testing.clock import FakeClock
from durable_core.testing.faults import Moment
from durable_core.testing.simulation import PATIENCE, Bench, Steering, StepRecord, steps_of
from durable_core.testing.worker import Exchange

__all__ = [
    "AsyncHarness",
    "BaseHarness",
    "Harness",
    "harness",
]


# --- base -----------------------------------------------------------------------------------------
#
# What a harness can do without waiting: plan what goes wrong, and look at what has happened.


class BaseHarness:
    """What needs no waiting, and is the same in both kinds of test."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    @property
    def clock(self) -> FakeClock:
        """The clock of the application; ``advance`` moves it."""
        return self._bench.clock

    # -- what is to go wrong ----------------------------------------------------------------

    def fail_step(
        self,
        step_id: str,
        *,
        times: int | None = 1,
        error: Exception | type[Exception] | None = None,
    ) -> None:
        """Have a ``step.run``, of whatever run, fail in place of calling its function.

        Args:
            step_id: the step; where its id repeats ``"save"`` is the first, ``"save:1"`` the next.
            times: so often, and then it works again; None for every time.
            error: what is raised; a ``RuntimeError`` by default.
        """
        self._bench.faults.plan_failure(step_id, times, error)

    def crash_before(self, step_id: str, *, times: int = 1) -> None:
        """Have the process die when the function of a ``step.run`` is about to be called.

        The live handler is thrown away, and its run is taken over and replayed. A client that
        waits is sent to the wait URL (a real one loses its connection); if the run had no
        checkpoint yet it is gone, and the client gets a ``ConnectionResetError``.
        """
        self._bench.faults.plan_crash(step_id, Moment.BEFORE, times)

    def crash_during(self, step_id: str, *, times: int = 1) -> None:
        """Have the process die when the function has done its work, but nobody knows it yet.

        The function is called again. See :meth:`crash_before` for what becomes of the client.
        """
        self._bench.faults.plan_crash(step_id, Moment.DURING, times)

    def crash_after(self, step_id: str, *, times: int = 1) -> None:
        """Have the process die when a step, of whatever kind, has just become durable."""
        self._bench.faults.plan_crash(step_id, Moment.AFTER, times)

    def replay_everything(self) -> None:
        """From now on, throw handlers away after every step, and replay them.

        What is not deterministic shows: a step that is not asked for again when its handler is
        replayed makes the call that replayed it raise ``NotDeterministicError``. Every response
        is a handoff then.
        """
        self._bench.replays.on = True

    # -- looking ----------------------------------------------------------------------------

    def run(self, of: Reply | str) -> RunInfo:
        """Return all that is known about a run, given its id or a reply to its client.

        Raises:
            RunNotFoundError: it has left no record, for it ended before its first step.
            ValueError: the reply is no run's.
        """
        return show_run(self._record(of), self._bench.engine.env.codec)

    def _record(self, of: Reply | str) -> RunRecord:
        return self._bench.record(_run_id(of))

    def runs(self) -> Sequence[RunInfo]:
        """Return the last 1,000 runs without their steps, the newest first."""
        return self._bench.durable.runs.list(limit=1000)

    def steps(self, of: Reply | str) -> tuple[StepRecord, ...]:
        """Return the steps of a run, in the order in which they finished, then the unfinished.

        Raises:
            RunNotFoundError, ValueError: as :meth:`run`.
        """
        record = self._record(of)
        return steps_of(record, self._bench.engine.env.codec, self._bench.calls(record.run.id))

    def streamed(self, of: Reply | str) -> list[object]:
        """Return what a run has streamed to whoever follows it, and has not been rolled back.

        The data of all chunks that are stored, in order: those of steps that have succeeded, and
        those from outside steps as of the last checkpoint.

        Raises:
            RunNotFoundError, ValueError: as :meth:`run`.
        """
        run_id = self._record(of).run.id
        app, store = self._bench.engine.env.app, self._bench.store
        stored = store.read_stream(app, run_id, done=0, outside=0, most=sys.maxsize)
        pieces = () if stored is None else stored.chunks
        return [json.loads(text) for piece in pieces for text in piece.texts]

    def sent(self, name: str | None = None) -> list[Event]:
        """Return the events that the application has got, but for those of :meth:`send`.

        They are what its steps, its other code and its clients have sent, the oldest first.

        Args:
            name: only events of this name.
        """
        own = self._bench.own_events
        return [
            event
            for event_id, event in self._bench.store.events.items()
            if event_id not in own and name in (None, event.name)
        ]


def _run_id(of: Reply | str) -> str:
    run_id = of if isinstance(of, str) else of.run_id
    if run_id is None:
        raise ValueError(f"{of!r} does not come from a run")
    return run_id


# --- harnesses ------------------------------------------------------------------------------------
#
# The harnesses of tests: an application, its clock and its clients, all in the test's hands.

T = TypeVar("T")


class Harness(BaseHarness):
    """An application in a test. Its calls return when nothing runs and nothing is due."""

    def client(self, app: object) -> Client:
        """Return a client of an endpoint, or of an application made by ``app(durable, routes)``.

        Raises:
            TypeError: it is neither.
        """
        return Client(handler_of(app), self._conclude)

    def advance(self, duration: str | float | timedelta) -> None:
        """Let time pass: sleeps end, failed steps are tried again, waits time out.

        Each at its own time, in order; ``"0s"`` lets happen what is due now.

        Args:
            duration: as in ``step.sleep``: ``"24h"``, seconds, or a ``timedelta``.

        Raises:
            ValueError: not a duration.
            NotDeterministicError, NotFinishedError: as ``Client.request``.
        """
        self._drive(self._bench.advance(duration))

    def send(
        self, name: str, data: Mapping[str, object] | None = None, *, id: str | None = None
    ) -> str:
        """Send an event from outside; return its id."""
        return self._drive(self._bench.send(Event(name, data or {}, id=id)))

    def _conclude(self, exchange: Exchange, response: Response) -> Reply:
        if isinstance(response.body, AsyncIterable):
            body = self._bench.engine.run_on_background_loop(_joined(response.body))
        else:
            body = _whole(response)
        return self._drive(concluded(self._bench, exchange, response, body))

    def _drive(self, steering: Steering[T]) -> T:
        while True:
            try:
                next(steering)
            except StopIteration as stop:
                value: T = stop.value
                return value
            if not self._bench.worker.live.wait_until_empty(PATIENCE):
                raise self._bench.still_running()


class AsyncHarness(BaseHarness):
    """An application in an asynchronous test; see :class:`Harness`."""

    def client(self, app: object) -> AsyncClient:
        """Return a client; see :meth:`Harness.client`."""
        return AsyncClient(handler_of(app), self._conclude)

    async def advance(self, duration: str | float | timedelta) -> None:
        """Let time pass; see :meth:`Harness.advance`."""
        await self._drive(self._bench.advance(duration))

    async def send(
        self, name: str, data: Mapping[str, object] | None = None, *, id: str | None = None
    ) -> str:
        """Send an event from outside; return its id."""
        return await self._drive(self._bench.send(Event(name, data or {}, id=id)))

    async def _conclude(self, exchange: Exchange, response: Response) -> Reply:
        if isinstance(response.body, AsyncIterable):
            body = await _joined(response.body)
        else:
            body = await self._bench.engine.call_in_thread(_whole, response)
        return await self._drive(concluded(self._bench, exchange, response, body))

    async def _drive(self, steering: Steering[T]) -> T:
        while True:
            try:
                next(steering)
            except StopIteration as stop:
                value: T = stop.value
                return value
            live = self._bench.worker.live
            if len(live):
                wait = self._bench.engine.call_in_thread
                if not await wait(live.wait_until_empty, PATIENCE):
                    raise self._bench.still_running()


def _whole(response: Response) -> bytes:
    """Return the whole body of a response, but not of one with an asynchronous body."""
    body = response.body
    assert not isinstance(body, AsyncIterable)
    return body if isinstance(body, bytes) else b"".join(body)


async def _joined(body: AsyncIterable[bytes]) -> bytes:
    return b"".join([chunk async for chunk in body])


# --- harnesses ------------------------------------------------------------------------------------

#: So long (real seconds) a step that is in flight at the end of a test may take.
_STOP = 1.0


class harness:  # noqa: N801 - used as a function is
    """Take an application into a test: ``with harness(durable) as t:``.

    Within the block the application works on an empty store in memory, with a clock that stands
    still until the test moves it, without jitter in its back-offs, and runs one handler at a time.
    Afterwards it is as it was. In asynchronous tests it is ``async with harness(durable) as t:``,
    and ``async def`` handlers run on the test's event loop.

    Args:
        durable: the application; its endpoints are used as they are.
        start: what the clock shows at first, an aware ``datetime``; 2030-01-01 by default.

    Raises:
        ConfigurationError: on entering: the application is started, or the wrong ``with``.
        UnusedFaultError: on leaving: a failure or crash that was planned has not happened.
    """

    def __init__(self, durable: Durable[Any], *, start: datetime | None = None) -> None:
        self._bench = Bench(durable, start)
        self._stack = ExitStack()

    def __enter__(self) -> Harness:
        if _on_a_loop():
            raise ConfigurationError("on an event loop it is 'async with harness(...)'")
        self._stack.enter_context(self._bench.in_place())
        return Harness(self._bench)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            self._bench.engine.stop(_STOP)
        if error is None:
            self._bench.faults.check_used()

    async def __aenter__(self) -> AsyncHarness:
        self._stack.enter_context(self._bench.in_place())
        return AsyncHarness(self._bench)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            await self._bench.durable.stop_async(_STOP)
        if error is None:
            self._bench.faults.check_used()


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
