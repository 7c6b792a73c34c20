"""What both harnesses do, written once: each is a driver of these generators.

A generator yields where it has to wait until no handler is live.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVar

from durable_core.api.durable import Durable
from durable_core.codec.json import Codec
from durable_core.codec.records import load_event, load_step_error
from durable_core.engine.embedded import embedded
from durable_core.errors import ConfigurationError, NotFinishedError, RunNotFoundError, StepError
from durable_core.flow.scope import HandlerKind
from durable_core.machine.duration import parse_duration
from durable_core.model.event import Event
from durable_core.model.run import Phase
from durable_core.model.step import Memo, OpKind, Pending
from durable_core.ports import Checkpoint, RunRecord, SendEvents, Write
from durable_core.stores.memory import MemoryStore
from durable_core.testing.clock import FakeClock, FakeIds
from durable_core.testing.faults import Faults, Replays
from durable_core.testing.worker import SteeredNode

__all__ = ["PATIENCE", "Bench", "NotingStore", "Steering", "StepRecord", "steps_of", "waits_for"]


# --- report ---------------------------------------------------------------------------------------
#
# What a run waits for, in words.


def waits_for(record: RunRecord, now: int) -> str:
    """Return what a run without a result waits for; ``now`` is epoch milliseconds."""
    run = record.run
    steps = "; ".join(_step(pending, now) for pending in record.pending)
    if not steps and record.due_at is not None:
        steps = f"its handler is called again in {_seconds(record.due_at - now)}"
    return (
        f"of {run.function_id!r} is {run.phase.value} and has no result: {steps or 'no step yet'}"
    )


def _step(pending: Pending, now: int) -> str:
    left = _seconds(pending.due_at - now)
    match pending.op.kind:
        case OpKind.SLEEP:
            return f"step {pending.op.name!r} sleeps for another {left}"
        case OpKind.WAIT:
            return (
                f"step {pending.op.name!r} waits for the event {pending.event!r}, "
                f"for another {left}"
            )
    return (
        f"step {pending.op.name!r} has failed {pending.failures} times and is tried again in {left}"
    )


def _seconds(ms: int) -> str:
    return f"{max(0, ms) / 1000:g} s"


# --- store ----------------------------------------------------------------------------------------
#
# The store of a harness: in memory, with a list of the events.


class NotingStore(MemoryStore):
    """A store in memory that notes the events it takes.

    Attributes:
        events: each event by its id, in the order in which they came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: dict[str, Event] = {}

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Apply the writes in order; see ``ports.Store``."""
        answers = super().commit(writes, wait=wait)
        for write, answer in zip(writes, answers, strict=True):
            if not isinstance(answer, BaseException):
                for event in _events_of(write):
                    assert event.id is not None
                    self.events.setdefault(event.id, event)
        return answers


def _events_of(write: Write[object]) -> tuple[Event, ...]:
    if isinstance(write, Checkpoint):
        return write.events
    return write.events if isinstance(write, SendEvents) else ()


# --- steps ----------------------------------------------------------------------------------------
#
# The steps of a run, as tests look at them.


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What has become of one step.

    Attributes:
        name: its id, with ``:1``, ``:2`` appended where the id repeats.
        kind: ``"run"``, ``"sleep"``, ``"wait"`` or ``"send"``.
        done: it has finished and will not run again.
        attempts: how often it was tried, as the store has it: planned failures count, what a
            crash has undone does not.
        calls: how often its function was really called.
        result: what the handler gets: the result of ``run``, the ids of ``send``, the ``Event``
            (or None) of ``wait``; None while the step is not done, or has failed.
        error: how it has failed for good, or None.
    """

    name: str
    kind: str
    done: bool
    attempts: int
    calls: int = 0
    result: object = None
    error: StepError | None = None


def steps_of(record: RunRecord, codec: Codec, calls: Mapping[str, int]) -> tuple[StepRecord, ...]:
    """Return the finished steps of a run in the order in which they finished, then the others.

    Args:
        record: the run.
        codec: how results are stored.
        calls: how often the function of each step was called, by its name.
    """
    return (*_finished(record, codec, calls), *_unfinished(record, calls))


def _finished(record: RunRecord, codec: Codec, calls: Mapping[str, int]) -> Iterator[StepRecord]:
    for memo in record.memos:
        name = memo.op.name
        yield StepRecord(
            name=name,
            kind=memo.op.kind.value,
            done=True,
            attempts=memo.attempts,
            calls=calls.get(name, 0),
            result=_result(memo, codec) if memo.ok else None,
            error=None if memo.ok else load_step_error(name, memo.value),
        )


def _unfinished(record: RunRecord, calls: Mapping[str, int]) -> Iterator[StepRecord]:
    for pending in record.pending:
        name = pending.op.name
        yield StepRecord(
            name=name,
            kind=pending.op.kind.value,
            done=False,
            attempts=pending.failures,
            calls=calls.get(name, 0),
        )


def _result(memo: Memo, codec: Codec) -> object:
    match memo.op.kind:
        case OpKind.RUN:
            return codec.decode(memo.value)
        case OpKind.WAIT:
            return None if memo.value == "null" else load_event(memo.value)
    return json.loads(memo.value)


# --- simulation -----------------------------------------------------------------------------------

T = TypeVar("T")

Steering: TypeAlias = Generator[None, None, T]

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
            keep_runs=_FOREVER,
            keep_events=_FOREVER,
        )
        make_worker = functools.partial(
            SteeredNode, faults=self.faults, replays=self.replays, cancel=engine.cancel
        )
        with engine.override(env=env, store=self.store, settings=settings, make_worker=make_worker):
            engine.start()
            yield

    @property
    def worker(self) -> SteeredNode:
        """The node that works for the test."""
        node = self.engine.worker
        if not isinstance(node, SteeredNode):
            raise ConfigurationError("the application was stopped within its harness")
        return node

    # -- letting things happen --------------------------------------------------------------

    def settle(self) -> Steering[None]:
        """Let all that is due now happen."""
        node = self.worker
        yield
        while node.abandoned or self._is_due(self.clock.now()):
            node.scheduler.catch_up()
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
        keys = [key for face in HandlerKind for key in self.worker.runs.keys(face)]
        return self.store.next_due(self.engine.env.app, keys)

    def _check(self) -> None:
        """Tell the test what it must know."""
        app, problems = self.engine.env.app, self.worker.problems
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
        return {name: n for (of_run, name), n in self.worker.calls.items() if of_run == run_id}

    def unfinished(self, run_id: str) -> NotFinishedError:
        """Return the error for a run that has no result yet."""
        what = waits_for(self.record(run_id), self.clock.now())
        return NotFinishedError(f"run {run_id} {what}")

    def still_running(self) -> NotFinishedError:
        """Return the error for handlers that do not come to an end."""
        names = ", ".join(sorted(each.ex.run.function_id for each in self.worker.live.all()))
        return NotFinishedError(
            f"{names} did not come to an end, to a sleep or to a wait in {PATIENCE:g} s of real "
            "time; does it wait for something outside its steps?"
        )
