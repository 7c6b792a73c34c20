"""Runs of ``async def`` handlers: a flow and its handler in one task of the event loop.

A step that cannot finish now parks on a future, while sibling branches go on. When something is
parked and nothing else happens for a moment, the task is cancelled and the handler unwound; it is
replayed when the first parked step is due.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import traceback
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, cast

from durable_core.errors import ControlSignal, LeaseLost, WaitInterruptedError
from durable_core.flow.asks import (
    Answer,
    Ask,
    Call,
    Cancelled,
    Flow,
    Handle,
    InTurn,
    Invoke,
    Outcome,
    Park,
    Raised,
    ReadMark,
    Report,
    Returned,
    Settle,
    Submit,
    Unwound,
)
from durable_core.flow.current import CURRENT, Face, InsideStep
from durable_core.flow.drive import drive_async
from durable_core.flow.execution import MARK, Execution
from durable_core.flow.serve import detach, put_away
from durable_core.model.commands import HandoffReason
from durable_core.model.events import StoredEvent
from durable_core.model.request import Request
from durable_core.model.response import Response
from durable_core.model.run import Phase
from durable_core.ports import Written
from durable_core.runtime.host import Host
from durable_core.runtime.logs import run_logger
from durable_core.runtime.parking import Parked
from durable_core.runtime.streamed import tee
from durable_core.runtime.tickets import Ticket

__all__ = ["TaskRun"]

#: Timers look at the clock at least this often, seconds, so that a step of the clock is noticed.
_LONGEST_TIMER = 30.0


class TaskRun:
    """One execution of an ``async def`` handler. Everything happens on its loop.

    Args:
        host: the engine.
        ex: the execution.
        handler: the user's coroutine function.
        reply: called once, with the answer for the attached client.
        loop: where it will run; by default where it is made.
    """

    face = Face.ASYNC

    def __init__(
        self,
        host: Host,
        ex: Execution,
        handler: Callable[[Request], Coroutine[Any, Any, object]],
        reply: Callable[[Response], None] | None = None,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.ex = ex
        self._host = host
        self._handler = handler
        self._reply = reply
        self._loop = loop or asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._parked: dict[str, asyncio.Future[None]] = {}
        self._turns: list[tuple[int, asyncio.Future[None]]] = []
        self._handling = False
        self._unwinding = False
        self._watching = False
        self._deadline: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[None]] = set()

    def start(self, flow: Flow[None]) -> asyncio.Task[None]:
        """Run the flow in a task of its own, which no framework can cancel."""
        self._task = self._loop.create_task(drive_async(flow, self.perform))
        return self._task

    # -- the run as its handler sees it -----------------------------------------------------

    def branch(self) -> object:
        """Return the current task."""
        return asyncio.current_task()

    async def drive(self, flow: Flow[Any]) -> Any:
        """Run a flow of a step in the task that awaits it."""
        try:
            return await drive_async(flow, self.perform)
        finally:
            if self.ex.stopping:
                self._put_away_if_idle()

    def perform(self, ask: Ask) -> Any:
        """Answer one Ask."""
        return _PERFORM[type(ask)](self, ask)

    # -- the run as the engine sees it ------------------------------------------------------

    def event_came(self, op_id: str, event: StoredEvent) -> None:
        """Wake the wait, in place."""
        self._soon(self._take_event, op_id, event)

    def look_again(self) -> None:
        """Wake everything that is parked: it looks at the clock."""
        self._soon(self._wake_parked)

    def detach(self, reason: HandoffReason) -> None:
        """Hand the client off; the handler goes on."""
        self._soon(self._detach_here, reason)

    def stop(self) -> None:
        """Put the handler away as soon as no step is in flight."""
        self._soon(self._stop_here)

    def lose(self) -> None:
        """Unwind the handler; nothing more of it counts."""
        self._soon(self._lose_here)

    def _soon(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            pass  # the loop is closed, and the run with it

    def _take_event(self, op_id: str, event: StoredEvent) -> None:
        self.ex.answer_wait(op_id, event)
        self._wake(op_id)

    def _wake_parked(self) -> None:
        for op_id in list(self._parked):
            self._wake(op_id)

    def _wake(self, op_id: str) -> None:
        future = self._parked.get(op_id)
        if future is not None and not future.done():
            future.set_result(None)

    def _detach_here(self, reason: HandoffReason) -> None:
        if self.ex.attached and not self.ex.closed:
            task = self._loop.create_task(drive_async(detach(self.ex, reason), self.perform))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    def _stop_here(self) -> None:
        self.ex.stop()
        self._put_away_if_idle()

    def _lose_here(self) -> None:
        self.ex.close(LeaseLost())
        self._unwind()

    # -- putting away -----------------------------------------------------------------------

    def _watch(self) -> None:
        """Look whether the handler is quiet when it has been so for the settle time."""
        if not self._watching:
            self._watching = True
            self._loop.call_later(self._host.settle_time, self._look, self.ex.activity)

    def _look(self, activity: int) -> None:
        self._watching = False
        if not self._handling or self._unwinding or not self._parked:
            return
        if self.ex.quiet and self.ex.activity == activity:
            self._unwind()
        else:
            self._watch()

    def _put_away_if_idle(self) -> None:
        if self.ex.in_flight == 0 and self._handling:
            self._unwind()

    def _unwind(self) -> None:
        """Cancel the handler and what is parked. From here on nothing it does counts."""
        if self._unwinding or not self._handling or self._task is None:
            return
        self._unwinding = True
        self.ex.close()
        self._task.cancel()
        for future in self._parked.values():
            future.cancel()
        self._deadline = self._loop.call_later(self._host.unwind_time, self._abandon)

    def _abandon(self) -> None:
        """The handler does not end although it was cancelled: give the run up without it."""
        if not self._handling:
            return
        self._handling = False
        run_logger(self.ex.run.id, self.ex.run.function_id).warning(
            "%s was cancelled to be put away and still runs %g seconds later; the run goes on "
            "without it",
            self.ex.run.function_id,
            self._host.unwind_time,
        )
        task = self._loop.create_task(drive_async(put_away(self.ex), self.perform))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- Asks -------------------------------------------------------------------------------

    def _submit(self, ask: Submit) -> Ticket[Written]:
        return self._host.queue.submit(ask.write)

    async def _settle(self, ask: Settle) -> list[Written]:
        queue = self._host.queue
        if self._is_alone:
            queue.commit_here()
        return [await queue.wait_async(cast("Ticket[Written]", each)) for each in ask.tickets]

    @property
    def _is_alone(self) -> bool:
        """True if no other run or branch could share a commit: then a turn of the loop is lost."""
        return self.ex.in_flight <= 1 and len(self._host.live) == 1

    def _read_mark(self, ask: ReadMark) -> int:
        return self._host.event_mark.recent()

    async def _invoke(self, ask: Invoke) -> Outcome:
        token = CURRENT.set(InsideStep(ask.op_name) if ask.op_name is not None else None)
        try:
            return Returned(await self._call(ask.call))
        except ControlSignal:
            raise
        except asyncio.CancelledError as error:
            if self.ex.closed or self._loop_is_ending():
                raise
            return Cancelled(error)
        except Exception as error:
            return Raised(error)
        finally:
            CURRENT.reset(token)

    async def _call(self, call: Call) -> object:
        kwargs = call.kwargs or {}
        if inspect.iscoroutinefunction(call.fn):
            return await call.fn(*call.args, **kwargs)
        context = contextvars.copy_context()

        def run() -> object:
            try:
                return context.run(call.fn, *call.args, **kwargs)
            except StopIteration as error:
                # As a coroutine would (PEP 479); a future cannot hold a StopIteration.
                raise RuntimeError("the function raised StopIteration") from error

        value = await self._loop.run_in_executor(self._host.threads, run)
        if inspect.isawaitable(value):
            return await value
        return value

    async def _handle(self, ask: Handle) -> Outcome | Unwound:
        """Run the handler in this task."""
        if self.ex.stopping or self.ex.closed:
            return Unwound()  # told so before it began
        self._handling = True
        token = CURRENT.set(self._host.scope(self))
        MARK.set(self.ex.run.mark)
        outcome: Outcome | Unwound
        try:
            outcome = Returned(await self._handler(self.ex.request))
        except Exception as error:
            trace = traceback.format_exc() if self.ex.env.debug else ""
            outcome = Raised(error, trace)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            outcome = self._cut_short(error)
        finally:
            CURRENT.reset(token)
        if not self._handling:
            # Abandoned meanwhile: what is left to do has been done without us.
            raise asyncio.CancelledError
        self._handling = False
        for future in self._parked.values():
            future.cancel()  # of tasks that the handler has left behind
        if self._deadline is not None:
            self._deadline.cancel()
        if self._unwinding:
            if not isinstance(outcome, Unwound):
                self._warn_swallowed()
            return Unwound()
        return outcome

    def _cut_short(self, error: BaseException) -> Outcome | Unwound:
        """The handler ended by a cancellation or a signal: ours, or one of its own."""
        if self.ex.closed or self._loop_is_ending():
            if self._task is not None:
                while self._task.cancelling():
                    self._task.uncancel()
            return Unwound()
        return Raised(RuntimeError(f"the handler was cancelled by its own code: {error!r}"))

    def _loop_is_ending(self) -> bool:
        """Tell whether the loop is being shut down; the run then goes on elsewhere."""
        if not self._host.loops.is_ending(self._loop):
            return False
        self._unwinding = True
        self.ex.stop()
        self.ex.close()
        return True

    def _warn_swallowed(self) -> None:
        run_logger(self.ex.run.id, self.ex.run.function_id).warning(
            "%s swallowed the cancellation that puts it away at step %s; what it returned or "
            "raised after that is discarded",
            self.ex.run.function_id,
            ", ".join(repr(each.op.name) for each in self.ex.pending.values()) or "(none)",
        )

    async def _park(self, ask: Park) -> None:
        future = Parked(loop=self._loop)
        self._parked[ask.op_id] = future
        timer = self._timer(ask)
        failures = self.ex.failures
        self._watch()
        try:
            await future
        except asyncio.CancelledError:
            if self.ex.closed or not self._handling or self._loop_is_ending():
                raise
            if future.sibling_failed or self.ex.failures > failures:
                raise
            raise self._interrupted(ask.op_id) from None
        finally:
            if timer is not None:
                timer.cancel()
            del self._parked[ask.op_id]

    def _timer(self, ask: Park) -> asyncio.TimerHandle | None:
        if ask.due_at is None:
            return None
        left = (ask.due_at - self.ex.env.clock.now()) / 1000
        return self._loop.call_later(max(0.0, min(left, _LONGEST_TIMER)), self._wake, ask.op_id)

    def _interrupted(self, op_id: str) -> WaitInterruptedError:
        pending = self.ex.pending[op_id]
        return WaitInterruptedError(
            f"a timeout or cancellation was put around step {pending.op.name!r}, which survives "
            "restarts and cannot be timed from outside; use the step's own timeout= instead"
        )

    async def _in_turn(self, ask: InTurn) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        if not self._turns:
            self._loop.call_soon(self._take_turns)
        self._turns.append((ask.number, future))
        await future

    def _take_turns(self) -> None:
        turns, self._turns = self._turns, []
        for _, future in sorted(turns, key=lambda turn: turn[0]):
            if not future.done():
                future.set_result(None)

    def _report(self, ask: Report) -> None:
        run = self.ex.run
        run_logger(run.id, run.function_id).warning("%s", ask.text, exc_info=ask.error)

    def _answer(self, ask: Answer) -> None:
        reply, self._reply = self._reply, None
        if reply is None:
            return
        response = ask.response
        if self.ex.run.phase is Phase.RESPONDING:
            response = tee(self.ex, response, self._host.queue)
        reply(response)


_PERFORM: Mapping[type[Ask], Callable[[TaskRun, Any], Any]] = {
    Submit: TaskRun._submit,
    Settle: TaskRun._settle,
    ReadMark: TaskRun._read_mark,
    Invoke: TaskRun._invoke,
    Handle: TaskRun._handle,
    Park: TaskRun._park,
    InTurn: TaskRun._in_turn,
    Answer: TaskRun._answer,
    Report: TaskRun._report,
}
