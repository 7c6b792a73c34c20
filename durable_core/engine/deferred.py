"""Handlers of frameworks that are called at once: a run is made for one only if it needs one.

Most of what a run costs a request is for what comes after its first step, and a framework has
routed and parsed the request already. So its handler is called like any other function, and its
first part, up to where it waits for something, runs without a run. If it has ended by then, there
is nothing more to do. Otherwise, or if it asks for a step, the run begins in the next turn of the
event loop, in the task that the handler has had from the beginning.

As long as the first part runs, nothing else happens on the event loop. So nobody can tell the
difference: no client can be found gone, and nobody can ask for the runs that are live.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any, NoReturn, Protocol, TypeVar

from durable_core.engine.runs import RunManager
from durable_core.errors import HTTPError, Suspended
from durable_core.flow.driver import drive_async, drive_sync
from durable_core.flow.effects import AwaitRun, CallHandler, Flow
from durable_core.flow.execution import EVENT_SEQ, StoredExecution
from durable_core.flow.flows import EngineFlows
from durable_core.flow.scope import CURRENT_RUN, HandlerKind
from durable_core.http.problem import problem_from_http_error
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.decision import HandoffReason
from durable_core.runners.begun_call import BegunCall, LateCoroutine
from durable_core.runners.host import RunHost
from durable_core.runners.run_tasks import CURRENT_TASKS, RunTasks
from durable_core.runners.settings import RegisteredEndpoint
from durable_core.runners.task import STEP_CODE, TaskRun
from durable_core.runners.thread import ThreadRun

__all__ = ["ClientAnswer", "DeferredRun", "DeferredThreadRun", "DrainableHost"]

T = TypeVar("T")


class DrainableHost(RunHost, Protocol):
    """A worker that hands clients on."""

    @property
    def drains(self) -> int:
        """How often it has done so."""
        ...


class DeferredRun:
    """The scope of a handler that has been called and may not need a run.

    Everything happens on one event loop.

    Args:
        host: the worker.
        runs: its runs.
        endpoint: that of the handler.
        request: makes the request that a run is made for, and the template that its path was
            found by; it may raise HTTPError.
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
        event_seq: int,
    ) -> None:
        self.refusal: HTTPError | None = None
        self._host = host
        self._runs = runs
        self._endpoint = endpoint
        self._request = request
        self._event_seq = event_seq
        self._loop = asyncio.get_running_loop()
        self._tasks = RunTasks.without_run(self._loop, STEP_CODE)
        self._run: _LateRun | None = None
        self._is_over = False
        self._has_begun = False
        self._late: LateCoroutine
        self._task: asyncio.Task[None] | None = None

    # -- as its handler sees it -------------------------------------------------------------

    @property
    def ex(self) -> StoredExecution:
        """The execution. There is a run from now on."""
        return self._needed().execution

    @property
    def flows(self) -> EngineFlows[Any]:
        """The flows of its engine."""
        return self._host.flows

    def current_task(self) -> object:
        """Return what stands for the current task."""
        return self._tasks.running or asyncio.current_task()

    def drive(self, flow: Flow[Any]) -> Coroutine[Any, Any, Any]:
        """Run the flow of a step in the task that awaits it, once the run has begun."""
        return self._needed().drive(self._once_begun(flow))

    def _once_begun(self, flow: Flow[Any]) -> Flow[Any]:
        if not self._has_begun:
            yield AwaitRun()
        return (yield from flow)

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
            self._run = _LateRun(self._host, ex, self._tasks)
            if self._is_over:  # code that the handler has left behind asks for it
                ex.close()
            else:
                self._runs.begin(self._run)
        return self._run

    # -- as the caller of the handler sees it -----------------------------------------------

    def call(self, handler: Callable[[], Awaitable[Any]]) -> BegunCall:
        """Begin a call of the handler, in a task of its own."""
        context, tasks = copy_context(), self._tasks
        self._late = LateCoroutine()
        self._task = asyncio.Task(self._late, loop=self._loop, context=context)
        self._is_over = False
        tasks.live.add(tasks.handler)
        tasks.running = tasks.handler
        try:
            return BegunCall(handler, self._task, context, self._enter)
        finally:
            tasks.running = None
            tasks.live.clear()  # until the run watches it

    def _enter(self) -> None:
        CURRENT_RUN.set(self)
        CURRENT_TASKS.set(self._tasks)
        EVENT_SEQ.set(self._event_seq)

    @staticmethod
    async def _go_on(rest: Coroutine[Any, Any, None]) -> None:
        """Do what the task of the handler does from its second turn on."""
        try:
            await rest
        finally:
            CURRENT_RUN.set(None)  # the run refers to this task: a cycle would keep its memory

    def is_needless(self, begun: BegunCall) -> bool:
        """Tell whether the handler has ended and has no use for a run; then it gets none."""
        self._is_over = (
            begun.has_ended
            and not begun.is_cut_short
            and self._run is None
            and self.refusal is None
            and not self._tasks.has_others
        )
        if self._is_over:
            self._task = None  # whose context refers to this object
        return self._is_over

    def start(self, handler: Callable[[Request], Coroutine[Any, Any, Any]]) -> ClientAnswer:
        """Begin the run, in the task of the handler.

        Args:
            handler: makes the response of the run; it awaits the call that has begun.

        Raises:
            Suspended: the request is refused.
        """
        run, task = self._needed(), self._task
        assert task is not None

        def go_on(rest: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            self._late.rest = self._go_on(rest)
            self._has_begun, self._task = True, None
            return task

        answer = ClientAnswer(self._runs, run)
        run.begin_late(go_on, handler, answer.set)
        self._runs.run_in_task(run, self.flows.execute(run.execution), answer.run_ended)
        return answer


class ClientAnswer:
    """The answer to the client of a run.

    Args:
        runs: the runs of the worker.
        run: the run.
    """

    def __init__(self, runs: RunManager, run: _LateRun) -> None:
        self._runs = runs
        self._run = run
        self._answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def set(self, response: Response) -> None:
        """Answer, unless the client is gone."""
        if self._answered.done():
            self._runs.discard(response)
        else:
            self._answered.set_result(response)

    def run_ended(self) -> None:
        """Answer if the run has not."""
        if not self._answered.done():
            self._answered.set_result(self._runs.unanswered(self._run.execution))

    async def wait(self) -> Response:
        """Return the answer. Cancelling this means that the client is gone; the run goes on."""
        try:
            return await self._answered
        except asyncio.CancelledError:
            self.client_left()
            raise

    def client_left(self) -> None:
        """Note that nobody waits for the answer."""
        self._runs.client_left(self._answered, self._run)


class _LateRun(TaskRun):
    """The run of a handler that has begun already."""

    def __init__(self, host: RunHost, ex: StoredExecution, tasks: RunTasks) -> None:
        super().__init__(host, ex, _not_begun, tasks=tasks)
        self.execution = ex
        self._go_on: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]

    def begin_late(
        self,
        go_on: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        handler: Callable[[Request], Coroutine[Any, Any, Any]],
        reply: Callable[[Response], None],
    ) -> None:
        """Take what the run needs to begin.

        Args:
            go_on: has the task of the handler run a coroutine.
            handler, reply: see ``TaskRun``.
        """
        self._go_on = go_on
        self._handler = _once(handler)  # which knows the run: a cycle would keep its memory
        self._reply = reply

    def start(self, flow: Flow[None]) -> asyncio.Task[None]:
        """Run the flow in the task of the handler."""
        task = self._go_on(drive_async(flow, self.perform))
        del self._go_on
        return task


