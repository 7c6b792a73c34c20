"""Planned failures and crashes, and the check that handlers are deterministic."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from enum import Enum

from durable_core.duration import is_int
from durable_core.errors import NotDeterministicError, UnusedFaultError
from durable_core.flow.execution import Execution, StoredExecution
from durable_core.model.step import Memo

__all__ = [
    "CrashPoint",
    "FaultPlan",
    "ReplayChecker",
    "ReplayTrace",
]


#: In how many replays in a row a step of a branch may come later than what ends the replay.
_PATIENCE = 20


class ReplayChecker:
    """Checks that each replay of a handler reaches the steps that have finished.

    A step of the handler's own task or thread must be reached before any new step; steps of
    branches that run beside it must be reached before the handler ends.

    Attributes:
        enabled: True if handlers are suspended after every step.
    """

    def __init__(self) -> None:
        self.enabled = False
        self._runs: dict[str, ReplayTrace] = {}
        self._in_line: defaultdict[str, set[int]] = defaultdict(set)
        self._missed: Counter[tuple[str, int]] = Counter()

    def begin(self, ex: Execution) -> ReplayTrace:
        """Return a new trace for a handler that is about to be called."""
        run_id = ex.run.id
        trace = ReplayTrace(ex, self._in_line[run_id], self._missed)
        self._runs[run_id] = trace
        return trace

    def run_ids(self) -> list[str]:
        """Return the ids of the runs that have not been checked at their end."""
        return list(self._runs)

    def check_completed(self, run_id: str) -> NotDeterministicError | None:
        """Return the error of a completed run whose last replay did not reach a finished step."""
        trace = self._runs.pop(run_id, None)
        if trace is None or not self.enabled:
            return None
        missing = sorted(trace.find_missing())
        return trace.error(missing[0], "the handler returned") if missing else None


class ReplayTrace:
    """The steps that one execution of a handler has reached.

    Args:
        ex: the execution, before its handler is called.
        in_line: numbers of the run's steps that the handler's own task or thread has finished.
        missed: in how many replays in a row each step was not reached.
    """

    def __init__(self, ex: Execution, in_line: set[int], missed: Counter[tuple[str, int]]) -> None:
        assert isinstance(ex, StoredExecution)  # the engine under test is the embedded one
        self._run = ex.run
        self._known: dict[int, str] = {}
        if ex.run.cancel_reason is None:  # else its handler is not replayed to go on
            self._known = {memo.completion_no: memo.op.name for memo in ex.memos.values()}
        self._replayed: set[int] = set()
        self._in_line = in_line
        self._missed = missed

    def add_replayed(self, number: int) -> None:
        """Note that a finished step was reached again."""
        self._replayed.add(number)
        self._missed.pop((self._run.id, number), None)

    def check_new(self, step_name: str, *, in_line: bool) -> NotDeterministicError | None:
        """Return the error if a new step is reached before a finished one of the same task."""
        missing = sorted(self.find_missing() & self._in_line) if in_line else []
        return self.error(missing[0], f"step {step_name!r} was") if missing else None

    def add_finished(self, memo: Memo, *, in_line: bool) -> None:
        """Note that a step has finished."""
        if in_line:
            self._in_line.add(memo.completion_no)

    def check_suspended(self) -> NotDeterministicError | None:
        """Return the error if the suspended handler has missed a step in too many replays."""
        for number in sorted(self.find_missing()):
            self._missed[self._run.id, number] += 1
            if self._missed[self._run.id, number] > _PATIENCE:
                return self.error(number, "others were")
        return None

    def find_missing(self) -> set[int]:
        """Return the numbers of the finished steps that were not reached again."""
        return set(self._known) - self._replayed

    def error(self, number: int, instead: str) -> NotDeterministicError:
        """Return the error about a step that was not reached again."""
        return NotDeterministicError(
            f"{self._run.function_id} is not deterministic: when it was replayed, step "
            f"{self._known[number]!r} was not asked for again, {instead} instead. Which steps a "
            "handler asks for, and their ids, must depend on nothing but the request and the "
            "results of earlier steps"
        )


class CrashPoint(Enum):
    """When the process crashes; the value is the name of the harness method."""

    #: Just before the step's function is called; earlier steps are durable.
    BEFORE = "crash_before"
    #: When the function has returned or raised, and nothing of that is durable.
    DURING = "crash_during"
    #: Just after the step has become durable.
    AFTER = "crash_after"


@dataclass(slots=True)
class _Fault:
    """A planned failure or crash of a step, for the next ``left`` times (None: every time)."""

    step_id: str
    effect: CrashPoint | Exception | type[Exception]
    left: int | None
    happened: bool = False

    def use(self) -> None:
        """Count one time that it happens."""
        self.happened = True
        if self.left is not None:
            self.left -= 1

    def __str__(self) -> str:
        method = self.effect.value if isinstance(self.effect, CrashPoint) else "fail_step"
        return f"{method}({self.step_id!r})"


class FaultPlan:
    """The failures and crashes that a test has planned, and which of them have happened.

    A step has the name of its record: ``"save"``, and where the id repeats ``"save:1"``, ...
    """

    def __init__(self) -> None:
        self._faults: list[_Fault] = []
        self._seen: set[str] = set()

    def plan_failure(
        self, step_id: str, times: int | None, error: Exception | type[Exception] | None
    ) -> None:
        """Plan that the function of a step fails; see ``BaseHarness.fail_step``.

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

    def plan_crash(self, step_id: str, moment: CrashPoint, times: int) -> None:
        """Plan that the process crashes at a step.

        Raises:
            ValueError, TypeError: an argument out of range.
        """
        if times is None:
            raise ValueError("a crash can be planned for a number of times, not for every time")
        self._plan(step_id, moment, times)

    def _plan(
        self, step_id: str, effect: CrashPoint | Exception | type[Exception], times: int | None
    ) -> None:
        if not isinstance(step_id, str):
            raise TypeError(f"a step id is a str, not {type(step_id).__name__}")
        if times is not None and (not is_int(times) or times < 1):
            raise ValueError(f"times must be 1 or more, not {times!r}")
        self._faults.append(_Fault(step_id, effect, times))

    def take_crash(self, step_name: str, moment: CrashPoint) -> bool:
        """Return whether the process crashes now, and count that crash as done."""
        self._seen.add(step_name)
        for fault in self._list_planned(step_name):
            if fault.effect is moment:
                fault.use()
                return True
        return False

    def take_failure(self, step_name: str) -> Exception | None:
        """Return the error of the step's next planned failure, and count it as done."""
        for fault in self._list_planned(step_name):
            if not isinstance(fault.effect, CrashPoint):
                fault.use()
                return fault.effect() if isinstance(fault.effect, type) else fault.effect
        return None

    def _list_planned(self, step_name: str) -> list[_Fault]:
        return [each for each in self._faults if each.step_id == step_name and each.left != 0]

    def check_used(self) -> None:
        """Check that each planned fault has happened at least once.

        Raises:
            UnusedFaultError: one has not, so the test tests less than it seems to.
        """
        unused = [str(fault) for fault in self._faults if not fault.happened]
        if unused:
            seen = ", ".join(map(repr, sorted(self._seen))) or "none"
            raise UnusedFaultError(f"{', '.join(unused)} did not happen; steps that ran: {seen}")
