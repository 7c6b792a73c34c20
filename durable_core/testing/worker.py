"""What stands between the code of a handler and its run: it sees every step, and can spoil it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

from durable_core.api.adapter import HTTPHandler
from durable_core.engine.runs import RunManager
from durable_core.engine.scheduler import Scheduler
from durable_core.engine.worker import Worker
from durable_core.errors import NotDeterministicError, StepError
from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.effects import AwaitReplayTurn, CallUser, Effect, Flow, Park, Submit
from durable_core.flow.env import AppConfig
from durable_core.flow.execution import Execution, StoredExecution, settle
from durable_core.flow.flows import EngineFlows
from durable_core.flow.scope import HandlerKind, RunScope
from durable_core.http.request import Request
from durable_core.machine.step_ids import hash_step_id
from durable_core.model.step import Memo
from durable_core.ports import Checkpoint, ReapWorkers, Store
from durable_core.runners.settings import RegisteredEndpoint, Settings
from durable_core.testing.faults import Faults, Moment, Replays

__all__ = [
    "ASKING",
    "Exchange",
    "Fate",
    "SteeredKeeper",
    "SteeredNode",
    "WatchedScope",
]


# --- worker ---------------------------------------------------------------------------------------

T = TypeVar("T")


class Fate(Protocol):
    """What a scope needs of its node: the plans of the test, and the means to carry them out."""

    faults: Faults
    replays: Replays

    def called(self, run_id: str, step_name: str) -> None:
        """Note that the function of a step is called."""
        ...

    def crash(self) -> None:
        """Let go of every run, as a process that dies."""
        ...

    def throw_away(self, run_id: str) -> None:
        """Have the handler of a run put away when nothing of it is in flight."""
        ...

    def refuse(self, run_id: str, error: NotDeterministicError) -> None:
        """End a run that cannot be tested, and tell the test why."""
        ...


class WatchedScope:
    """A live run as the code of its handler reaches it, with the test in between.

    Args:
        run: the run itself.
        fate: what is planned.
    """

    def __init__(self, run: RunScope, fate: Fate) -> None:
        self._run = run
        self._fate = fate
        self._own_branch = run.current_task()
        self._asked = fate.replays.begin(run.ex)

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

    def current_task(self) -> object:
        """Return the task or thread that runs now."""
        return self._run.current_task()

    def drive(self, flow: Flow[Any]) -> Any:
        """Run the flow of a step, with an eye on what it asks for."""
        return self._run.drive(self._watched(flow))

    def _watched(self, flow: Flow[T]) -> Flow[T]:
        finished: list[Memo] = []
        try:
            value = yield from self._between(flow, finished)
        except StepError:
            yield from self._after(finished)
            raise
        yield from self._after(finished)
        return value

    def _between(self, flow: Flow[T], finished: list[Memo]) -> Flow[T]:
        """Pass on what the flow asks for, and the answers."""
        resume: Callable[[Any], Effect] = flow.send
        value: Any = None
        while True:
            try:
                effect = resume(value)
            except StopIteration as stop:
                result: T = stop.value
                return result
            try:
                value = yield from self._answer(effect, finished)
                resume = flow.send
            except BaseException as error:
                value = error
                resume = flow.throw

    def _answer(self, effect: Effect, finished: list[Memo]) -> Flow[Any]:
        match effect:
            case CallUser(inside=StepAttempt(name=name)):
                return (yield from self._invoke(effect, name))
            case Submit(write=Checkpoint() as write):
                for op in [*(m.op for m in write.memos), *(p.op for p in write.pending)]:
                    yield from self._begins(op.name)
                for memo in write.memos:
                    self._asked.finished(memo, in_line=self._in_line)
                finished.extend(write.memos)
            case AwaitReplayTurn(completion_no=number):
                self._asked.recalled(number)
            case Park(op_id=op_id):
                effect = Park(op_id, None)  # no timer: it waits for the test to move the clock
        return (yield effect)

    @property
    def _in_line(self) -> bool:
        return self._run.current_task() is self._own_branch

    def _begins(self, step_name: str) -> Flow[None]:
        """A step that has not finished is asked for."""
        if self._fate.replays.on:
            error = self._asked.begins(step_name, in_line=self._in_line)
            if error is not None:
                self._fate.refuse(self.ex.run.id, error)
                yield from _never(step_name)

    def _invoke(self, effect: CallUser, step_name: str) -> Flow[Any]:
        yield from self._begins(step_name)
        yield from self._crash_if(step_name, Moment.BEFORE)
        error = self._fate.faults.failure(step_name)
        if error is None:
            self._fate.called(self.ex.run.id, step_name)
        else:
            effect = CallUser(effect.inside, _failing(error, self.kind))
        outcome = yield effect
        yield from self._crash_if(step_name, Moment.DURING)
        return outcome

    def _after(self, finished: list[Memo]) -> Flow[None]:
        """The flow is over; it has checkpointed these steps. The handler may end here."""
        for memo in finished:
            yield from self._crash_if(memo.op.name, Moment.AFTER)
        if finished and self._fate.replays.on:
            yield from settle(self.ex)
            error = self._asked.thrown_away()
            if error is not None:
                self._fate.refuse(self.ex.run.id, error)
            else:
                self._fate.throw_away(self.ex.run.id)
            yield from _never(finished[-1].op.name)

    def _crash_if(self, step_name: str, moment: Moment) -> Flow[None]:
        if self._fate.faults.crashes(step_name, moment):
            yield from settle(self.ex)
            self._fate.crash()
            yield from _never(step_name)


def _never(step_name: str) -> Flow[None]:
    """Wait, in vain, until the handler is unwound."""
    while True:
        yield Park(hash_step_id(step_name), None)


def _failing(error: Exception, face: HandlerKind) -> Call:
    """Return a call that raises the error, in the place where the step's function would."""

    def fail() -> NoReturn:
        raise error

    async def fail_async() -> NoReturn:
        raise error

    return Call(fail if face is HandlerKind.DEF else fail_async)


