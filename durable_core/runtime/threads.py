"""Runs of ``def`` handlers: a flow driven in the thread that runs the handler.

The thread cannot wait for a retry, a sleep or an event: the handler is unwound by a signal and
replayed when it is due.
"""

from __future__ import annotations

import contextvars
import threading
import traceback
from collections.abc import Callable
from typing import Any, cast

from durable_core.errors import ControlSignal, LeaseLost, StepUsageError, Suspended
from durable_core.flow.asks import (
    Answer,
    Ask,
    Flow,
    Handle,
    InTurn,
    Invoke,
    Outcome,
    Park,
    Raised,
    ReadMark,
    Returned,
    Settle,
    Submit,
    Unwound,
)
from durable_core.flow.current import CURRENT, Face, InsideStep
from durable_core.flow.drive import drive_sync
from durable_core.flow.execution import MARK, Execution
from durable_core.flow.serve import detach
from durable_core.model.commands import HandoffReason
from durable_core.model.events import StoredEvent
from durable_core.model.request import Request
from durable_core.model.response import Response
from durable_core.model.run import Phase
from durable_core.ports import Written
from durable_core.runtime.commits import Ticket
from durable_core.runtime.host import Host
from durable_core.runtime.logs import run_logger
from durable_core.runtime.streamed import tee

__all__ = ["ThreadRun"]


class ThreadRun:
    """One execution of a ``def`` handler.

    Args:
        host: the engine.
        ex: the execution.
        handler: the user's function.
        reply: called once, with the answer for the attached client.
        own_thread: the thread may be asked to hand its client off while a step is running,
            because the client waits elsewhere.
    """

    face = Face.SYNC

    def __init__(
        self,
        host: Host,
        ex: Execution,
        handler: Callable[[Request], object],
        reply: Callable[[Response], None] | None = None,
        *,
        own_thread: bool = False,
    ) -> None:
        self.ex = ex
        self._host = host
        self._handler = handler
        self._reply = reply
        self._own_thread = own_thread
        self._lock = threading.RLock()
        self._quiet = threading.Condition(self._lock)
        self._unwound_at: str | None = None
        self._performers: dict[type, Callable[[Any], Any]] = {
            Submit: self._submit,
            Settle: self._settle,
            ReadMark: self._read_mark,
            Invoke: self._invoke,
            Handle: self._handle,
            Park: self._park,
            InTurn: _no_turns,
            Answer: self._answer,
        }

    # -- the run as its handler sees it -----------------------------------------------------

    def branch(self) -> object:
        """Return the current thread."""
        return threading.current_thread()

    def drive(self, flow: Flow[Any]) -> Any:
        """Run a flow in this thread."""
        try:
            return drive_sync(flow, self.perform, self._lock)
        finally:
            if self.ex.stopping:
                with self._quiet:
                    self._quiet.notify_all()

    def perform(self, ask: Ask) -> Any:
        """Answer one Ask."""
        return self._performers[type(ask)](ask)

    # -- the run as the engine sees it ------------------------------------------------------

    def event_came(self, op_id: str, event: StoredEvent) -> None:
        """Do nothing: no thread waits for an event; the run is claimed when it is put away."""

    def look_again(self) -> None:
        """Do nothing: no thread waits for a time."""

    def detach(self, reason: HandoffReason) -> None:
        """Hand the client off now if it waits elsewhere, else at the next step."""
        if self._own_thread:
            self.drive(detach(self.ex, reason))
        elif self.ex.attached:
            self.ex.stopping = True

    def stop(self) -> None:
        """Let the next step unwind the handler."""
        self.ex.stopping = True

    def lose(self) -> None:
        """Let nothing more of it count."""
        self.ex.close(LeaseLost())

    # -- Asks -------------------------------------------------------------------------------

    def _submit(self, ask: Submit) -> Ticket[Written]:
        return self._host.queue.submit(ask.write)

    def _settle(self, ask: Settle) -> list[Written]:
        queue = self._host.queue
        return [queue.wait(cast("Ticket[Written]", ticket)) for ticket in ask.tickets]

    def _read_mark(self, ask: ReadMark) -> int:
        return self._host.store.event_mark(self.ex.env.app)

    def _invoke(self, ask: Invoke) -> Outcome:
        call = ask.call
        token = CURRENT.set(InsideStep(ask.op_name) if ask.op_name is not None else None)
        try:
            value = call.fn(*call.args, **(call.kwargs or {}))
            if hasattr(type(value), "__await__"):
                value = self._await(ask.op_name, value)
        except ControlSignal:
            raise
        except Exception as error:
            return Raised(error)
        finally:
            CURRENT.reset(token)
        return Returned(value)

    def _await(self, op_name: str | None, awaitable: Any) -> object:
        """Await the result of a hook; a step of a ``def`` handler has a plain function."""
        if op_name is None:
            return self._host.await_elsewhere(awaitable)
        if hasattr(awaitable, "close"):
            awaitable.close()
        raise StepUsageError(
            f"step {op_name!r} was given an async function; steps of 'def' handlers call plain "
            "functions, only 'async def' handlers can await"
        )

    def _handle(self, ask: Handle) -> Outcome | Unwound:
        outcome = contextvars.copy_context().run(self._call_handler)
        if self._unwound_at is not None:
            if not isinstance(outcome, Unwound):
                self._warn_swallowed()
            self._wait_for_steps()
            return Unwound()
        return outcome

    def _call_handler(self) -> Outcome | Unwound:
        CURRENT.set(self)
        MARK.set(self.ex.run.mark)
        try:
            value = self._handler(self.ex.request)
        except ControlSignal:
            return Unwound()
        except Exception as error:
            trace = traceback.format_exc() if self.ex.env.debug else ""
            return Raised(error, trace)
        return Returned(value)

    def _warn_swallowed(self) -> None:
        run_logger(self.ex.run.id, self.ex.run.function_id).warning(
            "%s swallowed the signal that step %r raises to put it away; what it returned or "
            "raised after that is discarded",
            self.ex.run.function_id,
            self._unwound_at,
        )

    def _wait_for_steps(self) -> None:
        """Steps that other threads of the handler still run must be able to checkpoint."""
        with self._quiet:
            self._quiet.wait_for(lambda: self.ex.in_flight == 0)

    def _park(self, ask: Park) -> None:
        op_id = ask.op_id
        self.ex.stopping = True
        pending = self.ex.pending.get(op_id)
        self._unwound_at = pending.op.name if pending is not None else "(next)"
        raise Suspended

    def _answer(self, ask: Answer) -> None:
        reply, self._reply = self._reply, None
        if reply is None:
            return
        response = ask.response
        if self.ex.run.phase is Phase.RESPONDING:
            response = tee(self.ex, response, self.perform)
        reply(response)


def _no_turns(ask: InTurn) -> None:
    """One thread asks for one memo at a time."""
