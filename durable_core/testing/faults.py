"""What is to go wrong in a test, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from durable_core.errors import UnusedFaultError

__all__ = ["Faults", "Moment"]


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
