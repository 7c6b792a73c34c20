"""The steps of a run, as tests look at them."""

from __future__ import annotations

import pytest

from durable_core.errors import StepError
from durable_core.model.event import Event
from durable_core.testing.harnesses import harness
from durable_core.testing.simulation import StepRecord
from support.harness_sample import sample


@pytest.mark.parametrize("face", ["def", "async def"])
def test_steps_of_a_finished_run(face: str) -> None:
    """Each step has its kind, its attempts and what the handler got from it."""
    app = sample(face)
    with harness(app.durable) as t:
        reply = t.client(app.order).get("/order?id=7")
        t.advance("1 day")
        t.send("order/approved", {"id": "7"}, id="e1")

        reserve, charge, rest, approval, tell = t.steps(reply)

    assert ("reserve", "run", True, 1, 1, "RESERVE") == fields(reserve)
    assert ("charge", "run", True, 1, 1, "CHARGE") == fields(charge)
    assert ("rest", "sleep", True, 1, 0, None) == fields(rest)
    assert isinstance(approval.result, Event)
    assert ("order/approved", {"id": "7"}) == (approval.result.name, approval.result.data)
    assert ("tell", "send") == (tell.name, tell.kind)
    assert isinstance(tell.result, list)
    assert 1 == len(tell.result)


def test_steps_under_way_and_failed() -> None:
    """A failed step has its error, an unfinished one how often it was tried."""
    app = sample("def", retries=1)
    with harness(app.durable) as t:
        t.fail_step("charge", times=2, error=ConnectionError("no bank"))
        reply = t.client(app.order).get("/order?id=7")
        assert ("charge", "run", False, 1, 0, None) == fields(t.steps(reply)[1])
        t.advance("1s")

        failed = t.steps(reply)[1]

    assert ("charge", "run", True, 2, 0, None) == fields(failed)
    assert isinstance(failed.error, StepError)
    assert ("ConnectionError", "no bank") == (failed.error.name, failed.error.message)


def test_wait_without_an_event() -> None:
    """A wait that timed out is done, and its result is None."""
    app = sample("def")
    with harness(app.durable) as t:
        reply = t.client(app.order).get("/order?id=7", follow=True)

        assert ("approval", "wait", True, 1, 0, None) == fields(t.steps(reply)[3])


def fields(step: StepRecord) -> tuple[object, ...]:
    return step.name, step.kind, step.done, step.attempts, step.calls, step.result
