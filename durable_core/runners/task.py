"""Runs of ``async def`` handlers: a flow and its handler in one task of the event loop.

A step that cannot finish now parks on a future, while sibling branches go on. When every task of
the handler waits for parked steps it is unwound, and replayed when the first of them is due.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import CoroutineType, FunctionType, coroutine
from typing import Any, ClassVar, TypeVar

from durable_core.commit_queue import CommitFuture
from durable_core.errors import (
    ControlSignal,
    LeaseLost,
    StepUsageError,
    Suspended,
    WaitInterruptedError,
)
from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.driver import drive_async
from durable_core.flow.effects import (
    AwaitDelivery,
    AwaitDurable,
    AwaitOtherSteps,
    AwaitReplayTurn,
    AwaitRun,
    CallHandler,
    CallUser,
    Cancelled,
    DrainSteps,
    Effect,
    Flow,
    Log,
    Notify,
    Outcome,
    Park,
    Raised,
    Returned,
    SeeHandlerBranch,
    SeeIfAlone,
    SendResponse,
    Submit,
    UnwindIfAlone,
    Unwound,
)
from durable_core.flow.execution import (
    EVENT_SEQ,
    Execution,
    ExecutionEvent,
    ExecutionState,
)
from durable_core.flow.facts import note
from durable_core.flow.scope import HandlerKind, RunScope, enter_run, leave_run
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.advance import is_crash
from durable_core.model.decision import HandoffReason
from durable_core.model.event import StoredEvent
from durable_core.model.run import Phase
from durable_core.model.step import Op
from durable_core.platform import call_soon, run_logger
from durable_core.ports import CheckpointResult
from durable_core.runners.host import RunHost
from durable_core.runners.raised import catch
from durable_core.runners.recorded_body import record_body
from durable_core.runners.run_tasks import RunTask, RunTasks
from durable_core.runners.suspend import HandlerUnwinder, ReplayOrder
from durable_core.runners.thread import (
    MAX_REFUSED_STEPS,
    REFUSED_STEP_DELAY,
    too_many_refused_steps,
)
from durable_core.runners.time_limit import LimitedCall, time_is_over

__all__ = ["STEP_CODE", "TaskRun", "next_turn"]

T = TypeVar("T")

#: In these states the end of a step changes nothing for the others.
_GOES_ON = (ExecutionState.RUNNING, ExecutionState.REPLAYING)


class TaskRun:
    """One execution of an ``async def`` handler. Everything happens on its loop.

    Args:
        host: the worker.
        ex: the execution.
        handler: the user's coroutine function.
        reply: called once, with the answer for the attached client.
        loop: where it will run; by default where it is made.
        tasks: those of a handler that has begun before it had a run.
    """

    kind = HandlerKind.ASYNC_DEF
    #: Its task is made for it, and so its coroutine awaits the first turn of that.
    begins_with_task = True
    #: What answers each effect.
    performers: ClassVar[Mapping[type[Effect], Callable[[Any, Any], Any]]]
    _task: asyncio.Task[object] | None = None  # of the handler, while that runs
    _made_unwinder: HandlerUnwinder | None = None
    _replay_order: ReplayOrder | None = None  # made when it is first needed
    _background: AbstractSet[asyncio.Task[None]] = frozenset()  # tasks that are no handler's
    _steps = 0  # calls of steps that are in progress and not parked
    _idle: asyncio.Future[None] | None = None
    _step_ended: asyncio.Event | None = None  # there while one waits for the other steps
    _refused_steps = 0

    def __init__(
        self,
        host: RunHost,
        ex: Execution,
        handler: Callable[[Request], Coroutine[Any, Any, object]],
        reply: Callable[[Response], None] | None = None,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        tasks: RunTasks | None = None,
    ) -> None:
        self.ex = ex
        self.flows = host.flows
        self._host = host
        self._handler = handler
        self._reply = reply
        self._loop = loop or asyncio.get_running_loop()
        self.tasks = RunTasks(self._loop, STEP_CODE) if tasks is None else tasks
        # Each step reads it: Python 3.11 is slow to read an attribute that only the class has.
        self._interrupted: WaitInterruptedError | None = None
        #: Called if the run goes on while its handler, which does not end, still runs.
        self.left: Callable[[], None] = _nothing

    def start(self, code: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in a task of its own, which no framework can cancel.

        Its first part, up to where it awaits the next turn of the event loop, runs now: a task that
        is cancelled before its first turn does not begin its coroutine, which so never ends.

        The loop's task factory is not asked. An eager one would begin the handler within the code
        that serves the request, and ours looks for the tasks that a handler makes.
        """
        code.send(None)
        return asyncio.Task(code, loop=self._loop)

    @property
    def _unwinder(self) -> HandlerUnwinder:
        """What ends the handler before it has returned. Most runs do not need it.

        The one that is there before the handler begins has nothing to end, and is not kept.
        """
        unwinder = self._made_unwinder
        if unwinder is None:
            unwinder = HandlerUnwinder(self._host, self.ex, self._loop, self.tasks)
            if self._task is not None:
                self._made_unwinder = unwinder
                unwinder.handler_runs(self._task, self._is_occupied, self._go_on_without_handler)
        return unwinder

    @property
    def handler_has_ended(self) -> bool:
        """Whether the handler has ended; a step that goes on is of a task that it left behind."""
        return self._unwinder.handler_has_ended

    # -- the run as its handler sees it -----------------------------------------------------

    def current_task(self) -> object:
        """Return what stands for the current task."""
        return self.tasks.running or asyncio.current_task()

    def drive(self, flow: Flow[Any]) -> Coroutine[Any, Any, Any]:
        """Run a flow of a step in the task that awaits it."""
        return self._run_step(flow)

    def run_step(self, op: Op, call: Call) -> Coroutine[Any, Any, Any]:
        """Do a step that calls a function, in the task that awaits it."""
        return self._run_step(None, op, call)

    async def _run_step(self, flow: Flow[Any] | None, op: Any = None, call: Any = None) -> Any:
        """Run the flow of a step; without one, do a step that calls a function."""
        self._steps += 1
        try:
            if self._interrupted is not None:
                raise self._interrupted
            value: Any = None
            fault: BaseException | None = None
            if flow is None:
                ex, flows = self.ex, self.flows
                plain = flows.plain_steps
                attempt = None if plain is None else plain.begin(ex, op, call)
                if plain is None:
                    flow = flows.run_step(ex, op, call)
                elif attempt is None:
                    flow = plain.other(ex, op, call)
                else:
                    try:
                        value = await self._call_step(attempt)
                    except BaseException as error:
                        fault = error
                    if type(value) is Returned:
                        value = plain.finish(ex, attempt, value.value)
                        if type(value) is tuple:
                            memo, effect = value
                            ex.add_ticket(self._submit(effect))
                            return plain.result(ex, call, memo)
                    flow = plain.go_on(ex, call, attempt)
                    flow.send(None)  # it asks for the call, and gets what has come of that
            # As ``drive_async`` does, which would be one coroutine more in each step.
            performers = self.performers
            while True:
                try:
                    effect = flow.send(value) if fault is None else flow.throw(fault)
                except StopIteration as stop:
                    return stop.value
                try:
                    value = performers[type(effect)](self, effect)
                    if type(value) is CoroutineType:
                        value = await value
                    fault = None
                except BaseException as error:
                    fault = error
        except Suspended:
            if self.handler_has_ended:  # a task that the handler has left behind
                self._warn_late_step()
                raise asyncio.CancelledError from None
            self._refused_steps += 1
            if self._refused_steps > MAX_REFUSED_STEPS:
                await asyncio.sleep(REFUSED_STEP_DELAY)
                raise too_many_refused_steps(self.ex, self._refused_steps) from None
            raise
        except MemoryError as error:
            self.ex.close(error)
            raise Suspended from error
        finally:
            self._steps -= 1
            if self.ex.state not in _GOES_ON:
                if self.ex.stopping:
                    self._unwinder.unwind_if_idle()
                self._look_if_idle()

    def perform(self, effect: Effect) -> Any:
        """Answer one effect."""
        return self.performers[type(effect)](self, effect)

    # -- the run as the engine sees it ------------------------------------------------------

    def on_event(self, op_id: str, event: StoredEvent) -> None:
        """Wake the wait, in place."""
        self._soon(self._take_event, op_id, event)

    def recheck_deadlines(self) -> None:
        """Wake everything that is parked: it looks at the clock."""
        self._soon(self._recheck_here)

    def detach(self, reason: HandoffReason) -> None:
        """Hand the client off; the handler goes on."""
        self._soon(self._detach_here, reason)

    def stop(self) -> None:
        """Suspend the handler as soon as no step is in flight."""
        self._soon(self._stop_here)

    def lease_lost(self) -> None:
        """Unwind the handler; nothing more of it counts."""
        self._soon(self._lease_lost_here)

    def _soon(self, call: Callable[..., None], *args: object) -> None:
        call_soon(self._loop, call, *args)

    def _recheck_here(self) -> None:
        self._unwinder.parked.wake_all()
        self._unwinder.unwind_if_overdue()

    def _take_event(self, op_id: str, event: StoredEvent) -> None:
        self.ex.resolve_wait(op_id, event)
        self._unwinder.parked.wake(op_id)

    def _detach_here(self, reason: HandoffReason) -> None:
        if self.ex.attached and not self.ex.closed:
            self._in_background(self.flows.detach(self.ex, reason))

    def _stop_here(self) -> None:
        self.ex.stop()
        self._unwinder.unwind_if_idle()

    def _lease_lost_here(self) -> None:
        self.ex.close(LeaseLost())
        self._unwinder.unwind()

    def _go_on_without_handler(self) -> None:
        task = self._in_background(self.flows.suspend(self.ex))
        # The handler may never end; what could not be stored now must be all the same.
        task.add_done_callback(lambda _: self._end_without_handler())

    def _end_without_handler(self) -> None:
        self._host.release_later(self.ex)
        self._host.live.remove(self)
        self.left()

    def _in_background(self, flow: Flow[None]) -> asyncio.Task[None]:
        task = self._loop.create_task(drive_async(flow, self.perform))
        self._background |= {task}
        task.add_done_callback(self._background_ended)
        return task

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        self._background -= {task}
        self.tasks.look_soon()

    def _is_occupied(self) -> bool:
        return self._steps > 0 or bool(self._background)

    # -- effects ----------------------------------------------------------------------------

    def _submit(self, effect: Submit) -> CommitFuture[CheckpointResult]:
        after: Any = effect.after  # Tickets of the queue, which flows know by their Protocol only
        return self._host.queue.submit(effect.write, after)

    async def _await_durable(self, effect: AwaitDurable) -> Sequence[CheckpointResult]:
        tickets: Any = effect.tickets
        written: list[CheckpointResult] = []
        self._commit_if_alone()
        try:
            for ticket in tickets:  # each end of a run waits here, so it takes no coroutine more
                if not ticket.done:
                    await self._host.queue.ended(ticket)
                written.append(ticket.result())
        except asyncio.CancelledError:
            if effect.step_name:
                self._refuse_time_out(effect.step_name)
            raise
        return written

    def _commit_if_alone(self) -> None:
        """Commit what is queued if no other run or branch can share the commit."""
        if self.ex.in_flight <= 1 and len(self._host.live) <= 1:
            self._host.queue.commit_here()

    async def _call_step(self, attempt: StepAttempt) -> Outcome | None:
        ex, host = self.ex, self._host
        tickets: Any = ex.tickets
        written: list[CheckpointResult] = []
        if tickets:
            self._commit_if_alone()
            try:
                for ticket in tickets:
                    if not ticket.done:
                        await host.queue.ended(ticket)
                    written.append(ticket.result())
            except asyncio.CancelledError as error:
                if self._unwinder.ends_parked_steps():
                    raise
                return Cancelled(error)
        event_seq = host.event_watermark.recent_async()
        if not isinstance(event_seq, int):
            event_seq = await event_seq
        if not ex.begins(attempt, tickets, written, event_seq):
            return None
        call = attempt.call
        return Returned(None) if call is None else await self.call_user(call, attempt)

    def _call_hook(self, effect: CallUser) -> Coroutine[Any, Any, Outcome]:
        return self.call_user(effect.call)

    async def call_user(self, call: Call, attempt: StepAttempt | None = None) -> Outcome:
        """Call the function of a step, whose attempt is given, or a hook."""
        token = enter_run(attempt)
        try:
            if call.options is not None and call.options.timeout is not None:
                return Returned(await self._call_in_time(call, call.options.timeout))
            if _is_coroutine_function(call.fn):
                fn: Any = call.fn
                kwargs = call.kwargs
                return Returned(await (fn(*call.args, **kwargs) if kwargs else fn(*call.args)))
            return Returned(await self._call_in_thread(call))
        except (ControlSignal, MemoryError):
            raise
        except asyncio.CancelledError as error:
            if self.ex.closed or self._unwinder.loop_is_ending():
                raise
            return Cancelled(error)
        except Exception as error:
            return catch(error, in_step=True, debug=self.ex.env.debug)
        finally:
            leave_run(token)

    async def _call_in_time(self, call: Call, timeout: int) -> object:
        """Call a function that may take this number of milliseconds; else TimeoutError."""
        value: Any = None
        try:
            async with asyncio.timeout(timeout / 1000) as limit:
                if _is_coroutine_function(call.fn):
                    value = call.fn(*call.args, **(call.kwargs or {}))
                else:
                    ended = self._loop.create_future()
                    limited = LimitedCall(call, lambda: call_soon(self._loop, _finish, ended))
                    await ended
                    value = limited.result()
                if inspect.isawaitable(value):
                    value = await value
        except TimeoutError:
            if limit.expired():
                raise time_is_over(timeout) from None
            raise
        if limit.expired():  # it swallowed its cancellation; what it returned comes too late
            raise time_is_over(timeout)
        return value

    async def _call_in_thread(self, call: Call) -> object:
        context = contextvars.copy_context()

        def run() -> object:
            try:
                return context.run(call.fn, *call.args, **(call.kwargs or {}))
            except StopIteration as error:
                # As a coroutine would (PEP 479); a future cannot hold a StopIteration.
                raise RuntimeError("the function raised StopIteration") from error

        value = await self._loop.run_in_executor(self._host.threads, run)
        if inspect.isawaitable(value):
            return await value
        return value

    async def call_handler(self, effect: CallHandler) -> Outcome | Unwound:
        """Run the handler in this task."""
        if self.ex.state not in _GOES_ON:
            return Unwound()  # told so before it began
        self._task = asyncio.current_task(self._loop)
        if self.ex.deadline is not None:
            self._unwinder.unwind_if_overdue()
        tasks = self.tasks
        own_task = tasks.handler
        scope: RunScope = self
        if self._host.wrap_scope is not None:
            tasks.running = own_task  # so that current_task() is what it will be in the handler
            scope = self._host.wrap_scope(self)
            tasks.running = None
        enter_run(scope)
        EVENT_SEQ.set(self.ex.run.event_seq)
        outcome: Outcome | Unwound
        try:
            code: Any = self._handler(self.ex.request)
            if type(code) is not CoroutineType:
                code = _await_value(code)
            try:
                outcome = Returned(await tasks.watch(code, own_task))
            except Exception as error:
                if self.ex.may_undo:
                    await tasks.watch(self._undo(scope, error), RunTask())
                raise
            if self.ex.undos or self.ex.run.undoable:
                await tasks.watch(self._undo(scope, None), RunTask())
        except Exception as error:
            outcome = self._handler_raised(error)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            outcome = self._unwinder.cut_short(error)
        finally:
            enter_run(None)
        unwinder = self._made_unwinder
        if self.ex.unawaited or self._steps or (unwinder is not None and unwinder.parked.futures):
            outcome = self._refuse_unawaited(outcome)
        if self._interrupted is not None and not isinstance(outcome, Unwound):
            # gather(), a task group or anyio may have made something else of it.
            outcome = Raised(self._interrupted)
        self._task = None
        if unwinder is not None:
            outcome = unwinder.handler_ended(outcome)
            if isinstance(outcome, Unwound) and unwinder.has_cancelled:
                await _take_cancellation()
        return outcome

    async def _undo(self, scope: RunScope, error: Exception | None) -> None:
        """Undo the steps of a run if it fails by this error, or by a time-out around a step.

        Raises:
            WaitInterruptedError: there was such a time-out, whatever the handler has made of it.
        """
        from durable_core.flow.undo import undo  # few handlers need it

        interrupted, self._interrupted = self._interrupted, None  # else no step that undoes begins
        await scope.drive(undo(self.ex, self.flows, interrupted or error))
        if interrupted is not None and interrupted is not error:
            raise interrupted

    def _refuse_unawaited(self, outcome: Outcome | Unwound) -> Outcome | Unwound:
        """Make a failure of a handler that has ended before a step that it has called.

        Another error that it raised counts, unless it may come from a coroutine taken for a result.
        """
        error = outcome.error if isinstance(outcome, Raised) else None
        if isinstance(error, StepUsageError):  # which says what is wrong, and may be a TypeError
            return outcome
        if not isinstance(outcome, Returned) and not isinstance(error, (TypeError, AttributeError)):
            return outcome
        tasks, unawaited = self.tasks, self.ex.unawaited
        steps: list[str] = []
        if len(unawaited) > tasks.unneeded_steps():
            steps = [f"step {op.name!r}" for op in unawaited.values()]
        elif error is None:
            steps = tasks.steps_in_progress()
        if not steps:
            return outcome
        refused = StepUsageError(
            f"the handler has ended before {', '.join(steps)}: write 'await' before the call of a "
            "step; if it is in a task, await that task, or cancel it"
        )
        refused.__cause__ = error
        return Raised(refused)

    def _warn_late_step(self) -> None:
        task = asyncio.current_task()
        is_cancelled = task is not None and task.cancelling() > 0
        if self.ex.run.phase is Phase.COMPLETED and not is_cancelled:
            run_logger(self.ex.run.id, self.ex.run.function_id).warning(
                "a task that the handler of %s has left behind asks for a step after the end of "
                "the run; the step is not done: await the task in the handler",
                self.ex.run.function_id,
            )

    def _handler_raised(self, error: Exception) -> Outcome | Unwound:
        if is_crash(error):
            self.ex.close(error)
            return self._unwinder.cut_short(error)
        return catch(error, in_step=False, debug=self.ex.env.debug)

    async def _park(self, effect: Park) -> None:
        if self.handler_has_ended:
            raise asyncio.CancelledError
        self._steps -= 1
        self._look_if_idle()
        try:
            with self._unwinder.parked.park(effect.op_id, effect.due_at) as future:
                self._unwinder.limit_own_wait()
                await future
        except WaitInterruptedError as error:
            self._interrupted = error
            raise
        except asyncio.CancelledError:
            self._refuse_time_out(self.ex.awaited.get(effect.op_id, ""))
            self.ex.awaited.pop(effect.op_id, None)  # it makes the run due no more
            raise
        finally:
            self._steps += 1

    def _unwind_if_alone(self, effect: UnwindIfAlone) -> None:
        """Raise here what unwinds a handler whose only task waits for this step.

        To park the step takes a future, three timers and some ticks of the loop.
        """
        if self._steps > 1 or self._background or not self._unwinder.unwind_here():
            return
        self._loop.call_soon(self._look_after_unwinding)
        raise asyncio.CancelledError

    def _see_if_alone(self, effect: SeeIfAlone) -> bool:
        return self.tasks.are_one_task

    def _see_handler_branch(self, effect: SeeHandlerBranch) -> object:
        return self.tasks.handler

    def _look_after_unwinding(self) -> None:
        """Hand the client off now if its handler awaits something while it is unwound."""
        if not self.handler_has_ended:
            self._unwinder.limit_unwinding()
            reason = self.ex.late_handoff
            if reason is not None:
                self._in_background(self.flows.detach(self.ex, reason))

    async def _await_delivery(self, effect: AwaitDelivery) -> None:
        """Wait as a parked step does, but as one in progress: the run is not suspended for it."""
        parked = self._unwinder.parked
        with parked.park(effect.op_id, None) as future:
            timer = self._loop.call_later(effect.for_ms / 1000, parked.wake, effect.op_id)
            try:
                await future
            except asyncio.CancelledError:
                self._refuse_time_out(effect.step_name)
                raise
            finally:
                timer.cancel()

    def _refuse_time_out(self, step_name: str) -> None:
        """Raise an error if the step that is cancelled now is cancelled by a time-out.

        Any other cancellation is a decision of the handler's, or the end of the handler.
        """
        if self._unwinder.ends_parked_steps():
            raise asyncio.CancelledError
        if self.ex.stopping:
            # The run is being suspended; what the handler makes of this does not count.
            self._unwinder.saw_refused_step = True
            raise asyncio.CancelledError
        if self.tasks.are_timed_out:
            self._interrupted = WaitInterruptedError(
                f"a time-out ended around step {step_name!r} while that waited; it would not "
                "survive a restart as the step does: use the step's own timeout= instead, or put "
                "the time-out into the function that the step calls"
            )
            raise self._interrupted from None

    async def _drain_steps(self, effect: DrainSteps) -> None:
        self.ex.take(ExecutionEvent.DRAIN)
        self._idle = self._loop.create_future()
        self._look_if_idle()
        await self._idle

    async def _await_other_steps(self, effect: AwaitOtherSteps) -> None:
        """Wait for the steps of tasks that the handler has left behind; one asks for this."""
        ended = self._step_ended = asyncio.Event()
        tasks, now = self.tasks, self._loop.time
        timer = self._loop.call_later(self._host.max_own_wait, ended.set)
        for task in tasks.others:
            task.add_done_callback(lambda _: ended.set())
        self._unwinder.parked.wake_all()  # some wait in place
        try:
            while self._steps > 1 or (
                effect.may_come() and now() < timer.when() and tasks.others_go_on
            ):
                ended.clear()
                await ended.wait()
        except asyncio.CancelledError:  # the run is to be suspended, or another process has it
            for task in [*tasks.others]:
                task.cancel()
            raise
        finally:
            timer.cancel()
            self._step_ended = None

    def _look_if_idle(self) -> None:
        if self._step_ended is not None:
            self._step_ended.set()
        if self._idle is not None and not self._idle.done() and self.ex.in_flight == 0:
            self._idle.set_result(None)

    def _await_replay_turn(self, effect: AwaitReplayTurn) -> Coroutine[Any, Any, None] | None:
        if self._replay_order is None:
            self._replay_order = ReplayOrder(self._loop)
        number, tasks = effect.completion_no, self.tasks
        if tasks.are_one_task and self._replay_order.take_turn(number):
            return None
        return self._replay_order.wait_turn(number)

    def _await_run(self, effect: AwaitRun) -> Coroutine[Any, Any, None]:
        return asyncio.sleep(0)

    def _log(self, effect: Log) -> None:
        self._host.observers.notify(note(self.ex, effect))

    def _notify(self, effect: Notify) -> None:
        self._host.observers.perform(effect)

    def _send_response(self, effect: SendResponse) -> None:
        reply, self._reply = self._reply, None
        if reply is None:
            return
        response = effect.response
        if self.ex.run.phase is Phase.RESPONDING and response.is_streaming:
            response = record_body(self.ex, response, self._host)
        reply(response)


