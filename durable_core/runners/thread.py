"""Runs of ``def`` handlers: a flow driven in the thread that runs the handler.

The thread cannot wait for a retry, a sleep or an event: the handler is unwound by a signal and
replayed when it is due.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar

from durable_core.commit_queue import CommitFuture
from durable_core.errors import ControlSignal, LeaseLost, StepUsageError, Suspended
from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.driver import drive_sync
from durable_core.flow.effects import (
    AwaitDelivery,
    AwaitDurable,
    AwaitOtherSteps,
    AwaitReplayTurn,
    CallHandler,
    CallUser,
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
from durable_core.flow.scope import HandlerKind, current_run, enter_run, leave_run
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.advance import is_crash
from durable_core.model.decision import Failure, HandoffReason
from durable_core.model.event import StoredEvent
from durable_core.model.run import Phase
from durable_core.model.step import Op
from durable_core.platform import run_logger
from durable_core.ports import CheckpointResult
from durable_core.runners.host import RunHost
from durable_core.runners.raised import catch
from durable_core.runners.recorded_body import record_body
from durable_core.runners.time_limit import call_in_time

__all__ = ["MAX_REFUSED_STEPS", "REFUSED_STEP_DELAY", "ThreadRun", "too_many_refused_steps"]

#: After so many the run of a ``def`` handler, whose thread cannot be ended, fails without it.
_FAIL_AFTER = 130
#: From then on each step takes longer and longer, up to this, seconds.
_LONGEST_DELAY = 60.0

#: A handler that is being suspended may ask for this many steps; ``finally`` blocks ask for a few.
MAX_REFUSED_STEPS = 100
#: Each further one takes this long, seconds: a loop that swallows errors shall not keep a processor
#: busy.
REFUSED_STEP_DELAY = 1.0

#: The run that has raised the signal in this context, if any.
_UNWOUND: ContextVar[ThreadRun | None] = ContextVar("durable_unwound", default=None)


class ThreadRun:
    """One execution of a ``def`` handler.

    Args:
        host: the worker.
        ex: the execution.
        handler: the user's function.
        reply: called once, with the answer for the attached client.
        own_thread: the thread may be asked to hand its client off while a step is running,
            because the client waits elsewhere.
    """

    kind = HandlerKind.DEF
    tasks = None
    #: What answers each effect.
    performers: ClassVar[Mapping[type[Effect], Callable[[Any, Any], Any]]]
    #: The handler was called before its flow began; how that ended is what it does now.
    has_called = False

    def __init__(
        self,
        host: RunHost,
        ex: Execution,
        handler: Callable[[Request], object],
        reply: Callable[[Response], object] | None = None,
        *,
        own_thread: bool = False,
    ) -> None:
        self.ex = ex
        self.flows = host.flows
        self._host = host
        self._handler = handler
        self._reply = reply
        self._own_thread = own_thread
        self._lock = threading.RLock()
        self._idle: threading.Condition | None = None  # made by who waits for it
        self._unwound_at: str | None = None
        self._main = 0  # the handler's own thread
        self._refused_steps = 0
        self._waiters: dict[str, threading.Event] = {}  # by op id
        self._flow: Flow[None] | None = None  # of the execution
        #: Called if the run goes on while its handler, which does not end, still runs.
        self.left: Callable[[], object] = _nothing

    # -- the run as its handler sees it -----------------------------------------------------

    #: The current thread.
    current_task = staticmethod(threading.current_thread)

    def run(self, flow: Flow[None]) -> None:
        """Run the flow of the execution in this thread, to its end."""
        self._flow = flow
        drive_sync(flow, self.perform, self._lock)

    def run_until(
        self, flow: Flow[None], may_leave: Callable[[Execution], bool]
    ) -> Flow[None] | None:
        """Run the flow of the execution in this thread, or only until the run's end is queued.

        Args:
            flow: the flow.
            may_leave: tells, before the flow waits for a write, whether the rest is left for later.

        Returns:
            The rest, which :meth:`run` takes; None if there is none.
        """
        self._flow = flow
        return drive_sync(_until_wait(self.ex, flow, may_leave), self.perform, self._lock)

    def drive(self, flow: Flow[Any]) -> Any:
        """Run the flow of a step in the thread that calls it."""
        return self._run_step(flow)

    def run_step(self, op: Op, call: Call) -> Any:
        """Do a step that calls a function, in the thread that calls it."""
        return self._run_step(None, op, call)

    def _run_step(self, flow: Flow[Any] | None, op: Any = None, call: Any = None) -> Any:
        """Run the flow of a step; without one, do a step that calls a function."""
        try:
            if self._unwound_at is not None:
                self._refuse_if_unwound()
            if flow is None:
                return self._do_step(op, call)
            return drive_sync(flow, self.perform, self._lock)
        except Suspended:
            self._refused_steps += 1
            if self._refused_steps > MAX_REFUSED_STEPS:
                self._slow_down()
                raise too_many_refused_steps(self.ex, self._refused_steps) from None
            raise
        except MemoryError as error:
            self.ex.close(error)
            raise Suspended from error
        finally:
            if self._idle is not None:
                with self._idle:
                    self._idle.notify_all()

    def _do_step(self, op: Op, call: Call) -> Any:
        """Do a step without its flow as long as it is plain; see ``PlainSteps``."""
        ex, flows, lock = self.ex, self.flows, self._lock
        plain = flows.plain_steps
        if plain is None:
            return drive_sync(flows.run_step(ex, op, call), self.perform, lock)
        with lock:
            attempt = plain.begin(ex, op, call)
        if attempt is None:
            return drive_sync(plain.other(ex, op, call), self.perform, lock)
        outcome: Outcome | Failure | None = None
        fault: BaseException | None = None
        try:
            outcome = self._call_step(attempt)
        except BaseException as error:
            fault = error
        if type(outcome) is Returned:
            with lock:
                ended = plain.finish(ex, attempt, outcome.value)
                if not isinstance(ended, Failure):
                    ex.add_ticket(self._submit(ended[1]))
            if not isinstance(ended, Failure):
                return plain.result(ex, call, ended[0])
            outcome = ended
        flow = plain.go_on(ex, call, attempt)
        with lock:
            flow.send(None)
        return drive_sync(flow, self.perform, lock, outcome, fault)

    def _slow_down(self) -> None:
        """Slow down a handler that asks for steps again and again; fail its run in the end."""
        excess = self._refused_steps - _FAIL_AFTER
        if excess == 0 and threading.get_ident() == self._main:
            self._fail_without_handler()
        time.sleep(min(REFUSED_STEP_DELAY * 2 ** max(0, min(excess, 10)), _LONGEST_DELAY))

    def _fail_without_handler(self) -> None:
        """Run the rest of the flow as if the handler had failed, and forget the run.

        Otherwise it would be held by this process for ever. It is not replayed either: the handler
        would take another thread each time.
        """
        flow, self._flow = self._flow, None
        if flow is not None:
            error = too_many_refused_steps(self.ex, self._refused_steps)
            drive_sync(flow, self.perform, self._lock, Raised(error))
            self._host.live.remove(self)
            self.left()

    def perform(self, effect: Effect) -> Any:
        """Answer one effect."""
        return self.performers[type(effect)](self, effect)

    def _refuse_if_unwound(self) -> None:
        """Refuse the step if its thread runs code of the handler that was unwound.

        The handler's own thread may have seen the signal as how the other one ended. A thread of
        a pool may have gone on to other work, in another context.
        """
        if threading.get_ident() == self._main or _UNWOUND.get() is self:
            raise Suspended

    # -- the run as the engine sees it ------------------------------------------------------

    def on_event(self, op_id: str, event: StoredEvent) -> None:
        """Wake the thread that waits for it in place; a suspended run is claimed when it comes."""
        with self._lock:
            self.ex.resolve_wait(op_id, event)
            waiter = self._waiters.get(op_id)
        if waiter is not None:
            waiter.set()

    def _end_waits(self) -> None:
        for waiter in list(self._waiters.values()):
            waiter.set()

    def recheck_deadlines(self) -> None:
        """Do nothing: no thread waits for a time."""

    def detach(self, reason: HandoffReason) -> None:
        """Hand the client off now if it waits elsewhere, else at the next step."""
        if self._own_thread:
            self.drive(self.flows.detach(self.ex, reason))
        elif self.ex.attached:
            self.ex.stop()
        self._end_waits()

    def stop(self) -> None:
        """Unwind the handler at its next step."""
        self.ex.stop()
        self._end_waits()

    def lease_lost(self) -> None:
        """Close the execution: another process owns the run."""
        self.ex.close(LeaseLost())
        self._end_waits()

    # -- effects ----------------------------------------------------------------------------

    def _submit(self, effect: Submit) -> CommitFuture[CheckpointResult]:
        after: Any = effect.after  # Tickets of the queue, which flows know by their Protocol only
        return self._host.queue.submit(effect.write, after)

    def _await_durable(self, effect: AwaitDurable) -> list[CheckpointResult]:
        queue = self._host.queue
        tickets: Any = effect.tickets
        return [queue.wait(ticket) for ticket in tickets]

    def _call_step(self, attempt: StepAttempt) -> Outcome | None:
        host = self._host
        tickets: Any = self.ex.tickets
        written = [host.queue.wait(ticket) for ticket in tickets] if tickets else ()
        event_seq = host.event_watermark.recent()
        with self._lock:
            if not self.ex.begins(attempt, tickets, written, event_seq):
                return None
        return Returned(None) if attempt.call is None else self.call_user(attempt.call, attempt)

    def _call_hook(self, effect: CallUser) -> Outcome:
        return self.call_user(effect.call)

    def call_user(self, call: Call, attempt: StepAttempt | None = None) -> Outcome:
        """Call the function of a step, whose attempt is given, or a hook."""
        token = enter_run(attempt)
        try:
            if self.ex.deadline is not None:
                value = self._call_before(self.ex.deadline, call)
            elif call.options is None or call.options.timeout is None:
                value = call.fn(*call.args, **(call.kwargs or {}))
            else:
                value = call_in_time(call, call.options.timeout)
            if hasattr(type(value), "__await__"):
                value = self._await(attempt, value)
        except (ControlSignal, MemoryError):
            raise
        except Exception as error:
            return catch(error, in_step=True, debug=self.ex.env.debug)
        finally:
            leave_run(token)
        return Returned(value)

    def _call_before(self, deadline: int, call: Call) -> object:
        """Call a function that must end before the run's deadline, epoch milliseconds.

        Raises:
            Suspended: it has not; the handler is unwound, and the function abandoned.
        """
        left = max(0, deadline - self.ex.env.clock.now())
        timeout = None if call.options is None else call.options.timeout
        try:
            return call_in_time(call, left if timeout is None else min(left, timeout))
        except TimeoutError:
            if self.ex.is_overdue:
                self.ex.close()
                raise Suspended from None
            raise

    def _await(self, attempt: StepAttempt | None, awaitable: Any) -> object:
        """Await the result of a hook; a step of a ``def`` handler has a plain function."""
        if attempt is None:
            return self._host.run_on_background_loop(awaitable)
        if hasattr(awaitable, "close"):
            awaitable.close()
        raise StepUsageError(
            f"step {attempt.name!r} was given an async function; steps of 'def' handlers call "
            "plain functions, only 'async def' handlers can await"
        )

    def call_handler(self, effect: CallHandler) -> Outcome | Unwound:
        """Run the handler."""
        if (self.ex.closed or self.ex.stopping) and not self.has_called:
            return Unwound()  # told so before it began
        self._main = threading.get_ident()
        outcome = contextvars.copy_context().run(self._call_handler)
        if self._unwound_at is not None:
            if not isinstance(outcome, Unwound):
                self._warn_swallowed()
            return Unwound()
        if self.ex.in_flight and isinstance(outcome, Returned):
            return Raised(
                StepUsageError(
                    "the handler has returned while a thread of it still runs a step; wait for the "
                    "end of that thread"
                )
            )
        return outcome

    def _call_handler(self) -> Outcome | Unwound:
        wrap = self._host.wrap_scope
        enter_run(self if wrap is None else wrap(self))
        EVENT_SEQ.set(self.ex.run.event_seq)
        try:
            try:
                value = self._handler(self.ex.request)
            except Exception as error:
                if self.ex.may_undo:
                    self._undo(error)
                raise
            if self.ex.undos or self.ex.run.undoable:
                self._undo(None)
        except ControlSignal:
            return Unwound()
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            return self._handler_raised(error)
        return Returned(value)

    def _undo(self, error: Exception | None) -> None:
        """Undo the steps of a run if it fails by this error of its handler."""
        from durable_core.flow.undo import undo  # few handlers need it

        scope: Any = current_run()
        scope.drive(undo(self.ex, self.flows, error))

    def _handler_raised(self, error: BaseException) -> Outcome | Unwound:
        if is_crash(error):
            self.ex.close(error)
        if self.ex.closed:
            return Unwound()
        if not isinstance(error, Exception):
            error = RuntimeError(f"the handler raised {error!r}, which is no Exception")
        return catch(error, in_step=False, debug=self.ex.env.debug)

    def _warn_swallowed(self) -> None:
        run_logger(self.ex.run.id, self.ex.run.function_id).warning(
            "%s swallowed the signal that step %r raises to put it away; what it returned or "
            "raised after that is discarded",
            self.ex.run.function_id,
            self._unwound_at,
        )

    def _drain_steps(self, effect: DrainSteps) -> None:
        with self._lock:
            self._idle = self._idle or threading.Condition(self._lock)
            self.ex.take(ExecutionEvent.DRAIN)
            self._idle.wait_for(lambda: self.ex.in_flight == 0)

    def _await_other_steps(self, effect: AwaitOtherSteps) -> None:
        self._end_waits()
        with self._lock:
            self._idle = self._idle or threading.Condition(self._lock)
            self._idle.wait_for(lambda: self.ex.in_flight == 0)

    def _park(self, effect: Park) -> None:
        if self.ex.state is ExecutionState.UNDOING and self.ex.holds(effect.op_id):
            raise Suspended  # in a thread that the handler has left behind
        self._unwind(effect.op_id)

    def _unwind(self, op_id: str) -> None:
        _UNWOUND.set(self)
        self.ex.take(ExecutionEvent.UNWIND)
        self._unwound_at = self.ex.awaited.get(op_id, "(next)")
        raise Suspended

    def _unwind_if_alone(self, effect: UnwindIfAlone) -> None:
        if not self.ex.in_flight and self._see_if_alone():
            self._unwind(effect.op_id)

    def _see_if_alone(self, effect: SeeIfAlone | None = None) -> bool:
        scope: Any = current_run()
        is_main = threading.get_ident() == self._main
        is_branch = scope.current_task() is not threading.current_thread()
        return is_main and not is_branch and self.ex.is_sequential

    def _see_handler_branch(self, effect: SeeHandlerBranch) -> object:
        threads = threading.enumerate()
        return next((thread for thread in threads if thread.ident == self._main), None)

    def _await_delivery(self, effect: AwaitDelivery) -> None:
        waiter = threading.Event()
        with self._lock:
            self._waiters[effect.op_id] = waiter
            may_wait = not (
                self.ex.closed or self.ex.stopping or self.ex.has_delivery(effect.op_id)
            )
        if effect.on_wait is not None:
            effect.on_wait(waiter.set)
        if may_wait:
            waiter.wait(effect.for_ms / 1000)
        with self._lock:
            del self._waiters[effect.op_id]

    def _log(self, effect: Log) -> None:
        self._host.observers.notify(note(self.ex, effect))

    def _notify(self, effect: Notify) -> None:
        self._host.observers.perform(effect)

    def _await_replay_turn(self, effect: AwaitReplayTurn) -> None:
        """Do nothing: a thread asks for one finished step at a time."""

    def _send_response(self, effect: SendResponse) -> None:
        reply, self._reply = self._reply, None
        if reply is None:
            return
        self.ex.answered = not self._own_thread
        response = effect.response
        if self.ex.run.phase is Phase.RESPONDING and response.is_streaming:
            response = record_body(self.ex, response, self._host)
        reply(response)


def _until_wait(
    ex: Execution, flow: Flow[None], may_leave: Callable[[Execution], bool]
) -> Flow[Flow[None] | None]:
    """Run a flow until it waits for a write and may be left there; return what is left of it."""
    resume: Callable[[Any], Effect] = flow.send
    value: Any = None
    while True:
        try:
            effect = resume(value)
        except StopIteration:
            return None
        if type(effect) is AwaitDurable and may_leave(ex):
            return _from_effect(flow, effect)
        try:
            value = yield effect
            resume = flow.send
        except BaseException as error:
            value, resume = error, flow.throw


def _from_effect(flow: Flow[None], effect: Effect) -> Flow[None]:
    """Go on with a flow that waits for the answer to an effect."""
    try:
        while True:
            try:
                value = yield effect
            except BaseException as error:
                effect = flow.throw(error)
            else:
                effect = flow.send(value)
    except StopIteration:
        return


def _nothing() -> None:
    """Do nothing: there is nobody to notify."""


def too_many_refused_steps(ex: Execution, count: int) -> StepUsageError:
    """Return the error for a handler that goes on asking for steps; the first time it is logged.

    Args:
        ex: the execution.
        count: how many steps were refused; more than :data:`MAX_REFUSED_STEPS`.
    """
    text = (
        f"{ex.run.function_id} has asked for {count} steps since it was suspended, and does not "
        "end: it swallows what they raise, perhaps in a bare 'except:' in a loop"
    )
    if count == MAX_REFUSED_STEPS + 1:
        run_logger(ex.run.id, ex.run.function_id).error("%s", text)
    return StepUsageError(text)


ThreadRun.performers = {
    Submit: ThreadRun._submit,
    AwaitDurable: ThreadRun._await_durable,
    StepAttempt: ThreadRun._call_step,
    CallUser: ThreadRun._call_hook,
    CallHandler: ThreadRun.call_handler,
    Park: ThreadRun._park,
    UnwindIfAlone: ThreadRun._unwind_if_alone,
    SeeIfAlone: ThreadRun._see_if_alone,
    SeeHandlerBranch: ThreadRun._see_handler_branch,
    AwaitDelivery: ThreadRun._await_delivery,
    DrainSteps: ThreadRun._drain_steps,
    AwaitOtherSteps: ThreadRun._await_other_steps,
    AwaitReplayTurn: ThreadRun._await_replay_turn,
    SendResponse: ThreadRun._send_response,
    Log: ThreadRun._log,
    Notify: ThreadRun._notify,
}
