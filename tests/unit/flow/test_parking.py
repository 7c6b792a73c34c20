"""Runs that newer code does not fit: ``on_mismatch="park"``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import ConfigurationError
from durable_core.http.request import Request
from durable_core.model.run import is_parked, plain_key, versioned_key
from support.harness import FakeClock, Lab, WatchedStore, lab, request, until

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])
Code = tuple[str, ...]
OLD: Code = ("a", "nap", "b")


def handler_of(asynchronous: bool, code: Code) -> Any:
    """Return a handler that takes these steps; ``nap`` sleeps, ``=a`` is a sleep with the id a."""

    def sync(request: Request) -> list[str]:
        for name in code:
            if name == "nap" or name.startswith("="):
                sync_step.sleep(name.removeprefix("="), "1h")
            else:
                sync_step.run(name, str)
        return list(code)

    async def async_(request: Request) -> list[str]:
        for name in code:
            if name == "nap" or name.startswith("="):
                await step.sleep(name.removeprefix("="), "1h")
            else:
                await step.run(name, str)
        return list(code)

    return async_ if asynchronous else sync


class Deployment:
    """Versions of an application, one after the other, on one store."""

    def __init__(self, asynchronous: bool, policy: str = "park") -> None:
        self.store, self.clock = WatchedStore(), FakeClock()
        self._asynchronous = asynchronous
        self._policy = policy

    @contextmanager
    def process(self, version: str | None) -> Iterator[Lab]:
        """Give a process with the code of a version."""
        with lab(self.store, clock=self.clock, version=version) as process:
            yield process

    def endpoint(self, process: Lab, code: Code, **options: Any) -> Any:
        options = {"on_mismatch": self._policy, **options}
        return process.endpoint(handler_of(self._asynchronous, code), retries=0, **options)

    def begin(self, version: str | None, policy: str = "park") -> str:
        """Have the old code begin a run, which sleeps; return its id."""
        with self.process(version) as process:
            self.endpoint(process, OLD, on_mismatch=policy).handle(request())
            until(lambda: process.suspended() > 0)
        self.clock.advance(3600)
        return self.store.list("lab", limit=1)[0].run.id


@both
@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (("new", *OLD), "asks for the new step 'new' before step 'a', 'nap'"),
        (("a",), "has ended without step 'nap'"),
        ((), "has ended without step 'a', 'nap'"),
        (("=a", "nap", "b"), "step 'a' is stored as step.run"),
    ],
    ids=["before", "gone", "all gone", "kind"],
)
def test_a_run_waits_for_the_code_that_fits(
    asynchronous: bool, new: Code, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """New code leaves it as it is and says why; the old code goes on, whatever came between."""
    deployment = Deployment(asynchronous)
    run_id = deployment.begin("v1")
    with caplog.at_level(logging.WARNING, "durable"), deployment.process("v2") as newer:
        deployment.endpoint(newer, new)
        newer.durable.start()
        until(lambda: "is left to the code of version 'v1'" in caplog.text)
        until(lambda: deployment.store.list("lab", limit=1)[0].owner is None)
        deployment.clock.advance(3600)
        newer.poke()
        shown = newer.durable.runs.get(run_id)

    assert (True, "it", "suspended", 1, 0) == (
        shown.parked,
        shown.function_id,
        shown.status,
        shown.attempts,
        shown.crashes,
    )
    assert shown.error is not None
    assert reason in shown.error
    assert 1 == caplog.text.count("is left to the code of version 'v1'")

    with deployment.process("v1") as older:
        deployment.endpoint(older, OLD)
        older.durable.start()
        ended = older.durable.runs.wait(run_id, timeout="10s")
    assert ("completed", None, ["a", "nap", "b"]) == (
        ended.status,
        ended.error,
        [each.name for each in ended.steps],
    )


def test_a_run_that_waits_for_older_code_can_be_cancelled() -> None:
    """It ends at once, with nothing to undo, and waits for no code any more."""
    deployment = Deployment(False)
    run_id = deployment.begin("v1")
    with deployment.process("v2") as newer:
        deployment.endpoint(newer, ("new", *OLD))
        newer.durable.start()
        until(lambda: newer.durable.runs.get(run_id).parked)
        assert newer.durable.runs.cancel(run_id)
        shown = newer.durable.runs.get(run_id)

    assert ("cancelled", False, "it") == (shown.status, shown.parked, shown.function_id)


@both
def test_new_code_that_fits_goes_on(asynchronous: bool) -> None:
    """A version that differs is no reason; only a step that does not fit is."""
    deployment = Deployment(asynchronous)
    run_id = deployment.begin("v1")
    with deployment.process("v2") as newer:
        deployment.endpoint(newer, (*OLD, "c"))
        newer.durable.start()
        ended = newer.durable.runs.wait(run_id, timeout="10s")
    assert ("completed", False) == (ended.status, ended.parked)


@both
@pytest.mark.parametrize("begun", [None, "v2"])
def test_without_older_code_it_fails(asynchronous: bool, begun: str | None) -> None:
    """A run of no version, or of this very version, has no code that it could wait for."""
    deployment = Deployment(asynchronous)
    run_id = deployment.begin(begun, policy="warn")
    with deployment.process("v2") as newer:
        deployment.endpoint(newer, ("new", *OLD))
        newer.durable.start()
        ended = newer.durable.runs.wait(run_id, timeout="10s")
    assert "failed" == ended.status
    assert ended.error is not None
    assert ended.error.startswith("StepOrderError: the code asks for the new step 'new'")


def test_a_copy_is_for_any_code() -> None:
    """``resume_from`` makes a run that newer code executes again."""
    deployment = Deployment(False)
    run_id = deployment.begin("v1")
    with deployment.process("v2") as newer:
        deployment.endpoint(newer, ("new", *OLD))
        newer.durable.start()
        until(lambda: newer.durable.runs.get(run_id).parked)
        copy = newer.durable.runs.resume_from(run_id, "a")
        until(lambda: len(newer.durable.runs.get(copy).steps) == 3)
        assert not newer.durable.runs.get(copy).parked
        assert ["new", "a", "nap"] == [each.name for each in newer.durable.runs.get(copy).steps]


def test_keys() -> None:
    """Only the suffix of a run's own version is one."""
    deployment = Deployment(False)
    deployment.begin("v1")
    [record] = deployment.store.list("lab", limit=1)
    parked = replace(record.run, endpoint_key=versioned_key("it", "v1"))
    other = replace(record.run, endpoint_key=versioned_key("it", "v2"))
    assert (False, "it") == (is_parked(record.run), plain_key(record.run))
    assert (True, "it") == (is_parked(parked), plain_key(parked))
    assert (False, "it (version v2)") == (is_parked(other), plain_key(other))
    assert "it (version v1)" == parked.endpoint_key


def test_it_needs_a_version() -> None:
    """Without one no process would know that its code is the old one."""
    with lab() as process, pytest.raises(ValueError, match="needs version="):
        process.endpoint(handler_of(False, OLD), on_mismatch="park")


def test_only_the_embedded_engine_has_it() -> None:
    """Another engine's server does not say which steps come later."""
    from durable_core import Durable, endpoint_adapter

    class Elsewhere:
        name = "elsewhere"
        store = None

        def attach(self, env: Any) -> None:
            self.env = env

    engine: Any = Elsewhere()
    durable = Durable(id="x", engine=engine, endpoint_adapter=endpoint_adapter, version="v1")
    with pytest.raises(ConfigurationError, match="needs the embedded engine"):
        durable.endpoint(on_mismatch="park")(handler_of(False, OLD))


def test_health_and_worker_show_each_endpoint_once() -> None:
    """The second key of an endpoint is no endpoint of its own."""
    with lab(version="v1") as process:
        process.endpoint(handler_of(False, OLD))
        process.durable.start()
        assert ["it"] == process.durable.health()["endpoints"]
