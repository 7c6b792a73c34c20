"""The harnesses: an application, its clock and its clients, in the hands of a test."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterable, Coroutine, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, TypeVar

from durable_core.api.durable import Durable
from durable_core.api.run_info import RunInfo
from durable_core.api.runs import show_run
from durable_core.errors import ConfigurationError
from durable_core.flow.driver import drive_async, drive_sync
from durable_core.http.response import Response
from durable_core.model.event import Event
from durable_core.ports import RunRecord
from durable_core.testing.client import AsyncClient, Client, Reply, resolve_handler
from durable_core.testing.clock import FakeClock
from durable_core.testing.faults import CrashPoint
from durable_core.testing.simulation import (
    AwaitIdle,
    ReadBody,
    Script,
    SendRequest,
    Simulation,
    StepRecord,
    steps_of,
)

__all__ = [
    "AsyncHarness",
    "BaseHarness",
    "Harness",
    "harness",
]


class BaseHarness:
    """The part that is the same in both kinds of test: faults, and looking at runs."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    @property
    def clock(self) -> FakeClock:
        """The clock of the application; ``advance`` moves it."""
        return self._simulation.clock

    # -- faults -----------------------------------------------------------------------------

    def fail_step(
        self,
        step_id: str,
        *,
        times: int | None = 1,
        error: Exception | type[Exception] | None = None,
    ) -> None:
        """Make a ``step.run`` of any run fail; its function is not called.

        Args:
            step_id: the step; where its id repeats, ``"save"`` is the first, ``"save:1"`` the next.
            times: how often it fails before it works again, 1 or more; None for every time.
            error: the error that is raised; a ``RuntimeError`` by default.
        """
        self._simulation.faults.plan_failure(step_id, times, error)

    def crash_before(self, step_id: str, *, times: int = 1) -> None:
        """Crash the process just before the function of a ``step.run`` is called.

        The live handler is abandoned; its run is taken over and replayed. The waiting client is
        redirected to the wait URL (a real client would lose its connection). If the run had no
        checkpoint yet, it is lost, and the client gets a ``ConnectionResetError``.

        Args:
            step_id: as in :meth:`fail_step`.
            times: how many crashes, 1 or more.
        """
        self._simulation.faults.plan_crash(step_id, CrashPoint.BEFORE, times)

    def crash_during(self, step_id: str, *, times: int = 1) -> None:
        """Crash the process when the step's function has returned, but nothing is stored yet.

        The function is called again. The rest is as in :meth:`crash_before`.
        """
        self._simulation.faults.plan_crash(step_id, CrashPoint.DURING, times)

    def crash_after(self, step_id: str, *, times: int = 1) -> None:
        """Crash the process just after a step of any kind has become durable."""
        self._simulation.faults.plan_crash(step_id, CrashPoint.AFTER, times)

    def replay_everything(self) -> None:
        """From now on, suspend handlers after every step, and replay them.

        This finds handlers that are not deterministic. If a replay does not reach a step that had
        finished, the call that caused the replay raises ``NotDeterministicError``. Every response
        is then a handoff.
        """
        self._simulation.replay_checker.enabled = True

    # -- looking at runs --------------------------------------------------------------------

    def run(self, of: Reply | str) -> RunInfo:
        """Return what ``durable.runs.get`` shows of a run.

        Args:
            of: the run's id, or a reply to its client.

        Raises:
            RunNotFoundError: the run has left no record: it ended before its first step.
            ValueError: the reply does not come from a run.
        """
        return show_run(self._record(of), self._simulation.engine.env.codec)

    def _record(self, of: Reply | str) -> RunRecord:
        return self._simulation.record(_run_id(of))

    def runs(self) -> Sequence[RunInfo]:
        """Return the newest 1,000 runs without their steps, the newest first."""
        return self._simulation.durable.runs.list(limit=1000)

    def steps(self, of: Reply | str) -> tuple[StepRecord, ...]:
        """Return the steps of a run, in the order in which they finished, then the unfinished.

        Raises:
            RunNotFoundError, ValueError: as :meth:`run`.
        """
        record = self._record(of)
        return steps_of(
            record, self._simulation.engine.env.codec, self._simulation.calls(record.run.id)
        )

    def stream_data(self, of: Reply | str) -> list[object]:
        """Return the data of a run's stored stream chunks, in order.

        These are the chunks of steps that have succeeded, and the handler's own chunks as of the
        last checkpoint.

        Raises:
            RunNotFoundError, ValueError: as :meth:`run`.
        """
        run_id = self._record(of).run.id
        app, store = self._simulation.engine.env.app, self._simulation.store
        stored = store.read_stream(app, run_id, done=0, outside=0, most=sys.maxsize)
        pieces = () if stored is None else stored.chunks
        return [json.loads(text) for piece in pieces for text in piece.texts]

    def sent_events(self, name: str | None = None) -> list[Event]:
        """Return the events that were sent by other ways than :meth:`send`, the oldest first.

        They come from steps, from other code of the application, and from its clients.

        Args:
            name: return only events of this name; None for all.
        """
        own = self._simulation.own_events
        return [
            event
            for event_id, event in self._simulation.store.events.items()
            if event_id not in own and name in (None, event.name)
        ]


def _run_id(of: Reply | str) -> str:
    if not isinstance(of, (str, Reply)):
        raise TypeError(f"a run is named by its id, or by a reply of it, not by {of!r}")
    run_id = of if isinstance(of, str) else of.run_id
    if run_id is None:
        raise ValueError(f"{of!r} does not come from a run")
    return run_id


