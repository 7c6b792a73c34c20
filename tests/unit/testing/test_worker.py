"""What stands between a handler and its run."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from contextlib import suppress

import pytest

from durable_core import Request, step
from durable_core.errors import ControlSignal
from durable_core.flow.attempt import StepAttempt
from durable_core.flow.scope import CURRENT_RUN, RunScope
from durable_core.sync import step as sync_step
from durable_core.testing.harnesses import harness
from durable_core.testing.worker import InstrumentedScope
from support.harness_sample import plain_app


def test_a_handler_reaches_the_watched_run() -> None:
    """It has the execution, face and branch of the run it stands for."""
    durable = plain_app()
    scopes: list[RunScope | StepAttempt | None] = []

    @durable.endpoint(function_id="it")
    def endpoint(request: Request) -> bool:
        scopes.append(CURRENT_RUN.get())
        return True

    with harness(durable) as t:
        t.client(endpoint).get("/")

    [scope] = scopes
    assert isinstance(scope, InstrumentedScope)
    assert ("def", "it") == (scope.kind.value, scope.ex.run.endpoint_key)
    assert threading.current_thread() is scope.current_task()


def test_crash_with_branches_in_flight() -> None:
    """All branches are thrown away; the steps that had no checkpoint run again."""
    durable = plain_app()
    calls: list[str] = []

    async def work(name: str) -> str:
        calls.append(name)
        if calls == ["slow"]:
            await asyncio.Event().wait()  # in flight until the process dies
        return name

    @durable.endpoint(function_id="it")
    async def endpoint(request: Request) -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(step.run(n, work, n)) for n in ("slow", "quick")]
        return [task.result() for task in tasks]

    with harness(durable) as t:
        t.crash_after("quick")
        reply = t.client(endpoint).get("/")
        assert ["slow", "quick"] == reply.result().json()
        assert {"slow": 2, "quick": 1} == {s.name: s.calls for s in t.steps(reply)}
    assert ["slow", "quick", "slow"] == calls


def test_replay_with_threads_of_a_handler() -> None:
    """Steps of other threads end before the handler is thrown away; each runs once."""
    durable = plain_app()
    calls: list[str] = []

    def there() -> None:
        with suppress(ControlSignal):  # the thread ends with its handler
            sync_step.run("there", calls.append, "there")

    @durable.endpoint(function_id="it")
    def endpoint(request: Request) -> bool:
        other = threading.Thread(target=contextvars.copy_context().run, args=(there,))
        other.start()
        other.join()
        sync_step.run("here", calls.append, "here")
        return True

    with harness(durable) as t:
        t.replay_everything()
        assert t.client(endpoint).get("/").result().json() is True
    assert ["there", "here"] == calls


def test_handler_that_swallows_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    """What it does after its process has died does not count."""
    durable = plain_app()

    @durable.endpoint(function_id="it")
    def endpoint(request: Request) -> str:
        try:
            return sync_step.run("one", str, "good")
        except BaseException:  # what a handler must not do
            return "swallowed"

    with caplog.at_level(logging.ERROR, "durable"), harness(durable) as t:
        t.crash_after("one")
        assert "good" == t.client(endpoint).get("/").result().json()
