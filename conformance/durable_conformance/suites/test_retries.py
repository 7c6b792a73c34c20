"""Failures: what is tried again, how often, and what comes of it in the end."""

from __future__ import annotations

from typing import Any

import pytest

from durable_conformance.contract import Capability
from durable_conformance.deployment import Deployment
from durable_conformance.plugin import needs, requirement
from durable_conformance.programs import CallLog, Gate, Script
from durable_core import NonRetriableError, Request, RetryAfterError, StepError


@requirement("L4")
def test_a_failing_step_is_tried_again(deployment: Deployment) -> None:
    """Up to the endpoint's retries; then the run goes on where it was."""
    call_log = CallLog()

    def program(request: Request, step: Any) -> Script:
        yield step.run("before", call_log.record, "before", 0)
        value = yield step.run("flaky", call_log.fail_first, "flaky", 3, ValueError("not yet"))
        return value

    with deployment.serving(program) as server:
        assert 4 == server.finish("GET", "/it").json()

    assert {"before": 1, "flaky": 4} == call_log.counts()


@requirement("L5")
@pytest.mark.parametrize("retries", [0, 2])
def test_a_step_that_fails_for_good_may_be_caught(deployment: Deployment, retries: int) -> None:
    """The handler sees ``StepError`` with the error's name and message after the last attempt."""
    call_log = CallLog()

    def program(request: Request, step: Any) -> Script:
        try:
            yield step.run("bad", call_log.fail_first, "bad", 99, ValueError("boom"))
        except StepError as error:
            yield step.run("clean-up", call_log.record, "clean-up", 0)
            return {"name": error.name, "message": error.message}

    with deployment.serving(program, retries=retries) as server:
        assert {"name": "ValueError", "message": "boom"} == server.finish("GET", "/it").json()

    assert {"bad": 1 + retries, "clean-up": 1} == call_log.counts()


@requirement("L5")
def test_a_step_that_fails_for_good_ends_the_run(deployment: Deployment) -> None:
    """Uncaught, it is 500 as a problem document, without a stack trace."""
    call_log = CallLog()

    def program(request: Request, step: Any) -> Script:
        yield step.run("bad", call_log.fail_first, "bad", 99, ValueError("boom"))

    with deployment.serving(program, retries=1) as server:
        reply = server.finish("GET", "/it")

    assert (500, "application/problem+json") == (reply.status, reply.get("content-type"))
    assert b"Traceback" not in reply.body
    assert {"bad": 2} == call_log.counts()


@requirement("L6")
def test_an_error_that_is_not_to_be_retried(deployment: Deployment) -> None:
    """In a step or beside one, there is one attempt."""
    call_log = CallLog()

    def program(request: Request, step: Any) -> Script:
        error = NonRetriableError("never")
        if "step" in request.query:
            yield step.run("bad", call_log.fail_first, "bad", 99, error)
        call_log.record("handler", 0)
        raise error

    with deployment.serving(program) as server:
        replies = [server.finish("GET", "/it?step"), server.ask("GET", "/it")]

    assert [500, 500] == [reply.status for reply in replies]
    assert {"bad": 1, "handler": 1} == call_log.counts()


@requirement("L6")
@needs(Capability.ATTACHED_FAILURES)
def test_a_step_that_is_not_to_be_retried_is_answered_at_once(deployment: Deployment) -> None:
    """The client is told on its own connection."""
    call_log = CallLog()

    def program(request: Request, step: Any) -> Script:
        yield step.run("bad", call_log.fail_first, "bad", 99, NonRetriableError("never"))

    with deployment.serving(program) as server:
        assert 500 == server.ask("GET", "/it").status


@requirement("L7")
def test_a_failing_handler_is_tried_again(deployment: Deployment) -> None:
    """Errors outside steps retry the handler, with the results of its steps."""
    call_log = CallLog()

    def program(request: Request, step: Any) -> Script:
        yield step.run("a", call_log.record, "a", 0)
        return call_log.fail_first("handler", 2, RuntimeError("not yet"))

    with deployment.serving(program) as server:
        assert 3 == server.finish("GET", "/it").json()

    assert {"a": 1, "handler": 3} == call_log.counts()


@requirement("L7")
def test_a_handler_that_fails_for_good(deployment: Deployment) -> None:
    """After the last attempt it is 500 as a problem document."""
    call_log = CallLog()

    def program(request: Request, step: Any) -> Script:
        yield from ()
        call_log.fail_first("handler", 99, RuntimeError("boom"))

    with deployment.serving(program, retries=1) as server:
        reply = server.finish("GET", "/it")

    assert (500, "application/problem+json") == (reply.status, reply.get("content-type"))
    assert {"handler": 2} == call_log.counts()


@requirement("L8")
def test_an_error_says_when_to_try_again(deployment: Deployment) -> None:
    """``RetryAfterError`` puts the next attempt off for so long."""
    call_log = CallLog()

    def program(request: Request, step: Any) -> Script:
        yield step.run("busy", call_log.fail_first, "busy", 1, RetryAfterError("busy", 0.2))
        return "done"

    with deployment.serving(program) as server:
        assert "done" == server.finish("GET", "/it").json()

    first, second = call_log.times["busy"]
    assert second - first >= 0.19


@requirement("L14")
def test_a_step_has_retries_of_its_own(deployment: Deployment) -> None:
    """Fewer than its endpoint has; ``retry_if`` ends the attempts earlier still."""
    call_log = CallLog()

    def program(request: Request, step: Any) -> Script:
        impatient = step.options(retries=1)
        picky = step.options(retry_if=lambda error: not isinstance(error, LookupError))
        names = []
        for name, steps, error in (
            ("impatient", impatient, ValueError("no")),
            ("picky", picky, LookupError("no")),
        ):
            try:
                yield steps.run(name, call_log.fail_first, name, 99, error)
            except StepError as failed:
                names.append(failed.name)
        return names

    with deployment.serving(program) as server:
        assert ["ValueError", "LookupError"] == server.finish("GET", "/it").json()

    assert {"impatient": 2, "picky": 1} == call_log.counts()


@requirement("L14")
def test_an_attempt_may_take_only_so_long(deployment: Deployment) -> None:
    """Past its time it has failed, and a late result is dropped."""
    call_log, gate = CallLog(), Gate()

    def work() -> str:
        return (
            gate.wait_open("late")
            if call_log.record("slow", call_log.count("slow")) == 0
            else "in time"
        )

    def program(request: Request, step: Any) -> Script:
        value = yield step.options(timeout=0.2).run("slow", work)
        return value

    with deployment.serving(program) as server:
        try:
            assert "in time" == server.finish("GET", "/it").json()
        finally:
            gate.open()

    assert {"slow": 2} == call_log.counts()
