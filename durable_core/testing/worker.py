"""The worker of a harness: it runs what the test tells it to, and carries out the fault plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from inspect import iscoroutinefunction
from typing import Any, TypeVar, cast

from durable_core.api.adapter import HTTPHandler
from durable_core.engine.capacity import Capacity
from durable_core.engine.runs import RunManager, WorkerParts
from durable_core.engine.scheduler import Scheduler
from durable_core.engine.worker import Worker
from durable_core.errors import NotDeterministicError, StepError
from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.effects import AwaitReplayTurn, Effect, Flow, Park, Submit
from durable_core.flow.env import AppConfig
from durable_core.flow.execution import Execution, StoredExecution, checkpoint, settle
from durable_core.flow.flows import EngineFlows
from durable_core.flow.scope import HandlerKind, RunScope
from durable_core.http.request import Request
from durable_core.machine.step_ids import hash_step_id
from durable_core.model.step import Memo, Op
from durable_core.ports import Checkpoint, ReapWorkers, Store
from durable_core.runners.settings import RegisteredEndpoint, Settings
from durable_core.testing.faults import CrashPoint, FaultPlan, ReplayChecker

__all__ = [
    "CURRENT_EXCHANGE",
    "Exchange",
    "InstrumentedScope",
    "ManualScheduler",
    "ManualWorker",
]


T = TypeVar("T")


class InstrumentedScope:
    """The scope of a live run, which shows every step to the test's worker.

    Args:
        run: the scope that does the work.
        worker: has the fault plan and the replay checker.
    """

    def __init__(self, run: RunScope, worker: ManualWorker) -> None:
        self._run = run
        self._worker = worker
        self._own_task = run.current_task()
        self._trace = worker.replay_checker.begin(run.ex)

    @property
    def ex(self) -> Execution:
        """The execution."""
        return self._run.ex

    @property
    def flows(self) -> EngineFlows[Any]:
        """What its engine does for it."""
        return self._run.flows

    @property
    def kind(self) -> HandlerKind:
        """How its handler is called."""
        return self._run.kind

    @property
    def tasks(self) -> Any:
        """What is known of the tasks of its handler."""
        return self._run.tasks

    def current_task(self) -> object:
        """Return the task or thread that runs now."""
        return self._run.current_task()

    def drive(self, flow: Flow[Any]) -> Any:
        """Run the flow of a step, and watch its effects."""
        return self._run.drive(self._instrument(flow))

    def run_step(self, op: Op, call: Call) -> Any:
        """Do the same with a step that calls a function, in its flow."""
        return self.drive(self.flows.run_step(self.ex, op, call))

    def _instrument(self, flow: Flow[T]) -> Flow[T]:
        finished: list[Memo] = []
        try:
            value = yield from self._relay_effects(flow, finished)
        except StepError:
            yield from self._end_step(finished)
            raise
        yield from self._end_step(finished)
        return value

    def _relay_effects(self, flow: Flow[T], finished: list[Memo]) -> Flow[T]:
        """Pass on the flow's effects and their answers; put the test's actions between them."""
        resume: Callable[[Any], Effect] = flow.send
        value: Any = None
        while True:
            try:
                effect = resume(value)
            except StopIteration as stop:
                result: T = stop.value
                return result
            try:
                value = yield from self._perform(effect, finished)
                resume = flow.send
            except BaseException as error:
                value = error
                resume = flow.throw

    def _perform(self, effect: Effect, finished: list[Memo]) -> Flow[Any]:
        match effect:
            case StepAttempt(call=Call() as call):
                return (yield from self._call_step(effect, call))
            case Submit(write=Checkpoint() as write):
                for op in [*(m.op for m in write.memos), *(p.op for p in write.pending)]:
                    yield from self._check_order(op.name)
                for memo in write.memos:
                    self._trace.add_finished(memo, in_line=self._in_line)
                finished.extend(write.memos)
            case AwaitReplayTurn(completion_no=number):
                self._trace.add_replayed(number)
            case Park(op_id=op_id):
                effect = Park(op_id, None)  # no timer: it waits for the test to move the clock
        return (yield effect)

    @property
    def _in_line(self) -> bool:
        return self._run.current_task() is self._own_task

    def _check_order(self, step_name: str) -> Flow[None]:
        """Check that an unfinished step comes after all finished ones of this task or thread."""
        if self._worker.replay_checker.enabled:
            error = self._trace.check_new(step_name, in_line=self._in_line)
            if error is not None:
                self._worker.reject(self.ex.run.id, error)
                yield from _wait_forever(step_name)

    def _call_step(self, attempt: StepAttempt, call: Call) -> Flow[Any]:
        step_name = attempt.name
        yield from self._check_order(step_name)
        yield from self._crash_if(step_name, CrashPoint.BEFORE)
        attempt.call = self._planned(call, step_name)
        try:
            outcome = yield attempt
        finally:
            attempt.call = call
        if outcome is not None:  # else it was not called yet
            yield from self._crash_if(step_name, CrashPoint.DURING)
        return outcome

    def _planned(self, call: Call, step_name: str) -> Call:
        """Return a call that is counted, or fails if that is planned."""

        def begin() -> None:
            error = self._worker.faults.take_failure(step_name)
            if error is not None:
                raise error
            self._worker.count_call(self.ex.run.id, step_name)

        def call_now(*args: object, **kwargs: object) -> object:
            begin()
            return call.fn(*args, **kwargs)

        async def call_async(*args: object, **kwargs: object) -> object:
            begin()
            return await cast(Awaitable[object], call.fn(*args, **kwargs))

        return replace(call, fn=call_async if iscoroutinefunction(call.fn) else call_now)

    def _end_step(self, finished: list[Memo]) -> Flow[None]:
        """Crash or suspend here, if that is planned, when these steps are checkpointed."""
        if isinstance(self.ex, StoredExecution) and self.ex.unsaved:
            yield from self._relay_effects(_save(self.ex), finished)
        for memo in finished:
            yield from self._crash_if(memo.op.name, CrashPoint.AFTER)
        if finished and self._worker.replay_checker.enabled:
            yield from settle(self.ex)
            error = self._trace.check_suspended()
            if error is not None:
                self._worker.reject(self.ex.run.id, error)
            else:
                self._worker.suspend(self.ex.run.id)
            yield from _wait_forever(finished[-1].op.name)

    def _crash_if(self, step_name: str, moment: CrashPoint) -> Flow[None]:
        if self._worker.faults.take_crash(step_name, moment):
            yield from settle(self.ex)
            self._worker.crash()
            yield from _wait_forever(step_name)


def _save(ex: StoredExecution) -> Flow[None]:
    """Store the ends of ops that would wait for the next step."""
    ex.add_ticket((yield checkpoint(ex)))


def _wait_forever(step_name: str) -> Flow[None]:
    """Wait until the handler is unwound."""
    while True:
        yield Park(hash_step_id(step_name), None)


#: The exchange that the calling code belongs to.
CURRENT_EXCHANGE: ContextVar[Exchange | None] = ContextVar("durable_exchange", default=None)


@dataclass(slots=True)
class Exchange:
    """One request of a test's client.

    Attributes:
        handler: the endpoint or application that answers.
        request: the request.
        follow: True if the client wants the final response.
        run_id: the run that was begun for the request, or None.
    """

    handler: HTTPHandler
    request: Request
    follow: bool
    run_id: str | None = None

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this the current exchange, for the block."""
        token = CURRENT_EXCHANGE.set(self)
        try:
            yield
        finally:
            CURRENT_EXCHANGE.reset(token)


