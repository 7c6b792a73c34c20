"""Whether a handler, when it is replayed, asks for the same steps.

A step of the handler's own task or thread must be asked for again before any new one; steps of
branches that run beside it, by the end of the handler.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from durable_core.errors import NotDeterministicError
from durable_core.flow.execution import Execution
from durable_core.model.ops import Memo

__all__ = ["Asked", "Replays"]

#: In so many replays on end may a step of a branch come later than what ends the replay.
_PATIENCE = 20


class Replays:
    """What is known about the handlers of a test, from one replay to the next.

    Attributes:
        on: handlers are thrown away after every step.
    """

    def __init__(self) -> None:
        self.on = False
        self._runs: dict[str, Asked] = {}
        self._in_line: defaultdict[str, set[int]] = defaultdict(set)
        self._missed: Counter[tuple[str, int]] = Counter()

    def begin(self, ex: Execution) -> Asked:
        """Return a fresh account for a handler that is about to be called."""
        run_id = ex.run.id
        asked = Asked(ex, self._in_line[run_id], self._missed)
        self._runs[run_id] = asked
        return asked

    def run_ids(self) -> list[str]:
        """Return the runs that have not been concluded."""
        return list(self._runs)

    def conclude(self, run_id: str) -> NotDeterministicError | None:
        """The run has completed: say what its last replay did not ask for."""
        asked = self._runs.pop(run_id, None)
        if asked is None or not self.on:
            return None
        missing = sorted(asked.missing())
        return asked.error(missing[0], "the handler returned") if missing else None


class Asked:
    """What one execution of a handler has asked for.

    Args:
        ex: the execution, before its handler is called.
        in_line: numbers of the run's steps that its handler's own task or thread has taken.
        missed: how often on end each step was missing when an execution was thrown away.
    """

    def __init__(self, ex: Execution, in_line: set[int], missed: Counter[tuple[str, int]]) -> None:
        self._run = ex.run
        self._known = {memo.number: memo.op.name for memo in ex.memos.values()}
        self._asked: set[int] = set()
        self._in_line = in_line
        self._missed = missed

    def recalled(self, number: int) -> None:
        """A finished step was asked for again."""
        self._asked.add(number)
        self._missed.pop((self._run.id, number), None)

    def begins(self, step_name: str, *, in_line: bool) -> NotDeterministicError | None:
        """A step that has not finished is asked for: say what should have been before it."""
        missing = sorted(self.missing() & self._in_line) if in_line else []
        return self.error(missing[0], f"step {step_name!r} was") if missing else None

    def finished(self, memo: Memo, *, in_line: bool) -> None:
        """A step has finished for good."""
        if in_line:
            self._in_line.add(memo.number)

    def thrown_away(self) -> NotDeterministicError | None:
        """The handler is thrown away: say what it has not asked for in many replays."""
        for number in sorted(self.missing()):
            self._missed[self._run.id, number] += 1
            if self._missed[self._run.id, number] > _PATIENCE:
                return self.error(number, "others were")
        return None

    def missing(self) -> set[int]:
        """Return the numbers of steps that had finished and were not asked for again."""
        return set(self._known) - self._asked

    def error(self, number: int, instead: str) -> NotDeterministicError:
        """Return the error about a missing step."""
        return NotDeterministicError(
            f"{self._run.function_id} is not deterministic: when it was replayed, step "
            f"{self._known[number]!r} was not asked for again, {instead} instead. Which steps a "
            "handler asks for, and their ids, must depend on nothing but the request and the "
            "results of earlier steps"
        )