T = TypeVar("T")

#: How long (real seconds) a step that is in flight at the end of a test may take.
_STOP = 1.0


class Harness(BaseHarness):
    """An application in a test. Its calls return when nothing runs and nothing is due."""

    def client(self, app: object) -> Client:
        """Return a client of an endpoint, or of an application made by ``app(durable, routes)``.

        Raises:
            TypeError: ``app`` is neither.
            ValueError: it belongs to another ``Durable``.
        """
        return Client(self._simulation, resolve_handler(self._simulation, app), self._drive)

    def advance(self, duration: str | float | timedelta) -> None:
        """Move the clock: sleeps end, failed steps are retried, waits time out.

        Each happens at its own time, in order. ``"0s"`` runs what is due now.

        Args:
            duration: as in ``step.sleep``: ``"24h"``, seconds, or a ``timedelta``.

        Raises:
            ValueError: not a duration.
            NotDeterministicError, NotFinishedError: as ``Client.request``.
        """
        self._drive(self._simulation.advance(duration))

    def send(
        self, name: str, data: Mapping[str, object] | None = None, *, id: str | None = None
    ) -> str:
        """Send an event from outside, and run everything that it wakes.

        Args:
            name: the event's name.
            data: its data; empty by default.
            id: its id; an event with the same id is accepted once. None for a new id.

        Returns:
            The event's id.
        """
        return self._drive(self._simulation.send(Event(name, data or {}, id=id)))

    def _drive(self, script: Script[T]) -> T:
        return drive_sync(script, self._perform, nullcontext())

    def _perform(self, effect: AwaitIdle | SendRequest | ReadBody) -> object:
        match effect:
            case SendRequest(exchange=exchange):
                with exchange.current():
                    return exchange.handler.handle(exchange.request, max_wait=0.0)
            case ReadBody(response=Response(body=AsyncIterable() as body)):
                return self._simulation.engine.run_on_background_loop(_join_async(body))
            case ReadBody(response=response):
                return _join(response)
        self._simulation.await_idle()
        return None


class AsyncHarness(BaseHarness):
    """An application in an asynchronous test; see :class:`Harness`."""

    def client(self, app: object) -> AsyncClient:
        """Return a client; see :meth:`Harness.client`."""
        return AsyncClient(self._simulation, resolve_handler(self._simulation, app), self._drive)

    async def advance(self, duration: str | float | timedelta) -> None:
        """Move the clock; see :meth:`Harness.advance`."""
        await self._drive(self._simulation.advance(duration))

    async def send(
        self, name: str, data: Mapping[str, object] | None = None, *, id: str | None = None
    ) -> str:
        """Send an event from outside; see :meth:`Harness.send`."""
        return await self._drive(self._simulation.send(Event(name, data or {}, id=id)))

    def _drive(self, script: Script[T]) -> Coroutine[Any, Any, T]:
        return drive_async(script, self._perform)

    async def _perform(self, effect: AwaitIdle | SendRequest | ReadBody) -> object:
        match effect:
            case SendRequest(exchange=exchange):
                with exchange.current():
                    return await exchange.handler.handle_async(exchange.request, max_wait=0.0)
            case ReadBody(response=Response(body=AsyncIterable() as body)):
                return await _join_async(body)
            case ReadBody(response=response):
                return await self._simulation.engine.call_in_thread(_join, response)
        return await self._simulation.engine.call_in_thread(self._simulation.await_idle)


def _join(response: Response) -> bytes:
    """Return the whole body of a response whose body is not asynchronous."""
    body = response.body
    assert not isinstance(body, AsyncIterable)
    return body if isinstance(body, bytes) else b"".join(body)


async def _join_async(body: AsyncIterable[bytes]) -> bytes:
    return b"".join([chunk async for chunk in body])


class harness:  # noqa: N801 - used as a function is
    """Run an application inside a test: ``with harness(durable) as t:``.

    Inside the block the application has an empty store in memory and a clock that stands still
    until the test moves it. Retries have no jitter, and one handler runs at a time. After the block
    the application is as it was before.

    In asynchronous tests write ``async with harness(durable) as t:``; then ``async def`` handlers
    run on the test's event loop.

    Args:
        durable: the application; its endpoints are used as they are.
        start: the first time of the clock, an aware ``datetime``; 2030-01-01 by default.

    Raises:
        ConfigurationError: on entering, if the application is started already, or if a plain
            ``with`` is used on an event loop.
        UnusedFaultError: on leaving, if a planned failure or crash has not happened.
    """

    def __init__(self, durable: Durable[Any], *, start: datetime | None = None) -> None:
        self._simulation = Simulation(durable, start)
        self._stack = ExitStack()

    def __enter__(self) -> Harness:
        if _on_a_loop():
            raise ConfigurationError("on an event loop it is 'async with harness(...)'")
        self._stack.enter_context(self._simulation.install())
        return Harness(self._simulation)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            self._simulation.engine.stop(_STOP)
        if error is None:
            self._simulation.faults.check_used()

    async def __aenter__(self) -> AsyncHarness:
        self._stack.enter_context(self._simulation.install())
        return AsyncHarness(self._simulation)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            await self._simulation.durable.stop_async(_STOP)
        if error is None:
            self._simulation.faults.check_used()


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