class ManualScheduler(Scheduler):
    """A scheduler without a thread; the simulation calls :meth:`catch_up`."""

    def start(self) -> None:
        """Register the process."""
        self.register()


class _OneAtATime(Capacity):
    """Room for one run while none is live; none waits for another one."""

    def __init__(self, live: Sized) -> None:
        super().__init__(1, 1)
        self._live = live

    def free(self, kind: HandlerKind) -> int:
        """Return 1 while nothing is live."""
        return 0 if len(self._live) else 1

    room = free


class _ManualRuns(RunManager):
    """Runs one handler at a time: each goes as far as it can before the next one begins."""

    def __init__(self, worker: WorkerParts) -> None:
        super().__init__(worker)
        self.capacity = _OneAtATime(worker.live)

    def new_execution(
        self, endpoint: RegisteredEndpoint, request: Request, route: str | None, event_seq: int
    ) -> StoredExecution:
        """Return the execution of a new run, and note its id in the current exchange."""
        ex = super().new_execution(endpoint, request, route, event_seq)
        exchange = CURRENT_EXCHANGE.get()
        if exchange is not None:
            exchange.run_id = ex.run.id
        return ex


class ManualWorker(Worker):
    """Runs one handler at a time, and only when the simulation asks for it.

    Args:
        env, settings, store, endpoints: see ``Worker``.
        faults: the planned failures and crashes.
        replay_checker: checks that handlers are deterministic.
        cancel: cancels the run with the given id.

    Attributes:
        calls: how often each step's function was called, by run id and step name.
        lost_runs: ids of runs that a crash has left no trace of.
        problems: errors about handlers, which the simulation raises in the test.
    """

    def __init__(
        self,
        env: AppConfig,
        settings: Settings,
        store: Store,
        endpoints: dict[str, RegisteredEndpoint],
        *,
        faults: FaultPlan,
        replay_checker: ReplayChecker,
        cancel: Callable[[str], object],
    ) -> None:
        super().__init__(env, settings, store, endpoints)
        self.wrap_scope = self._scope
        self.invoke_wait = 0.0  # one handler runs at a time
        self.faults = faults
        self.replay_checker = replay_checker
        self.calls: Counter[tuple[str, str]] = Counter()
        self.lost_runs: set[str] = set()
        self._cancel = cancel
        self.problems: list[NotDeterministicError] = []

    def make_run_manager(self) -> RunManager:
        """Return a manager that runs one handler at a time."""
        return _ManualRuns(self)

    def make_scheduler(self) -> Scheduler:
        """Return a scheduler without a thread."""
        return ManualScheduler(self, self.runs)

    def _scope(self, run: RunScope) -> RunScope:
        """Return the scope through which the handler of a run reaches it."""
        return InstrumentedScope(run, self)

    # -- what its scopes call ---------------------------------------------------------------

    def count_call(self, run_id: str, step_name: str) -> None:
        """Count a call of a step's function."""
        self.calls[run_id, step_name] += 1

    def crash(self) -> None:
        """Lose every live run, as a process that dies; the same worker goes on under a new id."""
        dead, lost = self.owner, self.live.all()
        self.scheduler.register()
        self.queue.execute(ReapWorkers(ids=(dead,), now=self.env.clock.now()))
        for live in lost:
            if isinstance(live.ex, StoredExecution) and not live.ex.stored:
                self.lost_runs.add(live.ex.run.id)
            live.lease_lost()

    def suspend(self, run_id: str) -> None:
        """Suspend a run when none of its steps is in flight; it is due again at once."""
        live = self.live.get(run_id)
        if live is not None:
            live.stop()

    def reject(self, run_id: str, error: NotDeterministicError) -> None:
        """Cancel a run that cannot be tested, and keep the error for the test."""
        self.problems.append(error)
        self._cancel(run_id)
