"""Failures: what is tried again, how often, and what comes of it in the end."""

from __future__ import annotations

from typing import Any

import pytest

from durable_conformance.contract import Capability
from durable_conformance.plugin import needs, requirement
from durable_conformance.programs import Ledger, Script
from durable_conformance.stage import Stage
from durable_core import NonRetriableError, Request, RetryAfterError, StepError


@requirement("L4")
def test_a_failing_step_is_tried_again(stage: Stage) -> None:
    """Up to the endpoint's retries; then the run goes on where it was."""
    ledger = Ledger()

    def program(request: Request, step: Any) -> Script:
        yield step.run("before", ledger.did, "before", 0)
        value = yield step.run("flaky", ledger.fails, "flaky", 3, ValueError("not yet"))
        return value

    with stage.serving(program) as site:
        assert 4 == site.finish("GET", "/it").json()

    assert {"before": 1, "flaky": 4} == ledger.counts()


@requirement("L5")
@pytest.mark.parametrize("retries", [0, 2])
def test_a_step_that_fails_for_good_may_be_caught(stage: Stage, retries: int) -> None:
    """The handler sees ``StepError`` with the error's name and message after the last attempt."""
    ledger = Ledger()

    def program(request: Request, step: Any) -> Script:
        try:
            yield step.run("bad", ledger.fails, "bad", 99, ValueError("boom"))
        except StepError as error:
            yield step.run("clean-up", ledger.did, "clean-up", 0)
            return {"name": error.name, "message": error.message}

    with stage.serving(program, retries=retries) as site:
        assert {"name": "ValueError", "message": "boom"} == site.finish("GET", "/it").json()

    assert {"bad": 1 + retries, "clean-up": 1} == ledger.counts()


@requirement("L5")
def test_a_step_that_fails_for_good_ends_the_run(stage: Stage) -> None:
    """Uncaught, it is 500 as a problem document, without a stack trace."""
    ledger = Ledger()

    def program(request: Request, step: Any) -> Script:
        yield step.run("bad", ledger.fails, "bad", 99, ValueError("boom"))

    with stage.serving(program, retries=1) as site:
        reply = site.finish("GET", "/it")

    assert (500, "application/problem+json") == (reply.status, reply.get("content-type"))
    assert b"Traceback" not in reply.body
    assert {"bad": 2} == ledger.counts()


@requirement("L6")
def test_an_error_that_is_not_to_be_retried(stage: Stage) -> None:
    """In a step or beside one, there is one attempt."""
    ledger = Ledger()

    def program(request: Request, step: Any) -> Script:
        error = NonRetriableError("never")
        if "step" in request.query:
            yield step.run("bad", ledger.fails, "bad", 99, error)
        ledger.did("handler", 0)
        raise error

    with stage.serving(program) as site:
        replies = [site.finish("GET", "/it?step"), site.ask("GET", "/it")]

    assert [500, 500] == [reply.status for reply in replies]
    assert {"bad": 1, "handler": 1} == ledger.counts()


@requirement("L6")
@needs(Capability.ATTACHED_FAILURES)
def test_a_step_that_is_not_to_be_retried_is_answered_at_once(stage: Stage) -> None:
    """The client is told on its own connection."""
    ledger = Ledger()

    def program(request: Request, step: Any) -> Script:
        yield step.run("bad", ledger.fails, "bad", 99, NonRetriableError("never"))

    with stage.serving(program) as site:
        assert 500 == site.ask("GET", "/it").status


@requirement("L7")
def test_a_failing_handler_is_tried_again(stage: Stage) -> None:
    """Errors outside steps retry the handler, with the results of its steps."""
    ledger = Ledger()

    def program(request: Request, step: Any) -> Script:
        yield step.run("a", ledger.did, "a", 0)
        return ledger.fails("handler", 2, RuntimeError("not yet"))

    with stage.serving(program) as site:
        assert 3 == site.finish("GET", "/it").json()

    assert {"a": 1, "handler": 3} == ledger.counts()


@requirement("L7")
def test_a_handler_that_fails_for_good(stage: Stage) -> None:
    """After the last attempt it is 500 as a problem document."""
    ledger = Ledger()

    def program(request: Request, step: Any) -> Script:
        yield from ()
        ledger.fails("handler", 99, RuntimeError("boom"))

    with stage.serving(program, retries=1) as site:
        reply = site.finish("GET", "/it")

    assert (500, "application/problem+json") == (reply.status, reply.get("content-type"))
    assert {"handler": 2} == ledger.counts()


@requirement("L8")
def test_an_error_says_when_to_try_again(stage: Stage) -> None:
    """``RetryAfterError`` puts the next attempt off for so long."""
    ledger = Ledger()

    def program(request: Request, step: Any) -> Script:
        yield step.run("busy", ledger.fails, "busy", 1, RetryAfterError("busy", 0.2))
        return "done"

    with stage.serving(program) as site:
        assert "done" == site.finish("GET", "/it").json()

    first, second = ledger.times["busy"]
    assert second - first >= 0.19
