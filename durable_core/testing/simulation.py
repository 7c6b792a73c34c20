"""The simulation behind both harnesses: the application, its clock, its store and its worker.

What a harness does is written once, as generators (scripts) that yield what takes time. The
harnesses perform that, one of them in a thread and the other one on an event loop.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeAlias, TypeVar

from durable_core.api.durable import Durable
from durable_core.codec.json import Codec
from durable_core.codec.records import load_event, load_step_error
from durable_core.duration import parse_duration
from durable_core.engine.embedded import embedded
from durable_core.errors import ConfigurationError, NotFinishedError, RunNotFoundError, StepError
from durable_core.flow.child_runs import child_response
from durable_core.flow.scope import HandlerKind
from durable_core.http.response import Response
from durable_core.machine.addresses import child_of, signal_of
from durable_core.model.event import Event
from durable_core.model.run import Phase
from durable_core.model.step import Memo, OpKind, Pending
from durable_core.ports import Checkpoint, RunRecord, SendEvents, Write
from durable_core.stores.memory import MemoryStore
from durable_core.testing.clock import FakeClock, FakeIds
from durable_core.testing.faults import FaultPlan, ReplayChecker
from durable_core.testing.worker import Exchange, ManualWorker

__all__ = [
    "PATIENCE",
    "AwaitIdle",
    "ReadBody",
    "RecordingStore",
    "Script",
    "SendRequest",
    "Simulation",
    "StepRecord",
    "describe_wait",
    "steps_of",
]

T = TypeVar("T")

#: How long (real seconds) a handler may run without coming to its end, to a sleep or to a wait.
PATIENCE = 10.0
#: 30 years, in seconds.
_FOREVER = 10.0**9


@dataclass(frozen=True, slots=True)
class AwaitIdle:
    """Wait until no handler is live.

    Raises:
        NotFinishedError: one still is after :data:`PATIENCE`.
    """

    waits: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class SendRequest:
    """Call the application with the request of an exchange; the answer is its ``Response``."""

    waits: ClassVar[bool] = True
    exchange: Exchange


@dataclass(frozen=True, slots=True)
class ReadBody:
    """Read the body of a response to its end; the answer is the bytes."""

    waits: ClassVar[bool] = True
    response: Response


#: What a harness does, without saying how it waits. Driven by ``drive_sync`` or ``drive_async``.
Script: TypeAlias = Generator[AwaitIdle | SendRequest | ReadBody, Any, T]


def describe_wait(record: RunRecord, now: int) -> str:
    """Return in words what a run without a result waits for; ``now`` is epoch milliseconds."""
    run = record.run
    steps = "; ".join(_describe_step(pending, now) for pending in record.pending)
    if not steps and record.due_at is not None:
        steps = f"its handler is called again in {_seconds(record.due_at - now)}"
    return (
        f"of {run.function_id!r} is {run.phase.value} and has no result: {steps or 'no step yet'}"
    )


def _describe_step(pending: Pending, now: int) -> str:
    left = _seconds(pending.due_at - now)
    match pending.op.kind:
        case OpKind.SLEEP:
            return f"step {pending.op.name!r} sleeps for another {left}"
        case OpKind.WAIT:
            return (
                f"step {pending.op.name!r} waits for the event {pending.event!r}, "
                f"for another {left}"
            )
        case OpKind.SIGNAL:
            name = signal_of(pending.address)
            return f"step {pending.op.name!r} waits for the signal {name!r}, for another {left}"
        case OpKind.CALLBACK:
            return f"step {pending.op.name!r} waits for its callback, for another {left}"
        case OpKind.INVOKE:
            return (
                f"step {pending.op.name!r} waits for the run {child_of(pending.address)}, "
                f"for another {left}"
            )
    if not pending.error:
        return f"step {pending.op.name!r} has begun, at most once, and its process died"
    return (
        f"step {pending.op.name!r} has failed {pending.failures} times and is tried again in {left}"
    )


def _seconds(ms: int) -> str:
    return f"{max(0, ms) / 1000:g} s"


class RecordingStore(MemoryStore):
    """A memory store that remembers every event it has accepted.

    Attributes:
        events: the events by id, in the order in which they came.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step of a run, as a test sees it.

    Attributes:
        name: the step's id, with ``:1``, ``:2`` appended where the id repeats.
        kind: ``"run"``, ``"sleep"``, ``"wait"``, ``"send"`` or ``"invoke"``.
        done: True once the step has finished and will not run again.
        attempts: how often the step was tried, as the store counts: planned failures count,
            attempts that a crash has undone do not.
        calls: how often the step's function was really called.
        result: what the handler gets: the result of ``run``, the ids of ``send``, the ``Event``
            (or None) of ``wait``, the ``Response`` of ``invoke``; None while the step is not done,
            and after a failure.
        error: the step's final error, or None.
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
        calls: how often the function of each step was called, by step name.
    """
    return (*_list_finished(record, codec, calls), *_list_unfinished(record, calls))


def _list_finished(
    record: RunRecord, codec: Codec, calls: Mapping[str, int]
) -> Iterator[StepRecord]:
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


def _list_unfinished(record: RunRecord, calls: Mapping[str, int]) -> Iterator[StepRecord]:
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
        case OpKind.INVOKE:
            return child_response(memo.value)
        case OpKind.WAIT:
            return None if memo.value == "null" else load_event(memo.value)
    return json.loads(memo.value)


class Simulation:
    """An application on a store, a clock and a worker of the test's own.

    Args:
        durable: the application.
        start: the first time of the clock; None for the default of :class:`FakeClock`.
    """

    def __init__(self, durable: Durable[Any], start: datetime | None) -> None:
        if not isinstance(durable, Durable):
            raise TypeError(f"a harness takes a Durable, not {durable!r}")
        self.durable = durable
        self.engine = embedded(durable.engine)
        self.clock = FakeClock() if start is None else FakeClock(start)
        self.store = RecordingStore()
        self.faults = FaultPlan()
        self.replay_checker = ReplayChecker()
        self.own_events: set[str] = set()

    @contextmanager
    def install(self) -> Iterator[None]:
        """Start the application in this simulation; stop it before you leave the block."""
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
            ManualWorker,
            faults=self.faults,
            replay_checker=self.replay_checker,
            cancel=engine.cancel,
        )
        with engine.override(env=env, store=self.store, settings=settings, make_worker=make_worker):
            engine.start()
            yield

    @property
    def worker(self) -> ManualWorker:
        """The worker of the test.

        Raises:
            ConfigurationError: the application was stopped inside its harness.
        """
        worker = self.engine.worker
        if not isinstance(worker, ManualWorker):
            raise ConfigurationError("the application was stopped within its harness")
        return worker

    # -- scripts ----------------------------------------------------------------------------

    def settle(self) -> Script[None]:
        """Run everything that is due now.

        Raises:
            NotDeterministicError: see ``BaseHarness.replay_everything``.
        """
        worker = self.worker
        yield AwaitIdle()
        while worker.abandoned or self._is_due(self.clock.now()):
            worker.scheduler.catch_up()
            yield AwaitIdle()
        self._raise_problem()

    def advance(self, duration: str | float | timedelta) -> Script[None]:
        """Move the clock, and run everything that becomes due, each at its own time."""
        until = self.clock.now() + parse_duration(duration)
        yield from self.settle()
        while self._is_due(until):
            yield from self._next()
        self.clock.move_to(until)

    def send(self, event: Event) -> Script[str]:
        """Send an event, run everything that it wakes, and return the event's id."""
        [event_id] = self.engine.send([event])
        self.own_events.add(event_id)
        yield from self.settle()
        return event_id

    def finish(self, run_id: str) -> Script[None]:
        """Move the clock until a run has ended.

        Raises:
            NotFinishedError: nothing is due any more, and the run has not ended.
        """
        while isinstance(self.store.result(self.engine.env.app, run_id), Phase):
            if self._next_due() is None:
                raise self.not_finished_error(run_id)
            yield from self._next()

    def _next(self) -> Script[None]:
        due_at = self._next_due()
        assert due_at is not None
        self.clock.move_to(due_at)
        yield from self.settle()

    def _is_due(self, until: int) -> bool:
        due_at = self._next_due()
        return due_at is not None and due_at <= until

    def _next_due(self) -> int | None:
        keys = [key for kind in HandlerKind for key in self.worker.runs.keys(kind)]
        slots = self.worker.runs.slots(keys)
        return self.store.next_due(self.engine.env.app, keys, slots=slots)

    def _raise_problem(self) -> None:
        """Raise the first problem that was found in a handler, if there is one."""
        app, problems = self.engine.env.app, self.worker.problems
        for run_id in self.replay_checker.run_ids():
            result = self.store.result(app, run_id)
            if not isinstance(result, Phase):
                error = self.replay_checker.check_completed(run_id)
                if error is not None and result is not None and result.phase is Phase.COMPLETED:
                    problems.append(error)
        if problems:
            raise problems.pop(0)

    # -- looking at runs --------------------------------------------------------------------

    def record(self, run_id: str) -> RunRecord:
        """Return everything that is stored about a run.

        Raises:
            RunNotFoundError: the run has left no record: it ended before its first step.
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

    def not_finished_error(self, run_id: str) -> NotFinishedError:
        """Return the error for a run that has no result yet."""
        what = describe_wait(self.record(run_id), self.clock.now())
        return NotFinishedError(f"run {run_id} {what}")

    def await_idle(self) -> None:
        """Block until no handler is live.

        Raises:
            NotFinishedError: one still is after :data:`PATIENCE`.
        """
        live = self.worker.live
        if not live.wait_until_empty(PATIENCE):
            names = ", ".join(sorted(each.ex.run.function_id for each in live.all()))
            raise NotFinishedError(
                f"{names} did not come to an end, to a sleep or to a wait in {PATIENCE:g} s of "
                "real time; does it wait for something outside its steps?"
            )
