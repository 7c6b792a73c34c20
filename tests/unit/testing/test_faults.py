"""What is to go wrong in a test."""

from __future__ import annotations

import pytest

from durable_core.errors import UnusedFaultError
from durable_core.testing.faults import CrashPoint, FaultPlan


def test_failures_come_so_often() -> None:
    """The step fails as many times as planned, and no other step does."""
    faults, error = FaultPlan(), KeyError("x")
    faults.plan_failure("charge", 2, error)

    assert faults.take_failure("reserve") is None
    assert [error, error, None] == [faults.take_failure("charge") for _ in range(3)]


def test_failure_of_every_time() -> None:
    """None stands for every time, and for an error that names the plan."""
    faults = FaultPlan()
    faults.plan_failure("charge", None, None)

    errors = [faults.take_failure("charge") for _ in range(30)]
    assert {"RuntimeError(\"fail_step('charge')\")"} == {repr(error) for error in errors}


def test_class_of_error_is_raised_anew() -> None:
    """Of a class a fresh error is made each time."""
    faults = FaultPlan()
    faults.plan_failure("charge", 2, ConnectionError)

    first, second = faults.take_failure("charge"), faults.take_failure("charge")
    assert (ConnectionError, ConnectionError) == (type(first), type(second))
    assert first is not second


def test_crashes_come_at_their_moment() -> None:
    """A crash is for one moment of one step, so often."""
    faults = FaultPlan()
    faults.plan_crash("charge", CrashPoint.AFTER, 1)

    assert not faults.take_crash("charge", CrashPoint.BEFORE)
    assert not faults.take_crash("reserve", CrashPoint.AFTER)
    assert faults.take_crash("charge", CrashPoint.AFTER)
    assert not faults.take_crash("charge", CrashPoint.AFTER)


def test_unused_fault_is_an_error() -> None:
    """What has not happened is named, with the steps that there were."""
    faults = FaultPlan()
    faults.plan_failure("chrage", 1, None)
    faults.plan_crash("reserve", CrashPoint.DURING, 1)
    faults.plan_crash("charge", CrashPoint.BEFORE, 1)
    faults.take_crash("charge", CrashPoint.BEFORE)

    with pytest.raises(UnusedFaultError) as found:
        faults.check_used()
    assert (
        "fail_step('chrage'), crash_during('reserve') did not happen; steps that ran: 'charge'"
        == str(found.value)
    )


@pytest.mark.parametrize("times", [0, -1, True, 1.5])
def test_times_must_be_a_number(times: int) -> None:
    """So often means 1 or more."""
    with pytest.raises(ValueError, match="times must be 1 or more"):
        FaultPlan().plan_failure("charge", times, None)


def test_other_arguments_are_checked() -> None:
    """Only exceptions can be raised, steps are texts, and a crash cannot come for ever."""
    with pytest.raises(TypeError, match="error must be an Exception"):
        FaultPlan().plan_failure("charge", 1, KeyboardInterrupt)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a step id is a str"):
        FaultPlan().plan_crash(print, CrashPoint.AFTER, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not for every time"):
        FaultPlan().plan_crash("charge", CrashPoint.AFTER, None)  # type: ignore[arg-type]
