"""Handlers of frameworks that are called at once: a run is made for one only if it needs one.

Most of what a run costs a request is for what comes after its first step, and a framework has
routed and parsed the request already. So its handler is called like any other function, and its
first part, up to where it waits for something, runs at once. If it has ended by then, and has asked
for nothing of a run, there is none.

If it asks for a step, the run is made, and the step is executed within the first part as far as it
need not wait. The run itself begins in the next turn of the event loop, in the task that the
handler has had from the beginning. If the handler has returned by then, nothing is left but the end
of the run, which needs no task: whoever waits for the response executes it.

As long as the first part runs, nothing else happens on the event loop. So nobody can tell the
difference: no client can be found gone, and nobody can ask for the runs that are live.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from types import CoroutineType
from typing import Any

from durable_core.engine.runs import ClientAnswer, RunManager
from durable_core.errors import HTTPError, Suspended
from durable_core.flow.attempt import Call
from durable_core.flow.effects import (
    AwaitDelivery,
    AwaitRun,
    Effect,
    Flow,
    Park,
    Returned,
    UnwindIfAlone,
)
from durable_core.flow.execution import EVENT_SEQ, ExecutionState, StoredExecution
from durable_core.flow.flows import EngineFlows
from durable_core.flow.scope import HandlerKind, enter_run
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.step import Op
from durable_core.runners.begun_call import (
    HAS_PYTHON_TASKS,
    BegunCall,
    LateCoroutine,
    LateTask,
    is_made,
)
from durable_core.runners.host import RunHost
from durable_core.runners.run_tasks import RunTasks
from durable_core.runners.settings import RegisteredEndpoint
from durable_core.runners.task import STEP_CODE, TaskRun

__all__ = ["DeferredRun", "not_begun"]

_set_event_seq = EVENT_SEQ.set  # see ``scope.py``


class DeferredRun:
    """The scope of a handler that has been called and may not need a run.

    Everything happens on one event loop.

    Args:
        host: the worker.
        runs: its runs.
        endpoint: that of the handler.
        request: makes the request that a run is made for, and the template that its path was
            found by; it may raise HTTPError.
        loop: the event loop.
        event_seq: the watermark of events that came before the handler was called.

    Attributes:
        refusal: why there can be no run, once that is known.
    """

    kind = HandlerKind.ASYNC_DEF

    def __init__(
        self,
        host: RunHost,
        runs: RunManager,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
        loop: asyncio.AbstractEventLoop,
        event_seq: int,
    ) -> None:
        self.refusal: HTTPError | None = None
        self._run: _LateRun | None = None
        self._task: LateTask | None = None  # until the run has it
        self._answer: ClientAnswer | None = None  # of a run that is to begin or to end
        self._is_over = False
        self._host = host
        self._runs = runs
        self._endpoint = endpoint
        self._request = request
        self._event_seq = event_seq
        self._loop = loop
        self._tasks: RunTasks | None = None
        self._is_first_part = False

    # -- as its handler sees it -------------------------------------------------------------

    @property
    def ex(self) -> StoredExecution:
        """The execution. There is a run from now on."""
        return self._needed().execution

    @property
    def flows(self) -> EngineFlows[Any]:
        """The flows of its engine."""
        return self._host.flows

    @property
    def tasks(self) -> RunTasks:
        """The tasks of the handler. Most handlers that need no run never ask for them."""
        if self._tasks is None:
            self._tasks = tasks = RunTasks(self._loop, STEP_CODE)
            tasks.running = tasks.handler if self._is_first_part else None
        return self._tasks

    def current_task(self) -> object:
        """Return what stands for the current task."""
        return self.tasks.running or asyncio.current_task()

    def drive(self, flow: Flow[Any]) -> Coroutine[Any, Any, Any]:
        """Run the flow of a step in the task that awaits it.

        That of the handler may do so at once, in its first part. What else has its turn before the
        task of the run has had its first one waits for that.
        """
        run = self._needed()
        return run.drive(flow if self._is_in_turn(run) else _in_turn(flow))

    def run_step(self, op: Op, call: Call) -> Coroutine[Any, Any, Any]:
        """Do a step that calls a function, in the task that awaits it; see :meth:`drive`."""
        run = self._needed()
        if self._is_in_turn(run):
            return run.run_step(op, call)
        return run.drive(_in_turn(run.flows.run_step(run.ex, op, call)))

    def _is_in_turn(self, run: _LateRun) -> bool:
        return run.tasks.running is run.tasks.handler or run.has_begun

    def _needed(self) -> _LateRun:
        """Return the run, live but for its flow.

        Raises:
            Suspended: the request is refused.
        """
        if self._run is None:
            try:
                request, route = self._request()
            except HTTPError as error:
                self.refusal = error
                raise Suspended from error
            ex = self._runs.new_execution(self._endpoint, request, route, self._event_seq)
            self._run = _LateRun(self._host, ex, self.tasks)
            if self._is_over:  # code that the handler has left behind asks for it
                ex.close()
            else:
                self._runs.begin(self._run)
        return self._run

    # -- as the caller of the handler sees it -----------------------------------------------

    def call(self, handler: Callable[[], Awaitable[Any]]) -> BegunCall:
        """Begin a call of the handler, in a task of its own.

        Raises:
            KeyboardInterrupt, SystemExit: the handler did; a run that has begun is released.
        """
        context = copy_context()
        self._task = task = LateTask(self._loop, context)
        if HAS_PYTHON_TASKS or self._loop.get_debug():
            task.done()
        self._is_over, self._is_first_part = False, True
        try:
            return context.run(_begin, self, self._event_seq, handler, task, self._loop)
        except (KeyboardInterrupt, SystemExit) as error:
            if self._run is not None:  # it goes on in another process
                self._runs.abandon(self._run, error)
            raise
        finally:
            self._is_first_part = False
            if self._tasks is not None:
                self._tasks.running = None

    def is_needless(self, begun: BegunCall) -> bool:
        """Tell whether the handler has ended and has no use for a run; then it gets none."""
        tasks = self._tasks
        self._is_over = (
            begun.has_ended
            and not begun.is_cut_short
            and self._run is None
            and self.refusal is None
            and (tasks is None or not tasks.others)
        )
        if self._is_over:
            self._task = None  # its context refers to this object, as do those of its timers
            if tasks is not None:
                tasks.handler.time_outs = ()
        return self._is_over

    def start(self, handler: Callable[[Request], Coroutine[Any, Any, Any]]) -> ClientAnswer:
        """Begin the run, in the task of the handler.

        Args:
            handler: makes the response of the run; it awaits the call that has begun.

        Raises:
            Suspended: the request is refused.
        """
        self._answer = answer = self._new_answer(self._needed())
        self.begin(handler)
        return answer

    def expect_end(self, begun: BegunCall, begin: Callable[[], object]) -> ClientAnswer | None:
        """Have the run end without a task of its own, by :meth:`end`, if it can.

        Args:
            begun: the call of the handler.
            begin: called if anything is asked of the run before that; it calls :meth:`begin`.

        Returns:
            The answer of the run, which is still to come; None if it cannot.
        """
        run, task = self._run, self._task
        assert task is not None
        is_plain = begun.has_returned and self.refusal is None and not is_made(task)
        if run is None or not (is_plain and run.may_end):
            return None
        self._answer = answer = self._new_answer(run)
        run.expect_end(answer.set, begin)
        self._runs.keep(run)
        return answer

    def _new_answer(self, run: _LateRun) -> ClientAnswer:
        answer = ClientAnswer(self._runs, run.execution, self._loop)
        answer.run = run
        return answer

    def begin(self, handler: Callable[[Request], Coroutine[Any, Any, Any]]) -> None:
        """Begin a run after all that was expected to end; see :meth:`start`."""
        run, task, answer = self._run, self._task, self._answer
        assert run is not None
        assert task is not None
        assert answer is not None
        self._task = self._answer = None
        run.take(task, handler, answer.set)
        self._runs.run_in_task(run, self.flows.execute(run.execution), answer.run_ended)

    @property
    def may_end(self) -> bool:
        """Whether a run that was expected to end can still do so."""
        return self._run is not None and self._run.may_end

    def end(self, response: Response) -> Coroutine[Any, Any, None]:
        """Execute the rest of a run that was expected to end, in the task that awaits this.

        If that is cancelled, the rest is executed in a task of its own.

        Args:
            response: what the handler has made.
        """
        run, answer = self._run, self._answer
        assert run is not None
        assert answer is not None
        self._task = self._answer = None
        run.tasks.handler.time_outs = ()
        run.ends_here, run.begin = True, None
        flow = self.flows.execute(run.execution)
        next(flow)  # it asks for the handler, which has been called
        return self._runs.end_here(run, flow, Returned(response), answer.run_ended)


def _begin(
    run: DeferredRun,
    event_seq: int,
    handler: Callable[[], Awaitable[Any]],
    task: LateTask,
    loop: asyncio.AbstractEventLoop,
) -> BegunCall:
    """Begin a call of a handler, in the context of its task."""
    enter_run(run)
    _set_event_seq(event_seq)
    return BegunCall(handler, task, loop)


class _LateRun(TaskRun):
    """The run of a handler that has begun already.

    Attributes:
        ends_here: the handler has ended, and the rest of the run is executed without it.
        begin: has the run begin in its task, in place of that; None if that is not expected.
    """

    begins_with_task = False
    ends_here = False
    begin: Callable[[], object] | None = None

    def __init__(self, host: RunHost, ex: StoredExecution, tasks: RunTasks) -> None:
        super().__init__(host, ex, not_begun, tasks=tasks)
        self.execution = ex
        self._late_task: LateTask | None = None
        self._code: LateCoroutine | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the task of the run has had its first turn, or the run has none."""
        return self.ends_here or (self._code is not None and self._code.has_begun)

    @property
    def handler_has_ended(self) -> bool:
        """Whether the handler has ended. It runs before the run has begun, too."""
        return self.has_begun and super().handler_has_ended

    @property
    def may_end(self) -> bool:
        """Whether nothing is left of a handler that has returned but its result."""
        ex, tasks = self.ex, self.tasks
        return (
            ex.state is ExecutionState.RUNNING
            and ex.deadline is None
            and ex.stream is None
            and not (
                ex.unawaited
                or ex.may_undo
                or self._steps
                or self._background
                or self._interrupted
                or self._made_unwinder
                or tasks.others
            )
        )

    def expect_end(self, reply: Callable[[Response], None], begin: Callable[[], object]) -> None:
        """Note that the rest of the run is soon executed.

        Args:
            reply: see ``TaskRun``.
            begin: called in place of that, if the engine asks anything of the run before.
        """
        self._reply, self.begin = reply, begin

    def _soon(self, call: Callable[..., None], *args: object) -> None:
        super()._soon(self._begin_and_call, call, args)

    def _begin_and_call(self, call: Callable[..., None], args: tuple[object, ...]) -> None:
        """Do something with a run that has begun."""
        if self.begin is not None:
            self.begin()
        call(*args)

    def _commit_if_alone(self) -> None:
        """As of any run, once it has its task: until then other requests may not have begun."""
        if self._code is not None and self._code.has_begun:
            super()._commit_if_alone()

    def take(
        self,
        task: LateTask,
        handler: Callable[[Request], Coroutine[Any, Any, Any]],
        reply: Callable[[Response], None],
    ) -> None:
        """Take what the run needs to begin.

        Args:
            task: that of the handler.
            handler, reply: see ``TaskRun``.
        """
        self.begin = None
        self._late_task, self._code = task, task.code
        self._handler, self._reply = handler, reply

    def start(self, code: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run the coroutine in the task of the handler, or in a new one if that has ended."""
        task, self._late_task = self._late_task, None
        if task is None:
            self.begins_with_task = True
            return super().start(code)
        assert self._code is not None
        self._code.rest = code
        return task


def _once_begun(
    perform: Callable[[Any, Any], Any],
) -> Callable[[_LateRun, Effect], Coroutine[Any, Any, Any]]:
    """Return what answers an effect like this, once the run has begun."""

    async def perform_in_turn(run: _LateRun, effect: Effect) -> Any:
        if not run.has_begun:
            await asyncio.sleep(0)
        value = perform(run, effect)
        return await value if type(value) is CoroutineType else value

    return perform_in_turn


#: A step that waits in place, or is put away, is of a handler that the run knows.
_LateRun.performers = {
    **TaskRun.performers,
    **{
        kind: _once_begun(TaskRun.performers[kind]) for kind in (AwaitDelivery, Park, UnwindIfAlone)
    },
}


def _in_turn(flow: Flow[Any]) -> Flow[Any]:
    """Run a flow from the next turn of the event loop on."""
    yield AwaitRun()
    return (yield from flow)


def not_begun(request: Request) -> Any:
    """Stand for the handler of a run that has none yet."""
    raise AssertionError("the run has not begun")