# --- steered --------------------------------------------------------------------------------------
#
# A node that does nothing by itself: the test says when it looks for what is due.


@dataclass(slots=True)
class Exchange:
    """One request of a test's client.

    Attributes:
        handler: what it goes to.
        request: the request.
        follow: the client wants the final response.
        run_id: the run that was begun for it, if one was.
    """

    handler: HTTPHandler
    request: Request
    follow: bool
    run_id: str | None = None


#: The exchange that the calling code is in.
ASKING: ContextVar[Exchange | None] = ContextVar("durable_asking", default=None)


class SteeredKeeper(Scheduler):
    """A scheduler without a thread; the simulation calls :meth:`catch_up`."""

    def start(self) -> None:
        """Register the process."""
        self.register()


class _SteeredRuns(RunManager):
    """Has room for one run at a time, which goes as far as it can before the next."""

    def new_execution(
        self, endpoint: RegisteredEndpoint, request: Request, route: str | None, event_seq: int
    ) -> StoredExecution:
        """Return the execution of a new run; the exchange that it is for learns its id."""
        ex = super().new_execution(endpoint, request, route, event_seq)
        exchange = ASKING.get()
        if exchange is not None:
            exchange.run_id = ex.run.id
        return ex

    def capacity(self, kind: HandlerKind) -> int:
        """Return 1 while nothing is live."""
        return 0 if len(self._host.live) else 1


class SteeredNode(Worker):
    """Runs one handler at a time, and only what it is told to.

    Args:
        env, settings, store, endpoints: see ``Worker``.
        faults: what is to go wrong.
        replays: what is known about replays.
        cancel: ends a run, given its id.

    Attributes:
        calls: how often each step's function was called, by run id and step.
        gone: runs that a crash has left no trace of.
        problems: what a test must be told.
    """

    def __init__(
        self,
        env: AppConfig,
        settings: Settings,
        store: Store,
        endpoints: dict[str, RegisteredEndpoint],
        *,
        faults: Faults,
        replays: Replays,
        cancel: Callable[[str], object],
    ) -> None:
        super().__init__(env, settings, store, endpoints)
        self.wrap_scope = self._scope
        self.faults = faults
        self.replays = replays
        self.calls: Counter[tuple[str, str]] = Counter()
        self.gone: set[str] = set()
        self._cancel = cancel
        self.problems: list[NotDeterministicError] = []

    def make_run_manager(self) -> RunManager:
        """Return one that runs one handler at a time."""
        return _SteeredRuns(self)

    def make_scheduler(self) -> Scheduler:
        """Return one without a thread."""
        return SteeredKeeper(self, self.runs)

    def _scope(self, run: RunScope) -> RunScope:
        """Put the test between a run and its handler."""
        return WatchedScope(run, self)

    # -- what a scope needs -----------------------------------------------------------------

    def called(self, run_id: str, step_name: str) -> None:
        """Note that the function of a step is called."""
        self.calls[run_id, step_name] += 1

    def crash(self) -> None:
        """Let go of every run, as a process that dies; take them over under a new name."""
        dead, lost = self.owner, self.live.all()
        self.scheduler.register()
        self.queue.execute(ReapWorkers(ids=(dead,), now=self.env.clock.now()))
        for live in lost:
            if isinstance(live.ex, StoredExecution) and not live.ex.stored:
                self.gone.add(live.ex.run.id)
            live.lease_lost()

    def throw_away(self, run_id: str) -> None:
        """Have the handler of a run put away when nothing of it is in flight; it is due at once."""
        live = self.live.get(run_id)
        if live is not None:
            live.stop()

    def refuse(self, run_id: str, error: NotDeterministicError) -> None:
        """End a run that cannot be tested, and tell the test why."""
        self.problems.append(error)
        self._cancel(run_id)
