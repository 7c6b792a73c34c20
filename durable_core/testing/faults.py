"""What is to go wrong in a test, step by step."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from enum import Enum

from durable_core.errors import NotDeterministicError, UnusedFaultError
from durable_core.flow.execution import Execution, StoredExecution
from durable_core.model.step import Memo

__all__ = [
    "Asked",
    "Faults",
    "Moment",
    "Replays",
]


# --- replay ---------------------------------------------------------------------------------------
#
# Whether a handler, when it is replayed, asks for the same steps.
#
# A step of the handler's own task or thread must be asked for again before any new one; steps of
# branches that run beside it, by the end of the handler.

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
        assert isinstance(ex, StoredExecution)  # the engine under test is the embedded one
        self._run = ex.run
        self._known = {memo.completion_no: memo.op.name for memo in ex.memos.values()}
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
            self._in_line.add(memo.completion_no)

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


# --- faults ---------------------------------------------------------------------------------------


class Moment(Enum):
    """When the process dies."""

    #: The function of the step is about to be called; what came before is durable.
    BEFORE = "crash_before"
    #: The function has returned or raised, and nothing about that is durable.
    DURING = "crash_during"
    #: The step has just become durable.
    AFTER = "crash_after"


@dataclass(slots=True)
class _Fault:
    """Something that goes wrong at a step, the next ``left`` times (None: each time)."""

    step_id: str
    what: Moment | Exception | type[Exception]
    left: int | None
    happened: bool = False

    def take(self) -> None:
        """Let it happen once."""
        self.happened = True
        if self.left is not None:
            self.left -= 1

    def __str__(self) -> str:
        method = self.what.value if isinstance(self.what, Moment) else "fail_step"
        return f"{method}({self.step_id!r})"


class Faults:
    """The failures and crashes that a test has planned, and which of them have happened.

    Steps are named as their records are: ``"save"``, and where the id repeats ``"save:1"``, ...
    """

    def __init__(self) -> None:
        self._faults: list[_Fault] = []
        self._seen: set[str] = set()

    def plan_failure(
        self, step_id: str, times: int | None, error: Exception | type[Exception] | None
    ) -> None:
        """Have the function of a step fail; None stands for every time, and for some error.

        Raises:
            ValueError, TypeError: an argument out of range.
        """
        if error is None:
            error = RuntimeError(f"fail_step({step_id!r})")
        is_error = isinstance(error, Exception) or (
            isinstance(error, type) and issubclass(error, Exception)
        )
        if not is_error:
            raise TypeError(f"error must be an Exception or a class of them, not {error!r}")
        self._plan(step_id, error, times)

    def plan_crash(self, step_id: str, moment: Moment, times: int) -> None:
        """Have the process die at a step.

        Raises:
            ValueError, TypeError: an argument out of range.
        """
        if times is None:
            raise ValueError("a crash can be planned for a number of times, not for every time")
        self._plan(step_id, moment, times)

    def _plan(
        self, step_id: str, what: Moment | Exception | type[Exception], times: int | None
    ) -> None:
        if not isinstance(step_id, str):
            raise TypeError(f"a step id is a str, not {type(step_id).__name__}")
        if times is not None and (type(times) is not int or times < 1):
            raise ValueError(f"times must be 1 or more, not {times!r}")
        self._faults.append(_Fault(step_id, what, times))

    def crashes(self, step_name: str, moment: Moment) -> bool:
        """Tell whether the process dies now; that is then one crash less to come."""
        self._seen.add(step_name)
        for fault in self._coming(step_name):
            if fault.what is moment:
                fault.take()
                return True
        return False

    def failure(self, step_name: str) -> Exception | None:
        """Return how the step fails now, which is then one failure less to come."""
        for fault in self._coming(step_name):
            if not isinstance(fault.what, Moment):
                fault.take()
                return fault.what() if isinstance(fault.what, type) else fault.what
        return None

    def _coming(self, step_name: str) -> list[_Fault]:
        return [each for each in self._faults if each.step_id == step_name and each.left != 0]

    def check_used(self) -> None:
        """See that each fault has happened at least once.

        Raises:
            UnusedFaultError: some have not; a test that plans them tests less than it seems to.
        """
        unused = [str(fault) for fault in self._faults if not fault.happened]
        if unused:
            seen = ", ".join(map(repr, sorted(self._seen))) or "none"
            raise UnusedFaultError(f"{', '.join(unused)} did not happen; steps that ran: {seen}")