#: Of the coroutine of a step, which it is known by.
STEP_CODE = TaskRun._run_step.__code__


@coroutine
def next_turn() -> Generator[None, None, None]:
    """Await the next turn of the event loop."""
    yield


async def _await_value(value: Awaitable[T]) -> T:
    return await value


async def _take_cancellation() -> None:
    """Receive here a cancellation of this task that was requested and not delivered yet.

    A handler may end, by a step that is refused, before it has met the cancellation that puts it
    away; ``uncancel`` does not take that back before Python 3.13.
    """
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        pass


def _finish(future: asyncio.Future[None]) -> None:
    """Resolve the future, unless whoever waited for it was cancelled."""
    if not future.done():
        future.set_result(None)


def _nothing() -> None:
    """Do nothing: there is nobody to notify."""


def _is_coroutine_function(fn: Any) -> bool:
    """Tell what ``inspect`` would; it takes ten times as long to say yes."""
    if type(fn) is FunctionType and fn.__code__.co_flags & inspect.CO_COROUTINE:
        return True
    return inspect.iscoroutinefunction(fn)


TaskRun.performers = {
    Submit: TaskRun._submit,
    AwaitDurable: TaskRun._await_durable,
    StepAttempt: TaskRun._call_step,
    CallUser: TaskRun._call_hook,
    CallHandler: TaskRun.call_handler,
    Park: TaskRun._park,
    UnwindIfAlone: TaskRun._unwind_if_alone,
    SeeIfAlone: TaskRun._see_if_alone,
    SeeHandlerBranch: TaskRun._see_handler_branch,
    AwaitDelivery: TaskRun._await_delivery,
    DrainSteps: TaskRun._drain_steps,
    AwaitOtherSteps: TaskRun._await_other_steps,
    AwaitReplayTurn: TaskRun._await_replay_turn,
    AwaitRun: TaskRun._await_run,
    SendResponse: TaskRun._send_response,
    Log: TaskRun._log,
    Notify: TaskRun._notify,
}