class DeferredThreadRun:
    """As :class:`DeferredRun`, for a ``def`` handler.

    The thread of a server calls it, and ends the run, if there is one, when the handler has ended.
    Other threads may ask for the run.

    Args:
        worker, runs, endpoint, request, event_seq: see :class:`DeferredRun`.
    """

    kind = HandlerKind.DEF
    #: The current thread.
    current_task = staticmethod(threading.current_thread)

    def __init__(
        self,
        worker: DrainableHost,
        runs: RunManager,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
        event_seq: int,
    ) -> None:
        self._worker = worker
        self._runs = runs
        self._endpoint = endpoint
        self._request = request
        self._event_seq = event_seq
        self._drains = worker.drains
        self._main = threading.get_ident()
        self._lock = threading.Lock()
        self._run: _LateThreadRun | None = None
        self._refusal: HTTPError | None = None
        self._answers: list[Response] = []
        self._is_over = False

    # -- as its handler sees it -------------------------------------------------------------

    @property
    def ex(self) -> StoredExecution:
        """The execution. There is a run from now on."""
        return self._needed().execution

    @property
    def flows(self) -> EngineFlows[Any]:
        """The flows of its engine."""
        return self._worker.flows

    def drive(self, flow: Flow[Any]) -> Any:
        """Run the flow of a step in the thread that calls it."""
        return self._needed().drive(flow)

    def _needed(self) -> _LateThreadRun:
        """Return the run, live.

        Raises:
            Suspended: the request is refused.
        """
        with self._lock:
            if self._run is None:
                self._run = self._make()
            return self._run

    def _make(self) -> _LateThreadRun:
        try:
            request, route = self._request()
        except HTTPError as error:
            self._refusal = error
            raise Suspended from error
        ex = self._runs.new_execution(self._endpoint, request, route, self._event_seq)
        run = _LateThreadRun(self._worker, ex, self._answers.append, self._main)
        if self._is_over:  # code that the handler has left behind asks for it
            ex.close()
            return run
        self._runs.begin(run)
        if self._worker.drains != self._drains:
            run.detach(HandoffReason.DRAIN)
        return run

    # -- as the caller of the handler sees it -----------------------------------------------

    def serve(
        self, handler: Callable[[], T], to_response: Callable[[T], Response]
    ) -> tuple[T, None] | tuple[None, Response]:
        """Call the handler.

        Args:
            handler: returns what the framework sends in response.
            to_response: makes the response of a run of that.

        Returns:
            What the handler returned, if there is no run; else the response for the client.
        """
        live, name = self._worker.live, f"{self._endpoint.options.key} in {threading.get_ident()}"
        live.body_started(name)  # who stops the worker waits for the handler
        try:
            call: Callable[[Request], Response]
            try:
                value = copy_context().run(self._call, handler)
            except (KeyboardInterrupt, SystemExit, GeneratorExit):
                raise
            except BaseException as error:
                call = partial(_raise, error)
            else:
                if self._is_needless():
                    return value, None
                call = partial(_pass, to_response, value)
            return None, self._end(call)
        finally:
            live.body_finished(name)

    def _call(self, handler: Callable[[], T]) -> T:
        CURRENT_RUN.set(self)
        EVENT_SEQ.set(self._event_seq)
        return handler()

    def _is_needless(self) -> bool:
        with self._lock:
            self._is_over = self._run is None and self._refusal is None
        return self._is_over

    def _end(self, call: Callable[[Request], Response]) -> Response:
        """Run the flow of the run whose handler has ended in this way."""
        try:
            run = self._needed()
        except Suspended:
            assert self._refusal is not None
            return problem_from_http_error(self._refusal)
        self._runs.run_in_thread(run, run.flow_after(call))
        answers = self._answers
        return answers[0] if answers else self._runs.unanswered(run.execution)


