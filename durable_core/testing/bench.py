"""What both harnesses do, written once: each is a driver of these generators.

A generator yields where it has to wait until no handler is live.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVar

from durable_core.api.durable import Durable
from durable_core.errors import ConfigurationError, NotFinishedError, RunNotFoundError
from durable_core.flow.current import Face
from durable_core.machine.duration import parse_duration
from durable_core.model.events import Event
from durable_core.model.run import Phase
from durable_core.ports import RunRecord
from durable_core.runtime.engine import embedded
from durable_core.testing.clock import FakeClock, FakeIds
from durable_core.testing.faults import Faults
from durable_core.testing.replay import Replays
from durable_core.testing.report import waits_for
from durable_core.testing.steered import SteeredNode
from durable_core.testing.store import NotingStore

__all__ = ["PATIENCE", "Bench", "Steering"]

T = TypeVar("T")

Steering: TypeAlias = Generator[None, None, T]

#: Without activity for so long (real seconds) a parked ``async def`` handler is put away.
_SETTLE_TIME = 0.01
#: For so long (real seconds) a handler may run without coming to its end or to a wait.
PATIENCE = 10.0
_FOREVER = 10.0**9


class Bench:
    """An application on a store, a clock and a node of the test's own.

    Args:
        durable: the application.
        start: what the clock shows at first.
    """

    def __init__(self, durable: Durable[Any], start: datetime | None) -> None:
        self.durable = durable
        self.engine = embedded(durable.engine)
        self.clock = FakeClock() if start is None else FakeClock(start)
        self.store = NotingStore()
        self.faults = Faults()
        self.replays = Replays()
        self.own_events: set[str] = set()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the application work here; it must be stopped before the end."""
        engine = self.engine
        env = replace(
            engine.env,
            clock=self.clock,
            ids=FakeIds(),
            policy=replace(engine.env.policy, jitter=0),
            secrets=lambda: (b"the secret of all tests",),
        )
        settings = replace(
            engine.settings,
            settle_time=_SETTLE_TIME,
            keep_runs=_FOREVER,
            keep_events=_FOREVER,
        )
        make_node = functools.partial(
            SteeredNode, faults=self.faults, replays=self.replays, cancel=engine.cancel
        )
        with engine.instead(env=env, store=self.store, settings=settings, make_node=make_node):
            engine.start()
            yield

    @property
    def node(self) -> SteeredNode:
        """The node that works for the test."""
        node = self.engine.node
        if not isinstance(node, SteeredNode):
            raise ConfigurationError("the application was stopped within its harness")
        return node

    # -- letting things happen --------------------------------------------------------------

    def settle(self) -> Steering[None]:
        """Let all that is due now happen."""
        node = self.node
        yield
        while node.abandoned or self._is_due(self.clock.now()):
            node.keeper.catch_up()
            yield
        self._check()

    def advance(self, duration: str | float | timedelta) -> Steering[None]:
        """Let time pass, and all happen that is due meanwhile, in its order."""
        until = self.clock.now() + parse_duration(duration)
        yield from self.settle()
        while self._is_due(until):
            yield from self._next()
        self.clock.move_to(until)

    def send(self, event: Event) -> Steering[str]:
        """Send an event, and let happen what it brings about; return its id."""
        [event_id] = self.engine.send([event])
        self.own_events.add(event_id)
        yield from self.settle()
        return event_id

    def finish(self, run_id: str) -> Steering[None]:
        """Let time pass until a run has ended."""
        while isinstance(self.store.result(self.engine.env.app, run_id), Phase):
            if self._next_due() is None:
                raise self.unfinished(run_id)
            yield from self._next()

    def _next(self) -> Steering[None]:
        due_at = self._next_due()
        assert due_at is not None
        self.clock.move_to(due_at)
        yield from self.settle()

    def _is_due(self, until: int) -> bool:
        due_at = self._next_due()
        return due_at is not None and due_at <= until

    def _next_due(self) -> int | None:
        keys = [key for face in Face for key in self.node.keys(face)]
        return self.store.next_due(self.engine.env.app, keys)

    def _check(self) -> None:
        """Tell the test what it must know."""
        app, problems = self.engine.env.app, self.node.problems
        for run_id in self.replays.run_ids():
            result = self.store.result(app, run_id)
            if not isinstance(result, Phase):
                error = self.replays.conclude(run_id)
                if error is not None and result is not None and result.phase is Phase.COMPLETED:
                    problems.append(error)
        if problems:
            raise problems.pop(0)

    # -- looking ----------------------------------------------------------------------------

    def record(self, run_id: str) -> RunRecord:
        """Return all that is known about a run.

        Raises:
            RunNotFoundError: it has left no record, for it had taken no step.
        """
        record = self.store.get(self.engine.env.app, run_id)
        if record is None:
            raise RunNotFoundError(
                f"run {run_id} has left no record: it ended before its first step"
            )
        return record

    def calls(self, run_id: str) -> Mapping[str, int]:
        """Return how often the function of each step of a run was called."""
        return {name: n for (of_run, name), n in self.node.calls.items() if of_run == run_id}

    def unfinished(self, run_id: str) -> NotFinishedError:
        """Return the error for a run that has no result yet."""
        what = waits_for(self.record(run_id), self.clock.now())
        return NotFinishedError(f"run {run_id} {what}")

    def still_running(self) -> NotFinishedError:
        """Return the error for handlers that do not come to an end."""
        names = ", ".join(sorted(each.ex.run.function_id for each in self.node.live.all()))
        return NotFinishedError(
            f"{names} did not come to an end, to a sleep or to a wait in {PATIENCE:g} s of real "
            "time; does it wait for something outside its steps?"
        )
