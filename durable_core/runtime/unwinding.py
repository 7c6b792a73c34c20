"""Putting an ``async def`` handler away: when it is quiet, or when it is told to go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from durable_core.flow.asks import Outcome, Raised, Unwound
from durable_core.flow.execution import Execution
from durable_core.runtime.host import Host
from durable_core.runtime.logs import run_logger
from durable_core.runtime.parking import Parking

__all__ = ["Unwinding"]


class Unwinding:
    """Ends the handler of one run before it has returned. Everything happens on its loop.

    The handler runs between :meth:`handler_begins` and :meth:`handler_ended`. When something is
    parked and nothing else happens for the settle time, its task is cancelled. From then on nothing
    that it does counts; if it goes on for longer than the unwind time, the run goes on without it.

    Args:
        host: the engine.
        ex: the execution.
        loop: where it runs.
        parking: the steps that are parked.
    """

    def __init__(
        self, host: Host, ex: Execution, loop: asyncio.AbstractEventLoop, parking: Parking
    ) -> None:
        self._host = host
        self._ex = ex
        self._loop = loop
        self._parking = parking
        self._task: asyncio.Task[object] | None = None
        self._go_on_without: Callable[[], None] | None = None  # None while no handler runs
        self._begun = False
        #: The handler has gone on from a step that was refused: how it ends does not count.
        self.past_refused_step = False
        self._watching = False
        self._deadline: asyncio.TimerHandle | None = None

    # -- the handler ------------------------------------------------------------------------

    @property
    def is_left_behind(self) -> bool:
        """Tell whether a step that parks now is one of a task that has outlived the handler."""
        return not self._handling

    @property
    def _handling(self) -> bool:
        return self._go_on_without is not None

    def handler_begins(self, go_on_without: Callable[[], None]) -> None:
        """Note that the current task is about to call the handler.

        Args:
            go_on_without: called if the handler does not end when it should.
        """
        self._task = asyncio.current_task()
        self._go_on_without = go_on_without

    def cut_short(self, error: BaseException) -> Outcome | Unwound:
        """Return how a handler ended that a cancellation or a signal ended: ours, or its own."""
        if self._ex.closed or self.loop_is_ending():
            if self._task is not None:
                while self._task.cancelling():
                    self._task.uncancel()
            return Unwound()
        return Raised(RuntimeError(f"the handler was cancelled by its own code: {error!r}"))

    def handler_ended(self, outcome: Outcome | Unwound) -> Outcome | Unwound:
        """Return what counts of how the handler has ended.

        Raises:
            CancelledError: nothing does, for the run has gone on without it.
        """
        if not self._handling:
            raise asyncio.CancelledError
        self._go_on_without = None
        self._parking.cancel_all()  # of tasks that the handler has left behind
        if self._deadline is not None:
            self._deadline.cancel()
        if not self._begun:
            return Unwound() if self.past_refused_step else outcome
        if not isinstance(outcome, Unwound):
            self._warn_swallowed()
        return Unwound()

    # -- when to end it ---------------------------------------------------------------------

    def watch(self) -> None:
        """Look whether the handler is quiet when it has been so for the settle time."""
        if not self._watching:
            self._watching = True
            self._loop.call_later(self._host.settle_time, self._look, self._ex.activity)

    def _look(self, activity: int) -> None:
        self._watching = False
        if not self._handling or self._begun or not self._parking:
            return
        if self._ex.quiet and self._ex.activity == activity:
            self.unwind()
        else:
            self.watch()

    def unwind_if_idle(self) -> None:
        """End the handler if no step is in flight."""
        if self._ex.in_flight == 0 and self._handling:
            self.unwind()

    def unwind(self) -> None:
        """Cancel the handler and what is parked. From here on nothing it does counts."""
        if self._begun or not self._handling or self._task is None:
            return
        self._begun = True
        self._ex.close()
        self._task.cancel()
        self._parking.cancel_all()
        self._deadline = self._loop.call_later(self._host.unwind_time, self._abandon)

    def _abandon(self) -> None:
        """The handler does not end although it was cancelled: give the run up without it."""
        go_on, self._go_on_without = self._go_on_without, None
        if go_on is None:
            return
        run_logger(self._ex.run.id, self._ex.run.function_id).warning(
            "%s was cancelled to be put away and still runs %g seconds later; the run goes on "
            "without it",
            self._ex.run.function_id,
            self._host.unwind_time,
        )
        go_on()

    # -- whose cancellation it is -----------------------------------------------------------

    def ends_parked_steps(self) -> bool:
        """Tell whether a parked step that is cancelled now ends with the handler."""
        return self._ex.closed or not self._handling or self.loop_is_ending()

    def loop_is_ending(self) -> bool:
        """Tell whether the loop is being shut down; the run then goes on elsewhere."""
        if not self._host.loops.is_ending(self._loop):
            return False
        self._begun = True
        self._ex.stop()
        self._ex.close()
        return True

    def _warn_swallowed(self) -> None:
        run_logger(self._ex.run.id, self._ex.run.function_id).warning(
            "%s swallowed the cancellation that puts it away at step %s; what it returned or "
            "raised after that is discarded",
            self._ex.run.function_id,
            ", ".join(repr(each.op.name) for each in self._ex.pending.values()) or "(none)",
        )