class _LateThreadRun(ThreadRun):
    """The run of a handler that was called already."""

    has_called = True

    def __init__(
        self, host: RunHost, ex: StoredExecution, reply: Callable[[Response], object], main: int
    ) -> None:
        super().__init__(host, ex, _not_begun, reply)
        self.execution = ex
        self._main = main
        self._late_flow = self._flow = host.flows.execute(ex)
        effect = next(self._late_flow)
        assert isinstance(effect, CallHandler)

    def flow_after(self, handler: Callable[[Request], Response]) -> Flow[None]:
        """Return the flow, which waits for the end of the handler.

        Args:
            handler: gives what came of the call.
        """
        self._handler = handler
        return self._late_flow

    def run(self, flow: Flow[None]) -> None:
        """Run the rest of the flow, unless that was done without the handler."""
        if self._flow is not None:
            outcome = self._handle(CallHandler())
            drive_sync(flow, self.perform, self._lock, outcome)


def _raise(error: BaseException, request: Request) -> NoReturn:
    raise error


def _pass(to_response: Callable[[T], Response], value: T, request: Request) -> Response:
    return to_response(value)


def _once(call: Callable[[Request], Coroutine[Any, Any, Any]]) -> Any:
    """Return a function that passes one call on, and forgets where to."""
    calls = [call]
    return lambda request: calls.pop()(request)


def _not_begun(request: Request) -> Any:
    raise AssertionError("the run has not begun")
