"""What a harness can do without waiting: plan what goes wrong, and look at what has happened."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from durable_core.model.events import Event
from durable_core.ports import RunRecord
from durable_core.testing.bench import Bench
from durable_core.testing.clock import FakeClock
from durable_core.testing.faults import Moment
from durable_core.testing.reply import Reply
from durable_core.testing.steps import StepRecord, steps_of

__all__ = ["BaseHarness"]


class BaseHarness:
    """What needs no waiting, and is the same in both kinds of test."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    @property
    def clock(self) -> FakeClock:
        """The clock of the application; ``advance`` moves it."""
        return self._bench.clock

    # -- what is to go wrong ----------------------------------------------------------------

    def fail_step(
        self,
        step_id: str,
        *,
        times: int | None = 1,
        error: Exception | type[Exception] | None = None,
    ) -> None:
        """Have a ``step.run``, of whatever run, fail in place of calling its function.

        Args:
            step_id: the step; where its id repeats ``"save"`` is the first, ``"save:1"`` the next.
            times: so often, and then it works again; None for every time.
            error: what is raised; a ``RuntimeError`` by default.
        """
        self._bench.faults.plan_failure(step_id, times, error)

    def crash_before(self, step_id: str, *, times: int = 1) -> None:
        """Have the process die when the function of a ``step.run`` is about to be called.

        The live handler is thrown away, and its run is taken over and replayed. A client that
        waits is sent to the wait URL (a real one loses its connection); if the run had no
        checkpoint yet it is gone, and the client gets a ``ConnectionResetError``.
        """
        self._bench.faults.plan_crash(step_id, Moment.BEFORE, times)

    def crash_during(self, step_id: str, *, times: int = 1) -> None:
        """Have the process die when the function has done its work, but nobody knows it yet.

        The function is called again. See :meth:`crash_before` for what becomes of the client.
        """
        self._bench.faults.plan_crash(step_id, Moment.DURING, times)

    def crash_after(self, step_id: str, *, times: int = 1) -> None:
        """Have the process die when a step, of whatever kind, has just become durable."""
        self._bench.faults.plan_crash(step_id, Moment.AFTER, times)

    def replay_everything(self) -> None:
        """From now on, throw handlers away after every step, and replay them.

        What is not deterministic shows: a step that is not asked for again when its handler is
        replayed makes the call that replayed it raise ``NotDeterministicError``. Every response
        is a handoff then.
        """
        self._bench.replays.on = True

    # -- looking ----------------------------------------------------------------------------

    def run(self, of: Reply | str) -> RunRecord:
        """Return all that is known about a run, given its id or a reply to its client.

        Raises:
            RunNotFoundError: it has left no record, for it ended before its first step.
            ValueError: the reply is no run's.
        """
        return self._bench.record(_run_id(of))

    def runs(self) -> Sequence[RunRecord]:
        """Return the last 1,000 runs without their steps, the newest first."""
        return self._bench.durable.runs.list(limit=1000)

    def steps(self, of: Reply | str) -> tuple[StepRecord, ...]:
        """Return the steps of a run, in the order in which they finished, then the unfinished.

        Raises:
            RunNotFoundError, ValueError: as :meth:`run`.
        """
        record = self.run(of)
        return steps_of(record, self._bench.engine.env.codec, self._bench.calls(record.run.id))

    def streamed(self, of: Reply | str) -> list[object]:
        """Return what a run has streamed to whoever follows it, and has not been rolled back.

        The data of all chunks that are stored, in order: those of steps that have succeeded, and
        those from outside steps as of the last checkpoint.

        Raises:
            RunNotFoundError, ValueError: as :meth:`run`.
        """
        run_id = self.run(of).run.id
        app, store = self._bench.engine.env.app, self._bench.store
        stored = store.stream(app, run_id, done=0, outside=0, most=sys.maxsize)
        pieces = () if stored is None else stored.pieces
        return [json.loads(text) for piece in pieces for text in piece.texts]

    def sent(self, name: str | None = None) -> list[Event]:
        """Return the events that the application has got, but for those of :meth:`send`.

        They are what its steps, its other code and its clients have sent, the oldest first.

        Args:
            name: only events of this name.
        """
        own = self._bench.own_events
        return [
            event
            for event_id, event in self._bench.store.events.items()
            if event_id not in own and name in (None, event.name)
        ]


def _run_id(of: Reply | str) -> str:
    run_id = of if isinstance(of, str) else of.run_id
    if run_id is None:
        raise ValueError(f"{of!r} does not come from a run")
    return run_id
